"""Joint accelerations change no faster than allowed."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Judgement, VelocityBox
from safety.motion import Motion

_ROUNDING = 1.0 + 1e-9


class JointJerkLimit:
    """Each joint's acceleration changes by at most ``maximum * dt`` a tick, ``maximum`` (n,) rad/s^3.

    It bounds what commands may ask for. A stop brakes as hard as the accelerations allow, at once.
    """

    name = "joint_jerk"
    unit = "rad/s^3"

    def __init__(self, maximum: FloatArray) -> None:
        """Set the limits: (n,) rad/s^3, positive."""
        self.maximum = maximum
        self.margin_scale = min(maximum.tolist())
        self.rounded = maximum * _ROUNDING

    def margin(
        self, velocity: FloatArray, previous_velocity: FloatArray, previous_acceleration: FloatArray, dt: float
    ) -> float:
        """Smallest margin of a velocity (n,) rad/s after the last tick's (n,) rad/s and (n,) rad/s^2."""
        change = (velocity - previous_velocity) / dt - previous_acceleration
        return min((self.rounded - np.abs(change) / dt).tolist())

    def inert(self, acceleration: FloatArray, dt: float) -> bool:
        """Whether no change between accelerations within (n,) rad/s^2 can exceed the limit in one tick."""
        return bool((2.0 * acceleration <= self.maximum * dt).all())

    def judge(self, motion: Motion) -> Judgement:
        """The tick alone decides."""
        margin = self.margin(motion.velocity, motion.previous_velocity, motion.previous_acceleration, motion.dt)
        return Judgement(margin, margin)

    def box(self, previous_velocity: FloatArray, previous_acceleration: FloatArray, dt: float) -> VelocityBox:
        """The velocities that can be reached in ``dt`` s from (n,) rad/s and (n,) rad/s^2."""
        centre = previous_velocity + previous_acceleration * dt
        change = self.maximum * (dt * dt)
        return VelocityBox(centre - change, centre + change)

    def inequalities(self, motion: Motion) -> VelocityBox:
        """A box around where the last tick's acceleration leads."""
        return self.box(motion.previous_velocity, motion.previous_acceleration, motion.dt)
