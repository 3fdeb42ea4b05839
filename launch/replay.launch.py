"""A recorded episode, published with its true timing: ros2 launch vla_stack replay.launch.py episode:=X.zarr."""

from launch import LaunchDescription  # pyright: ignore[reportAttributeAccessIssue]
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

NODES = ("replay_node",)


def generate_launch_description() -> LaunchDescription:
    """The replay alone; what listens to it is started beside it."""
    default = PathJoinSubstitution([FindPackageShare("vla_stack"), "config", "replay.yaml"])
    arguments = [
        DeclareLaunchArgument("params", default_value=default, description="parameter file"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument("episode", description="folder NAME.zarr"),
    ]
    nodes = [
        LifecycleNode(
            package="vla_stack",
            executable=name,
            name=name,
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params"), {"episode": LaunchConfiguration("episode")}],
            output="screen",
        )
        for name in NODES
    ]
    return LaunchDescription([*arguments, *nodes])
