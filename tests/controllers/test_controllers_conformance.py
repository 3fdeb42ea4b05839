"""What every controller owes the tick, on every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.catalog import CONTROLLERS, UnknownControllerError, make_controller
from controllers.kinematics import ArmModel
from controllers.protocols import Controller
from controllers.spatial import quaternion_from_rotation_vector, rotate
from controllers.targets import TargetError
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    JointTarget,
    Pose,
    PoseTarget,
    RobotState,
    Target,
    TwistTarget,
    frozen_array,
)

MODES = {
    "differential_ik": CommandMode.POSITION,
    "operational_space": CommandMode.TORQUE,
    "joint_impedance": CommandMode.TORQUE,
}
PERIODS = (0.02, 0.01, 0.005)
Sensed = Callable[..., RobotState]
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", params=sorted(CONTROLLERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def controller(arm: ArmModel, name: str) -> Controller:
    return make_controller(name, arm)


def random_inputs(arm: ArmModel, sensed: Sensed, seed: int) -> tuple[RobotState, Target, float]:
    """Any sensed state within limits, and any target, near or absurd."""
    generator = np.random.default_rng(seed)
    limits = arm.description.limits
    q = generator.uniform(limits.position_lower, limits.position_upper)
    if generator.random() < 0.3:
        q = np.where(generator.random(arm.n) < 0.5, limits.position_lower, q)
    state = sensed(arm, q, generator.uniform(-limits.velocity, limits.velocity), int(generator.integers(10**12)))
    scale = 10.0 ** generator.uniform(-3, 2)
    twist = frozen_array(scale * generator.normal(size=6))
    kind = generator.integers(4)
    if kind == 0:
        return state, JointTarget(frozen_array(q + scale * generator.normal(size=arm.n)), 0.02), 0.005
    if kind == 1:
        return state, TwistTarget(twist, 0.02, "ee" if generator.random() < 0.5 else "base"), 0.005
    quaternion = quaternion_from_rotation_vector(generator.normal(size=3))
    pose = Pose(frozen_array(scale * generator.normal(size=3)), quaternion)
    return state, PoseTarget(pose, twist, 0.02, "base"), float(generator.choice(PERIODS))


def near_pose(arm: ArmModel) -> PoseTarget:
    home = arm.end_effector_pose(arm.description.home)
    return PoseTarget(Pose(home.position + np.array([0.0, 0.02, 0.01]), home.quaternion), np.zeros(6), 0.03, "base")


def test_the_command_carries_mode_gripper_and_stamp(arm: ArmModel, name: str, sensed: Sensed):
    controller = make_controller(name, arm)
    state = sensed(arm, arm.description.home, None, 123)
    targets: list[Target] = [
        near_pose(arm),
        TwistTarget(np.full(6, 0.01), 0.03, "base"),
        JointTarget(arm.description.home, 0.03),
    ]
    for target in targets:
        command = controller.update(state, target, controller.hold(state), 0.005)
        assert command.mode is MODES[name]
        assert command.values.shape == (arm.n,)
        assert not command.values.flags.writeable
        assert command.gripper_opening == 0.03
        assert command.stamp_ns == 123


def test_hold_keeps_the_sensed_configuration(arm: ArmModel, name: str, sensed: Sensed):
    q = arm.description.home + 0.1
    state = sensed(arm, q, np.ones(arm.n), 7)
    command = make_controller(name, arm).hold(state)
    assert command.mode is MODES[name]
    assert np.array_equal(command.values, q if name == "differential_ik" else arm.gravity(q))
    assert command.gripper_opening == state.gripper_opening
    assert command.stamp_ns == 7
    assert not command.values.flags.writeable


@given(seed=seeds)
def test_any_state_and_target_give_a_bounded_command(controller: Controller, arm: ArmModel, sensed: Sensed, seed: int):
    state, target, dt = random_inputs(arm, sensed, seed)
    previous = controller.hold(state)
    command = controller.update(state, target, previous, dt)
    limits = arm.description.limits
    assert np.isfinite(command.values).all()
    if command.mode is CommandMode.POSITION:
        assert (np.abs(command.values - previous.values) <= limits.velocity * dt * (1 + 1e-9)).all()
        assert (command.values >= limits.position_lower - 1e-9).all()
        assert (command.values <= limits.position_upper + 1e-9).all()
    else:
        assert (np.abs(command.values) <= limits.torque).all()


@given(seed=seeds, other=seeds)
def test_the_same_inputs_give_the_same_bits_whatever_came_before(
    controller: Controller, name: str, arm: ArmModel, sensed: Sensed, seed: int, other: int
):
    state, target, dt = random_inputs(arm, sensed, seed)
    previous = controller.hold(state)
    first = controller.update(state, target, previous, dt)
    other_state, other_target, other_dt = random_inputs(arm, sensed, other)
    controller.update(other_state, other_target, controller.hold(other_state), other_dt)
    again = controller.update(state, target, previous, dt)
    fresh = make_controller(name, ArmModel(arm.description)).update(state, target, previous, dt)
    assert first.values.tobytes() == again.values.tobytes() == fresh.values.tobytes()


@given(seed=seeds)
def test_arguments_are_not_written_to(controller: Controller, arm: ArmModel, sensed: Sensed, seed: int):
    state, target, dt = random_inputs(arm, sensed, seed)
    previous = controller.hold(state)
    arrays = [state.joint_position, state.joint_velocity, state.ee_pose.position, state.ee_pose.quaternion]
    arrays.append(previous.values)
    if isinstance(target, JointTarget):
        arrays.append(target.position)
    else:
        arrays.append(target.twist)
    before = [array.copy() for array in arrays]
    for array in arrays:  # so that a write would succeed, and show
        if array.base is None:
            array.flags.writeable = True
    controller.update(state, target, previous, dt)
    controller.hold(state)
    for array, kept in zip(arrays, before, strict=True):
        assert array.tobytes() == kept.tobytes()


def test_a_twist_in_the_tool_frame_is_the_turned_twist_in_the_base_frame(
    controller: Controller, arm: ArmModel, sensed: Sensed
):
    state = sensed(arm, arm.description.home + 0.2)
    twist = np.array([0.02, -0.03, 0.01, 0.1, 0.05, -0.02])
    turn = state.ee_pose.quaternion
    turned = np.concatenate([rotate(turn, twist[:3]), rotate(turn, twist[3:])])
    previous = controller.hold(state)
    in_tool = controller.update(state, TwistTarget(twist, 0.0, "ee"), previous, 0.005)
    in_base = controller.update(state, TwistTarget(turned, 0.0, "base"), previous, 0.005)
    np.testing.assert_allclose(in_tool.values, in_base.values, atol=1e-12)


def test_an_unknown_frame_is_an_error_that_names_the_valid_ones(controller: Controller, arm: ArmModel, sensed: Sensed):
    state = sensed(arm, arm.description.home)
    pose = near_pose(arm)
    wrong: list[tuple[Target, str]] = [
        (replace(pose, frame="ee"), "unknown frame 'ee' of a pose target: expected 'base'"),
        (TwistTarget(pose.twist, 0.0, "world"), "unknown frame 'world' of a twist target: expected 'base' or 'ee'"),
        (JointTarget(state.joint_position, 0.0, "base"), "unknown frame 'base' of a joint target: expected 'joint'"),
    ]
    for target, message in wrong:
        with pytest.raises(TargetError) as error:
            controller.update(state, target, controller.hold(state), 0.005)
        assert str(error.value) == message


def test_a_joint_target_of_another_arm_is_an_error(controller: Controller, arm: ArmModel, sensed: Sensed):
    state = sensed(arm, arm.description.home)
    with pytest.raises(TargetError, match=rf"expected a joint target of shape \({arm.n},\), found \(3,\)"):
        controller.update(state, JointTarget(np.zeros(3), 0.0), controller.hold(state), 0.005)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_made_into_a_valid_command(
    controller: Controller, arm: ArmModel, sensed: Sensed, value: float
):
    """The safety filter refuses it then, and says why."""
    good = sensed(arm, arm.description.home)
    pose = near_pose(arm)
    broken = np.full(6, value)
    targets: list[Target] = [
        replace(pose, pose=Pose(broken[:3], pose.pose.quaternion)),
        replace(pose, twist=broken),
        TwistTarget(broken, 0.0, "base"),
    ]
    if np.isnan(value):
        targets.append(JointTarget(np.full(arm.n, value), 0.0))
    for target in targets:
        assert not np.isfinite(controller.update(good, target, controller.hold(good), 0.005).values).all()

    def spoil(array: FloatArray) -> FloatArray:
        spoiled = array.copy()
        spoiled[1] = value
        return spoiled

    bad = replace(good, joint_position=spoil(good.joint_position))
    assert not np.isfinite(controller.update(bad, pose, controller.hold(bad), 0.005).values).all()


def test_an_unknown_controller_lists_the_valid_names_and_the_nearest(arm: ArmModel):
    with pytest.raises(UnknownControllerError) as error:
        make_controller("operational_spce", arm)
    assert str(error.value) == (
        "unknown controller 'operational_spce': expected one of differential_ik, operational_space, "
        "joint_impedance; did you mean 'operational_space'?"
    )


def test_a_previous_command_of_another_mode_is_not_taken_for_a_position(arm: ArmModel, sensed: Sensed):
    controller = make_controller("differential_ik", arm)
    state = sensed(arm, arm.description.home)
    torque = JointCommand(CommandMode.TORQUE, frozen_array(np.full(arm.n, 5.0)), 0.0, 0)
    after_torque = controller.update(state, near_pose(arm), torque, 0.005)
    after_hold = controller.update(state, near_pose(arm), controller.hold(state), 0.005)
    assert after_torque.values.tobytes() == after_hold.values.tobytes()
