"""The reference: a smooth setpoint that follows waypoints within limits on speed, acceleration and jerk.

A critically damped second-order tracker with velocity feed-forward, ``a = w^2 (x* - x) + 2 w (v* - v)``, integrated
semi-implicitly. Its acceleration moves towards that by no more than the jerk allows, and only as far as lets the speed
stay below its ceiling while the acceleration is taken back to zero: all three limits hold at every step, for any
waypoints whatever (see :func:`bounded_step`). It removes the velocity steps of piecewise linear waypoints and has no
lag at constant velocity. Orientation is tracked the same way in the tangent space of SO(3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from controllers.kernel.tracking import shifted, swung, turned_along
from controllers.spatial import IDENTITY_QUATERNION, rotate_by_vector, rotation_difference
from controllers.types import FloatArray, Pose, frozen_array
from controllers.waypoints import Floats, PathPoint, WaypointPath, orientation, quadruple, sample

_STILL: Floats = (0.0, 0.0, 0.0)
_SHARES = (0.75, 0.5, 0.25)  # of the way from the fallback to the wanted acceleration


class Reference(NamedTuple):
    """State of the tracker.

    Attributes:
        position: 3 Cartesian values in m, or n joint values in rad.
        velocity: Its rate.
        quaternion: Orientation (4,) wxyz; the last sensed one when tracking joints.
        angular_velocity: Base-frame rate, rad/s.
        acceleration: Rate of the velocity.
        angular_acceleration: Rate of the angular velocity, rad/s^2.
    """

    position: Floats
    velocity: Floats
    quaternion: FloatArray
    angular_velocity: Floats
    acceleration: Floats
    angular_acceleration: Floats

    def pose(self) -> Pose:
        """The reference as a pose (Cartesian references only)."""
        position = np.array(self.position)
        position.setflags(write=False)
        return Pose(position, self.quaternion)

    def twist(self) -> FloatArray:
        """Twist (6,) m/s, rad/s of a Cartesian reference."""
        twist = np.array(self.velocity + self.angular_velocity)
        twist.setflags(write=False)
        return twist


def at_rest(position: FloatArray, quaternion: FloatArray) -> Reference:
    """A reference that stands still."""
    values = tuple(position.tolist())
    still = (0.0,) * len(values)
    return Reference(values, still, quaternion, _STILL, still, _STILL)


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """Dynamics of the tracker. Limits are on norms: m and s for Cartesian references, rad and s for joints.

    Attributes:
        bandwidth_rad_s: Natural frequency.
        max_speed: Ceiling of the velocity.
        max_acceleration: Ceiling of the acceleration.
        max_jerk: Ceiling of the jerk.
        max_angular_speed_rad_s: Ceilings for orientation.
        max_angular_acceleration_rad_s2: The same.
        max_angular_jerk_rad_s3: The same.
    """

    bandwidth_rad_s: float = 15.0
    max_speed: float = 1.0
    max_acceleration: float = 2.5
    max_jerk: float = 250.0
    max_angular_speed_rad_s: float = 3.0
    max_angular_acceleration_rad_s2: float = 12.0
    max_angular_jerk_rad_s3: float = 1200.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: A value that is not positive.
        """
        for name in self.__slots__:
            if not getattr(self, name) > 0.0:
                raise ValueError(f"expected a positive {name} of the tracker, found {getattr(self, name)}")


