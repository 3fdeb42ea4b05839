"""The three kinds of command as velocities along the arm's path, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, RobotState, SafetyReason, frozen_array
from safety.kinematics import SafetyKinematics
from safety.limits import JointAccelerationLimit
from safety.path import caught_up
from safety.profile import SafetyProfile
from safety.torque import TorqueMap


class Tick(NamedTuple):
    """What is known about a tick before a velocity is chosen.

    Attributes:
        mode: Mode of the command.
        sensed: The sensed state, None if it cannot be trusted.
        start: (n,) rad, where the checked path stands.
        previous: (n,) rad/s, velocity of the last tick, along which the stored stop runs.
        now_ns: The tick's clock.
        dt: Control period, s.
    """

    mode: CommandMode
    sensed: RobotState | None
    start: FloatArray
    previous: FloatArray
    now_ns: int
    dt: float


class Demand(NamedTuple):
    """A command as velocities.

    Attributes:
        asked: (n,) rad/s that obeys the command to the letter.
        path: (n,) rad/s to follow if that may not be.
        reasons: What was wrong with the command itself.
        jumped: The path has left the arm behind: closing the gap in one tick could not be stopped in the next.
    """

    asked: FloatArray
    path: FloatArray
    reasons: tuple[SafetyReason, ...] = ()
    jumped: bool = False


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
        self._torque = TorqueMap(kinematics, description.limits.torque, profile.hold)
        self._acceleration = acceleration.maximum
        self._rest_speed = profile.monitoring.rest_speed_rad_s

    def demand(self, tick: Tick, values: FloatArray, last_asked: FloatArray | None) -> Demand:
        """What a command asks of the joints.

        Args:
            tick: The tick.
            values: (n,) values of the command.
            last_asked: (n,) rad, the position asked for on the last tick, None if the arm's path stands there.
        """
        start, dt = tick.start, tick.dt
        if tick.mode is CommandMode.VELOCITY:
            return Demand(values, values)
        if tick.mode is CommandMode.TORQUE:
            excess = self._torque.excess(values)
            if excess >= 0.0:
                velocity = self._torque.velocity_after(start, tick.previous, values, dt)
                return Demand(velocity, velocity)
            velocity = self._torque.velocity_after(start, tick.previous, self._torque.clipped(values), dt)
            return Demand(velocity, velocity, (SafetyReason("joint_torque", excess, "clipped; margin in N m"),))
        asked = (values - start) / dt
        if last_asked is None:
            return Demand(asked, asked)
        lag = last_asked - start
        path = caught_up(lag, (values - last_asked) / dt, self._acceleration, dt)
        margin = min((self._acceleration - np.abs(lag) / (dt * dt)).tolist())
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
        return self._torque.torque_for(tick.start, tick.previous, velocity, tick.dt)

    def clipped(self, tick: Tick, values: FloatArray) -> FloatArray:
        """The command's own values, within torque limits in torque mode."""
        return self._torque.clipped(values) if tick.mode is CommandMode.TORQUE else values

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
        q, qd = tick.start, tick.previous
        if tick.sensed is None:
            return self._torque.floating(q), held
        if held is None and max(np.abs(qd).tolist()) <= self._rest_speed:
            held = frozen_array(q)
        if held is None:
            return self._torque.torque_for(q, qd, velocity, tick.dt), None
        return self._torque.holding(q, qd, held, self._acceleration), held
