"""Fault states: the latched emergency stop, the protective stop, the operator's hold, and what trips them.

RUN / LIMITING --fault--> HOLD --fault gone--> RUN
any --tracking, overspeed, force, torque--> PROTECTIVE_STOP --ACKNOWLEDGE at rest--> RUN
any --EMERGENCY_STOP--> EMERGENCY_STOP --RESET at rest--> RUN, or PROTECTIVE_STOP if that was tripped too

HOLD and PROTECTIVE_STOP are stops of category 2 of IEC 60204-1, EMERGENCY_STOP is one of category 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controllers.types import FloatArray, OperatorEvent, SafetyReason, SafetyStatus
from safety.intake import Fault, reason
from safety.profile import ForceSettings, MonitoringSettings

_NEVER = -1


@dataclass(frozen=True, slots=True)
class Supervision:
    """What is latched.

    Attributes:
        emergency: An emergency stop is latched.
        protective: Why a protective stop is latched, None if none is.
        operator_hold: The operator asked to hold.
        tracking_since_ns: Since when the arm has been off its commanded path, -1 if it is on it.
        overspeed_since_ns: Since when the arm has been too fast, -1 if it is not.
        force_since_ns: Since when the measured force has been above the quasi-static ceiling, -1 if it is not.
        torque_since_ns: Since when the external torque has been too large, -1 if it is not.
        policy_ns: When the policy was last heard, -1 if never.
        reduced: Reduced-speed mode is on.
        retreat: (n,) rad/s with which the arm withdraws from what it ran into; None if it does not.
        retreat_until_ns: When it stops withdrawing.
    """

    emergency: bool = False
    protective: SafetyReason | None = None
    operator_hold: bool = False
    tracking_since_ns: int = _NEVER
    overspeed_since_ns: int = _NEVER
    force_since_ns: int = _NEVER
    torque_since_ns: int = _NEVER
    policy_ns: int = _NEVER
    reduced: bool = False
    retreat: FloatArray | None = None
    retreat_until_ns: int = _NEVER


def obey(
    supervision: Supervision, events: tuple[OperatorEvent, ...], at_rest: bool, now_ns: int
) -> tuple[Supervision, tuple[SafetyReason, ...]]:
    """Apply the operator's events. An emergency stop wins over everything else in the same tick.

    Args:
        supervision: What is latched.
        events: This tick's events.
        at_rest: The arm is known to be at rest.
        now_ns: The tick's clock.

    Returns:
        What is latched now, and a reason for each event that was refused.
    """
    refused: list[SafetyReason] = []
    stopped = OperatorEvent.EMERGENCY_STOP in events
    for event in events:
        if event is OperatorEvent.HOLD:
            supervision = replace(supervision, operator_hold=True)
        elif event is OperatorEvent.RESUME:
            supervision = replace(supervision, operator_hold=False)
        elif event is OperatorEvent.REDUCED_SPEED:
            supervision = replace(supervision, reduced=True)
        elif event is OperatorEvent.POLICY_HEARTBEAT:
            supervision = replace(supervision, policy_ns=now_ns)
        elif event in (OperatorEvent.RESET, OperatorEvent.ACKNOWLEDGE):
            reset = event is OperatorEvent.RESET
            latched = supervision.emergency if reset else supervision.protective is not None
            if latched and not at_rest:
                refused.append(reason(Fault.REFUSED, f"{event.value}: the arm is not known to be at rest"))
            elif reset:
                supervision = replace(supervision, emergency=False)
            else:
                supervision = replace(supervision, protective=None, retreat=None)
    return (replace(supervision, emergency=True) if stopped else supervision), tuple(refused)


def status_of(supervision: Supervision) -> tuple[SafetyStatus, tuple[SafetyReason, ...]]:
    """The most severe latched state and its reasons; RUN if nothing is latched."""
    if supervision.emergency:
        stop = reason(Fault.EMERGENCY_STOP, "emergency stop: reset it once the arm is at rest")
        both = (stop,) if supervision.protective is None else (stop, supervision.protective)
        return SafetyStatus.EMERGENCY_STOP, both
    if supervision.protective is not None:
        return SafetyStatus.PROTECTIVE_STOP, (supervision.protective,)
    if supervision.operator_hold:
        return SafetyStatus.HOLD, (reason(Fault.OPERATOR_HOLD, "the operator asked to hold"),)
    return SafetyStatus.RUN, ()


class Watch:
    """Compares what the arm does and feels with what it was told. Holds no memory."""

    def __init__(
        self, settings: MonitoringSettings, force: ForceSettings, velocity_limit: FloatArray, torque_limit: FloatArray
    ) -> None:
        """Set the thresholds.

        Args:
            settings: Of the motion.
            force: Of forces.
            velocity_limit: (n,) rad/s, the enforced one.
            torque_limit: (n,) N m, the published one.
        """
        self._settings = settings
        self._force = force
        self._fastest = velocity_limit * settings.overspeed_ratio
        self._torque = torque_limit * force.external_torque_fraction
        # Squared norms below which no single joint can be off its path, too fast, or pushed too hard.
        self._quick_error = settings.tracking_error_rad**2
        self._quick_speed = min(self._fastest.tolist()) ** 2
        self._quick_torque = min(self._torque.tolist()) ** 2
        self._trip_ns = round(settings.trip_after_ms * 1e6)
        self._force_trip_ns = round(force.transient_ms * 1e6)

    def at_rest(self, measured_velocity: FloatArray) -> bool:
        """Whether the measured joint velocity (n,) rad/s is that of an arm at rest."""
        return max(np.abs(measured_velocity).tolist()) <= self._settings.rest_speed_rad_s

    def motion(
        self,
        supervision: Supervision,
        tracking_error: FloatArray | None,
        commanded_velocity: FloatArray,
        measured_velocity: FloatArray,
        now_ns: int,
    ) -> Supervision:
        """Trip a protective stop if the arm is off its path, or too fast, for too long.

        Args:
            supervision: What is latched.
            tracking_error: (n,) rad, measured minus commanded position; None where positions are not commanded.
            commanded_velocity: (n,) rad/s, applied on the last tick.
            measured_velocity: (n,) rad/s.
            now_ns: The tick's clock.
        """
        settings = self._settings
        off_path = too_fast = _NEVER
        tripped: SafetyReason | None = None
        if tracking_error is not None and float(tracking_error.dot(tracking_error)) > self._quick_error:
            lag = np.abs(tracking_error) - np.abs(commanded_velocity) * settings.tracking_lag_s
            margin = settings.tracking_error_rad - max(lag.tolist())
            if margin < 0.0:
                off_path = _start(supervision.tracking_since_ns, now_ns)
                if now_ns - off_path >= self._trip_ns:
                    tripped = reason(Fault.TRACKING, "the arm does not follow its commanded path", margin)
        if float(measured_velocity.dot(measured_velocity)) > self._quick_speed:
            margin = min((self._fastest - np.abs(measured_velocity)).tolist())
            if margin < 0.0:
                too_fast = _start(supervision.overspeed_since_ns, now_ns)
                if now_ns - too_fast >= self._trip_ns:
                    tripped = reason(Fault.OVERSPEED, "the arm moves faster than it may", margin)
        if tripped is not None and supervision.protective is None:
            return replace(supervision, protective=tripped, tracking_since_ns=_NEVER, overspeed_since_ns=_NEVER)
        if off_path != supervision.tracking_since_ns or too_fast != supervision.overspeed_since_ns:
            return replace(supervision, tracking_since_ns=off_path, overspeed_since_ns=too_fast)
        return supervision

    def forces(self, supervision: Supervision, force: float, torque: FloatArray, now_ns: int) -> Supervision:
        """Trip a protective stop on a measured force or an external torque above its ceiling.

        Args:
            supervision: What is latched.
            force: Measured on the tool, N.
            torque: (n,) N m, estimated from outside.
            now_ns: The tick's clock.
        """
        limits = self._force
        pressed = pushed = _NEVER
        tripped: SafetyReason | None = None
        if force > limits.quasi_static_n:
            pressed = _start(supervision.force_since_ns, now_ns)
            if force > limits.transient_n:
                margin = limits.transient_n - force
                tripped = reason(Fault.CONTACT_FORCE, "measured force above the transient ceiling", margin)
            elif now_ns - pressed >= self._force_trip_ns:
                margin = limits.quasi_static_n - force
                tripped = reason(Fault.CONTACT_FORCE, "measured force above the quasi-static ceiling", margin)
        if float(torque.dot(torque)) > self._quick_torque:
            margin = min((self._torque - np.abs(torque)).tolist())
            if margin < 0.0:
                pushed = _start(supervision.torque_since_ns, now_ns)
                if now_ns - pushed >= self._force_trip_ns and tripped is None:
                    tripped = reason(Fault.EXTERNAL_TORQUE, "the arm is pushed harder than it may be", margin)
        if tripped is not None and supervision.protective is None:
            return replace(supervision, protective=tripped, force_since_ns=_NEVER, torque_since_ns=_NEVER)
        if pressed != supervision.force_since_ns or pushed != supervision.torque_since_ns:
            return replace(supervision, force_since_ns=pressed, torque_since_ns=pushed)
        return supervision


def _start(since_ns: int, now_ns: int) -> int:
    return now_ns if since_ns == _NEVER else since_ns
