"""What was commanded between one observation and the next, as one action a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from controllers.spatial import rotation_difference
from controllers.types import CommandMode, FloatArray, IntArray
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.exchange.joints import joint_names

ActionKind = Literal["ee_delta", "joint_position"]
_POSITION = list(CommandMode).index(CommandMode.POSITION)


@dataclass(frozen=True, slots=True)
class Actions:
    """One action a frame.

    Attributes:
        names: (dims,) of the components; the last is the gripper opening in m.
        values: (N, dims) float32.
    """

    names: tuple[str, ...]
    values: npt.NDArray[np.float32]


def last_ticks(episode: Episode) -> IntArray:
    """(N,) row of the last tick before the next observation: by then all that the observation led to was commanded."""
    stamps, sensed = episode.observations.stamp_ns, episode.ticks.state_stamp_ns
    following = np.append(stamps[1:], np.iinfo(np.int64).max)
    return np.clip(np.searchsorted(sensed, following) - 1, 0, max(0, len(sensed) - 1)).astype(np.int64)


def actions(episode: Episode, kind: ActionKind) -> Actions:
    """The action of every observation.

    Args:
        episode: The episode; its stamps must increase.
        kind: ``ee_delta``: how far the reference pose moved until the next observation, (m) and rotation vector (rad)
            in the base frame. ``joint_position``: the joint positions (rad) commanded last before it.

    Raises:
        EpisodeError: The controller commands no joint positions.
    """
    rows = last_ticks(episode)
    ticks = episode.ticks
    gripper = ticks.applied_gripper_opening[rows, None]
    if kind == "ee_delta":
        names = ("dx", "dy", "dz", "drx", "dry", "drz", "gripper")
        deltas = _deltas(episode, rows)
        if not np.isfinite(deltas).all():
            raise EpisodeError(
                f"{episode.path}: commanded_pose",
                "the end effector's reference at every observation",
                "moments without one",
                "use --lerobot.action joint_position",
            )
        return Actions(names, np.hstack((deltas, gripper)).astype(np.float32))
    if (ticks.applied_mode[rows] != _POSITION).any():
        raise EpisodeError(
            f"{episode.path}: applied_mode",
            "joint position commands",
            "velocities or torques",
            "use --lerobot.action ee_delta",
        )
    names = (*joint_names(episode), "gripper")
    return Actions(names, np.hstack((ticks.applied_values[rows], gripper)).astype(np.float32))


def _deltas(episode: Episode, rows: IntArray) -> FloatArray:
    before, after = episode.observations.commanded_pose, episode.ticks.commanded_pose[rows]
    deltas = np.empty((len(rows), 6))
    deltas[:, :3] = after[:, :3] - before[:, :3]
    for index in range(len(rows)):
        deltas[index, 3:] = rotation_difference(after[index, 3:], before[index, 3:])
    return deltas
