"""What is known before a velocity is chosen: where the checked path stands, and what the arm feels there."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, SafetyReason, frozen_array
from safety.actuation import Tick
from safety.contact import Contact, ContactSense, ObserverMemory
from safety.intake import SHORTEST_PERIOD
from safety.kinematics import Dynamics, Geometry
from safety.lag import Lag, Servos
from safety.limits import Fingers, LimitSet, joint_range
from safety.memory import SafetyMemory
from safety.motion import Motion, MotionFactory, braked
from safety.profile import SafetyProfile
from safety.watched import Watched

# A state is read this long before the filter sees it, at most; it counts as present.
_LOOP_DELAY_NS = 1_000_000
# States whose stamps are farther apart than this have missed a tick between them, ticks.
_ONE_TICK = 1.5
_SENSE_ERROR_RAD = 0.005
# A measured force in which moving fingers stop, as a share of what servos may press with and at most N: a doubtful
# contact suffices for that. They go on when nothing has been felt for so long.
_FINGERS_SHARE, _FINGERS_FELT_N = 0.25, 15.0
_FINGERS_WAIT_NS = 100_000_000
# Nobody can tell what they do once the newest state is older than both of these.
_UNSEEN_NS, _UNSEEN_TICKS = 20_000_000, 2.5
# The fingers are this much farther open than they were told to be: something is between them. Half the lead that the
# gripper's force allows is enough: a gentle gripper never closes farther ahead of its fingers than that lead.
_GRASP_M = 0.002


def brought_up(state: RobotState, memory: SafetyMemory, mode: CommandMode, now_ns: int) -> RobotState:
    """A sensed state carried on to the present, where it is older than the loop's own delay.

    It is carried on at its own velocity. Torques change that themselves, from tick to tick: in torque mode a late state
    goes on as the arm has been accelerated since, and one that was seen before says less than where its torques have
    led.
    """
    age_ns = now_ns - state.stamp_ns
    if age_ns <= _LOOP_DELAY_NS:
        return state
    age = age_ns * 1e-9
    position, velocity = state.joint_position + state.joint_velocity * age, state.joint_velocity
    if mode is CommandMode.TORQUE:
        position, velocity = position + memory.acceleration * (0.5 * age * age), velocity + memory.acceleration * age
        if state.stamp_ns <= memory.state_stamp_ns and memory.torque is not None:
            position, velocity = memory.position, memory.velocity
    return replace(state, joint_position=frozen_array(position), joint_velocity=frozen_array(velocity))


class View(NamedTuple):
    """One tick before the choice.

    Attributes:
        tick: The tick.
        geometry: Of the checked path's place.
        dynamics: Of the checked path's place.
        contact: What the arm feels.
        lag: What its servos do from now on.
        observer: What is pushing it from outside.
        carrying: The gripper holds something.
        fingers: What is known of its fingers.
        reasons: Why the path has been pulled back, if it has.
    """

    tick: Tick
    geometry: Geometry
    dynamics: Dynamics
    contact: Contact
    lag: Lag
    observer: ObserverMemory
    carrying: bool
    fingers: Fingers
    reasons: tuple[SafetyReason, ...]

    @property
    def fingers_unseen(self) -> bool:
        """Nobody can tell what the fingers do."""
        tick, sensed = self.tick, self.tick.sensed
        return sensed is None or tick.now_ns - sensed.stamp_ns > max(_UNSEEN_NS, _UNSEEN_TICKS * tick.dt * 1e9)

    @property
    def fingers_push(self) -> bool:
        """Fingers that move, or were stopped, may be what pushes the arm: something is felt, or was just now."""
        fingers = self.fingers
        return (fingers.moving or fingers.stopped) and self.tick.now_ns - fingers.felt_ns <= _FINGERS_WAIT_NS


class Viewer:
    """Makes views, and the motions that start from them. Holds no memory."""

    def __init__(
        self, description: RobotDescription, profile: SafetyProfile, watched: Watched, limits: LimitSet
    ) -> None:
        """Bind the arm's models."""
        self._kinematics, self._hull = watched.kinematics, watched.hull
        self._sense = ContactSense(description, watched.kinematics, profile.force)
        self._servos = Servos(description, watched.kinematics)
        self._lower, self._upper = joint_range(description, profile.joints.position_margin_rad)
        self._fastest, self._acceleration = limits.velocity.maximum, limits.acceleration.maximum
        lead = profile.gripper.force_n / description.gripper.stiffness
        self._grasp_m = min(_GRASP_M, 0.5 * lead)
        self._fingers_felt_n = min(_FINGERS_SHARE * profile.force.command_lead_n, _FINGERS_FELT_N)
        self._reaction_s = profile.stopping.reaction_time_s
        self._default_mode = CommandMode(description.actuator_mode)

    def observer(self) -> ObserverMemory:
        """The momentum observer before the first tick."""
        return self._sense.initial()

    def view(
        self, memory: SafetyMemory, sensed: RobotState | None, command: JointCommand, now_ns: int, dt: float
    ) -> View:
        """Where the checked path stands, and what the arm feels there; ``sensed`` as it came, None if unusable."""
        mode = memory.mode
        if mode is None:
            asked = cast(object, command.mode)
            mode = asked if isinstance(asked, CommandMode) else self._default_mode
        read = sensed
        since_ns = 0 if read is None else read.stamp_ns - memory.state_stamp_ns
        sensed = None if read is None else brought_up(read, memory, mode, now_ns)
        place, previous, observer = memory.position.copy(), memory.velocity.copy(), memory.observer
        start = place
        # A state that was seen before says less than what has been commanded since.
        if sensed is not None and since_ns > 0 and mode is not CommandMode.POSITION:
            place = sensed.joint_position.copy()
            start = place
            if mode is CommandMode.VELOCITY:  # where the arm will be when the new command takes effect
                start = place + previous * self._reaction_s + self._servos.way_left(place, sensed.joint_velocity)
            if mode is CommandMode.TORQUE:
                previous = sensed.joint_velocity.copy()
        if mode is CommandMode.TORQUE:  # a torque changes the velocity all through the tick, not at its start
            start = place + (previous - braked(previous, self._acceleration, dt)) * (0.5 * dt)
        rates = previous if sensed is None else sensed.joint_velocity
        geometry, dynamics = self._kinematics.look(start, rates)
        fingers = memory.fingers
        if read is not None and since_ns > 0:
            fingers = fingers.seen(float(read.gripper_opening), since_ns * 1e-9)
        contact, lag = self._sense.unknown(), self._servos.unknown
        if read is None or since_ns > _ONE_TICK * dt * 1e9:  # what the arm gained meanwhile is not the gain of one tick
            observer = observer._replace(velocity=None)
        if read is not None and since_ns > 0:
            observer = self._sense.observe(observer, read, mode, dynamics, dt)
        if sensed is not None:
            held = start if mode is CommandMode.POSITION else None
            before = self._sense.of_late(observer, now_ns)
            contact = self._sense.contact(sensed, self._sense.wrench(sensed), held, geometry.jacobian, dt, before)
            observer = self._sense.touched(observer, contact, now_ns)
            lag = self._servos.lag(mode, sensed, start, geometry, dynamics, dt)
            if contact.force_size > self._fingers_felt_n:
                fingers = fingers._replace(felt_ns=now_ns)
        carrying = sensed is not None and sensed.gripper_opening > memory.gripper_opening + self._grasp_m
        tick = Tick(mode, sensed, place, start, previous, observer.torque, now_ns, dt)
        return View(tick, geometry, dynamics, contact, lag, observer, carrying, fingers, ())

    def moved(self, view: View, position: FloatArray, sensed: RobotState) -> View:
        """The view from a path that stands at ``position`` (n,) rad and moves as the arm does."""
        inside = np.clip(position, self._lower, self._upper)
        # Sensors err: a joint that seems to stand just outside its range is led from its end.
        position = inside if float(np.abs(inside - position).max()) < _SENSE_ERROR_RAD else position.copy()
        velocity = np.clip(sensed.joint_velocity, -self._fastest, self._fastest)
        geometry, dynamics = self._kinematics.look(position, sensed.joint_velocity)
        contact = self._sense.contact(sensed, view.contact.wrench, position, geometry.jacobian, view.tick.dt)
        lag = self._servos.lag(view.tick.mode, sensed, position, geometry, dynamics, view.tick.dt)
        tick = view.tick._replace(place=position, start=position, previous=velocity)
        return view._replace(tick=tick, geometry=geometry, dynamics=dynamics, contact=contact, lag=lag)

    def factory(self, memory: SafetyMemory, view: View) -> MotionFactory:
        """What all motions from this view share."""
        tick = view.tick
        return MotionFactory(
            tick.start,
            tick.previous,
            memory.acceleration.copy(),
            self._kinematics,
            view.geometry,
            view.dynamics,
            self._hull.rows(view.geometry.points),
            view.contact,
            view.lag,
            view.carrying,
            self._acceleration,
            tick.dt,
        )

    def rest(self, position: FloatArray) -> Motion:
        """No motion, at ``position`` (n,) rad: what limits make of it is their margin there."""
        return self.still(position).motion(np.zeros_like(position))

    def still(self, position: FloatArray) -> MotionFactory:
        """What all motions share that start from rest at ``position`` (n,) rad."""
        position, still = position.copy(), np.zeros_like(position)
        geometry = self._kinematics.geometry(position)
        return MotionFactory(
            position,
            still,
            still,
            self._kinematics,
            geometry,
            self._kinematics.dynamics(position, still),
            self._hull.rows(geometry.points),
            self._sense.unknown(),
            self._servos.unknown,
            False,
            self._acceleration,
            SHORTEST_PERIOD,
        )
