"""The compiled step of differential IK against the same mathematics written with numpy, LAPACK and MuJoCo."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controllers.differential_ik import DifferentialIK, DifferentialIKOptions
from controllers.kernel.least_squares import diagonalize, resolve
from controllers.kernel.screws import TOOL_SIZE, place
from controllers.kinematics import ArmModel
from controllers.redundancy import largest, saturate, spectrum
from controllers.robot import RobotDescriptionError
from controllers.spatial import quaternion_normalize
from controllers.targets import TargetError, desired_twist, discrete_gain
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    Pose,
    PoseTarget,
    RobotState,
    Target,
    TwistTarget,
    frozen_array,
)

Sensed = Callable[..., RobotState]
DT = 0.005


def reference(
    arm: ArmModel, q: FloatArray, target: PoseTarget | TwistTarget, dt: float
) -> tuple[FloatArray, tuple[bool, bool]]:
    """Joint velocity (n,) rad/s by the textbook's route: MuJoCo's kinematics, LAPACK's eigenvectors.

    Also whether a direction was damped, and whether a joint was fixed at its bound.
    """
    options, limits = DifferentialIKOptions(), arm.description.limits
    pose, jacobian = arm.kinematics(q)
    gain = discrete_gain(options.gain, dt)
    twist = desired_twist(target, pose, gain, dt, options.max_linear_speed, options.max_angular_speed)
    scale = np.array([1.0] * 3 + [options.characteristic_length] * 3)
    twist, jacobian = twist * scale, jacobian * scale[:, None]
    damping = options.damping**2 + options.step_damping * dt * math.sqrt(twist @ twist)
    inward = np.clip(q, limits.position_lower + options.limit_zone, limits.position_upper - options.limit_zone) - q
    posture = options.posture_gain * (arm.description.home - q) + options.limit_gain * inward
    posture /= max(1.0, largest(posture) / options.posture_speed)

    def solve(jacobian: FloatArray, twist: FloatArray, posture: FloatArray) -> FloatArray:
        gram = spectrum(jacobian @ jacobian.T, options.singular_value**2)
        task = gram.vectors.T @ twist * gram.damped_reciprocal(damping)
        leak = gram.vectors.T @ (jacobian @ posture) * gram.damped_reciprocal(options.null_damping**2)
        return posture + jacobian.T @ (gram.vectors @ (task - leak))

    def without(free: FloatArray, fixed: FloatArray) -> FloatArray:
        return fixed + solve(jacobian * free, twist - jacobian @ fixed, posture * free)

    bound = discrete_gain(options.limit_gain, dt)
    lower = (limits.position_lower + options.limit_margin - q) * bound
    upper = (limits.position_upper - options.limit_margin - q) * bound
    plain = solve(jacobian, twist, posture)
    velocity = saturate(without, plain, lower, upper)
    met = bool(np.linalg.eigvalsh(jacobian @ jacobian.T)[0] < options.singular_value**2), velocity is not plain
    return velocity / max(1.0, largest(velocity / (limits.velocity * options.velocity_fraction))), met


def somewhere(arm: ArmModel, rng: np.random.Generator, share: float) -> FloatArray:
    """(n,) rad, from home (share 0) to the limits (share 1)."""
    limits, home = arm.description.limits, arm.description.home
    return home + share * (rng.uniform(limits.position_lower, limits.position_upper) - home)


def test_the_step_is_that_of_the_textbook(arm: ArmModel):
    controller, rng = DifferentialIK(arm), np.random.default_rng(7)
    met: set[tuple[bool, bool]] = set()
    for trial in range(400):
        q = somewhere(arm, rng, rng.choice([0.1, 0.5, 1.0]))
        twist = rng.normal(size=6) * rng.choice([0.0, 0.1, 2.0])
        goal = Pose(rng.normal(size=3), quaternion_normalize(rng.normal(size=4)))
        if trial % 2:
            goal = arm.end_effector_pose(q + 0.02 * rng.normal(size=arm.n))
        for target in (
            PoseTarget(goal, twist, 0.0, "base"),
            TwistTarget(twist, 0.0, "base"),
            TwistTarget(twist, 0.0, "ee"),
        ):
            expected, branches = reference(arm, q, target, DT)
            np.testing.assert_allclose(controller.joint_velocity(q, target, DT), expected, atol=1e-8, rtol=1e-7)
            met.add(branches)
    assert met >= {(True, False), (True, True)} | ({(False, False), (False, True)} if arm.n >= 6 else set())


def test_kinematics_are_those_of_mujoco(arm: ArmModel):
    rng, (screws, tool) = np.random.default_rng(3), arm.screw_table()
    pose, jacobian = np.full(TOOL_SIZE, np.nan), np.full((6, arm.n), np.nan)
    for _ in range(200):
        q = rng.uniform(-np.pi, np.pi, arm.n)
        place(screws, tool, q, pose, jacobian)
        expected, columns = arm.kinematics(q)
        np.testing.assert_allclose(pose[:3], expected.position, atol=1e-12)
        np.testing.assert_allclose(pose[3:] * np.sign(pose[3:] @ expected.quaternion), expected.quaternion, atol=1e-12)
        np.testing.assert_allclose(jacobian, columns, atol=1e-12)
        assert pose[3] >= 0.0
        assert np.linalg.norm(pose[3:]) == pytest.approx(1.0, abs=1e-14)


matrices = arrays(np.float64, (6, 7), elements=st.floats(-3.0, 3.0))


@given(matrices, st.integers(0, 6))
def test_eigenvectors_are_orthonormal_and_give_the_matrix_back(jacobian: FloatArray, rank: int):
    rows = jacobian[:, :rank] @ np.eye(rank, 7)
    gram, vectors = rows @ rows.T, np.empty((6, 6))
    values = gram.copy()
    diagonalize(values, vectors)
    size = max(1.0, float(np.abs(gram).max()))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-13)
    np.testing.assert_allclose(vectors @ np.diag(np.diag(values)) @ vectors.T, gram, atol=1e-13 * size)


@given(st.integers(0, 2**32 - 1), st.floats(-1e-6, 1e-6))
def test_nothing_jumps_where_damping_begins(seed: int, beyond: float):
    """On either side of the threshold another branch computes the same."""
    rng = np.random.default_rng(seed)
    left, right = np.linalg.qr(rng.normal(size=(6, 6)))[0], np.linalg.qr(rng.normal(size=(7, 7)))[0]
    task, posture, threshold = rng.normal(size=6), rng.normal(size=7), 0.04**2
    smallest = math.sqrt(threshold * (1.0 + beyond))
    jacobian = left @ np.diag([1.0, 0.8, 0.5, 0.4, 0.2, smallest]) @ right[:6]
    out = np.empty(7)
    resolve(
        np.ascontiguousarray(jacobian),
        task,
        posture,
        threshold,
        0.04**2,
        0.004**2,
        np.empty((6, 6)),
        np.empty((6, 6)),
        np.empty(6),
        out,
    )
    plain = posture + np.linalg.pinv(jacobian) @ (task - jacobian @ posture)
    np.testing.assert_allclose(out, plain, atol=2e-4, rtol=2e-4)


def test_a_step_depends_on_its_arguments_alone(arm: ArmModel, sensed: Sensed):
    """Scratch memory says nothing about the past, also after targets that were not finite."""
    rng, state = np.random.default_rng(11), sensed(arm, arm.description.home)
    old, new = DifferentialIK(arm), DifferentialIK(arm)
    targets: list[Target] = [
        PoseTarget(Pose(frozen_array(rng.normal(size=3)), quaternion_normalize(rng.normal(size=4))), twist, 0.0, "base")
        for twist in rng.normal(size=(8, 6)) * 0.2
    ]
    broken = PoseTarget(Pose(np.full(3, np.nan), np.full(4, np.inf)), np.full(6, np.inf), 0.0, "base")
    for target in targets:
        start = JointCommand(CommandMode.POSITION, somewhere(arm, rng, 0.9), 0.0, 0)
        assert not np.isfinite(old.update(state, broken, start, DT).values).any()
        twice = [controller.update(state, target, start, DT).values.tobytes() for controller in (old, new, old)]
        assert twice[0] == twice[1] == twice[2]


def test_a_twist_of_the_wrong_shape_is_refused(arm: ArmModel, sensed: Sensed):
    controller, state = DifferentialIK(arm), sensed(arm, arm.description.home)
    with pytest.raises(TargetError, match=r"expected a twist of shape \(6,\), found \(3,\)"):
        controller.update(state, TwistTarget(np.zeros(3), 0.0, "base"), controller.hold(state), DT)


def test_an_arm_that_is_no_chain_of_hinges_is_refused(arm: ArmModel, monkeypatch: pytest.MonkeyPatch):
    backwards = ArmModel(arm.description)
    monkeypatch.setattr(backwards, "_data", _Reversed(backwards._data))
    with pytest.raises(RobotDescriptionError, match="expected hinges in series from the base"):
        backwards.screw_table()


class _Reversed:
    """MuJoCo's data with its hinges told in the wrong order."""

    def __init__(self, data: object) -> None:
        self._data = data

    def __getattr__(self, name: str):
        found = getattr(self._data, name)
        return found[::-1] if name in ("xaxis", "xanchor") else found
