"""What the executor plays: rows of one or several chunks as a path, and the request for what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from controllers.reference import Reference
from controllers.types import (
    ActionSpace,
    ActionSpec,
    FloatArray,
    IntArray,
    Pose,
    RobotState,
    TokenPrefix,
    frozen_array,
)
from controllers.waypoints import WaypointPath, waypoints_from_actions

ROW_EPSILON = 1e-6  # rows; the clock is a sum of many small floats


class ReferenceMark(NamedTuple):
    """Where the reference was when a state was sensed: the anchor for a chunk inferred from that moment."""

    stamp_ns: int
    clock_s: float
    reference: Reference


@dataclass(frozen=True, slots=True)
class Vote:
    """What one chunk says about the rows from ``first_row`` on: its actions (rows, dims)."""

    first_row: int
    actions: FloatArray


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows to play.

    Attributes:
        path: Their waypoints.
        chunk_id: The newest chunk in it.
        start_s: The executor's clock at row 0.
        first_row: Number of row 0, counted over the whole motion.
        actions: (rows, dims) the rows, decoded.
        tokens: (rows, dims) the rows as tokens.
        votes: Chunks that still have a say, oldest first (ensembling only).
    """

    path: WaypointPath
    chunk_id: int
    start_s: float
    first_row: int
    actions: FloatArray
    tokens: IntArray
    votes: tuple[Vote, ...] = ()

    def phase(self, clock_s: float) -> float:
        """Place in rows at a value of the executor's clock."""
        return (clock_s - self.start_s) * self.path.rate_hz

    @property
    def end_s(self) -> float:
        """The executor's clock at the end of the last row."""
        return self.start_s + self.path.horizon / self.path.rate_hz


@dataclass(frozen=True, slots=True)
class Request:
    """An outstanding request for a chunk.

    Attributes:
        row: Number of the row that begins at the observation; -1 where nothing was being played.
        prefix: Rows that the chunk must begin with, None for none.
        stamp_ns: Stamp of the observation; -1 until it has been taken.
    """

    row: int
    prefix: TokenPrefix | None
    stamp_ns: int = -1


class PathBuilder:
    """Builds paths of one action spec."""

    def __init__(self, spec: ActionSpec, gripper_open_m: float) -> None:
        """Bind.

        Args:
            spec: What the actions mean.
            gripper_open_m: Opening that corresponds to a gripper action of 1.
        """
        self.spec = spec
        self.joint_space = spec.space is ActionSpace.JOINT_POSITION
        self._gripper_open_m = gripper_open_m

    def from_reference(self, actions: FloatArray, reference: Reference, state: RobotState) -> WaypointPath:
        """A path for (rows, dims) actions that starts at a reference."""
        pose = state.ee_pose if self.joint_space else reference.pose()
        return self._build(actions, pose, frozen_array(reference.position))

    def from_waypoint(self, actions: FloatArray, path: WaypointPath, row: int, state: RobotState) -> WaypointPath:
        """A path for (rows, dims) actions that starts at another path's waypoint ``row``."""
        return self._build(actions, waypoint(path, row, state), frozen_array(path.positions[row]))

    def _build(self, actions: FloatArray, pose: Pose, joints: FloatArray) -> WaypointPath:
        return waypoints_from_actions(actions, self.spec, pose, joints, self._gripper_open_m)


def waypoint(path: WaypointPath, row: int, state: RobotState) -> Pose:
    """Waypoint ``row`` of a Cartesian path as a pose; the sensed pose on a joint path."""
    if not path.quaternions:
        return state.ee_pose
    return Pose(frozen_array(path.positions[row]), path.quaternions[row])