def track(reference: Reference, point: PathPoint, options: TrackerOptions, dt: float) -> Reference:
    """Advance the reference by ``dt`` s.

    ``point`` is where the path stands at the *end* of the step; the errors are taken at its beginning, so that a
    reference that is on the path with the path's velocity stays on it exactly.
    """
    if dt <= 0.0:
        return reference
    bandwidth = options.bandwidth_rad_s
    ceilings = options.max_speed, options.max_acceleration, options.max_jerk
    if len(reference.position) == len(_STILL):
        now = reference.position, reference.velocity, reference.acceleration
        position, velocity, acceleration = shifted(*now, point.position, point.velocity, bandwidth, *ceilings, dt)
    else:
        position, velocity, acceleration = _shifted(reference, point, bandwidth, *ceilings, dt)
    quaternion, rate, change = reference.quaternion, reference.angular_velocity, reference.angular_acceleration
    if point.quaternion is None:
        return Reference(position, velocity, quaternion, _STILL, acceleration, _STILL)

    here, there = quadruple(quaternion), quadruple(point.quaternion)
    if here == there and rate == _STILL and change == _STILL and point.angular_velocity == _STILL:
        return Reference(position, velocity, quaternion, _STILL, acceleration, _STILL)
    turned, rate, change = swung(
        here,
        rate,
        change,
        there,
        point.angular_velocity,
        bandwidth,
        options.max_angular_speed_rad_s,
        options.max_angular_acceleration_rad_s2,
        options.max_angular_jerk_rad_s3,
        dt,
    )
    return Reference(position, velocity, orientation(turned), rate, acceleration, change)


def rehearse(options: TrackerOptions) -> None:
    """Compile, or load, what follows a Cartesian path before the first tick."""
    start, turned = at_rest(np.zeros(3), IDENTITY_QUATERNION), frozen_array((0.0, 1.0, 0.0, 0.0))
    path = WaypointPath((_STILL, _STILL), (start.quaternion, turned), ((math.pi, 0.0, 0.0),), (0.0,), 1.0)
    track(start, sample(path, 0.5), options, 0.001)
    turned_along(quadruple(IDENTITY_QUATERNION), np.zeros((1, 3)), np.empty((1, 4)))


def _shifted(
    reference: Reference,
    point: PathPoint,
    bandwidth: float,
    max_speed: float,
    max_acceleration: float,
    max_jerk: float,
    dt: float,
) -> tuple[Floats, Floats, Floats]:
    """As :func:`controllers.kernel.tracking.shifted`, for any number of joints: values, rates, accelerations."""
    stiffness, damping = bandwidth * bandwidth, 2.0 * bandwidth
    push = [
        stiffness * (goal - goal_rate * dt - x) + damping * (goal_rate - v)
        for x, v, goal, goal_rate in zip(
            reference.position, reference.velocity, point.position, point.velocity, strict=True
        )
    ]
    velocity, acceleration = bounded_step(
        reference.velocity, reference.acceleration, push, max_speed, max_acceleration, max_jerk, dt
    )
    return tuple([x + v * dt for x, v in zip(reference.position, velocity, strict=True)]), velocity, acceleration


def bounded_step(
    velocity: Floats,
    acceleration: Floats,
    wanted: list[float],
    max_speed: float,
    max_acceleration: float,
    max_jerk: float,
    dt: float,
) -> tuple[Floats, Floats]:
    """Velocity and acceleration after ``dt`` s, as near to the ``wanted`` acceleration as the limits on norms allow.

    If the acceleration a is within its ceiling A, and the speed stays within its ceiling V while a is taken back to
    zero at the largest jerk J (``|v| <= V`` and ``|v + a |a| / (2 J)| <= V``; all between lies on a line inside the
    ball), then the same holds after the step: taking a back at once is always possible and keeps it, and any other
    choice is checked. So from rest, no sequence of wishes can exceed V, A or J.

    Args:
        velocity: (n) m/s or rad/s.
        acceleration: (n), of the last step.
        wanted: (n) acceleration.
        max_speed: V.
        max_acceleration: A.
        max_jerk: J.
        dt: Duration of the step, s.
    """
    largest = math.sqrt(sum([a * a for a in wanted]))
    share = 1.0 if largest <= max_acceleration else max_acceleration / largest
    change = [share * w - a for w, a in zip(wanted, acceleration, strict=True)]
    largest, step = math.sqrt(sum([c * c for c in change])), max_jerk * dt
    if largest > step:
        change = [c * (step / largest) for c in change]
    after = tuple([a + c for a, c in zip(acceleration, change, strict=True)])
    moved = tuple([v + a * dt for v, a in zip(velocity, after, strict=True)])
    # The triangle inequality settles nearly every step.
    size = math.sqrt(sum([a * a for a in after]))
    if math.sqrt(sum([v * v for v in moved])) + size * size / (2.0 * max_jerk) <= max_speed:
        return moved, after
    size = math.sqrt(sum([a * a for a in acceleration]))
    left = 1.0 - step / size if size > step else 0.0
    back = tuple([a * left for a in acceleration])
    for part in (1.0, *_SHARES):
        tried = tuple([b + part * (a - b) for a, b in zip(after, back, strict=True)])
        moved = tuple([v + a * dt for v, a in zip(velocity, tried, strict=True)])
        if _comes_to_no_more(moved, tried, max_speed, max_jerk):
            return moved, tried
    return tuple([v + a * dt for v, a in zip(velocity, back, strict=True)]), back


