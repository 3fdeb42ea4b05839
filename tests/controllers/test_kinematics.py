"""The arm model agrees with finite differences and with MuJoCo's full pipeline, and has no memory."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.kinematics import ArmModel
from controllers.robot import RobotDescriptionError
from controllers.spatial import pose_error
from controllers.types import FloatArray

STEP = 1e-6
seeds = st.integers(0, 2**32 - 1)


def random_state(arm: ArmModel, seed: int) -> tuple[FloatArray, FloatArray]:
    generator = np.random.default_rng(seed)
    limits = arm.description.limits
    q = generator.uniform(limits.position_lower, limits.position_upper)
    return q, generator.uniform(-limits.velocity, limits.velocity)


@given(seed=seeds)
def test_the_jacobian_is_the_derivative_of_the_pose(arm: ArmModel, seed: int):
    q, _ = random_state(arm, seed)
    jacobian = arm.jacobian(q)
    for joint in range(arm.n):
        step = np.zeros(arm.n)
        step[joint] = STEP
        change = pose_error(arm.end_effector_pose(q + step), arm.end_effector_pose(q - step))
        np.testing.assert_allclose(jacobian[:, joint], change / (2 * STEP), atol=1e-7)


@given(seed=seeds)
def test_point_jacobians_are_the_derivatives_of_their_points(arm: ArmModel, seed: int):
    q, _ = random_state(arm, seed)
    sites = arm.description.safety_points
    _, jacobians = arm.point_positions_and_jacobians(q, sites)
    for joint in range(arm.n):
        step = np.zeros(arm.n)
        step[joint] = STEP
        after, _ = arm.point_positions_and_jacobians(q + step, sites)
        before, _ = arm.point_positions_and_jacobians(q - step, sites)
        np.testing.assert_allclose(jacobians[:, :, joint], (after - before) / (2 * STEP), atol=1e-7)


@given(seed=seeds)
def test_the_acceleration_bias_is_the_change_of_the_jacobian_along_the_motion(arm: ArmModel, seed: int):
    q, qd = random_state(arm, seed)
    change = (arm.jacobian(q + STEP * qd) - arm.jacobian(q - STEP * qd)) / (2 * STEP)
    np.testing.assert_allclose(arm.dynamics(q, qd).acceleration_bias, change @ qd, atol=1e-6)


@given(seed=seeds)
def test_inertia_and_bias_give_the_torque_of_the_full_inverse_dynamics(arm: ArmModel, seed: int):
    q, qd = random_state(arm, seed)
    qdd = np.random.default_rng(seed).normal(size=arm.n)
    model = mujoco.MjModel.from_xml_path(str(arm.description.model_path))
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    model.dof_damping[:] = 0.0
    data = mujoco.MjData(model)
    for joint in arm.description.gripper.joints:
        index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint)
        data.qpos[model.jnt_qposadr[index]] = 0.5 * model.jnt_range[index].sum()
    data.qpos[: arm.n], data.qvel[: arm.n], data.qacc[: arm.n] = q, qd, qdd
    mujoco.mj_inverse(model, data)
    expected = data.qfrc_inverse[: arm.n]
    np.testing.assert_allclose(arm.mass_matrix(q) @ qdd + arm.bias_forces(q, qd), expected, atol=1e-9)


@given(seed=seeds)
def test_the_mass_matrix_is_symmetric_and_positive_definite(arm: ArmModel, seed: int):
    q, _ = random_state(arm, seed)
    matrix = arm.mass_matrix(q)
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0.0


@given(seed=seeds)
def test_one_pass_gives_the_bits_of_the_single_calls(arm: ArmModel, seed: int):
    q, qd = random_state(arm, seed)
    pose, jacobian = arm.kinematics(q)
    dynamics = arm.dynamics(q, qd)
    for one in (pose, dynamics.pose):
        assert np.array_equal(one.position, arm.end_effector_pose(q).position)
        assert np.array_equal(one.quaternion, arm.end_effector_pose(q).quaternion)
    for other in (jacobian, dynamics.jacobian):
        assert np.array_equal(other, arm.jacobian(q))
    assert np.array_equal(dynamics.mass_matrix, arm.mass_matrix(q))
    assert np.array_equal(dynamics.bias, arm.bias_forces(q, qd))
    assert np.array_equal(arm.gravity(q), arm.bias_forces(q, np.zeros(arm.n)))


@given(seed=seeds, other=seeds)
def test_results_depend_on_the_arguments_and_not_on_earlier_calls(arm: ArmModel, seed: int, other: int):
    q, qd = random_state(arm, seed)
    fresh = ArmModel(arm.description)
    expected = fresh.dynamics(q, qd)
    gravity, points = fresh.gravity(q), fresh.point_positions_and_jacobians(q, arm.description.safety_points)

    arm.dynamics(*random_state(arm, other))
    assert np.array_equal(arm.gravity(q), gravity)
    arm.dynamics(*random_state(arm, other))
    for found, wanted in zip(arm.point_positions_and_jacobians(q, arm.description.safety_points), points, strict=True):
        assert np.array_equal(found, wanted)
    found = arm.dynamics(q, qd)
    assert np.array_equal(found.mass_matrix, expected.mass_matrix)
    assert np.array_equal(found.bias, expected.bias)
    assert np.array_equal(found.acceleration_bias, expected.acceleration_bias)


def test_results_are_copies_that_later_calls_leave_alone(arm: ArmModel):
    home, elsewhere = arm.description.home, arm.description.home + 0.1
    first = arm.dynamics(home, np.ones(arm.n))
    kept = [first.pose.position.copy(), first.jacobian.copy(), first.mass_matrix.copy(), first.bias.copy()]
    arm.dynamics(elsewhere, np.zeros(arm.n))
    for found, expected in zip([first.pose.position, first.jacobian, first.mass_matrix, first.bias], kept, strict=True):
        assert np.array_equal(found, expected)


def test_arguments_are_not_written_to(arm: ArmModel):
    q, qd = random_state(arm, 1)
    q_before, qd_before = q.copy(), qd.copy()
    arm.dynamics(q, qd)
    arm.point_positions_and_jacobians(q, arm.description.safety_points)
    assert np.array_equal(q, q_before)
    assert np.array_equal(qd, qd_before)


def test_an_unknown_site_is_an_error_that_names_the_near_match(arm: ArmModel):
    with pytest.raises(RobotDescriptionError, match=r"no site 'tpc'; did you mean 'tcp'\?"):
        arm.point_positions_and_jacobians(arm.description.home, ("tpc",))
