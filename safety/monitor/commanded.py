"""The commanded path, judged exactly: what the filter lets through is bounded whatever the arm makes of it."""

from __future__ import annotations

from typing import cast

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, JointCommand
from safety.monitor.ledger import Ledger, MonitoredLimit
from safety.monitor.places import PlaceLimits, Places
from safety.monitor.tolerance import MonitorTolerance
from safety.profile import SafetyProfile


class CommandedPath:
    """Differences of applied commands, and the places that commanded positions lead to."""

    def __init__(
        self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile, tolerance: MonitorTolerance
    ) -> None:
        """Bind to a model that holds the arm under its own names."""
        joints, limits = profile.joints, description.limits
        self._names = list(description.joint_names)
        self._lower = limits.position_lower + joints.position_margin_rad
        self._upper = limits.position_upper - joints.position_margin_rad
        self._fastest = limits.velocity * joints.velocity_fraction
        self._acceleration = limits.acceleration * joints.acceleration_fraction
        self._torque = limits.torque * joints.torque_fraction
        self._closed, self._open = description.gripper.closed, description.gripper.open
        self._tolerance = tolerance
        self._model = model
        self._data = mujoco.MjData(model)
        self._qpos = np.array([int(model.jnt_qposadr[model.joint(name).id]) for name in description.joint_names])
        self._places = Places(model, description, profile)
        self._place_limits = PlaceLimits(
            MonitoredLimit.COMMANDED_BOX,
            MonitoredLimit.COMMANDED_POLYTOPE,
            MonitoredLimit.COMMANDED_KEEP_OUT,
            MonitoredLimit.COMMANDED_SELF_COLLISION,
            MonitoredLimit.COMMANDED_CONE,
            tolerance.commanded_m,
            tolerance.commanded_m,
            tolerance.commanded_m,
        )
        self._last: FloatArray | None = None
        self._last_velocity: FloatArray | None = None

    @property
    def memory(self) -> tuple[FloatArray | None, FloatArray | None]:
        """What is remembered of the commands before."""
        return self._last, self._last_velocity

    @memory.setter
    def memory(self, memory: tuple[FloatArray | None, FloatArray | None]) -> None:
        self._last, self._last_velocity = memory

    def begin(self, position: FloatArray | None) -> None:
        """Forget the past; the path begins at rest at ``position`` (n,) rad, or anywhere if that is None."""
        self._last = None if position is None else np.array(position)
        self._last_velocity = None if position is None else np.zeros(len(position))

    def judge(self, command: JointCommand, dt: float, ledger: Ledger, now_ns: int) -> bool:
        """Judge one applied command; False where it is no command at all."""
        found = cast(object, command.values)
        well_formed = (
            isinstance(found, np.ndarray)
            and command.values.shape == self._fastest.shape
            and command.values.dtype == np.float64
            and bool(np.isfinite(command.values).all())
            and self._closed - 1e-9 <= command.gripper_opening <= self._open + 1e-9
        )
        value = 0.0 if well_formed else 1.0
        ledger.note(MonitoredLimit.COMMANDED_FORM, value, 0.5, 0.5 - value, 1.0, "", "command", now_ns)
        if not well_formed:
            return False
        if command.mode is CommandMode.TORQUE:
            self._ratio(ledger, MonitoredLimit.COMMANDED_TORQUE, command.values, self._torque, "N m", now_ns)
            return True
        if command.mode is CommandMode.POSITION:
            self._judge_places(command.values, ledger, now_ns)
            velocity = None if self._last is None else (command.values - self._last) / dt
            self._last = np.array(command.values)
        else:
            velocity = np.array(command.values)
        if velocity is not None:
            self._ratio(ledger, MonitoredLimit.COMMANDED_VELOCITY, velocity, self._fastest, "rad/s", now_ns)
            if self._last_velocity is not None:
                acceleration = (velocity - self._last_velocity) / dt
                limit = MonitoredLimit.COMMANDED_ACCELERATION
                self._ratio(ledger, limit, acceleration, self._acceleration, "rad/s^2", now_ns)
        self._last_velocity = velocity
        return True

    def _judge_places(self, values: FloatArray, ledger: Ledger, now_ns: int) -> None:
        inside = np.minimum(values - self._lower, self._upper - values)
        worst = int(inside.argmin())
        value = float(inside[worst])
        margin = value + self._tolerance.commanded_rad
        limit = MonitoredLimit.COMMANDED_POSITION
        ledger.note(limit, -value, 0.0, margin, 0.1, "rad", self._names[worst], now_ns)
        self._data.qpos[self._qpos] = values
        mujoco.mj_kinematics(self._model, self._data)
        self._places.judge(self._data, self._place_limits, ledger, now_ns)

    def _ratio(
        self, ledger: Ledger, limit: MonitoredLimit, values: FloatArray, bounds: FloatArray, unit: str, now_ns: int
    ) -> None:
        shares = np.abs(values) / bounds
        worst = int(shares.argmax())
        value, bound = abs(float(values[worst])), float(bounds[worst])
        margin = bound * (1.0 + self._tolerance.commanded_ratio) + 1e-9 - value
        ledger.note(limit, value, bound, margin, bound, unit, self._names[worst], now_ns)