def _comes_to_no_more(velocity: Floats, acceleration: Floats, max_speed: float, max_jerk: float) -> bool:
    """Whether the speed stays within its ceiling while the acceleration is taken back to zero."""
    time = math.sqrt(sum([a * a for a in acceleration])) / (2.0 * max_jerk)
    ceiling = max_speed * max_speed
    ends = [v + a * time for v, a in zip(velocity, acceleration, strict=True)]
    end = sum([v * v for v in ends])
    return end <= ceiling and sum([v * v for v in velocity]) <= ceiling


def resting_point(reference: Reference, options: TrackerOptions) -> PathPoint:
    """Where the reference comes to rest by itself: one time constant ahead, or the braking distance if longer."""
    speed = math.sqrt(sum([v * v for v in reference.velocity]))
    turning = 0.5 * options.max_acceleration / options.max_jerk  # s that building up the deceleration costs
    lead = max(1.0 / options.bandwidth_rad_s, 0.5 * speed / options.max_acceleration + turning)
    position = tuple([x + v * lead for x, v in zip(reference.position, reference.velocity, strict=True)])
    quaternion = reference.quaternion
    if reference.angular_velocity != _STILL:
        quaternion = rotate_by_vector(quaternion, np.array(reference.angular_velocity) / options.bandwidth_rad_s)
    return PathPoint(position, (0.0,) * len(position), quaternion, _STILL, 0.0)


def limit_lead(reference: Reference, sensed: Pose, max_lead_m: float, max_lead_rad: float) -> Reference:
    """Pull a Cartesian reference back when it leads the sensed pose by more than the given distances.

    A blocked arm would otherwise wind the reference up and press, then jump when released.
    """
    px, py, pz = sensed.position.tolist()
    x, y, z = reference.position
    dx, dy, dz = x - px, y - py, z - pz
    distance = (dx * dx + dy * dy + dz * dz) ** 0.5
    position, quaternion = reference.position, reference.quaternion
    if distance > max_lead_m:
        ratio = max_lead_m / distance
        position = (px + dx * ratio, py + dy * ratio, pz + dz * ratio)
    # |w| of the relative quaternion tells the angle without a logarithm.
    cosine = abs(float(quaternion.dot(sensed.quaternion)))
    if cosine < 1.0 - 0.125 * max_lead_rad * max_lead_rad:
        lead = rotation_difference(quaternion, sensed.quaternion)
        angle = float(np.sqrt(np.dot(lead, lead)))
        if angle > max_lead_rad:
            quaternion = rotate_by_vector(sensed.quaternion, lead * (max_lead_rad / angle))
    if position is reference.position and quaternion is reference.quaternion:
        return reference
    return Reference(
        position,
        reference.velocity,
        quaternion,
        reference.angular_velocity,
        reference.acceleration,
        reference.angular_acceleration,
    )
