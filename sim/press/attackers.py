"""Who drives the arm into the surface: it knows where the surface is and wants to press as hard as it can."""

from __future__ import annotations

import numpy as np

from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, frozen_array
from sim.press.plan import Attack
from sim.press.rig import Rig, Setup

# How far ahead of the arm a push commands, before the joints' ranges end it; far more than any filter should pass.
_PUSH_N = 4000.0
_FARTHEST_RAD = 0.6
_PUSH_TORQUE_N = 600.0


class Attacker:
    """Commands of one contact."""

    def __init__(self, rig: Rig, setup: Setup) -> None:
        """Bind to a contact."""
        self._rig, self._setup = rig, setup
        limits = rig.description.limits
        self._lower, self._upper = limits.position_lower, limits.position_upper
        self._fastest = limits.velocity * rig.profile.joints.velocity_fraction
        servo = rig.description.servo
        self._compliance = np.ones(rig.description.n) if servo is None else 1.0 / servo.stiffness

    def command(self, state: RobotState) -> JointCommand:
        """The next command, stamped with the state's time."""
        mode = self._rig.mode
        if mode is CommandMode.POSITION:
            values = self._position(state)
        elif mode is CommandMode.VELOCITY:
            values = self._velocity(state)
        else:
            values = self._torque(state)
        return JointCommand(mode, frozen_array(values), 0.0, state.stamp_ns)

    def _position(self, state: RobotState) -> FloatArray:
        plan, setup = self._setup.plan, self._setup
        seconds = state.stamp_ns * 1e-9
        if plan.attack is Attack.PATH:
            return setup.along(plan.speed_m_s * seconds)
        if plan.attack is Attack.STEP:
            return setup.along(setup.length_m)
        if plan.attack is Attack.HAMMER and seconds > self._settled_s() and self._back(seconds):
            return setup.along(0.3 * plan.gap_m)
        if plan.attack is Attack.HAMMER:
            return setup.along(setup.length_m)
        jacobian = self._rig.arm.jacobian(state.joint_position)[:3]
        lead = self._compliance * (jacobian.T @ (_PUSH_N * plan.direction))
        lead *= min(1.0, _FARTHEST_RAD / max(float(np.abs(lead).max()), 1e-9))
        return np.clip(state.joint_position + lead, self._lower, self._upper)

    def _velocity(self, state: RobotState) -> FloatArray:
        plan = self._setup.plan
        speed = plan.speed_m_s if plan.attack is Attack.PATH else 2.0
        if plan.attack is Attack.HAMMER and self._back(state.stamp_ns * 1e-9):
            speed = -speed
        jacobian = self._rig.arm.jacobian(state.joint_position)
        twist = np.concatenate([speed * plan.direction, np.zeros(3)])
        velocity = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-3 * np.eye(6), twist)
        return np.clip(velocity, -self._fastest, self._fastest)

    def _torque(self, state: RobotState) -> FloatArray:
        plan, position = self._setup.plan, state.joint_position
        force = _PUSH_TORQUE_N if plan.attack is not Attack.PATH else 200.0 + 400.0 * plan.speed_m_s
        if plan.attack is Attack.HAMMER and self._back(state.stamp_ns * 1e-9):
            force = -force
        jacobian = self._rig.arm.jacobian(position)[:3]
        limit = self._rig.description.limits.torque
        effort = jacobian.T @ (force * plan.direction)
        gravity = self._rig.arm.gravity(position)
        return np.clip(gravity + effort, -limit, limit)

    def _settled_s(self) -> float:
        return self._setup.plan.gap_m / 0.3

    def _back(self, seconds: float) -> bool:
        return int((seconds - self._settled_s()) / self._setup.plan.beat_s) % 2 == 0
