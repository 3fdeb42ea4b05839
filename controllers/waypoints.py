"""From a decoded chunk to a path of absolute waypoints, and interpolation along it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from controllers.kernel.tracking import Floats, Quadruple, turned, turned_along
from controllers.spatial import quaternion_from_rotation_vector, rotation_difference
from controllers.types import ActionSpace, ActionSpec, FloatArray, Pose

_NO_RATE: Floats = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class WaypointPath:
    """A chunk as absolute waypoints; entry 0 is the anchor, where the reference was at the observation.

    Attributes:
        positions: (horizon + 1) positions: 3 Cartesian values in m, or n joint values in rad.
        quaternions: (horizon + 1) orientations (4,) wxyz; empty for joint paths.
        turns: (horizon) base-frame rotation vectors, rad, from one orientation to the next; empty for joint paths.
        gripper: (horizon) gripper opening, m, wanted during each row.
        rate_hz: Rows per second.
    """

    positions: tuple[Floats, ...]
    quaternions: tuple[FloatArray, ...]
    turns: tuple[Floats, ...]
    gripper: Floats
    rate_hz: float

    @property
    def horizon(self) -> int:
        """Number of rows."""
        return len(self.gripper)


def waypoints_from_actions(
    actions: FloatArray, spec: ActionSpec, anchor: Pose, anchor_joints: FloatArray, gripper_open_m: float
) -> WaypointPath:
    """Resolve decoded actions (horizon, dims) against the reference at the observation.

    Args:
        actions: Un-normalized actions, in the units of ``spec``.
        spec: What they mean.
        anchor: Reference pose at the observation (base frame).
        anchor_joints: (n,) joint reference at the observation; used by joint paths.
        gripper_open_m: Opening that corresponds to a gripper action of 1.
    """
    columns: list[list[float]] = actions.T.tolist()
    gripper = tuple([value * gripper_open_m for value in columns[-1]])
    rate = float(spec.rate_hz)
    if spec.space is ActionSpace.JOINT_POSITION:
        joints = (tuple(anchor_joints.tolist()), *zip(*columns[:-1], strict=True))
        return WaypointPath(joints, (), (), gripper, rate)

    if spec.space is ActionSpace.EE_DELTA:
        # A chunk that arrives makes the longest ticks: all rows at once.
        starts = anchor.position.tolist()
        ways = [accumulate(column, initial=start) for column, start in zip(columns[:3], starts, strict=True)]
        turns = tuple(zip(*columns[3:6], strict=True))
        return WaypointPath(
            tuple(zip(*ways, strict=True)), _orientations(anchor.quaternion, actions, turns), turns, gripper, rate
        )
    positions = (tuple(anchor.position.tolist()), *zip(*columns[:3], strict=True))
    quaternions = [anchor.quaternion]
    differences: list[Floats] = []
    for row in actions:
        quaternion = quaternion_from_rotation_vector(row[3:6])
        differences.append(tuple(rotation_difference(quaternion, quaternions[-1]).tolist()))
        quaternions.append(quaternion)
    return WaypointPath(positions, tuple(quaternions), tuple(differences), gripper, rate)


def _orientations(start: FloatArray, actions: FloatArray, turns: tuple[Floats, ...]) -> tuple[FloatArray, ...]:
    """The orientations (4,) wxyz before and after each of the ``turns``, which are columns 3 to 5 of ``actions``."""
    found = np.empty((len(turns), 4))
    # A copy, since compiled code takes writable arrays only.
    turned_along(quadruple(start), np.array(actions[:, 3:6], np.float64, order="C"), found)
    found.setflags(write=False)
    quaternions = [start]
    for turn, quaternion in zip(turns, found, strict=True):
        quaternions.append(quaternions[-1] if turn == _NO_RATE else quaternion)
    last = quaternions[-1]
    if not math.isfinite(last[0]):  # one that is lost stays lost
        raise _not_finite(quadruple(last))
    return tuple(quaternions)


class PathPoint(NamedTuple):
    """A point of a path: position and its rate; orientation and its rate (None for joint paths); gripper."""

    position: Floats
    velocity: Floats
    quaternion: FloatArray | None
    angular_velocity: Floats
    gripper: float


def sample(path: WaypointPath, phase: float) -> PathPoint:
    """Interpolate ``path`` at ``phase`` rows (0 = anchor); past the last row it rests on the last waypoint."""
    last = path.horizon
    if phase >= last:
        position = path.positions[last]
        quaternion = path.quaternions[last] if path.quaternions else None
        return PathPoint(position, (0.0,) * len(position), quaternion, _NO_RATE, path.gripper[-1])
    row = int(phase)
    fraction = phase - row
    start, end = path.positions[row], path.positions[row + 1]
    rate = path.rate_hz
    if not path.quaternions:
        position = tuple([a + (b - a) * fraction for a, b in zip(start, end, strict=True)])
        velocity = tuple([(b - a) * rate for a, b in zip(start, end, strict=True)])
        return PathPoint(position, velocity, None, _NO_RATE, path.gripper[row])
    (x, y, z), (u, v, w) = start, end
    u, v, w = u - x, v - y, w - z
    position, velocity = (x + u * fraction, y + v * fraction, z + w * fraction), (u * rate, v * rate, w * rate)
    rx, ry, rz = path.turns[row]
    quaternion = path.quaternions[row]
    if rx == 0.0 and ry == 0.0 and rz == 0.0:
        return PathPoint(position, velocity, quaternion, _NO_RATE, path.gripper[row])
    there = orientation(turned(quadruple(quaternion), (rx * fraction, ry * fraction, rz * fraction)))
    return PathPoint(position, velocity, there, (rx * rate, ry * rate, rz * rate), path.gripper[row])


def slowed(point: PathPoint, pace: float) -> PathPoint:
    """The point of a path that is played at ``pace``: the same place, with rates times ``pace``."""
    return PathPoint(
        point.position,
        tuple([v * pace for v in point.velocity]),
        point.quaternion,
        tuple([r * pace for r in point.angular_velocity]),
        point.gripper,
    )


def quadruple(quaternion: FloatArray) -> Quadruple:
    """An orientation (4,) wxyz as a tuple."""
    w, x, y, z = quaternion.tolist()
    return w, x, y, z


def orientation(quaternion: Quadruple) -> FloatArray:
    """A computed orientation as a read-only array (4,) wxyz.

    Raises:
        ValueError: It is not finite.
    """
    if not math.isfinite(quaternion[0]):
        raise _not_finite(quaternion)
    array = np.array(quaternion)
    array.setflags(write=False)
    return array


def _not_finite(quaternion: Quadruple) -> ValueError:
    return ValueError(f"expected a quaternion of finite, non-zero norm, found {quaternion}")
