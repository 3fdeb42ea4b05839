"""The proprioceptive state as a checkpoint's data set has it: parts, frame, normalization; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controllers.types import FloatArray, Observation, frozen_array
from vla.openvla.published import CheckpointError, raw_statistics
from vla.serving.fields import JOINT_FIELDS, SIZES, StateField, read_part

BoolArray = NDArray[np.bool_]
# Widths of the data set's range beyond its quantiles: no state of the robot that it was collected with lies there.
_ASTRAY = 1.0


@dataclass(frozen=True)
class ProprioStatistics:
    """Statistics of one data set's proprioceptive state.

    Attributes:
        q01: (values,) 1% quantiles.
        q99: (values,) 99% quantiles.
        mask: (values,) False marks values that pass through.
    """

    q01: FloatArray
    q99: FloatArray
    mask: tuple[bool, ...]

    def normalize(self, state: FloatArray) -> FloatArray:
        """(..., values) to [-1, 1], clipped as the published code does (``normalize_proprio``, BOUNDS_Q99)."""
        scaled = 2.0 * (state - self.q01) / (self.q99 - self.q01 + 1e-8) - 1.0
        return np.clip(np.where(self.mask, scaled, state), -1.0, 1.0)

    def astray(self, state: FloatArray) -> BoolArray:
        """(values,) whether a value lies so far out that it means something else; never where all data are alike."""
        width = self.q99 - self.q01
        outside = np.maximum(self.q01 - state, state - self.q99)
        return (width > 0.0) & (outside > _ASTRAY * width)


def proprio_statistics(folder: Path, key: str) -> ProprioStatistics:
    """Statistics of the state of a data set.

    Raises:
        CheckpointError: There are none, or none that can be used.
    """
    entry = raw_statistics(folder).get(key, {}).get("proprio", {})
    where = f"{folder}: statistics of {key!r}"
    if "q01" not in entry or "q99" not in entry:
        raise CheckpointError(f"{where}: expected proprio.q01 and proprio.q99 to normalize the state, found none")
    q01, q99 = frozen_array(entry["q01"]), frozen_array(entry["q99"])
    mask = tuple(bool(item) for item in entry.get("mask", [True] * q01.size))
    if q01.ndim != 1 or q01.shape != q99.shape or len(mask) != q01.size:
        raise CheckpointError(f"{where}: expected proprio's q01, q99 and mask of one length, found others")
    if not (np.isfinite(q01).all() and np.isfinite(q99).all() and (q01 <= q99).all()):
        raise CheckpointError(f"{where}: expected finite proprio.q01 <= q99, found {q01.tolist()} and {q99.tolist()}")
    return ProprioStatistics(q01, q99, mask)


def check_state(statistics: ProprioStatistics, parts: Sequence[StateField], joints: int) -> None:
    """Refuse parts that together are not as many values as the data set's state.

    Args:
        statistics: Of the data set.
        parts: In order.
        joints: Of the arm.

    Raises:
        CheckpointError: Lists the parts with their sizes.
    """
    sizes = [joints if part in JOINT_FIELDS else SIZES[part] for part in parts]
    if sum(sizes) != statistics.q01.size:
        layout = ", ".join(f"{part.value} ({size})" for part, size in zip(parts, sizes, strict=True))
        raise CheckpointError(
            f"expected {statistics.q01.size} values of the state, as the data set's statistics have, found "
            f"{sum(sizes)}: {layout}; name the parts that the model was trained with (--oft-state)"
        )


def read_state(
    observation: Observation, parts: Sequence[StateField], origin: Sequence[float], statistics: ProprioStatistics
) -> FloatArray:
    """(values,) the normalized state.

    Args:
        observation: Whose state.
        parts: In order.
        origin: (3,) m, of the robot's base in the frame of the data set's positions.
        statistics: Of the data set.

    Raises:
        ValueError: A state of another size, one that is not finite, or one far from the data set's.
    """
    values: list[FloatArray] = []
    names: list[str] = []
    for part in parts:
        value = read_part(part, observation)
        if part in (StateField.EE_POSITION, StateField.COMMANDED_POSITION):
            value = value + np.asarray(origin)
        if part is StateField.EE_AXIS_ANGLE:
            start = len(names)
            value = nearest_turn(value, 0.5 * (statistics.q01 + statistics.q99)[start : start + 3])
        values.append(value)
        names += [part.value] * value.size
    state = np.concatenate(values)
    if state.shape != statistics.q01.shape or not np.isfinite(state).all():
        raise ValueError(
            f"expected a state of {statistics.q01.size} finite values ({', '.join(part.value for part in parts)}), "
            f"found {state.tolist()}"
        )
    astray = statistics.astray(state)
    if astray.any():
        index = int(np.argmax(astray))
        raise ValueError(
            f"value {index} of the state, {names[index]}: expected one near the data set's "
            f"[{statistics.q01[index]:.4g}, {statistics.q99[index]:.4g}], found {state[index]:.4g}; check the parts of "
            "the state and the frame (--oft-origin)"
        )
    return statistics.normalize(state)


def nearest_turn(vector: FloatArray, around: FloatArray) -> FloatArray:
    """Of the two rotation vectors below a full turn that mean the same, the one nearer to ``around``; (3,) rad each.

    Data sets that were made of quaternions of either sign (robosuite's ``quat2axisangle``, so LIBERO's) have turns of
    more than half a turn, and a gripper that points downwards is at about half a turn.
    """
    angle = float(np.linalg.norm(vector))
    if not np.isfinite(vector).all() or around.shape != (3,) or angle < 1e-9:
        return vector
    other = vector * (1.0 - 2.0 * np.pi / angle)
    return other if np.linalg.norm(other - around) < np.linalg.norm(vector - around) else vector
