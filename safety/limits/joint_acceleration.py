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
        self._rounded = maximum * _ROUNDING

    def judge(self, motion: Motion) -> Judgement:
        """The stop brakes within the same limits by construction, so the tick decides."""
        change = np.abs(motion.velocity - motion.previous_velocity)
        margin = min((self._rounded - change / motion.dt).tolist())
        return Judgement(margin, margin)

    def inequalities(self, motion: Motion) -> VelocityBox:
        """A box around the last tick's velocity. It holds the straight-line stop, but rest only near rest."""
        change = self.maximum * motion.dt
        return VelocityBox(motion.previous_velocity - change, motion.previous_velocity + change)
