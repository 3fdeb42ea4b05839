"""The stack on a robot that ros2_control already runs: ros2 launch vla_stack robot.launch.py params:=my_robot.yaml."""

from launch import LaunchDescription  # pyright: ignore[reportAttributeAccessIssue]
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

PRIORITIES = {"safety_node": "60", "control_node": "50"}
NODES = ("recorder_node", "safety_node", "control_node", "policy_node")


def generate_launch_description() -> LaunchDescription:
    """All nodes but the robot's own."""
    default = PathJoinSubstitution([FindPackageShare("vla_stack"), "config", "robot.yaml"])
    arguments = [
        DeclareLaunchArgument("params", default_value=default, description="parameter file"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
    ]
    nodes = [
        LifecycleNode(
            package="vla_stack",
            executable=name,
            name=name,
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params")],
            arguments=["--realtime-priority", PRIORITIES.get(name, "0")],
            output="screen",
        )
        for name in NODES
    ]
    return LaunchDescription([*arguments, *nodes])
