"""One proposed motion: a joint velocity for one tick, and the straight-line stop that would follow it.

The stop brakes all joints together, so that the arm stays on the straight joint-space line along its velocity: after
the tick, ``qd(t) = velocity (1 - t / stop_time)``. With ``stop_time = max |qd_i| / a_i`` no joint exceeds its
acceleration limit ``a_i``. The whole tick and stop therefore lie on the segment from ``position`` to
``position + velocity * reach_time``, whatever control periods the stop is executed with: braking in steps of any
length covers less ground than braking continuously. The rest of a stop is again such a stop, on the same segment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.types import FloatArray
from safety.contact import Contact
from safety.hull import HullRows
from safety.kinematics import Dynamics, Geometry, SafetyKinematics
from safety.lag import Lag


class Motion(NamedTuple):
    """A joint velocity proposed for one tick and what the limits need to judge it.

    Attributes:
        position: (n,) rad, where the tick starts.
        velocity: (n,) rad/s, proposed.
        previous_velocity: (n,) rad/s, of the last tick.
        previous_acceleration: (n,) rad/s^2, of the last tick.
        speed_sum: Sum of the joint speeds, rad/s.
        bend: Bound on the acceleration of any watched point along the straight joint path at ``velocity``, m/s^2.
        rest: How far a watched point may be off the curve that limits reckon with, m.
        rates: (3 k + 3,) linear velocity of the k watched points, m/s, then end-effector angular velocity, rad/s.
        points: (k, 3) m, watched points at ``position``, base frame; point 0 is the end effector.
        middle_points: (k, 3) m, half-way to where the stop ends.
        end_points: (k, 3) m, where the stop ends.
        jacobian: (3 k + 3, n) of the rates.
        hull: What parts the hull from zones and from itself at ``position``.
        dynamics: Inertia and bias at ``position``.
        contact: What the arm feels, and how hard its servos would press.
        lag: What its servos do from now on.
        carrying: The gripper holds something.
        dt: Control period, s: time at full velocity before braking starts.
        stop_time: Time from full velocity to rest, s.
        reach_time: Way made in tick and stop, divided by the velocity, s.
        gentle: The stop uses only part of the acceleration limits, and limits keep their standoff: what a command
            may do by itself. Otherwise it is what the arm must still be able to do.
    """

    position: FloatArray
    velocity: FloatArray
    previous_velocity: FloatArray
    previous_acceleration: FloatArray
    speed_sum: float
    bend: float
    rest: float
    rates: FloatArray
    points: FloatArray
    middle_points: FloatArray
    end_points: FloatArray
    jacobian: FloatArray
    hull: HullRows
    dynamics: Dynamics
    contact: Contact
    lag: Lag
    carrying: bool
    dt: float
    stop_time: float
    reach_time: float
    gentle: bool


class MotionFactory(NamedTuple):
    """What all motions of one tick share.

    Attributes:
        position: (n,) rad.
        previous_velocity: (n,) rad/s.
        previous_acceleration: (n,) rad/s^2.
        kinematics: The arm.
        geometry: Points and Jacobian at ``position``.
        dynamics: Inertia and bias at ``position``.
        hull: What parts the hull from zones and from itself at ``position``.
        contact: What the arm feels.
        lag: What its servos do from now on.
        carrying: The gripper holds something.
        acceleration: (n,) rad/s^2 available to a stop.
        dt: Control period, s.
    """

    position: FloatArray
    previous_velocity: FloatArray
    previous_acceleration: FloatArray
    kinematics: SafetyKinematics
    geometry: Geometry
    dynamics: Dynamics
    hull: HullRows
    contact: Contact
    lag: Lag
    carrying: bool
    acceleration: FloatArray
    dt: float

    def motion(self, velocity: FloatArray) -> Motion:
        """Propose ``velocity`` (n,) rad/s, stopping as hard as the arm can."""
        return self._motion(velocity, 1.0, False)

    def gentle_motion(self, velocity: FloatArray, deceleration_fraction: float) -> Motion:
        """Propose ``velocity`` (n,) rad/s, stopping with a fraction of the available acceleration."""
        return self._motion(velocity, deceleration_fraction, True)

    def _motion(self, velocity: FloatArray, deceleration_fraction: float, gentle: bool) -> Motion:
        if not velocity.flags.writeable:
            velocity = velocity.copy()  # compiled code takes writable arrays only
        points, jacobian = self.geometry
        proposal = self.kinematics.propose(
            self.position, velocity, self.acceleration, jacobian, deceleration_fraction, self.dt
        )
        return Motion(
            self.position,
            velocity,
            self.previous_velocity,
            self.previous_acceleration,
            proposal.speed_sum,
            proposal.bend,
            proposal.rest,
            proposal.rates,
            points,
            proposal.middle,
            proposal.end,
            jacobian,
            self.hull,
            self.dynamics,
            self.contact,
            self.lag,
            self.carrying,
            self.dt,
            proposal.stop_time,
            proposal.reach_time,
            gentle,
        )


def braked(velocity: FloatArray, acceleration: FloatArray, dt: float) -> FloatArray:
    """One tick of the straight-line stop.

    Args:
        velocity: (n,) rad/s, of the last tick.
        acceleration: (n,) rad/s^2, limits.
        dt: Control period, s.

    Returns:
        (n,) rad/s along ``velocity``; exactly zero at the end.
    """
    stop_time = max((np.abs(velocity) / acceleration).tolist())
    if stop_time <= dt:
        return np.zeros_like(velocity)
    return velocity * (1.0 - dt / stop_time)
