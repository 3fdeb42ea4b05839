"""The safety filter: every command passes here last, whoever sent it.

It keeps a promise by induction. After each tick it remembers a position and a velocity from which the straight-line
stop of :mod:`safety.motion` stays inside every limit. A new command is applied only if that is true again afterwards;
otherwise the remembered stop is carried on, which is safe because the rest of a stop is a stop.

What it sees are commands and sensed states. It knows no policy, no target and no task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from controllers.names import nearest_name_hint
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
from safety.actuation import Actuation, Tick
from safety.intake import LONGEST_PERIOD, SHORTEST_PERIOD, Intake
from safety.kinematics import SafetyKinematics
from safety.limits import Limit, build_limits
from safety.motion import MotionFactory
from safety.path import Choice, PathChooser
from safety.profile import SafetyProfile, SafetyProfileError
from safety.supervisor import Monitor, Supervision, obey, status_of
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
        asked: (n,) rad, the last position that was asked for; the same object as ``position`` where that was applied.
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


class _Verdict(NamedTuple):
    """What a tick does."""

    command: JointCommand
    status: SafetyStatus
    reasons: tuple[SafetyReason, ...]
    choice: Choice
    held: FloatArray | None = None


class PathConsistentFilter:
    """Slows commands down along their path so that the arm can always stop inside its limits.

    A pure function of its arguments; one instance serves one thread.
    """

    def __init__(self, description: RobotDescription, profile: SafetyProfile) -> None:
        """Compile the limits; :func:`build_filter` also checks that the profile suits the robot."""
        points = tuple(dict.fromkeys((description.end_effector_site, *description.safety_points)))
        self.description = description
        self.profile = profile
        self.kinematics = SafetyKinematics(description, points)
        velocity, acceleration, others = build_limits(description, profile, self.kinematics)
        self.limits: tuple[Limit, ...] = (velocity, acceleration, *others)
        self._fastest = velocity.maximum
        self._acceleration = acceleration.maximum
        self._stopping = profile.stopping
        self._chooser = PathChooser(velocity, acceleration, others, profile.stopping.approach_deceleration_fraction)
        self._intake = Intake(description, profile.timing)
        self._monitor = Monitor(profile.monitoring, velocity.maximum)
        self._actuation = Actuation(description, profile, self.kinematics, acceleration)
        self._default_mode = CommandMode(description.actuator_mode)
        self._closed, self._open = description.gripper.closed, description.gripper.open

    def initial(self, state: RobotState) -> SafetyMemory:
        """Memory of an arm found at rest in ``state``."""
        position = frozen_array(state.joint_position)
        return SafetyMemory(
            mode=None,
            position=position,
            velocity=frozen_array(np.zeros_like(position)),
            asked=position,
            held=None,
            gripper_opening=min(max(float(state.gripper_opening), self._closed), self._open),
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
        """Judge one command.

        Args:
            memory: What the last call returned.
            state: Sensed state.
            command: Candidate.
            events: Operator events of this tick.
            now_ns: The tick's clock.
            dt: Control period, s.

        Returns:
            The new memory, and the command to apply with its status.
        """
        intake = self._intake
        clock_fault = intake.clock_fault(now_ns, memory.now_ns, dt)
        state_fault = intake.state_fault(state, now_ns, memory.state_stamp_ns)
        command_fault = intake.command_fault(command, memory.mode, now_ns, memory.command_stamp_ns, memory.fresh_ns)
        sensed = state if state_fault is None else None
        if not SHORTEST_PERIOD <= dt <= LONGEST_PERIOD:
            dt = LONGEST_PERIOD if dt > LONGEST_PERIOD else SHORTEST_PERIOD

        tick = self._tick(memory, sensed, command, now_ns, dt)
        supervision, tick, refused = self._supervise(memory, tick, events)
        status, reasons = status_of(supervision)
        faults: tuple[SafetyReason, ...] = ()
        if clock_fault or state_fault or command_fault:
            faults = tuple(fault for fault in (clock_fault, state_fault, command_fault) if fault is not None)
        if status is SafetyStatus.RUN and not faults:
            verdict = self._run(memory, tick, command)
        else:
            status = SafetyStatus.HOLD if status is SafetyStatus.RUN else status
            verdict = self._stop(memory, tick, status)
        after = self._remember(memory, tick, supervision, verdict, None if command_fault is not None else command)
        reasons = reasons + refused + faults + verdict.reasons
        choice = verdict.choice
        return after, SafetyResult(verdict.command, verdict.status, reasons, choice.speed_scale, choice.min_margin)

    # --------------------------------------------------------------------------------- before the choice

    def _tick(
        self, memory: SafetyMemory, sensed: RobotState | None, command: JointCommand, now_ns: int, dt: float
    ) -> Tick:
        mode = memory.mode
        if mode is None:
            asked = cast(object, command.mode)
            mode = asked if isinstance(asked, CommandMode) else self._default_mode
        start, previous = memory.position, memory.velocity
        if sensed is not None and mode is not CommandMode.POSITION:
            start = sensed.joint_position
            if mode is CommandMode.TORQUE:
                previous = sensed.joint_velocity
        return Tick(mode, sensed, start, previous, now_ns, dt)

    def _supervise(
        self, memory: SafetyMemory, tick: Tick, events: tuple[OperatorEvent, ...]
    ) -> tuple[Supervision, Tick, tuple[SafetyReason, ...]]:
        """Apply events, watch the arm, and start again from the sensed state when a stop trips or is released."""
        before = supervision = memory.supervision
        sensed, mode = tick.sensed, tick.mode
        refused: tuple[SafetyReason, ...] = ()
        if sensed is not None:
            error = sensed.joint_position - memory.position if mode is CommandMode.POSITION else None
            supervision = self._monitor.watch(supervision, error, memory.velocity, sensed.joint_velocity, tick.now_ns)
        if events:
            braking = mode is not CommandMode.TORQUE and bool(memory.velocity.any())
            at_rest = sensed is not None and not braking and self._monitor.at_rest(sensed.joint_velocity)
            supervision, refused = obey(supervision, events, at_rest)
        if supervision is not before and sensed is not None and mode is CommandMode.POSITION:
            tripped = supervision.protective is not None and before.protective is None
            released = (before.protective is not None and supervision.protective is None) or (
                before.emergency and not supervision.emergency
            )
            if tripped or released:
                velocity = np.clip(sensed.joint_velocity, -self._fastest, self._fastest)
                tick = tick._replace(start=sensed.joint_position, previous=velocity)
        return supervision, tick, refused

    def _factory(self, tick: Tick) -> MotionFactory:
        reaction_s = 0.0 if tick.mode is CommandMode.POSITION else self._stopping.reaction_time_s
        geometry = self.kinematics.geometry(tick.start)
        return MotionFactory(
            tick.start, tick.previous, self.kinematics, geometry, self._acceleration, tick.dt, tick.dt + reaction_s
        )

    # ------------------------------------------------------------------------------------------ choices

    def _run(self, memory: SafetyMemory, tick: Tick, command: JointCommand) -> _Verdict:
        """Follow the command, slowed down if need be."""
        values = command.values
        last_asked = None if memory.asked is memory.position else memory.asked
        demand = self._actuation.demand(tick, values, last_asked)
        factory = self._factory(tick)
        choice = self._chooser.unchanged(factory, demand.asked)
        reasons = demand.reasons
        if choice.reasons or demand.jumped:
            choice = self._chooser.slowed(factory, demand.path, demand.asked, choice.reasons)
            reasons += choice.reasons
            values = self._actuation.values_for(tick, choice.velocity)
        elif reasons:
            values = self._actuation.clipped(tick, values)

        opening = min(max(command.gripper_opening, self._closed), self._open)
        outside = -abs(command.gripper_opening - opening)
        if outside < -_GRIPPER_ROUNDING_M:
            reasons += (SafetyReason("gripper_opening", outside, "clamped to the gripper's range; margin in m"),)
        if not reasons:
            return _Verdict(command, SafetyStatus.RUN, (), choice)
        limited = JointCommand(tick.mode, frozen_array(values), opening, command.stamp_ns)
        return _Verdict(limited, SafetyStatus.LIMITING, reasons, choice)

    def _stop(self, memory: SafetyMemory, tick: Tick, status: SafetyStatus) -> _Verdict:
        """Execute the stored stop, then stay."""
        choice = self._chooser.stopping(self._factory(tick))
        values, held = self._actuation.stopping_values(tick, choice.velocity, memory.held)
        command = JointCommand(tick.mode, frozen_array(values), memory.gripper_opening, tick.now_ns)
        return _Verdict(command, status, (), choice, held)

    # ------------------------------------------------------------------------------------ after the choice

    def _remember(
        self,
        memory: SafetyMemory,
        tick: Tick,
        supervision: Supervision,
        verdict: _Verdict,
        accepted: JointCommand | None,
    ) -> SafetyMemory:
        """The next tick's memory; ``accepted`` is the command if it was fit to be looked at."""
        velocity = verdict.choice.velocity
        asked = memory.asked
        if tick.mode is CommandMode.POSITION:
            position = _frozen(verdict.command.values)
            asked = position
            if verdict.status is SafetyStatus.LIMITING and accepted is not None:
                asked = _frozen(accepted.values)
        else:
            position = _frozen(tick.start + velocity * tick.dt)
        mode, stamp_ns, fresh_ns = memory.mode, memory.command_stamp_ns, memory.fresh_ns
        if accepted is not None:
            mode = tick.mode
            if accepted.stamp_ns > stamp_ns:
                stamp_ns, fresh_ns = accepted.stamp_ns, tick.now_ns
        return SafetyMemory(
            mode=mode,
            position=position,
            velocity=_frozen(velocity),
            asked=asked,
            held=verdict.held,
            gripper_opening=verdict.command.gripper_opening,
            supervision=supervision,
            now_ns=max(tick.now_ns, memory.now_ns),
            state_stamp_ns=memory.state_stamp_ns if tick.sensed is None else tick.sensed.stamp_ns,
            command_stamp_ns=stamp_ns,
            fresh_ns=fresh_ns if fresh_ns != _NEVER else tick.now_ns,
        )


