"""Decoded chunks become absolute waypoints, all rows in one go as if one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.spatial import IDENTITY_QUATERNION, quaternion_from_rotation_vector, rotate_by_vector
from controllers.types import ActionSpace, Pose, frozen_array
from controllers.waypoints import waypoints_from_actions
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC

JOINTS = frozen_array(np.zeros(6))


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 40))
@settings(deadline=None)
def test_deltas_add_up_row_by_row(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    actions = 10.0 ** rng.uniform(-6, 0, (rows, 7)) * rng.uniform(-1, 1, (rows, 7))
    actions[rng.random(rows) < 0.3, 3:6] = 0.0  # rows that do not turn
    position = frozen_array(rng.uniform(-1, 1, 3))
    quaternion = quaternion_from_rotation_vector(rng.uniform(-2, 2, 3))
    path = waypoints_from_actions(actions, SPEC, Pose(position, quaternion), JOINTS, 0.08)

    assert path.horizon == rows
    assert path.quaternions[0] is quaternion
    assert path.positions[0] == tuple(position.tolist())
    for row, action in enumerate(actions):
        position = position + action[:3]
        assert path.positions[row + 1] == tuple(position.tolist())
        assert path.turns[row] == tuple(action[3:6].tolist())
        assert path.gripper[row] == action[6] * 0.08
        after = path.quaternions[row + 1]
        assert not after.flags.writeable
        if action[3:6].any():
            quaternion = rotate_by_vector(quaternion, action[3:6])
            assert np.array_equal(after, quaternion)
        else:
            assert after is path.quaternions[row]


def test_an_orientation_that_is_lost_is_an_error() -> None:
    actions = np.zeros((3, 7))
    actions[1, 4] = np.nan
    with pytest.raises(ValueError, match="non-zero norm"):
        waypoints_from_actions(actions, SPEC, Pose(JOINTS[:3], IDENTITY_QUATERNION), JOINTS, 0.08)


def test_absolute_actions_are_the_waypoints() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    anchor = Pose(JOINTS[:3], IDENTITY_QUATERNION)
    poses = waypoints_from_actions(actions, replace(SPEC, space=ActionSpace.EE_POSE), anchor, JOINTS, 1.0)
    assert poses.positions == ((0.0, 0.0, 0.0), *(tuple(row[:3].tolist()) for row in actions))
    assert all(
        np.array_equal(quaternion, quaternion_from_rotation_vector(row[3:6]))
        for quaternion, row in zip(poses.quaternions[1:], actions, strict=True)
    )
    joint = replace(SPEC, space=ActionSpace.JOINT_POSITION)
    joints = waypoints_from_actions(actions, joint, anchor, JOINTS, 1.0)
    assert joints.positions == (tuple(JOINTS.tolist()), *(tuple(row[:-1].tolist()) for row in actions))
    assert joints.quaternions == ()
