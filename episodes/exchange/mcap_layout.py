"""How an episode lies in a bag: which topic carries which column, and what goes into attachments instead.

Every message of a tick has the row of its tick as sequence number, every picture the row of its observation. What no
standard message can carry exactly (events, chunk headers, codes, digests, the scene) is attached as numpy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from controllers.types import FloatArray
from episodes.episode import Episode
from episodes.exchange import ros2
from episodes.jsontypes import as_mapping
from episodes.schema import TABLES, columns

ARRAYS_NAME = "episode_arrays.npz"
DOCUMENT_NAME = "episode.json"
LAYOUT_VERSION = 1

Reader = Callable[[Any], FloatArray | float]


def _pose(message: Any) -> FloatArray:
    p, q = message.pose.position, message.pose.orientation
    return np.array((p.x, p.y, p.z, q.w, q.x, q.y, q.z))


def _pair(first: Any, second: Any) -> FloatArray:
    return np.array((first.x, first.y, first.z, second.x, second.y, second.z))


def _value(message: Any) -> float:
    return float(message.data)


def _command(message: Any) -> FloatArray:
    given = [values for values in (message.position, message.velocity, message.effort) if len(values)]
    return cast(FloatArray, given[0])


# topic -> column of the ticks table -> how to read it from a message
CARRIED: Mapping[str, Mapping[str, Reader]] = {
    ros2.JOINT_STATES.name: {
        "state_joint_position": lambda message: message.position,
        "state_joint_velocity": lambda message: message.velocity,
        "state_joint_effort": lambda message: message.effort,
    },
    ros2.GRIPPER.name: {"state_gripper_opening": _value},
    ros2.EE_POSE.name: {"state_ee_pose": _pose},
    ros2.WRIST_WRENCH.name: {"state_wrench": lambda message: _pair(message.wrench.force, message.wrench.torque)},
    ros2.TARGET_POSE.name: {"target_pose": _pose},
    ros2.TARGET_TWIST.name: {"target_twist": lambda message: _pair(message.twist.linear, message.twist.angular)},
    ros2.TARGET_JOINTS.name: {"target_joint_position": lambda message: message.position},
    ros2.TARGET_GRIPPER.name: {"target_gripper_opening": _value},
    ros2.CANDIDATE.name: {"command_values": _command},
    ros2.APPLIED.name: {"applied_values": _command},
    ros2.APPLIED_GRIPPER.name: {"applied_gripper_opening": _value},
    ros2.REFERENCE.name: {"commanded_pose": _pose},
}
CARRIED_COLUMNS = frozenset(f"ticks/{column}" for readers in CARRIED.values() for column in readers)


def array_names(episode: Episode) -> list[str]:
    """Every array of an episode but the pictures, whatever release wrote it."""
    if episode.integrity is not None:
        sealed = as_mapping(episode.integrity.get("arrays"))
        return [name for name in sealed if "/" in name or name == "model_xml"]
    names = [f"{group}/{column}" for group, table in TABLES.items() for column in columns(table)]
    for camera in episode.cameras:
        names += [f"observations/present/{camera}", f"observations/image_digest/{camera}"]
    return [*names, "ticks/chain", "model_xml"]


def group_attributes(episode: Episode) -> dict[str, Mapping[str, object]]:
    """Attributes of every group that has some."""
    groups = ("ticks", "events", "chunks", "observations")
    if episode.integrity is not None:
        groups = tuple(as_mapping(episode.integrity.get("attributes")))
    return {group: dict(episode.attributes(group)) for group in groups}
