"""Joint positions stay inside their range, braking included."""

from __future__ import annotations

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.kernel.joints import position_margin
from safety.limits.base import Judgement, VelocityBox, stoppable_share
from safety.motion import Motion

# The promise is about the arm: a push that the profile allows, or a late state, moves a joint by about as much, rad.
JOINT_RESERVE_RAD = 4e-3


def joint_range(description: RobotDescription, margin: float) -> tuple[FloatArray, FloatArray]:
    """Lower and upper ends (n,) rad of what may be commanded.

    Args:
        description: The robot.
        margin: rad, what its profile keeps free at both ends of the published range; `JOINT_RESERVE_RAD` comes on top.
    """
    inside = margin + JOINT_RESERVE_RAD
    return description.limits.position_lower + inside, description.limits.position_upper - inside


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
        self._lower, self._upper = lower.copy(), upper.copy()
        self._acceleration: list[float] = acceleration.tolist()

    def judge(self, motion: Motion) -> Judgement:
        """The end of the stop decides: the way there is a straight line."""
        return Judgement(
            *position_margin(motion.position, motion.velocity, self._lower, self._upper, motion.reach_time)
        )

    def inequalities(self, motion: Motion) -> VelocityBox:
        """Velocities from which braking stops short of the range's ends."""
        stop_time, dt = motion.stop_time, motion.dt
        lower: list[float] = []
        upper: list[float] = []
        for above, below, speed, limit in zip(
            (self.upper - motion.position).tolist(),
            (motion.position - self.lower).tolist(),
            np.abs(motion.velocity).tolist(),
            self._acceleration,
            strict=True,
        ):
            # A joint in motion brakes with the path; one that the path leaves still would brake by its own limit.
            unit = speed if speed > 0.0 else 1.0
            first, second = unit * dt, 0.5 * unit * (stop_time if speed > 0.0 else unit / limit)
            upper.append(unit * stoppable_share(first, second, max(above, 0.0)))
            lower.append(-unit * stoppable_share(first, second, max(below, 0.0)))
        return VelocityBox(np.array(lower), np.array(upper))
