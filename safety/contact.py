"""What the arm feels from outside, and how hard its servos would press: external force, external torque, lead."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, RobotState, frozen_array
from safety.kernel.contact import line_of_push, unexplained
from safety.kernel.look import observe, press
from safety.kinematics import Dynamics, SafetyKinematics
from safety.profile import ForceSettings

# Added to the compliance at the end effector, m/N: keeps its inverse finite where the arm is singular.
_LEAST_COMPLIANCE = 1e-6
# Bandwidth of the momentum observer, 1/s: it settles within 10 ms.
_OBSERVER_GAIN_1_S = 400.0
# A measured force that is a contact, and neither the weight of what is carried nor the hand's own inertia.
_FELT_N = 30.0
# From this share of the quasi-static ceiling on, the speed into a contact falls linearly to zero at the ceiling.
_ONSET = 0.5
_ONSET_SPEED_M_S = 0.1
# A slow loop notices late what it has pressed: the way into a contact within one tick is bounded, too.
_ONSET_WAY_M = 5e-4
# Slower than this along a contact force, the arm counts as coming to rest against what it touches.
_ARREST_M_S = 0.05
# Share of a measured force too much that is given up in a tick, once the arm rests against what it touches.
_GIVEN_UP = 0.2
# A joint torque from outside that no error of the model explains: as a share of what is published, and at least N m.
_LINK_SHARE, _LINK_LEAST_N_M = 0.15, 8.0
# Of that, what servos may go on pulling with: near its axis a link presses hard with little torque.
_LINK_PULL = 0.3
# For so long after a contact the arm comes back to it no faster than that: what has bounced off is met again.
_BOUNCE_NS = 100_000_000


class ServoLead(NamedTuple):
    """The pull of the position servos at the start of a tick.

    Attributes:
        velocity: (n,) rad/s, measured.
        lead: (n,) rad, of the command over the joints, less what damping takes off it.
        press: (3, n) N/rad: times a lead, the force of an end effector that cannot move, base frame.
        force: The force that the present lead would press with, N.
        excess: How much harder than they may the servos press against a contact that is felt, N; 0 where none is.
        yielding: (n,) rad, to take off the command so that they do not.
    """

    velocity: FloatArray
    lead: FloatArray
    press: FloatArray
    force: float
    excess: float
    yielding: FloatArray


class Contact(NamedTuple):
    """What is known about forces at the start of a tick.

    Attributes:
        wrench: (6,) that the environment exerts on the tool: N, and N m about the end effector, base frame; zero where
            it is not known.
        force_size: Size of its force, N.
        into: (n,) m/rad: times joint velocities, the speed into the contact, along its line of action.
        speed: Of the arm into the contact, measured, m/s.
        allowed: Largest speed into the contact that may be commanded, m/s; infinite where nothing is felt.
        servo: The pull of the servos; None where positions are not commanded or the state is not known.
        felt: Something is touched, beyond doubt.
    """

    wrench: FloatArray
    force_size: float
    into: FloatArray
    speed: float
    allowed: float
    servo: ServoLead | None
    felt: bool = False

    def push(self, static: float) -> float:
        """How hard the arm may push into what it touches, N: with ``static`` once it rests against it."""
        return static * max(1.0 - abs(self.speed) / _ARREST_M_S, 0.0)


class ObserverMemory(NamedTuple):
    """The momentum observer's memory, and the last contact.

    Attributes:
        velocity: (n,) rad/s, sensed on the last tick; None before the first.
        torque: (n,) N m, estimated from outside on the joints.
        touch: (6,) wrench of the last contact that was felt, as in :class:`Contact`; None before the first.
        touched_ns: When it was felt last.
    """

    velocity: FloatArray | None
    torque: FloatArray
    touch: FloatArray | None = None
    touched_ns: int = 0


class LinkTouch:
    """Notices what touches a link before the wrist, where no sensor feels it. Holds no memory.

    The torque from outside that the momentum observer estimates, and that the wrench on the tool does not explain, is
    another contact's. Nobody knows where that is, nor how hard it presses: the nearer to the base, the harder.
    """

    def __init__(self, description: RobotDescription) -> None:
        """Set what is noticed."""
        self._most = np.maximum(description.limits.torque * _LINK_SHARE, _LINK_LEAST_N_M)
        servo = description.servo
        self._reach = None if servo is None else _LINK_PULL * self._most / servo.stiffness

    def pushed(self, torque: FloatArray, contact: Contact, jacobian: FloatArray) -> float:
        """How much more than unexplained noise any joint feels from outside, N m; not positive where none does.

        Args:
            torque: (n,) N m, of the observer.
            contact: Of the tool.
            jacobian: (m, n): first three rows linear, the end effector's, m/rad, last three angular.
        """
        return unexplained(torque, self._most, jacobian, contact.wrench)

    @staticmethod
    def against(contact: Contact, torque: FloatArray) -> Contact:
        """What is felt, with no way left into what touches a link.

        Where that is nobody knows; but its force works on a motion with the ``torque`` (n,) N m that joints feel from
        outside, and takes from one that goes into it.
        """
        return contact._replace(into=-torque / math.sqrt(float(torque.dot(torque))), allowed=0.0)

    def led(self, command: FloatArray, state: RobotState) -> FloatArray:
        """A position command (n,) rad that pulls every joint less hard than what is noticed."""
        if self._reach is None:
            return state.joint_position.copy()
        position = state.joint_position
        return position + np.clip(command - position, -self._reach, self._reach)


class ContactSense:
    """Reads contacts from sensed states. Holds no memory."""

    def __init__(self, description: RobotDescription, kinematics: SafetyKinematics, force: ForceSettings) -> None:
        """Set the ceilings and the servos' gains.

        Args:
            description: The robot.
            kinematics: Its model.
            force: The ceilings.
        """
        self._static, self._ceiling = force.command_lead_n, force.quasi_static_n
        self._noticed = min(_FELT_N, _ONSET * self._ceiling)  # N, from which on something is touched
        self._kinematics = kinematics
        self._damping = kinematics.damping.copy()
        self._has_servos = description.servo is not None
        self._n = description.n
        nowhere = frozen_array(np.zeros(description.n))
        self._unknown = Contact(frozen_array(np.zeros(6)), 0.0, nowhere, 0.0, math.inf, None)
        self._q, self._qd, self._effort, self._driven, self._bias = (np.zeros(description.n) for _ in range(5))
        self._no_torque = np.zeros(description.n)
        if description.servo is not None:
            self._compliance: FloatArray = 1.0 / description.servo.stiffness
            self._lag: FloatArray = description.servo.damping / description.servo.stiffness

    def unknown(self) -> Contact:
        """Where there is no state to read from."""
        return self._unknown

    def initial(self) -> ObserverMemory:
        """The observer before the first tick."""
        return ObserverMemory(None, self._no_torque)

    def wrench(self, state: RobotState) -> FloatArray:
        """External wrench on the tool (6,): N, and N m about the end effector, base frame."""
        return self._kinematics.external_wrench(state.joint_position, state.wrench)

    def contact(
        self,
        state: RobotState,
        wrench: FloatArray,
        command: FloatArray | None,
        jacobian: FloatArray,
        dt: float,
        before: FloatArray | None = None,
    ) -> Contact:
        """All that is felt.

        Args:
            state: Sensed state.
            wrench: (6,), of :meth:`wrench`.
            command: (n,) rad, where the commanded path stands; None where positions are not commanded.
            jacobian: (m, n): first three rows linear, the end effector's, m/rad, last three angular.
            dt: Control period, s.
            before: (6,) wrench of a contact that may have opened just now, None if there was none of late.
        """
        into, servo = np.empty(self._n), None
        self._qd[:] = state.joint_velocity
        if command is None or not self._has_servos:
            size = line_of_push(jacobian, wrench, into)
        else:
            self._q[:] = state.joint_position
            lead, matrix, yielding = np.empty(self._n), np.empty((3, self._n)), np.empty(self._n)
            size, excess, pressing = press(
                command,
                self._q,
                self._qd,
                self._lag,
                self._compliance,
                jacobian,
                wrench,
                self._noticed,
                _LEAST_COMPLIANCE,
                self._static,
                _ARREST_M_S,
                _GIVEN_UP,
                lead,
                matrix,
                yielding,
                into,
            )
            servo = ServoLead(self._qd.copy(), lead, matrix, pressing, excess, yielding)
        speed, allowed = 0.0, math.inf
        onset = min(_ONSET_SPEED_M_S, _ONSET_WAY_M / dt)
        if size > self._noticed:
            speed = float(into.dot(self._qd))
            share = min((self._ceiling - size) / ((1.0 - _ONSET) * self._ceiling), 1.0)
            if size > _ONSET * self._ceiling:
                allowed = onset * max(share, 0.0)
            if command is None:  # nothing pulls such a command back later: it gives way at once
                allowed = onset * max(share, 0.0) * max(1.0 - abs(speed) / _ARREST_M_S, 0.0)
        elif command is None and before is not None:
            line_of_push(jacobian, before, into)
            allowed = 0.5 * onset
        return Contact(wrench, size, into, speed, allowed, servo, size > self._noticed)

    def observe(
        self, memory: ObserverMemory, state: RobotState, mode: CommandMode, dynamics: Dynamics, dt: float
    ) -> ObserverMemory:
        """One step of the momentum observer.

        The momentum that the joints gain beyond what drives, weight and motion explain comes from outside.

        Args:
            memory: Of the last tick.
            state: Sensed state; its joint effort is that of the drives since the last tick.
            mode: In torque mode the effort carries the arm's weight; otherwise the drives compensate it by themselves.
            dynamics: Inertia and bias at the sensed state.
            dt: s since the last tick.

        Returns:
            The memory of this tick, with the estimate.
        """
        velocity = state.joint_velocity.copy()
        if memory.velocity is None:
            return memory._replace(velocity=velocity)
        self._effort[:] = state.joint_effort
        share = _OBSERVER_GAIN_1_S * dt / (1.0 + _OBSERVER_GAIN_1_S * dt)
        torque = np.empty(self._n)
        observe(
            dynamics.inertia,
            dynamics.bias,
            dynamics.gravity,
            self._damping,
            self._effort,
            mode is CommandMode.TORQUE,
            velocity,
            memory.velocity,
            memory.torque,
            share,
            dt,
            self._bias,
            self._driven,
            torque,
        )
        return ObserverMemory(velocity, torque, memory.touch, memory.touched_ns)

    @staticmethod
    def touched(memory: ObserverMemory, contact: Contact, now_ns: int) -> ObserverMemory:
        """The memory with a contact that is felt now."""
        return memory._replace(touch=contact.wrench, touched_ns=now_ns) if contact.felt else memory

    @staticmethod
    def of_late(memory: ObserverMemory, now_ns: int) -> FloatArray | None:
        """The (6,) wrench of a contact that may have opened just now."""
        return memory.touch if now_ns - memory.touched_ns <= _BOUNCE_NS else None