def _frozen(values: FloatArray) -> FloatArray:
    """A read-only copy; :func:`frozen_array` without the conversion."""
    copy = values.copy()
    copy.flags.writeable = False
    return copy


def build_filter(description: RobotDescription, profile: SafetyProfile) -> PathConsistentFilter:
    """Build the filter of one robot in one cell.

    Args:
        description: The robot.
        profile: What to enforce.

    Raises:
        SafetyProfileError: The profile is meant for another robot, lacks a box for a watched point, has one for a point
            that is not watched, or leaves the robot's home posture outside.
    """
    if profile.robot != description.name:
        raise SafetyProfileError(
            f"profile {profile.name!r}: expected a profile for robot {description.name!r}, found {profile.robot!r}"
        )
    watched = (description.end_effector_site, *description.safety_points)
    for box in profile.workspace:
        if box.point not in watched:
            hint = nearest_name_hint(box.point, watched)
            raise SafetyProfileError(
                f"profile {profile.name!r}: workspace: {description.name} has no watched point {box.point!r}{hint}; "
                f"watched are {', '.join(dict.fromkeys(watched))}"
            )
    built = PathConsistentFilter(description, profile)
    _check_home(built)
    return built


def _check_home(built: PathConsistentFilter) -> None:
    home = built.description.home
    rest = np.zeros_like(home)
    kinematics, dt = built.kinematics, SHORTEST_PERIOD
    motion = MotionFactory(home, rest, kinematics, kinematics.geometry(home), np.ones_like(home), dt, dt).motion(rest)
    for limit in built.limits:
        margin = limit.judge(motion).margin
        if margin < 0.0:
            raise SafetyProfileError(
                f"profile {built.profile.name!r}: expected the home posture of {built.description.name} inside every "
                f"limit, found it outside {limit.name} by {-margin:.3g} {limit.unit}"
            )
