"""Which topics of a bag become what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from controllers.names import nearest_name_hint
from controllers.types import CommandMode
from episodes.errors import EpisodeError
from episodes.exchange import ros2


@dataclass(frozen=True)
class McapImportOptions:
    """How bags become episodes. Empty topics are found by their types."""

    foreign: bool = False
    """Read the messages alone, even of a bag that this stack exported."""
    joint_states: str = ""
    """Topic of sensor_msgs/JointState: a tick for each message."""
    joints: tuple[str, ...] = ()
    """Arm joints, in order; none for all but those with gripper or finger in their names."""
    gripper_joints: tuple[str, ...] = ()
    """Joints whose positions (m) add up to the gripper's opening."""
    command: str = ""
    """Topic of joint commands: JointState, JointTrajectory or Float64MultiArray."""
    command_mode: Literal["auto", "position", "velocity", "torque"] = "auto"
    """What a Float64MultiArray commands; auto goes by the topic's name."""
    wrench: str = ""
    """Topic of geometry_msgs/WrenchStamped."""
    pose: str = ""
    """Topic of geometry_msgs/PoseStamped: the end effector in the base frame."""
    gripper: str = ""
    """Topic of std_msgs/Float64: the gripper's opening in m."""
    instruction: str = ""
    """What the robot was told; empty for what a std_msgs/String topic says."""
    cameras: tuple[str, ...] = ()
    """Topics of pictures; none for all."""
    robot: str = ""
    """Name of the robot, e.g. panda, to draw it."""
    stamps: Literal["header", "log"] = "header"
    """Time of a message: of its header, or of its reception."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The chosen topics, empty where there is none.

    Attributes:
        joint_states: Of the readings.
        command: Of the commands.
        wrench: Of the wrist wrench.
        pose: Of the end effector's pose.
        gripper: Of the gripper's opening.
        instruction: Of the words.
        cameras: Camera name -> topic.
    """

    joint_states: str
    command: str
    wrench: str
    pose: str
    gripper: str
    instruction: str
    cameras: Mapping[str, str]


_COMMAND_TYPES = (ros2.JOINT_STATE, ros2.TRAJECTORY, ros2.FLOATS)
_IMAGE_TYPES = (ros2.IMAGE, ros2.COMPRESSED_IMAGE)
_COMMAND_WORDS = ("command", "cmd", "trajectory", "setpoint")


def choose_topics(there: Mapping[str, str], options: McapImportOptions, where: str) -> Topics:
    """Find each role's topic.

    Args:
        there: Type of every topic.
        options: What the user wants; empty entries are found by type and name.
        where: The bag, for error messages.

    Raises:
        EpisodeError: A named topic is missing or of another type; proposes the nearest.
    """

    def choose(role: str, wanted: str, types: tuple[str, ...], fits: Callable[[str], bool], first: str = "") -> str:
        if wanted:
            return _named(there, role, wanted, types, where)
        found = [topic for topic, kind in there.items() if kind in types and fits(topic)]
        return first if first in found else found[0] if found else ""

    def is_command(topic: str) -> bool:
        return any(word in topic.lower() for word in _COMMAND_WORDS)

    joint_states = choose(
        "joint-states", options.joint_states, (ros2.JOINT_STATE,), lambda t: not is_command(t), ros2.JOINT_STATES.name
    )
    cameras = [_named(there, "cameras", topic, _IMAGE_TYPES, where) for topic in options.cameras]
    if not cameras:
        cameras = [topic for topic, kind in there.items() if kind in _IMAGE_TYPES]
    return Topics(
        joint_states=joint_states,
        command=choose(
            "command", options.command, _COMMAND_TYPES, lambda t: is_command(t) and t != joint_states, ros2.APPLIED.name
        ),
        wrench=choose("wrench", options.wrench, (ros2.WRENCH,), lambda _: True, ros2.WRIST_WRENCH.name),
        pose=choose("pose", options.pose, (ros2.POSE,), _is_end_effector, ros2.EE_POSE.name),
        gripper=choose("gripper", options.gripper, (ros2.FLOAT,), lambda t: t == ros2.GRIPPER.name),
        instruction=choose("instruction", "", (ros2.STRING,), lambda t: "instruction" in t or "task" in t),
        cameras=_camera_names(cameras),
    )


def _is_end_effector(topic: str) -> bool:
    return any(word in topic.lower() for word in ("ee_pose", "end_effector", "tcp", "tool"))


def _named(there: Mapping[str, str], role: str, topic: str, types: tuple[str, ...], where: str) -> str:
    fitting = [name for name, kind in there.items() if kind in types]
    if topic not in there:
        raise EpisodeError(
            f"{where}: --mcap.{role}",
            f"a topic of {' or '.join(types)}: {', '.join(fitting) or 'there is none'}",
            f"{topic!r}, which is not in the bag{nearest_name_hint(topic, fitting)}",
            "name one of these",
        )
    if there[topic] not in types:
        raise EpisodeError(
            f"{where}: --mcap.{role}",
            " or ".join(types),
            f"{topic} of {there[topic]}",
            f"choose one of {', '.join(fitting) or 'no such topics'}",
        )
    return topic


_DULL = ("camera", "image", "image_raw", "compressed", "color", "rgb", "image_color", "image_rect")


def _camera_names(topics: list[str]) -> dict[str, str]:
    """A short name for each picture topic: what tells it from the others."""
    names: dict[str, str] = {}
    for topic in topics:
        parts = [part for part in topic.strip("/").split("/") if part not in _DULL]
        name = "_".join(parts) or "camera"
        while name in names:
            name += "_2"
        names[name] = topic
    return names


def array_mode(topic: str, chosen: str) -> CommandMode:
    """What the numbers of a Float64MultiArray command."""
    if chosen != "auto":
        return CommandMode(chosen)
    if "velocity" in topic:
        return CommandMode.VELOCITY
    return CommandMode.TORQUE if "effort" in topic or "torque" in topic else CommandMode.POSITION
