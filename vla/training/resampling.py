"""Motions recorded at one rate as motions at another, and the chunks that follow each frame."""

from __future__ import annotations

import numpy as np

from controllers.spatial import (
    quaternion_from_rotation_vector,
    quaternion_multiply,
    rotation_vector_from_quaternion,
)
from controllers.types import ActionSpace, ActionSpec, FloatArray


def check_rates(fps: int, spec: ActionSpec) -> None:
    """Refuse rates between which motions cannot be converted exactly.

    Args:
        fps: Frames a second, each with one action.
        spec: Whose rate the rows have.

    Raises:
        ValueError: The rates do not divide, or differ for actions that are no motions.
    """
    rate = spec.rate_hz
    if fps == rate:
        return
    if rate % fps and fps % rate:
        raise ValueError(
            f"expected one of the rates to be a multiple of the other, found {fps} frames a second and an action spec "
            f"of {rate} Hz; choose an action spec of the data's rate"
        )
    if spec.space is not ActionSpace.EE_DELTA or spec.dims != 7:
        raise ValueError(
            f"expected actions at the rate of the action spec ({rate} Hz), found {fps} frames a second; only motions "
            f"of the end effector (7 values) are converted, not {spec.space.value}"
        )


def split_motion(actions: FloatArray, parts: int) -> FloatArray:
    """Each motion cut into equal ones: (n, 7) to (n * parts, 7).

    Translations and rotation vectors are divided: turning by a part of a rotation vector ``parts`` times is turning by
    the whole. The gripper's opening is a goal, not a motion, and is repeated.
    """
    rows = np.repeat(actions, parts, axis=0)
    rows[:, :6] /= parts
    return rows


def join_motions(actions: FloatArray, count: int) -> FloatArray:
    """Successive motions as one: (n, count, 7) to (n, 7).

    Translations (base frame) add, rotations are composed in the base frame, the gripper's opening is the last one.
    """
    if actions.shape[1] != count:
        raise ValueError(f"expected {count} motions to join, found {actions.shape[1]}")
    joined = actions[:, -1].copy()
    joined[:, :3] = actions[:, :, :3].sum(axis=1)
    for row, motions in zip(joined, actions, strict=True):
        turned = quaternion_from_rotation_vector(motions[0, 3:6])
        for motion in motions[1:]:
            turned = quaternion_multiply(quaternion_from_rotation_vector(motion[3:6]), turned)
        row[3:6] = rotation_vector_from_quaternion(turned)
    return joined


def chunks_ahead(actions: FloatArray, fps: int, spec: ActionSpec) -> FloatArray:
    """What follows each frame, as chunks of the spec: (n, dims) to (n, horizon, dims).

    Where the recording ends, the end effector stays where it is: no motion, the gripper as it was last; actions that
    are no motions are repeated.

    Args:
        actions: One for each frame, in the spec's units, covering ``1 / fps``.
        fps: Frames a second.
        spec: Rate, horizon and meaning of the rows.

    Raises:
        ValueError: See :func:`check_rates`.
    """
    check_rates(fps, spec)
    rate, horizon = spec.rate_hz, spec.horizon
    split, joined = max(1, rate // fps), max(1, fps // rate)
    rows = split_motion(actions, split) if split > 1 else actions
    rest = rows[-1].copy()
    if spec.space is ActionSpace.EE_DELTA:
        rest[:6] = 0.0
    rows = np.vstack((rows, np.tile(rest, (horizon * joined, 1))))
    starts = np.arange(len(actions))[:, None] * split
    if joined == 1:
        return rows[starts + np.arange(horizon)]
    windows = rows[starts + np.arange(horizon * joined)].reshape(len(actions) * horizon, joined, -1)
    return join_motions(windows, joined).reshape(len(actions), horizon, -1)
