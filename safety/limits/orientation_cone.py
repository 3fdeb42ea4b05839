"""The tool keeps pointing within a cone, braking included."""

from __future__ import annotations

import math

import numpy as np

from controllers.types import FloatArray
from safety.kernel.rows import rows_of
from safety.limits.base import Inequalities, Judgement
from safety.limits.rows import RowLimit
from safety.motion import Motion


class OrientationConeLimit(RowLimit):
    """The tool axis stays within ``half_angle`` rad of a direction of the base frame.

    The axis is a point fixed to the tool, a lever away from the end effector: how far it lies ahead of the end effector
    along the direction is the lever times the cosine of the angle. The margin is in cosines.
    """

    name = "orientation_cone"
    unit = "cos"
    margin_scale = 0.1

    def __init__(self, end_effector: int, tip: int, lever: float, direction: FloatArray, half_angle: float) -> None:
        """Set the cone.

        Args:
            end_effector: Index of the end effector's point.
            tip: Index of the point at the tip of the axis.
            lever: m, between the two.
            direction: (3,) unit vector, base frame.
            half_angle: rad.
        """
        super().__init__(0.0)
        self.lever = lever
        index = np.array([[tip], [end_effector]], dtype=np.int64)
        offset = np.array([lever * math.cos(half_angle)])
        self.rows = rows_of(direction[None], index[0], index[1], offset)

    def judge(self, motion: Motion) -> Judgement:
        """The angle through tick and stop."""
        slack, margin = self.judge_rows(motion, self.rows)
        return Judgement(slack, margin / self.lever)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row: the rate at which the cosine shrinks, times the lever."""
        return self.bound_rows(motion, self.rows)
