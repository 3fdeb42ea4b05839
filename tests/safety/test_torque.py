"""Torque mode, on a simulated arm without gravity compensation of its own."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from controllers.types import CommandMode, FloatArray, OperatorEvent, RobotState, SafetyResult, SafetyStatus
from tests.safety.helpers import DT, ROBOTS, TICK_NS, command, inspector, robot, safety, sensed


class TorqueArm:
    """MuJoCo's arm, driven by joint torques alone."""

    def __init__(self, name: str) -> None:
        description = robot(name)
        self.name, self.n = name, description.n
        self.model = mujoco.MjModel.from_xml_path(str(description.model_path))
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION | mujoco.mjtDisableBit.mjDSBL_CONTACT
        self.model.body_gravcomp[:] = 0.0
        self.data = mujoco.MjData(self.model)
        self.data.qpos[: self.n] = description.home
        mujoco.mj_forward(self.model, self.data)
        self.substeps = round(DT / self.model.opt.timestep)
        self.filter = safety(name)
        self.now_ns = 0
        self.memory = self.filter.initial(self.state())

    @property
    def q(self) -> FloatArray:
        return self.data.qpos[: self.n].copy()

    @property
    def qd(self) -> FloatArray:
        return self.data.qvel[: self.n].copy()

    def state(self) -> RobotState:
        """With the drives' effort, which the filter needs to tell what comes from outside."""
        return sensed(self.q, self.qd, self.now_ns, effort=self.data.qfrc_applied[: self.n])

    def torque(self, velocity: FloatArray, gain: float = 20.0) -> FloatArray:
        """A velocity controller."""
        mujoco.mj_forward(self.model, self.data)
        inertia = np.zeros((self.model.nv, self.model.nv))
        mujoco.mj_fullM(self.model, inertia, self.data.qM)
        return inertia[: self.n, : self.n] @ (gain * (velocity - self.qd)) + self.data.qfrc_bias[: self.n]

    def step(
        self, torque: FloatArray, events: tuple[OperatorEvent, ...] = (), state: RobotState | None = None
    ) -> SafetyResult:
        asked = command(CommandMode.TORQUE, torque, self.now_ns)
        state = self.state() if state is None else state
        self.memory, result = self.filter.enforce(self.memory, state, asked, events, self.now_ns, DT)
        assert (np.abs(result.command.values) <= robot(self.name).limits.torque).all()
        self.data.qfrc_applied[: self.n] = result.command.values
        for _ in range(self.substeps):
            mujoco.mj_step(self.model, self.data)
        self.now_ns += TICK_NS
        return result


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("seed", range(4))
def test_no_torque_drives_the_arm_out_of_its_limits(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm, check = TorqueArm(name), inspector(name)
    velocity = np.zeros(arm.n)
    position, _ = check.place(arm.q)
    for tick in range(500):
        if tick % 50 == 0:
            velocity = rng.normal(size=arm.n) * [0.5, 1.5, 5.0, 50.0][seed]
        result = arm.step(arm.torque(velocity))
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
        assert check.outside(arm.q) <= 1e-4  # the model of the next tick is not exact
        assert (np.abs(arm.qd) <= check.fastest * 1.01).all()
        before, (position, _) = position, check.place(arm.q)
        assert np.linalg.norm(position - before) <= check.linear * DT * 1.02
    limits = check.outside(arm.q)
    for _ in range(120):
        result = arm.step(np.full(arm.n, np.nan))
        assert result.status is SafetyStatus.HOLD
        assert check.outside(arm.q) <= max(limits, 1e-4)
    assert np.abs(arm.qd).max() < 1e-3


@pytest.mark.parametrize("name", ROBOTS)
def test_inertia_and_bias_are_those_of_the_arm(name: str) -> None:
    arm, rng = TorqueArm(name), np.random.default_rng(0)
    arm.data.qpos[: arm.n] += rng.uniform(-0.3, 0.3, arm.n)
    arm.data.qvel[: arm.n] = rng.uniform(-1.0, 1.0, arm.n)
    mujoco.mj_forward(arm.model, arm.data)
    inertia, _, bias, _ = arm.filter.kinematics.dynamics(arm.q, arm.qd)
    np.testing.assert_allclose(bias, (arm.data.qfrc_bias - arm.data.qfrc_passive)[: arm.n], atol=0.02)
    acceleration = rng.uniform(-1.0, 1.0, arm.n)
    arm.data.qacc[:] = 0.0
    arm.data.qacc[: arm.n] = acceleration
    mujoco.mj_inverse(arm.model, arm.data)
    np.testing.assert_allclose(inertia @ acceleration + bias, arm.data.qfrc_inverse[: arm.n], atol=0.05)


@pytest.mark.parametrize("name", ROBOTS)
def test_a_gentle_torque_passes_bit_unchanged(name: str) -> None:
    arm = TorqueArm(name)
    velocity = np.zeros(arm.n)
    for tick in range(200):
        velocity[:2] = 0.2 * np.sin(tick * DT * 2.0)
        torque = arm.torque(velocity)
        result = arm.step(torque)
        assert result.status is SafetyStatus.RUN
        assert result.command.values.tobytes() == torque.tobytes()


@pytest.mark.parametrize("name", ROBOTS)
def test_a_stop_holds_the_arm_against_gravity_and_returns_it_after_a_push(name: str) -> None:
    arm = TorqueArm(name)
    velocity = np.full(arm.n, 0.3)
    for _ in range(60):
        arm.step(arm.torque(velocity))
    arm.step(arm.torque(velocity), events=(OperatorEvent.EMERGENCY_STOP,))
    for _ in range(200):
        result = arm.step(arm.torque(velocity))
        assert result.status is SafetyStatus.EMERGENCY_STOP
    held = arm.q
    for _ in range(200):
        arm.step(arm.torque(velocity))
    np.testing.assert_allclose(arm.q, held, atol=1e-5)
    arm.data.qvel[0] += 0.3
    for _ in range(300):
        arm.step(arm.torque(velocity))
    np.testing.assert_allclose(arm.q, held, atol=1e-3)


@pytest.mark.parametrize("name", ROBOTS)
def test_a_blind_arm_is_braked_by_dead_reckoning_and_then_floats(name: str) -> None:
    arm = TorqueArm(name)
    for _ in range(40):
        arm.step(arm.torque(np.full(arm.n, 0.2)))
    before = arm.q
    for _ in range(40):  # 200 ms of a sensor that is stuck
        stuck = sensed(before, np.full(arm.n, np.nan), arm.now_ns)
        result = arm.step(arm.torque(np.zeros(arm.n)), state=stuck)
        assert result.status is SafetyStatus.HOLD
    gravity = arm.filter.kinematics.dynamics(arm.memory.position, np.zeros(arm.n)).gravity
    np.testing.assert_allclose(result.command.values, gravity, atol=0.1)
    assert np.abs(arm.q - before).max() < 0.1
    assert np.abs(arm.qd).max() < 0.15


@pytest.mark.parametrize("name", ROBOTS)
def test_a_torque_beyond_the_limits_is_clipped_and_said(name: str) -> None:
    arm = TorqueArm(name)
    result = arm.step(np.full(arm.n, 500.0))
    assert result.status is SafetyStatus.LIMITING
    assert result.reasons[0].limit == "joint_torque"
    assert result.reasons[0].margin == pytest.approx(robot(name).limits.torque.min() - 500.0)
