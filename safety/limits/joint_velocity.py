"""Joint speeds stay below their limits."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Judgement, VelocityBox
from safety.motion import Motion


class JointVelocityLimit:
    """Each joint's speed is at most ``maximum`` (n,) rad/s."""

    name = "joint_velocity"
    unit = "rad/s"

    def __init__(self, maximum: FloatArray) -> None:
        """Set the limits: (n,) rad/s, positive."""
        self.maximum = maximum
        self.margin_scale = min(maximum.tolist())
        self._box = VelocityBox(-maximum, maximum)

    def margin(self, velocity: FloatArray) -> float:
        """Smallest margin of a velocity (n,) rad/s; negative where it is too fast."""
        return min((self.maximum - np.abs(velocity)).tolist())

    def judge(self, motion: Motion) -> Judgement:
        """The stop only slows down, so the tick decides."""
        margin = self.margin(motion.velocity)
        return Judgement(margin, margin)

    def box(self) -> VelocityBox:
        """The limits as bounds on the velocity."""
        return self._box

    def inequalities(self, motion: Motion) -> VelocityBox:
        """The limits themselves, whatever the motion."""
        return self._box
