"""The safety filter: every command passes here last, whoever sent it.

It keeps a promise by induction. After each tick it remembers a position and a velocity from which the straight-line
stop of :mod:`safety.motion` stays inside every limit. A new command is applied only if that is true again afterwards;
otherwise the remembered stop is carried on, which is safe because the rest of a stop is a stop.

What it sees are commands and sensed states. It knows no policy, no target and no task.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from safety.intake import LONGEST_PERIOD, SHORTEST_PERIOD, Fault, Intake, reason
from safety.kinematics import SafetyKinematics
from safety.limits import build_limits
from safety.motion import MotionFactory
from safety.path import Choice, PathChooser
from safety.profile import SafetyProfile, SafetyProfileError
from safety.supervisor import Monitor, Supervision, obey, status_of
from safety.torque import TorqueMap
from safety.unchecked import UncheckedFilter

__all__ = ["PathConsistentFilter", "SafetyMemory", "UncheckedFilter", "build_filter"]

_NEVER = -1
_GRIPPER_ROUNDING_M = 1e-6


@dataclass(frozen=True, slots=True)
class SafetyMemory:
    """All that the filter remembers from one tick to the next.

    Attributes:
        mode: Mode of the commands, None before the first valid one; it never changes after.
        position: (n,) rad, where the checked path stands: the applied position command, or the measured position.
        velocity: (n,) rad/s, applied on the last tick; the stored stop starts from here.
        asked: (n,) rad, the last position that was asked for.
        held: (n,) rad, what a hold in torque mode holds; None while moving.
        gripper_opening: Applied opening, m.
        supervision: What is latched.
        now_ns: Clock of the last tick.
        state_stamp_ns: Stamp of the newest state seen.
        command_stamp_ns: Stamp of the newest command seen.
        fresh_ns: Clock when that command came, -1 before the first tick.
    """

    mode: CommandMode | None
    position: FloatArray
    velocity: FloatArray
    asked: FloatArray
    held: FloatArray | None
    gripper_opening: float
    supervision: Supervision
    now_ns: int
    state_stamp_ns: int
    command_stamp_ns: int
    fresh_ns: int


@dataclass(frozen=True, slots=True)
class _Tick:
    """What is known about one tick before a velocity is chosen."""

    mode: CommandMode
    state: RobotState | None  # None if it cannot be trusted
    command: JointCommand
    start: FloatArray  # (n,) rad
    previous: FloatArray  # (n,) rad/s
    now_ns: int
    dt: float


class PathConsistentFilter:
    """Slows commands down along their path so that the arm can always stop inside its limits.

    A pure function of its arguments; one instance serves one thread.
    """

    def __init__(self, description: RobotDescription, profile: SafetyProfile) -> None:
        """Compile the limits. See :func:`build_filter`."""
        points = tuple(
            dict.fromkeys((description.end_effector_site, *description.safety_points))
        )
        self.description = description
        self.profile = profile
        self.kinematics = SafetyKinematics(description, points)
        velocity, acceleration, others = build_limits(description, profile, self.kinematics)
        self.limits = (velocity, acceleration, *others)
        self._fastest = velocity.maximum
        self._acceleration = acceleration.maximum
        self._gentle = frozen_array(acceleration.maximum * profile.stopping.approach_deceleration_fraction)
        self._reaction_s = profile.stopping.reaction_time_s
        self._chooser = PathChooser(velocity, acceleration, others, profile.stopping.approach_deceleration_fraction)
        self._intake = Intake(description, profile.timing)
        self._monitor = Monitor(profile.monitoring, velocity.maximum)
        self._torque = TorqueMap(self.kinematics, description.limits.torque, profile.hold)
        self._gripper_range = (description.gripper.closed, description.gripper.open)

    def initial(self, state: RobotState) -> SafetyMemory:
        """Memory of an arm found at rest in ``state``."""
        position = frozen_array(state.joint_position)
        closed, opened = self._gripper_range
        return SafetyMemory(
            mode=None,
            position=position,
            velocity=frozen_array(np.zeros_like(position)),
            asked=position,
            held=None,
            gripper_opening=min(max(float(state.gripper_opening), closed), opened),
            supervision=Supervision(),
            now_ns=_NEVER,
            state_stamp_ns=state.stamp_ns,
            command_stamp_ns=_NEVER,
            fresh_ns=_NEVER,
        )

    def enforce(
        self,
        memory: SafetyMemory,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[SafetyMemory, SafetyResult]:
        """Judge one command. See :class:`controllers.protocols.SafetyFilter`."""
        if memory.fresh_ns == _NEVER:
            memory = replace(memory, fresh_ns=now_ns)
        faults, sensed, accepted = self._receive(memory, state, command, now_ns, dt)
        dt = dt if SHORTEST_PERIOD <= dt <= LONGEST_PERIOD else SHORTEST_PERIOD
        tick = self._tick(memory, sensed, command, now_ns, dt)
        supervision, tick, refused = self._supervise(memory, tick, events)
        status, reasons = status_of(supervision)
        reasons += refused
        if status is SafetyStatus.RUN and faults:
            status = SafetyStatus.HOLD
        reasons += faults

        if status is SafetyStatus.RUN:
            applied, status, choice = self._run(memory, tick)
            reasons += choice.reasons
            held, asked = None, command.values if tick.mode is CommandMode.POSITION else memory.asked
        else:
            applied, held, choice = self._stop(memory, tick)
            reasons += choice.reasons
            asked = applied.values if tick.mode is CommandMode.POSITION else memory.asked

        if tick.mode is CommandMode.POSITION:
            position = applied.values
        else:
            position = tick.start + choice.velocity * dt
        after = SafetyMemory(
            mode=memory.mode if memory.mode is not None or not accepted else command.mode,
            position=_frozen(position),
            velocity=_frozen(choice.velocity),
            asked=_frozen(asked),
            held=held,
            gripper_opening=applied.gripper_opening,
            supervision=supervision,
            now_ns=max(now_ns, memory.now_ns),
            state_stamp_ns=sensed.stamp_ns if sensed is not None else memory.state_stamp_ns,
            command_stamp_ns=max(command.stamp_ns, memory.command_stamp_ns) if accepted else memory.command_stamp_ns,
            fresh_ns=now_ns if accepted and command.stamp_ns > memory.command_stamp_ns else memory.fresh_ns,
        )
        return after, SafetyResult(applied, status, reasons, choice.speed_scale, choice.min_margin)
