"""The reference: a smooth setpoint that follows waypoints with bounded bandwidth and acceleration.

A critically damped second-order tracker with velocity feed-forward, ``a = w^2 (x* - x) + 2 w (v* - v)``, integrated
semi-implicitly and with a ceiling on the acceleration. It removes the velocity steps of piecewise linear waypoints and
has no lag at constant velocity. Orientation is tracked the same way in the tangent space of SO(3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controllers.spatial import rotate_by_vector, rotation_difference
from controllers.types import FloatArray, Pose, frozen_array
from controllers.waypoints import Floats, PathPoint

_STILL: Floats = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Reference:
    """State of the tracker.

    Attributes:
        position: 3 Cartesian values in m, or n joint values in rad.
        velocity: Its rate.
        quaternion: Orientation (4,) wxyz; the last sensed one when tracking joints.
        angular_velocity: Base-frame rate, rad/s.
    """

    position: Floats
    velocity: Floats
    quaternion: FloatArray
    angular_velocity: Floats

    def pose(self) -> Pose:
        """The reference as a pose (Cartesian references only)."""
        return Pose(frozen_array(self.position), self.quaternion)

    def twist(self) -> FloatArray:
        """Twist (6,) m/s, rad/s of a Cartesian reference."""
        twist = np.array(self.velocity + self.angular_velocity)
        twist.flags.writeable = False
        return twist


def at_rest(position: FloatArray, quaternion: FloatArray) -> Reference:
    """A reference that stands still."""
    values = tuple(position.tolist())
    return Reference(values, (0.0,) * len(values), quaternion, _STILL)


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """Dynamics of the tracker.

    Attributes:
        bandwidth_rad_s: Natural frequency.
        max_acceleration: Ceiling of the acceleration's norm: m/s^2 for Cartesian references, rad/s^2 for joints.
        max_angular_acceleration_rad_s2: The same for orientation.
    """

    bandwidth_rad_s: float = 15.0
    max_acceleration: float = 2.5
    max_angular_acceleration_rad_s2: float = 12.0


def track(reference: Reference, point: PathPoint, options: TrackerOptions, dt: float) -> Reference:
    """Advance the reference by ``dt`` s.

    ``point`` is where the path stands at the *end* of the step; the errors are taken at its beginning, so that a
    reference that is on the path with the path's velocity stays on it exactly.
    """
    if dt <= 0.0:
        return reference
    w = options.bandwidth_rad_s
    stiffness, damping = w * w, 2.0 * w
    push = [
        stiffness * (goal - goal_rate * dt - x) + damping * (goal_rate - v)
        for x, v, goal, goal_rate in zip(
            reference.position, reference.velocity, point.position, point.velocity, strict=True
        )
    ]
    step = _bounded(push, options.max_acceleration) * dt
    velocity = tuple([v + a * step for v, a in zip(reference.velocity, push, strict=True)])
    position = tuple([x + v * dt for x, v in zip(reference.position, velocity, strict=True)])
    if point.quaternion is None:
        return Reference(position, velocity, reference.quaternion, _STILL)

    quaternion, rate = reference.quaternion, reference.angular_velocity
    if rate == _STILL and point.angular_velocity == _STILL and np.array_equal(quaternion, point.quaternion):
        return Reference(position, velocity, quaternion, _STILL)
    error = rotation_difference(point.quaternion, quaternion).tolist()
    push = [
        stiffness * (e - goal_rate * dt) + damping * (goal_rate - r)
        for r, e, goal_rate in zip(rate, error, point.angular_velocity, strict=True)
    ]
    step = _bounded(push, options.max_angular_acceleration_rad_s2) * dt
    rate = tuple([r + a * step for r, a in zip(rate, push, strict=True)])
    turned = rotate_by_vector(quaternion, np.array(rate) * dt)
    return Reference(position, velocity, turned, rate)


def _bounded(acceleration: list[float], ceiling: float) -> float:
    """The factor that brings an acceleration's norm down to the ceiling."""
    norm = math.sqrt(sum([a * a for a in acceleration]))
    return 1.0 if norm <= ceiling else ceiling / norm


def resting_point(reference: Reference, options: TrackerOptions) -> PathPoint:
    """Where the reference comes to rest by itself: one time constant ahead, or the braking distance if longer."""
    speed = math.sqrt(sum([v * v for v in reference.velocity]))
    lead = max(1.0 / options.bandwidth_rad_s, 0.5 * speed / options.max_acceleration)
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
    cosine = abs(float(np.dot(quaternion, sensed.quaternion)))
    if cosine < 1.0 - 0.125 * max_lead_rad * max_lead_rad:
        lead = rotation_difference(quaternion, sensed.quaternion)
        angle = float(np.sqrt(np.dot(lead, lead)))
        if angle > max_lead_rad:
            quaternion = rotate_by_vector(sensed.quaternion, lead * (max_lead_rad / angle))
    if position is reference.position and quaternion is reference.quaternion:
        return reference
    return Reference(position, reference.velocity, quaternion, reference.angular_velocity)
