"""The safety filter: every command passes here last, whoever sent it.

It keeps a promise by induction. After each tick it remembers a position and a velocity from which the straight-line
stop of :mod:`safety.motion` stays inside every limit. A new command is applied only if that is true again afterwards;
otherwise the remembered stop is carried on, which is safe because the rest of a stop is a stop.

What it sees are commands and sensed states. It knows no policy, no target and no task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

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
from safety.actuation import Actuation
from safety.intake import LONGEST_PERIOD, SHORTEST_PERIOD, Fault, Intake, reason
from safety.limits import Fingers, GripperLimit, Limit, LimitSet, build_limits
from safety.memory import SafetyMemory
from safety.motion import Motion
from safety.path import Choice, PathChooser
from safety.profile import Enforcement, SafetyProfile, check_tighter
from safety.sliding import Slider
from safety.supervisor import Supervision, Watch, obey, status_of
from safety.unchecked import UncheckedFilter
from safety.view import View, Viewer
from safety.watched import Watched
from safety.yielding import Yielding

__all__ = ["PathConsistentFilter", "SafetyMemory", "UncheckedFilter"]

_NEVER = -1
# Clearance in shares of limits' scales, 2 mm and 2 mrad: nearer, fingers that push the arm are stopped.
_NEARLY_OUT = 0.02
# A torque accelerates the arm for as long as it lasts: it is not played on without fresh states, ticks.
_BLIND_TICKS = 2.5


class _Verdict(NamedTuple):
    """What a tick does."""

    command: JointCommand
    status: SafetyStatus
    reasons: tuple[SafetyReason, ...]
    choice: Choice
    held: FloatArray | None = None
    stopped: bool = False  # the fingers


class _Choosers(NamedTuple):
    """What chooses velocities, under one set of limits."""

    limits: LimitSet
    chooser: PathChooser
    slider: Slider


class PathConsistentFilter:
    """Slows commands down along their path so that the arm can always stop inside its limits.

    Where the profile asks for sliding it first bends them along what is in their way. A pure function of its arguments;
    one instance serves one thread.
    """

    def __init__(self, description: RobotDescription, profile: SafetyProfile) -> None:
        """Compile the limits; :func:`safety.building.build_filter` also checks that the profile suits the robot."""
        self.description = description
        self.profile = profile
        watched = Watched(description, profile)
        self.kinematics = watched.kinematics
        self._full, self._reduced = (
            _choosers(build_limits(description, profile, watched, reduced=reduced), profile)
            for reduced in (False, True)
        )
        velocity, acceleration = self._full.limits.velocity, self._full.limits.acceleration
        self.limits: tuple[Limit, ...] = self._full.limits.every
        self._sliding = profile.enforcement is Enforcement.SLIDING
        self._intake = Intake(description, profile.timing)
        self._watch = Watch(profile.monitoring, profile.force, velocity.maximum, description.limits.torque)
        self._actuation = Actuation(description, profile, self.kinematics, acceleration)
        self._viewer = Viewer(description, profile, watched, self._full.limits)
        self._yielding = Yielding(description, profile, self._viewer, self._full.chooser, self._actuation)
        self._gripper = GripperLimit(description.gripper, profile.gripper)
        self._policy_timeout_ns = round(profile.timing.policy_timeout_ms * 1e6)

    def rest(self, position: FloatArray) -> Motion:
        """No motion, at ``position`` (n,) rad: what limits make of it is their margin there."""
        return self._viewer.rest(position)

    def judge_place(self, position: FloatArray) -> float:
        """How far inside the limits of place an arm at ``position`` (n,) rad stands, in shares; negative outside."""
        return self._full.chooser.clearance(self._viewer.still(position))

    def tightened(self, profile: SafetyProfile) -> PathConsistentFilter:
        """A filter that goes on from this one's memory under a stricter profile.

        An arm that the stricter limits find outside may stand still or move back in.

        Raises:
            SafetyProfileError: The profile is looser somewhere.
        """
        check_tighter(self.profile, profile)
        return PathConsistentFilter(self.description, profile)

    def initial(self, state: RobotState) -> SafetyMemory:
        """Memory of an arm found at rest in ``state``.

        Raises:
            ValueError: The state is not fit to start from: of another shape, not finite, or absurd.
        """
        fault = self._intake.state_fault(state, state.stamp_ns, state.stamp_ns)
        if fault is not None:
            raise ValueError(f"cannot start from this state: {fault.message}; check the sensors")
        position = frozen_array(state.joint_position)
        return SafetyMemory(
            mode=None,
            position=position,
            velocity=frozen_array(np.zeros_like(position)),
            acceleration=frozen_array(np.zeros_like(position)),
            asked=position,
            held=None,
            torque=None,
            observer=self._viewer.observer(),
            gripper_opening=self._gripper.within_range(float(state.gripper_opening)),
            fingers=Fingers(float(state.gripper_opening), False),
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
        patience_ns = None if memory.mode is not CommandMode.TORQUE else round(_BLIND_TICKS * dt * 1e9)
        state_fault = intake.state_fault(state, now_ns, memory.state_stamp_ns, patience_ns)
        command_fault = intake.command_fault(command, memory.mode, now_ns, memory.command_stamp_ns, memory.fresh_ns)
        sensed = state if state_fault is None else None
        if not SHORTEST_PERIOD <= dt <= LONGEST_PERIOD:
            dt = LONGEST_PERIOD if dt > LONGEST_PERIOD else SHORTEST_PERIOD

        view = self._viewer.view(memory, sensed, command, now_ns, dt)
        supervision, view, refused = self._supervise(memory, view, events)
        status, reasons = status_of(supervision)
        faults: tuple[SafetyReason, ...] = ()
        silent = supervision.policy_ns != _NEVER and now_ns - supervision.policy_ns > self._policy_timeout_ns
        if clock_fault or state_fault or command_fault or silent:
            policy_fault = _silence(now_ns - supervision.policy_ns, self._policy_timeout_ns) if silent else None
            found = (clock_fault, state_fault, command_fault, policy_fault)
            faults = tuple(fault for fault in found if fault is not None)
        use = self._reduced if supervision.reduced else self._full
        if status is SafetyStatus.RUN and not faults:
            verdict = self._run(memory, view, command, use)
        else:
            status = SafetyStatus.HOLD if status is SafetyStatus.RUN else status
            supervision, verdict = self._stop(memory, view, status, supervision, use)
        after = self._remember(memory, view, supervision, verdict, None if command_fault is not None else command)
        reasons = reasons + refused + faults + verdict.reasons
        choice = verdict.choice
        return after, SafetyResult(verdict.command, verdict.status, reasons, choice.speed_scale, choice.min_margin)

    # --------------------------------------------------------------------------------- before the choice

    def _supervise(
        self, memory: SafetyMemory, view: View, events: tuple[OperatorEvent, ...]
    ) -> tuple[Supervision, View, tuple[SafetyReason, ...]]:
        """Apply events, watch the arm, and start again from the sensed state when a stop trips or is released.

        The same happens to a path on which the drives would press too hard: it gives way.
        """
        tick = view.tick
        before = supervision = memory.supervision
        sensed, mode = tick.sensed, tick.mode
        refused: tuple[SafetyReason, ...] = ()
        if sensed is not None:
            error = sensed.joint_position - memory.position if mode is CommandMode.POSITION else None
            watch, now_ns = self._watch, tick.now_ns
            supervision = watch.motion(supervision, error, memory.velocity, sensed.joint_velocity, now_ns)
            supervision = watch.forces(supervision, view.contact.force_size, view.observer.torque, now_ns)
        if events:
            braking = mode is not CommandMode.TORQUE and bool(memory.velocity.any())
            at_rest = sensed is not None and not braking and self._watch.at_rest(sensed.joint_velocity)
            supervision, refused = obey(supervision, events, at_rest, tick.now_ns)
        if sensed is None or mode is CommandMode.TORQUE:
            return supervision, view, refused
        tripped = supervision.protective is not None and before.protective is None
        released = (before.protective is not None and supervision.protective is None) or (
            before.emergency and not supervision.emergency
        )
        if mode is CommandMode.POSITION and (tripped or released):
            view = self._yielding.begun_again(memory, view, sensed.joint_position, sensed)
        elif supervision.retreat is None:  # a retreat is the answer to the force already
            view = self._yielding.given_way(memory, view, sensed)
        if tripped:
            supervision = self._yielding.retreating(supervision, view)
        return supervision, view, refused

    # ------------------------------------------------------------------------------------------ choices

    def _run(self, memory: SafetyMemory, view: View, command: JointCommand, use: _Choosers) -> _Verdict:
        """Follow the command, slowed down if need be."""
        tick, values = view.tick, command.values
        last_asked = None if memory.asked is memory.position and not view.reasons else memory.asked
        demand = self._actuation.demand(tick, values, last_asked, memory.torque)
        factory = self._viewer.factory(memory, view)
        choice = use.chooser.unchanged(factory, demand.asked)
        reasons = view.reasons + demand.reasons
        if choice.reasons or demand.jumped or view.reasons:
            path = use.slider.bent(factory, demand.path) if self._sliding else demand.path
            choice = use.chooser.slowed(factory, path, demand.asked, choice.reasons)
            reasons += choice.reasons
            values = self._actuation.values_for(tick, choice.velocity)
        elif demand.values is not None:
            values = demand.values
        values, eased = self._actuation.eased(tick, values, view.contact, view.dynamics)
        reasons += eased
        sensed, age = None, 0.0
        if tick.sensed is not None:
            sensed, age = tick.sensed.gripper_opening, (tick.now_ns - tick.sensed.stamp_ns) * 1e-9
        opening, held_back = self._gripper.bounded(
            command.gripper_opening, memory.gripper_opening, sensed, tick.dt, age
        )
        reasons += held_back
        stopped = False
        if self._overpowered(view):
            opening, arrested = self._gripper.arrested(opening, memory.gripper_opening, view.fingers)
            reasons += arrested
            stopped = bool(arrested)
        if not reasons:
            return _Verdict(command, SafetyStatus.RUN, (), choice)
        limited = JointCommand(tick.mode, frozen_array(values), opening, command.stamp_ns)
        return _Verdict(limited, SafetyStatus.LIMITING, _each_once(reasons), choice, None, stopped)

    def _stop(
        self, memory: SafetyMemory, view: View, status: SafetyStatus, supervision: Supervision, use: _Choosers
    ) -> tuple[Supervision, _Verdict]:
        """Withdraw if that is due, or else execute the stored stop; then stay."""
        tick, factory = view.tick, self._viewer.factory(memory, view)
        held: FloatArray | None = None
        retreat = supervision.retreat
        if retreat is not None and (
            status is not SafetyStatus.PROTECTIVE_STOP or tick.now_ns >= supervision.retreat_until_ns
        ):
            retreat = None
            supervision = replace(supervision, retreat=None)
        if retreat is not None and tick.sensed is not None:
            choice = use.chooser.slowed(factory, retreat, retreat, ())._replace(reasons=(), speed_scale=0.0)
            values = self._actuation.values_for(tick, choice.velocity)
        else:
            choice = use.chooser.stopping(factory)
            values, held = self._actuation.stopping_values(tick, choice.velocity, memory.held)
        values, eased = self._actuation.eased(tick, values, view.contact, view.dynamics)
        opening = self._gripper.stopped(memory.gripper_opening, view.fingers.opening)
        arrested: tuple[SafetyReason, ...] = ()
        if self._overpowered(view):
            opening, arrested = self._gripper.arrested(opening, memory.gripper_opening, view.fingers)
        command = JointCommand(tick.mode, frozen_array(values), opening, tick.now_ns)
        return supervision, _Verdict(command, status, view.reasons + eased, choice, held, bool(arrested))

    def _overpowered(self, view: View) -> bool:
        """Whether fingers may drive the arm out of its limits: they push it, and it is nearly out; or nobody knows."""
        if view.fingers_unseen or view.tick.sensed is None:
            return True
        return view.fingers_push and self.judge_place(view.tick.sensed.joint_position) < _NEARLY_OUT

    # ------------------------------------------------------------------------------------ after the choice

    def _remember(
        self,
        memory: SafetyMemory,
        view: View,
        supervision: Supervision,
        verdict: _Verdict,
        accepted: JointCommand | None,
    ) -> SafetyMemory:
        """The next tick's memory; ``accepted`` is the command if it was fit to be looked at."""
        tick, velocity = view.tick, verdict.choice.velocity
        asked = memory.asked
        if tick.mode is CommandMode.POSITION:
            position = _frozen(verdict.command.values)
            asked = position
            if verdict.status is SafetyStatus.LIMITING and accepted is not None:
                asked = _frozen(accepted.values)
        elif tick.mode is CommandMode.VELOCITY:
            position = _sealed(tick.start + velocity * tick.dt)
        else:
            position = _sealed(tick.place + (tick.previous + velocity) * (0.5 * tick.dt))
        mode, stamp_ns, fresh_ns = memory.mode, memory.command_stamp_ns, memory.fresh_ns
        if accepted is not None:
            mode = tick.mode
            if accepted.stamp_ns > stamp_ns:
                stamp_ns, fresh_ns = accepted.stamp_ns, tick.now_ns
        # By position: keywords cost a microsecond at each tick.
        return SafetyMemory(
            mode,
            position,
            _frozen(velocity),
            _sealed((velocity - tick.previous) / tick.dt),
            asked,
            verdict.held,
            verdict.command.values if tick.mode is CommandMode.TORQUE else None,
            view.observer,
            verdict.command.gripper_opening,
            view.fingers if view.fingers.stopped == verdict.stopped else view.fingers._replace(stopped=verdict.stopped),
            supervision,
            max(tick.now_ns, memory.now_ns),
            memory.state_stamp_ns if tick.sensed is None else tick.sensed.stamp_ns,
            stamp_ns,
            fresh_ns if fresh_ns != _NEVER else tick.now_ns,
        )


def _frozen(values: FloatArray) -> FloatArray:
    """A read-only copy; :func:`frozen_array` without the conversion."""
    copy = values.copy()
    copy.setflags(write=False)
    return copy


def _sealed(values: FloatArray) -> FloatArray:
    """A new array, made read-only itself."""
    values.setflags(write=False)
    return values


def _choosers(limits: LimitSet, profile: SafetyProfile) -> _Choosers:
    fraction = profile.stopping.approach_deceleration_fraction
    return _Choosers(limits, PathChooser(limits, fraction), Slider(limits, fraction))


def _each_once(reasons: tuple[SafetyReason, ...]) -> tuple[SafetyReason, ...]:
    """Each limit once, with what it said first."""
    merged: dict[str, SafetyReason] = {}
    for item in reasons:
        merged.setdefault(item.limit, item)
    return tuple(merged.values())


def _silence(silent_ns: int, allowed_ns: int) -> SafetyReason:
    silent, allowed = silent_ns / 1e6, allowed_ns / 1e6
    return reason(
        Fault.POLICY_SILENT, f"no heartbeat of the policy for {silent:g} ms, allowed {allowed:g} ms", allowed - silent
    )
