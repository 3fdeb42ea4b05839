"""Intake: which commands and sensed states are fit to be looked at. Everything else is a typed fault and a HOLD."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, cast

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, JointCommand, RobotState, SafetyReason
from safety.profile import TimingSettings

_MILLISECOND_NS = 1_000_000

# Beyond these, a command is not a motion too fast but a number gone wrong: rad, rad/s, N m.
_LARGEST_COMMAND = {CommandMode.POSITION: 100.0, CommandMode.VELOCITY: 100.0, CommandMode.TORQUE: 10_000.0}
# The same for the norms of sensed joint positions and velocities: rad, rad/s.
_FARTHEST = 100.0
_FASTEST = 1000.0
_PER_JOINT = ("joint_position", "joint_velocity", "joint_effort")
_FLOAT64 = np.dtype(np.float64)
# Control periods outside are a fault of the loop, s.
SHORTEST_PERIOD = 1e-4
LONGEST_PERIOD = 0.1


class Fault(Enum):
    """Why the filter holds or has stopped; the ``limit`` of the reasons it gives."""

    CONTROL_PERIOD = "control_period"
    CLOCK_BACKWARDS = "clock_backwards"
    CLOCK_FROZEN = "clock_frozen"
    CLOCK_JUMP = "clock_jump"
    STATE_SHAPE = "state_shape"
    STATE_NON_FINITE = "state_non_finite"
    STATE_MAGNITUDE = "state_magnitude"
    STATE_STALE = "state_stale"
    STATE_FUTURE = "state_future"
    STATE_BACKWARDS = "state_backwards"
    COMMAND_TYPE = "command_type"
    COMMAND_MODE = "command_mode"
    COMMAND_SHAPE = "command_shape"
    COMMAND_NON_FINITE = "command_non_finite"
    COMMAND_MAGNITUDE = "command_magnitude"
    COMMAND_STALE = "command_stale"
    COMMAND_FUTURE = "command_future"
    COMMAND_WATCHDOG = "command_watchdog"
    OPERATOR_HOLD = "operator_hold"
    POLICY_SILENT = "policy_silent"
    CONTACT_FORCE = "contact_force"
    EXTERNAL_TORQUE = "external_torque"
    TRACKING = "tracking"
    OVERSPEED = "overspeed"
    EMERGENCY_STOP = "emergency_stop"
    REFUSED = "refused"


def reason(fault: Fault, message: str, margin: float = -1.0) -> SafetyReason:
    """The reason that reports a fault; ``margin`` -1 where the fault has no measure."""
    return SafetyReason(fault.value, margin, message)


class Intake:
    """Checks one robot's commands and states. Holds no memory."""

    def __init__(self, description: RobotDescription, timing: TimingSettings) -> None:
        """Set what is expected."""
        self._shape = (description.n,)
        self._joint_names = description.joint_names
        self._timing = timing
        self._state_timeout_ns = round(timing.state_timeout_ms * _MILLISECOND_NS)
        self._command_timeout_ns = round(timing.command_timeout_ms * _MILLISECOND_NS)
        self._watchdog_ns = round(timing.watchdog_ms * _MILLISECOND_NS)
        self._future_ns = round(timing.future_tolerance_ms * _MILLISECOND_NS)
        self._jump_ns = round(timing.clock_jump_ms * _MILLISECOND_NS)

    def clock_fault(self, now_ns: int, last_ns: int, dt: float) -> SafetyReason | None:
        """Check the tick's clock and period.

        Args:
            now_ns: The tick's clock.
            last_ns: The last tick's clock, -1 before the first tick.
            dt: Control period, s.
        """
        if last_ns >= 0 and now_ns == last_ns:
            return reason(Fault.CLOCK_FROZEN, "the clock stands still")
        if last_ns >= 0 and now_ns - last_ns > self._jump_ns + max(dt, 0.0) * 1e9:
            step, allowed = (now_ns - last_ns) / _MILLISECOND_NS, self._timing.clock_jump_ms
            return reason(Fault.CLOCK_JUMP, f"the clock went on by {step:g} ms in one tick", allowed - step)
        if now_ns < last_ns:
            ahead = (last_ns - now_ns) / _MILLISECOND_NS
            return reason(Fault.CLOCK_BACKWARDS, f"the clock went back by {ahead:g} ms", -ahead)
        if not SHORTEST_PERIOD <= dt <= LONGEST_PERIOD:
            expected = f"{SHORTEST_PERIOD:g} to {LONGEST_PERIOD:g} s"
            return reason(Fault.CONTROL_PERIOD, f"expected a control period of {expected}, found {dt!r}")
        return None

    def state_fault(
        self, state: RobotState, now_ns: int, last_stamp_ns: int, patience_ns: int | None = None
    ) -> SafetyReason | None:
        """Check a sensed state.

        Args:
            state: The state.
            now_ns: The tick's clock.
            last_stamp_ns: Stamp of the newest state seen so far.
            patience_ns: Oldest state to trust, where that is shorter than the profile's.
        """
        q, qd, effort, wrench = state.joint_position, state.joint_velocity, state.joint_effort, state.wrench
        for values in (q, qd, effort):
            if getattr(values, "shape", None) != self._shape:
                return self._misshapen(q, qd, effort)
        position, quaternion = state.ee_pose.position, state.ee_pose.quaternion
        # Squares: one NaN or infinity anywhere, and the sum is not finite.
        far, fast = float(q.dot(q)), float(qd.dot(qd))
        rest = float(effort.dot(effort) + wrench.dot(wrench) + position.dot(position) + quaternion.dot(quaternion))
        if not math.isfinite(far + fast + rest + state.gripper_opening):
            return reason(Fault.STATE_NON_FINITE, "the sensed state holds NaN or infinity")
        if far > _FARTHEST**2 or fast > _FASTEST**2:
            return reason(
                Fault.STATE_MAGNITUDE,
                f"expected joints within {_FARTHEST:g} rad and {_FASTEST:g} rad/s in all, "
                f"found {math.sqrt(far):g} and {math.sqrt(fast):g}",
            )
        age = now_ns - state.stamp_ns
        patience = self._state_timeout_ns if patience_ns is None else min(patience_ns, self._state_timeout_ns)
        if age > patience:
            return self._late(Fault.STATE_STALE, "sensed state", age, patience / _MILLISECOND_NS)
        if age < -self._future_ns:
            return self._early(Fault.STATE_FUTURE, "sensed state", age)
        if state.stamp_ns < last_stamp_ns:
            back = (last_stamp_ns - state.stamp_ns) / _MILLISECOND_NS
            return reason(Fault.STATE_BACKWARDS, f"the sensed state is {back:g} ms older than the last", -back)
        return None

    def command_fault(
        self, command: JointCommand, mode: CommandMode | None, now_ns: int, last_stamp_ns: int, fresh_ns: int
    ) -> SafetyReason | None:
        """Check a command.

        Args:
            command: The command.
            mode: The mode of the commands so far, None before the first.
            now_ns: The tick's clock.
            last_stamp_ns: Stamp of the newest command so far.
            fresh_ns: When that command came, -1 before the first tick.
        """
        if cast(object, command.mode) not in _LARGEST_COMMAND or (mode is not None and command.mode is not mode):
            expected = mode.value if mode is not None else "position, velocity or torque"
            return reason(Fault.COMMAND_MODE, f"expected mode {expected}, found {command.mode}")
        kind, opening = type(cast(object, command.values)), cast(object, command.gripper_opening)
        if not issubclass(kind, np.ndarray) or command.values.dtype != _FLOAT64:
            return reason(Fault.COMMAND_TYPE, f"expected a float64 array of values, found {kind.__name__}")
        if command.values.shape != self._shape:
            expected = f"{self._shape[0]} values, one for each joint"
            return reason(Fault.COMMAND_SHAPE, f"expected {expected}, found shape {command.values.shape}")
        if not isinstance(opening, (int, float)) or not isinstance(cast(object, command.stamp_ns), int):
            return reason(Fault.COMMAND_TYPE, "expected a number as gripper opening and an integer as stamp")
        square = float(command.values.dot(command.values))
        largest = _LARGEST_COMMAND[command.mode]
        if not square <= largest * largest or not math.isfinite(opening):
            return self._absurd(command, largest)
        age = now_ns - command.stamp_ns
        if age > self._command_timeout_ns:
            return self._late(Fault.COMMAND_STALE, "command", age, self._timing.command_timeout_ms)
        if age < -self._future_ns:
            return self._early(Fault.COMMAND_FUTURE, "command", age)
        if command.stamp_ns <= last_stamp_ns and now_ns - fresh_ns > self._watchdog_ns:
            return self._late(Fault.COMMAND_WATCHDOG, "newest command", now_ns - fresh_ns, self._timing.watchdog_ms)
        return None

    def _absurd(self, command: JointCommand, largest: float) -> SafetyReason:
        numbers: list[float] = command.values.tolist()
        for joint, number in zip(self._joint_names, numbers, strict=True):
            if not math.isfinite(number):
                return reason(Fault.COMMAND_NON_FINITE, f"{joint}: expected a finite value, found {number}")
        if not math.isfinite(command.gripper_opening):
            found = command.gripper_opening
            return reason(Fault.COMMAND_NON_FINITE, f"expected a finite gripper opening, found {found}")
        norm = math.hypot(*numbers)
        message = f"expected {command.mode.value} values with a norm of at most {largest:g}, found {norm:g}"
        return reason(Fault.COMMAND_MAGNITUDE, message, largest - norm)

    def _misshapen(self, *per_joint: object) -> SafetyReason:
        expected = f"{self._shape[0]} values, one for each joint"
        name, found = next(
            (name, np.shape(cast(Any, values)))
            for name, values in zip(_PER_JOINT, per_joint, strict=True)
            if getattr(values, "shape", None) != self._shape
        )
        return reason(Fault.STATE_SHAPE, f"{name}: expected {expected}, found {found}")

    @staticmethod
    def _late(fault: Fault, what: str, age_ns: int, allowed_ms: float) -> SafetyReason:
        age_ms = age_ns / _MILLISECOND_NS
        return reason(fault, f"the {what} is {age_ms:g} ms old, allowed {allowed_ms:g} ms", allowed_ms - age_ms)

    @staticmethod
    def _early(fault: Fault, what: str, age_ns: int) -> SafetyReason:
        ahead = -age_ns / _MILLISECOND_NS
        return reason(fault, f"the {what} is stamped {ahead:g} ms in the future", -ahead)
