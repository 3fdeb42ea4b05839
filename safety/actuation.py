"""The three kinds of command as velocities along the arm's path, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, RobotState, SafetyReason, frozen_array
from safety.contact import Contact
from safety.kernel.contact import dropped, eased
from safety.kernel.joints import catch_up
from safety.kinematics import Dynamics, SafetyKinematics
from safety.limits import JointAccelerationLimit, joint_range
from safety.profile import SafetyProfile
from safety.torque import TorqueMap

# How fast a velocity-driven joint that has been pushed out of its range is brought back in, 1/s.
_BROUGHT_IN_1_S = 5.0
# A joint that is farther out of its range than this is being pushed there, rad.
_PUSHED_OUT_RAD = 0.001
# Keeps what is taken off a velocity finite where the arm cannot move into what it touches, m^2/rad^2 over N m/rad.
_LEAST_GIVE = 1e-6


class Tick(NamedTuple):
    """What is known about a tick before a velocity is chosen.

    Attributes:
        mode: Mode of the command.
        sensed: The sensed state, None if it cannot be trusted.
        place: (n,) rad, where the arm, or in position mode its command, stands.
        start: (n,) rad, where the checked path stands: farther on by what the arm covers before a command acts.
        previous: (n,) rad/s, velocity of the last tick, along which the stored stop runs.
        outside: (n,) N m, estimated from outside on the joints.
        now_ns: The tick's clock.
        dt: Control period, s.
    """

    mode: CommandMode
    sensed: RobotState | None
    place: FloatArray
    start: FloatArray
    previous: FloatArray
    outside: FloatArray
    now_ns: int
    dt: float


class Demand(NamedTuple):
    """A command as velocities.

    Attributes:
        asked: (n,) rad/s that obeys the command to the letter.
        path: (n,) rad/s to follow if that may not be.
        reasons: What was wrong with the command itself.
        jumped: The path has left the arm behind: closing the gap in one tick could not be stopped in the next.
        values: (n,) values of the command within torque and torque rate; None where they are the command's own.
    """

    asked: FloatArray
    path: FloatArray
    reasons: tuple[SafetyReason, ...] = ()
    jumped: bool = False
    values: FloatArray | None = None


class Actuation:
    """Translates commands of every mode. Holds no memory."""

    def __init__(
        self,
        description: RobotDescription,
        profile: SafetyProfile,
        kinematics: SafetyKinematics,
        acceleration: JointAccelerationLimit,
    ) -> None:
        """Set the model and the limits that translation needs."""
        joints, robot = profile.joints, description.limits
        self._torque = TorqueMap(kinematics, robot.torque * joints.torque_fraction, profile.hold)
        self._torque_rate = robot.torque_rate * joints.torque_rate_fraction
        self._acceleration = acceleration.maximum
        self._hardest = acceleration.maximum.copy()
        self._values, self._last_asked = np.zeros_like(self._hardest), np.zeros_like(self._hardest)
        out = np.empty_like(self._hardest)  # few ticks catch up: the code is compiled ahead of the first of them
        catch_up(self._values, self._values, self._last_asked, self._hardest, 1.0, out, out)
        self._static = profile.force.command_lead_n
        servo = description.servo
        self._compliance = np.ones(description.n) if servo is None else 1.0 / servo.stiffness
        mass = np.eye(description.n)  # contacts are rare: that code, too, is compiled ahead of the first of them
        dropped(self._values, self._compliance, self._values, _LEAST_GIVE, 0.0, out)
        eased(mass, self._values, self._values, self._values, 0.0, out)
        self._rest_speed = profile.monitoring.rest_speed_rad_s
        self._lower, self._upper = joint_range(description, joints.position_margin_rad)

    def demand(
        self, tick: Tick, values: FloatArray, last_asked: FloatArray | None, last_torque: FloatArray | None
    ) -> Demand:
        """What a command asks of the joints.

        Args:
            tick: The tick.
            values: (n,) values of the command.
            last_asked: (n,) rad, the position asked for on the last tick, None if the arm's path stands there.
            last_torque: (n,) N m, applied on the last tick, None in other modes and before the first.
        """
        start, dt = tick.start, tick.dt
        if tick.mode is CommandMode.VELOCITY:
            beyond = tick.place - np.clip(tick.place, self._lower, self._upper)
            if max(np.abs(beyond).tolist()) > _PUSHED_OUT_RAD:
                # Told to stand, a weak servo gives way to what the other joints press with: it alone may move.
                return Demand(values, -_BROUGHT_IN_1_S * beyond, (), True)
            return Demand(values, values)
        if tick.mode is CommandMode.TORQUE:
            reasons: tuple[SafetyReason, ...] = ()
            excess = self._torque.excess(values)
            if excess < 0.0:
                values = self._torque.clipped(values)
                reasons = (SafetyReason("joint_torque", excess, "clipped; margin in N m"),)
            if last_torque is not None:
                rate = min((self._torque_rate - np.abs(values - last_torque) / dt).tolist())
                if rate < 0.0:
                    reach = self._torque_rate * dt
                    values = np.clip(values, last_torque - reach, last_torque + reach)
                    reasons += (SafetyReason("joint_torque_rate", rate, "slowed down; margin in N m/s"),)
            velocity = self._torque.velocity_after(tick.place, tick.previous, values, tick.outside, dt)
            return Demand(velocity, velocity, reasons, values=values if reasons else None)
        if last_asked is None:
            asked = (values - start) / dt
            return Demand(asked, asked)
        asked, path = np.empty_like(start), np.empty_like(start)
        self._values[:], self._last_asked[:] = values, last_asked
        margin = catch_up(self._values, start, self._last_asked, self._hardest, dt, asked, path)
        if margin >= 0.0:
            return Demand(asked, path)
        catching_up = SafetyReason("joint_acceleration", margin, "catching up with the command; margin in rad/s^2")
        return Demand(asked, path, (catching_up,), True)

    def values_for(self, tick: Tick, velocity: FloatArray) -> FloatArray:
        """Command values (n,) that lead to joint ``velocity`` (n,) rad/s."""
        if tick.mode is CommandMode.POSITION:
            return tick.start + velocity * tick.dt
        if tick.mode is CommandMode.VELOCITY:
            return velocity
        return self._torque.torque_for(tick.place, tick.previous, velocity, _driving(tick), tick.dt)

    def dropped(self, velocity: FloatArray, contact: Contact) -> tuple[float, FloatArray]:
        """A commanded velocity (n,) rad/s without what it has too much into a contact, and how much that was, m/s."""
        off = np.empty_like(velocity)
        excess = dropped(velocity.copy(), self._compliance, contact.into.copy(), _LEAST_GIVE, contact.allowed, off)
        return excess, velocity - off

    def eased(
        self, tick: Tick, values: FloatArray, contact: Contact, dynamics: Dynamics
    ) -> tuple[FloatArray, tuple[SafetyReason, ...]]:
        """Joint torques that push into a contact that is felt with no more than they may; other values as they are."""
        if tick.mode is not CommandMode.TORQUE or not contact.felt:
            return values, ()
        out = np.empty_like(values)
        most = contact.push(self._static)
        excess = eased(dynamics.factor, dynamics.bias, values.copy(), contact.into.copy(), most, out)
        if excess <= 0.0:
            return values, ()
        return out, (SafetyReason("contact_force", -excess, "gives way to a contact; margin in N"),)

    def stopping_values(
        self, tick: Tick, velocity: FloatArray, held: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Command values that execute the stored stop, and then stay.

        Args:
            tick: The tick.
            velocity: (n,) rad/s, the stop's next velocity.
            held: (n,) rad that a torque-mode hold has come to rest at, None while braking.

        Returns:
            The values, and what is held now.
        """
        if tick.mode is not CommandMode.TORQUE:
            return self.values_for(tick, velocity), None
        q, qd = tick.place, tick.previous
        if tick.sensed is None:  # blind: the stop goes on by dead reckoning, then the arm floats
            if velocity.any() or qd.any():
                return self._torque.torque_for(q, qd, velocity, _driving(tick), tick.dt), held
            return self._torque.floating(q), held
        if held is None and max(np.abs(qd).tolist()) <= self._rest_speed:
            held = frozen_array(q)
        if held is None:
            return self._torque.torque_for(q, qd, velocity, _driving(tick), tick.dt), None
        return self._torque.holding(q, qd, held, self._acceleration), held


def _driving(tick: Tick) -> FloatArray:
    """The torque from outside (n,) N m as far as it drives the joints on.

    What slows the arm down works against that. What brakes it from outside is left to do so: a torque that made up for
    it would push the harder, the harder it is resisted, and all the more once the contact opens.
    """
    return np.where(tick.outside * tick.previous > 0.0, tick.outside, 0.0)
