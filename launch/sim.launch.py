"""The stack with MuJoCo as the robot: ros2 launch vla_stack sim.launch.py task:=stack seed:=7."""

from launch import LaunchDescription  # pyright: ignore[reportAttributeAccessIssue]
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.substitutions import FindPackageShare

PRIORITIES = {"safety_node": "60", "control_node": "50", "robot_sim_node": "40"}
NODES = ("recorder_node", "robot_sim_node", "safety_node", "control_node", "policy_node")
# Which node takes which of the arguments below.
OWN = {
    "recorder_node": ("task", "seed", "out"),
    "robot_sim_node": ("task", "seed"),
    "policy_node": ("instruction",),
}
DEFAULTS = {"task": "pick_up", "seed": "1000000", "instruction": "", "out": "runs/ros"}


def generate_launch_description() -> LaunchDescription:
    """All nodes of the simulated graph."""
    params = LaunchConfiguration("params")
    default = PathJoinSubstitution([FindPackageShare("vla_stack"), "config", "sim.yaml"])
    arguments = [
        DeclareLaunchArgument("params", default_value=default, description="parameter file"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
    ]
    arguments += [DeclareLaunchArgument(name, default_value=value) for name, value in DEFAULTS.items()]
    nodes = [
        LifecycleNode(
            package="vla_stack",
            executable=name,
            name=name,
            namespace=LaunchConfiguration("namespace"),
            parameters=[params, {key: LaunchConfiguration(key) for key in OWN.get(name, ())}],
            arguments=["--realtime-priority", PRIORITIES.get(name, "0")],
            output="screen",
        )
        for name in NODES
    ]
    return LaunchDescription([*arguments, *nodes])
