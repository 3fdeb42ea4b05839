"""Joint positions stay inside their range, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Judgement, VelocityBox, stoppable_share
from safety.motion import Motion


class JointPositionLimit:
    """Each joint stays within ``[lower, upper]`` (n,) rad."""

    name = "joint_position"
    unit = "rad"
    margin_scale = 0.1

    def __init__(self, lower: FloatArray, upper: FloatArray, acceleration: FloatArray) -> None:
        """Set the range.

        Args:
            lower: (n,) rad.
            upper: (n,) rad.
            acceleration: (n,) rad/s^2 with which a joint that the motion leaves still would brake.
        """
        self.lower = lower
        self.upper = upper
        self._acceleration = acceleration

    def judge(self, motion: Motion) -> Judgement:
        """The end of the stop decides: the way there is a straight line."""
        q = motion.position
        way = motion.velocity * motion.reach_time
        above, below = self.upper - q, q - self.lower
        margin = min(min(above.tolist()), min(below.tolist()), min((above - way).tolist()), min((below + way).tolist()))
        if margin >= 0.0:
            return Judgement(margin, margin)
        above, below = np.maximum(above, 0.0), np.maximum(below, 0.0)
        return Judgement(min(min((above - way).tolist()), min((below + way).tolist())), margin)

    def inequalities(self, motion: Motion) -> VelocityBox:
        """Velocities from which braking stops short of the range's ends."""
        q, speeds, stop_time = motion.position, motion.speeds, motion.stop_time
        moving = speeds > 0.0
        # The deceleration that each joint has on this path; its own limit where the path leaves it still.
        path = speeds / stop_time if stop_time > 0.0 else speeds
        deceleration = np.where(moving, path, self._acceleration)
        unit_speed = np.where(moving, speeds, 1.0)
        first = unit_speed * motion.first_time
        second = unit_speed * unit_speed / (2.0 * deceleration)
        upper = unit_speed * stoppable_share(first, second, np.maximum(self.upper - q, 0.0))
        lower = unit_speed * stoppable_share(first, second, np.maximum(q - self.lower, 0.0))
        return VelocityBox(-lower, upper)
