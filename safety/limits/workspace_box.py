"""Watched points of the arm stay inside their boxes, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray, IntArray
from safety.kernel.rows import NO_POINT, Rows, rows_of
from safety.limits.base import Inequalities, Judgement
from safety.limits.rows import RowLimit
from safety.motion import Motion


class WorkspaceBoxLimit(RowLimit):
    """Point i stays within ``[lower[i], upper[i]]``, each (k, 3) m in the base frame.

    A carried object that has a box of its own stays within it, its radius included.
    """

    name = "workspace_box"
    unit = "m"
    margin_scale = 0.1

    def __init__(
        self,
        points: IntArray,
        lower: FloatArray,
        upper: FloatArray,
        standoff: float,
        carried: tuple[int, float, FloatArray, FloatArray] | None,
    ) -> None:
        """Set the boxes.

        Args:
            points: (k,) index of each point; the first is the end effector.
            lower: (k, 3) m.
            upper: (k, 3) m.
            standoff: m, at which commands are stopped.
            carried: Index of the carried object's centre, its radius in m, and its box, (3,) m each; None for no box.
        """
        super().__init__(standoff)
        self.lower, self.upper = lower, upper
        self.rows = _walls(points, lower, upper)
        self.rows_carrying = self.rows
        if carried is not None:
            index, radius, low, high = carried
            more = _walls(np.array([index], dtype=np.int64), low[None] + radius, high[None] - radius)
            self.rows_carrying = self.rows.joined(more)

    def judge(self, motion: Motion) -> Judgement:
        """Every wall, for every point."""
        return self.judge_rows(motion, self.rows_carrying if motion.carrying else self.rows)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each point, axis and side that is near, towards the wall positive."""
        return self.bound_rows(motion, self.rows_carrying if motion.carrying else self.rows)


def _walls(points: IntArray, lower: FloatArray, upper: FloatArray) -> Rows:
    axes = np.tile(np.concatenate((np.eye(3), -np.eye(3))), (len(points), 1))
    first = np.repeat(points, 6)
    offsets = np.concatenate((lower, -upper), axis=1).ravel()
    return rows_of(axes, first, np.full_like(first, NO_POINT), offsets)
