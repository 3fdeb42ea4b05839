"""How fast the arm is: joints, end effector, energy, gripper."""

from __future__ import annotations

import math
from typing import Any, cast

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.monitor.ledger import Ledger, MonitoredLimit
from safety.monitor.tolerance import MonitorTolerance
from safety.profile import SafetyProfile

_STILL_M_S = 1e-4


class Speeds:
    """Judges joint positions and velocities, and the tool's speed, energy and gripper, as the physics has them."""

    def __init__(
        self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile, tolerance: MonitorTolerance
    ) -> None:
        """Bind to a model that holds the arm under its own names."""
        self._model = model
        joints = [model.joint(name).id for name in description.joint_names]
        self._names = list(description.joint_names)
        self._qpos = np.array([int(model.jnt_qposadr[joint]) for joint in joints])
        self._dofs = np.array([int(model.jnt_dofadr[joint]) for joint in joints])
        limits = description.limits
        self._lower = limits.position_lower + profile.joints.position_margin_rad
        self._upper = limits.position_upper - profile.joints.position_margin_rad
        self._fastest = limits.velocity * profile.joints.velocity_fraction
        self._site = model.site(description.end_effector_site).id
        self._tool = profile.end_effector
        self._gripper = model.actuator(description.gripper.actuator).id
        self._gripper_limits = profile.gripper
        # The drive's own damping pulls on top of what the command asks for while the fingers move.
        self._drive_damping = max(0.0, -float(model.actuator_biasprm[self._gripper, 2]))
        self._tolerance = tolerance
        self._inertia = np.zeros((model.nv, model.nv))
        self._linear = np.zeros((3, model.nv))
        self._angular = np.zeros((3, model.nv))
        self._square = np.ix_(self._dofs, self._dofs)

    def judge(self, data: Any, ledger: Ledger, now_ns: int) -> None:
        """Judge the positions and velocities in ``data``; its kinematics and inertia must be current."""
        tolerance = self._tolerance
        q, qd = data.qpos[self._qpos], data.qvel[self._dofs]
        inside = np.minimum(q - self._lower, self._upper - q)
        worst = int(inside.argmin())
        value = float(inside[worst])
        ledger.note(
            MonitoredLimit.JOINT_POSITION,
            -value,
            0.0,
            value + tolerance.joint_position_rad,
            0.1,
            "rad",
            self._names[worst],
            now_ns,
        )
        share = np.abs(qd) / self._fastest
        worst = int(share.argmax())
        bound = float(self._fastest[worst])
        self._ratio(
            ledger,
            MonitoredLimit.JOINT_VELOCITY,
            float(share[worst]) * bound,
            bound,
            tolerance.joint_speed_ratio,
            "rad/s",
            self._names[worst],
            now_ns,
        )
        self._judge_tool(data, ledger, now_ns)
        opening_rate = abs(float(data.actuator_velocity[self._gripper]))
        force = abs(float(data.actuator_force[self._gripper]))
        grip = self._gripper_limits
        ratio = tolerance.gripper_ratio
        self._ratio(ledger, MonitoredLimit.GRIPPER_SPEED, opening_rate, grip.speed_m_s, ratio, "m/s", "gripper", now_ns)
        allowed = grip.force_n * (1.0 + ratio) + self._drive_damping * grip.speed_m_s
        limit = MonitoredLimit.GRIPPER_FORCE
        ledger.note(limit, force, grip.force_n, allowed - force, grip.force_n, "N", "gripper", now_ns)

    def _judge_tool(self, data: Any, ledger: Ledger, now_ns: int) -> None:
        tool, ratio = self._tool, self._tolerance.tool_speed_ratio
        mujoco.mj_jacSite(self._model, data, self._linear, self._angular, self._site)
        velocity, turning = self._linear @ data.qvel, self._angular @ data.qvel
        speed = math.sqrt(float(velocity @ velocity))
        turn = math.sqrt(float(turning @ turning))
        limit = MonitoredLimit.END_EFFECTOR_LINEAR_SPEED
        least = self._tolerance.tool_speed_m_s / tool.linear_speed_m_s
        self._ratio(ledger, limit, speed, tool.linear_speed_m_s, max(ratio, least), "m/s", "end effector", now_ns)
        limit = MonitoredLimit.END_EFFECTOR_ANGULAR_SPEED
        least = self._tolerance.tool_turn_rad_s / tool.angular_speed_rad_s
        self._ratio(ledger, limit, turn, tool.angular_speed_rad_s, max(ratio, least), "rad/s", "end effector", now_ns)
        energy = 0.0
        if speed > _STILL_M_S:
            mujoco.mj_fullM(self._model, self._inertia, data.qM)
            row = (velocity / speed) @ self._linear[:, self._dofs]
            # The fingers count as fixed to the hand: what a blow feels is the arm with all it carries.
            pushed = cast(FloatArray, np.linalg.solve(self._inertia[self._square], row))
            compliance = float(row @ pushed)
            energy = 0.5 * speed * speed / max(compliance, 1e-12)
        self._ratio(
            ledger,
            MonitoredLimit.KINETIC_ENERGY,
            energy,
            tool.kinetic_energy_j,
            self._tolerance.energy_ratio,
            "J",
            "end effector",
            now_ns,
        )

    def _ratio(
        self,
        ledger: Ledger,
        limit: MonitoredLimit,
        value: float,
        bound: float,
        ratio: float,
        unit: str,
        where: str,
        now_ns: int,
    ) -> None:
        ledger.note(limit, value, bound, bound * (1.0 + ratio) - value, bound, unit, where, now_ns)
