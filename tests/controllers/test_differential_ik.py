"""Differential IK in pure kinematics: arrives, follows without lag, and stays calm where it cannot arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controllers.differential_ik import DifferentialIK, DifferentialIKOptions
from controllers.kinematics import ArmModel
from controllers.spatial import pose_error, rotate_by_vector
from controllers.types import FloatArray, JointTarget, Pose, PoseTarget, RobotState, Target, TwistTarget, frozen_array
from tests.controllers.conftest import joint_goal, needs_six_joints

Sensed = Callable[..., RobotState]
RATES_HZ = (50, 100, 200)
STILL = frozen_array(np.zeros(6))


@pytest.fixture(scope="module")
def controller(arm: ArmModel) -> DifferentialIK:
    return DifferentialIK(arm)


class Rollout:
    """The commands of a controller whose every command is applied."""

    def __init__(self, controller: DifferentialIK, state: RobotState, rate_hz: int) -> None:
        self.controller, self.state, self.dt = controller, state, 1.0 / rate_hz
        self.command = controller.hold(state)
        self.velocities: list[FloatArray] = []

    def run(self, target: Target, seconds: float) -> Rollout:
        for _ in range(round(seconds / self.dt)):
            self.step(target)
        return self

    def step(self, target: Target) -> None:
        command = self.controller.update(self.state, target, self.command, self.dt)
        self.velocities.append((command.values - self.command.values) / self.dt)
        self.command = command

    @property
    def pose(self) -> Pose:
        return self.controller.arm.end_effector_pose(self.command.values)


def start(controller: DifferentialIK, sensed: Sensed, rate_hz: int, q: FloatArray | None = None) -> Rollout:
    arm = controller.arm
    return Rollout(controller, sensed(arm, arm.description.home if q is None else q), rate_hz)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_reachable_poses_are_reached_at_any_control_rate(
    controller: DifferentialIK, sensed: Sensed, reachable: list[Pose], rate_hz: int
):
    for pose in reachable:
        rollout = start(controller, sensed, rate_hz).run(PoseTarget(pose, STILL, 0.0, "base"), 4.0)
        np.testing.assert_allclose(pose_error(pose, rollout.pose), 0.0, atol=1e-4)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_moving_pose_is_followed_without_lag(controller: DifferentialIK, sensed: Sensed, rate_hz: int):
    needs_six_joints(controller.arm)
    rollout = start(controller, sensed, rate_hz)
    origin = rollout.pose
    twist = np.array([0.05, 0.03, -0.04, 0.1, 0.2, 0.1])
    for tick in range(1, 2 * rate_hz):
        moved = tick * rollout.dt * twist
        pose = Pose(origin.position + moved[:3], rotate_by_vector(origin.quaternion, moved[3:]))
        rollout.step(PoseTarget(pose, twist, 0.0, "base"))
        # The target is due at the end of the period, and there it is met.
        np.testing.assert_allclose(pose_error(pose, rollout.pose), 0.0, atol=5e-4)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_moving_pose_within_the_arms_means_is_followed_without_lag(
    controller: DifferentialIK, sensed: Sensed, rate_hz: int
):
    """The pose moves as the joints can move it: also with five joints."""
    arm = controller.arm
    rollout = start(controller, sensed, rate_hz)
    rates = np.linspace(0.1, -0.15, arm.n)
    for tick in range(1, rate_hz):
        q = arm.description.home + tick * rollout.dt * rates
        pose = arm.end_effector_pose(q)
        rollout.step(PoseTarget(pose, arm.jacobian(q) @ rates, 0.0, "base"))
        np.testing.assert_allclose(pose_error(pose, rollout.pose), 0.0, atol=5e-4)


def test_a_twist_moves_the_end_effector_at_that_twist(controller: DifferentialIK, sensed: Sensed):
    rollout = start(controller, sensed, 200)
    before = rollout.pose
    rollout.run(TwistTarget(np.array([0.0, 0.05, -0.05, 0.0, 0.0, 0.2]), 0.0, "base"), 1.0)
    moved = pose_error(rollout.pose, before)
    np.testing.assert_allclose(moved, [0.0, 0.05, -0.05, 0.0, 0.0, 0.2], atol=1e-3)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_joint_target_is_reached_along_a_straight_line_in_joint_space(
    controller: DifferentialIK, sensed: Sensed, rate_hz: int
):
    rollout = start(controller, sensed, rate_hz)
    begin = rollout.command.values
    goal = joint_goal(controller.arm, 0.6)
    rollout.run(JointTarget(goal, 0.0), 2.0)
    np.testing.assert_allclose(rollout.command.values, goal, atol=1e-6)
    direction = (goal - begin) / np.linalg.norm(goal - begin)
    for velocity in rollout.velocities[:10]:
        np.testing.assert_allclose(velocity, direction * (velocity @ direction), atol=1e-9)


def test_a_joint_target_beyond_the_limits_ends_at_the_limit(controller: DifferentialIK, sensed: Sensed):
    limits = controller.arm.description.limits
    rollout = start(controller, sensed, 200).run(JointTarget(limits.position_upper + 1.0, 0.0), 8.0)
    np.testing.assert_allclose(rollout.command.values, limits.position_upper, atol=1e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_out_of_reach_the_arm_comes_to_rest_without_chatter(
    controller: DifferentialIK, sensed: Sensed, out_of_reach: list[Pose], rate_hz: int
):
    limits = controller.arm.description.limits
    for pose in out_of_reach:
        rollout = start(controller, sensed, rate_hz).run(PoseTarget(pose, STILL, 0.0, "base"), 8.0)
        velocities = np.array(rollout.velocities)
        assert np.isfinite(velocities).all()
        assert (np.abs(velocities) <= limits.velocity).all()
        tail = velocities[-2 * rate_hz :]
        assert np.abs(tail).max() < 0.4  # still creeping along the boundary at most, never thrashing
        reversals = (tail[1:] * tail[:-1] < 0.0) & (np.abs(np.diff(tail, axis=0)) > 1e-3)
        assert reversals.sum() <= 2


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_path_through_singularities_stays_smooth(controller: DifferentialIK, sensed: Sensed, rate_hz: int):
    """Stretch the arm out far beyond its reach and bring it back: the elbow passes its singularity twice."""
    needs_six_joints(controller.arm)
    limits = controller.arm.description.limits
    rollout = start(controller, sensed, rate_hz)
    origin = rollout.pose
    outwards = origin.position / np.linalg.norm(origin.position[:2]) * np.array([1.0, 1.0, 0.0])
    for tick in range(8 * rate_hz):
        distance = 0.8 * np.sin(np.pi * tick * rollout.dt / 6.0) if tick * rollout.dt < 6.0 else 0.0
        pose = Pose(origin.position + distance * outwards, origin.quaternion)
        rollout.step(PoseTarget(pose, STILL, 0.0, "base"))
    velocities = np.array(rollout.velocities)
    assert (np.abs(velocities) <= limits.velocity).all()
    # From rest to a joint's fastest takes 40 ms or more.
    assert (np.abs(np.diff(velocities, axis=0)) / rollout.dt < limits.velocity / 0.04).all()
    np.testing.assert_allclose(pose_error(origin, rollout.pose), 0.0, atol=2e-3)


def test_joint_limits_are_approached_and_never_passed(controller: DifferentialIK, sensed: Sensed):
    limits = controller.arm.description.limits
    for axis in range(6):
        for sign in (-1.0, 1.0):
            twist = np.zeros(6)
            twist[axis] = sign * (0.5 if axis < 3 else 1.0)
            rollout = start(controller, sensed, 100)
            for _ in range(600):
                rollout.step(TwistTarget(twist, 0.0, "base"))
                assert (rollout.command.values <= limits.position_upper).all()
                assert (rollout.command.values >= limits.position_lower).all()


def test_too_fast_a_twist_is_slowed_and_keeps_its_direction(arm: ArmModel, sensed: Sensed):
    needs_six_joints(arm)
    options = DifferentialIKOptions(posture_gain=0.0, max_linear_speed=100.0, max_angular_speed=100.0)
    controller = DifferentialIK(arm, options)
    home, limits = arm.description.home, arm.description.limits
    twist = np.array([3.0, -4.0, 2.0, 1.0, 0.0, -1.0])
    qd = controller.joint_velocity(home, TwistTarget(twist, 0.0, "base"), 0.005)
    assert (np.abs(qd) / limits.velocity).max() == pytest.approx(options.velocity_fraction)
    moved = arm.jacobian(home) @ qd
    np.testing.assert_allclose(moved / np.linalg.norm(moved), twist / np.linalg.norm(twist), atol=1e-6)


def test_the_command_ignores_the_noise_of_the_joint_sensors(controller: DifferentialIK, sensed: Sensed):
    home = controller.arm.description.home
    quiet = sensed(controller.arm, home)
    noisy = replace(quiet, joint_position=home + 1e-3, joint_velocity=np.full(controller.arm.n, 0.1))
    previous = controller.hold(quiet)
    target = TwistTarget(np.full(6, 0.05), 0.0, "base")
    first = controller.update(quiet, target, previous, 0.005)
    assert first.values.tobytes() == controller.update(noisy, target, previous, 0.005).values.tobytes()


def test_the_null_space_drifts_home_while_the_end_effector_stays(controller: DifferentialIK, sensed: Sensed):
    arm = controller.arm
    if arm.n <= 6:
        pytest.skip(f"{arm.n} joints leave no null space")
    q = arm.description.home.copy()
    null = np.linalg.svd(arm.jacobian(q))[2][-1]
    away = q + 0.3 * null
    rollout = start(controller, sensed, 200, away)
    pose = rollout.pose
    rollout.run(PoseTarget(pose, STILL, 0.0, "base"), 8.0)
    np.testing.assert_allclose(pose_error(pose, rollout.pose), 0.0, atol=1e-4)
    null = np.linalg.svd(arm.jacobian(rollout.command.values))[2][-1]
    assert abs(null @ (rollout.command.values - q)) < 1e-3  # nothing left to gain in the null space


def test_a_target_at_rest_ends_in_rest(controller: DifferentialIK, sensed: Sensed, reachable: list[Pose]):
    rollout = start(controller, sensed, 200).run(PoseTarget(reachable[0], STILL, 0.0, "base"), 20.0)
    assert np.abs(rollout.velocities[-1]).max() < 1e-3
