"""Joint velocities change no faster than the joints can accelerate."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Judgement, VelocityBox
from safety.motion import Motion

# A velocity computed to lie on the limit may round to either side of it.
_ROUNDING = 1.0 + 1e-9


class JointAccelerationLimit:
    """Each joint's velocity changes by at most ``maximum * dt`` a tick, ``maximum`` (n,) rad/s^2."""

    name = "joint_acceleration"
    unit = "rad/s^2"

    def __init__(self, maximum: FloatArray) -> None:
        """Set the limits: (n,) rad/s^2, positive."""
        self.maximum = maximum
        self.margin_scale = min(maximum.tolist())
        self.rounded = maximum * _ROUNDING

    def margin(self, velocity: FloatArray, previous_velocity: FloatArray, dt: float) -> float:
        """Smallest margin of a change of velocity, each (n,) rad/s, in ``dt`` s; negative where it is too sudden."""
        return min((self.rounded - np.abs(velocity - previous_velocity) / dt).tolist())

    def judge(self, motion: Motion) -> Judgement:
        """The stop brakes within the same limits by construction, so the tick decides."""
        margin = self.margin(motion.velocity, motion.previous_velocity, motion.dt)
        return Judgement(margin, margin)

    def box(self, previous_velocity: FloatArray, dt: float) -> VelocityBox:
        """The velocities that can be reached from ``previous_velocity`` (n,) rad/s in ``dt`` s."""
        change = self.maximum * dt
        return VelocityBox(previous_velocity - change, previous_velocity + change)

    def inequalities(self, motion: Motion) -> VelocityBox:
        """A box around the last tick's velocity. It holds the straight-line stop, but rest only near rest."""
        return self.box(motion.previous_velocity, motion.dt)
