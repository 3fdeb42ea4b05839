"""Limits that are made of rows: linear measures of the arm's points that must not become negative."""

from __future__ import annotations

import numpy as np

from safety.kernel.rows import Rows, bound_rows, judge_rows
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion

# Rows farther from their bound than this, and not on the way to it, put no inequality to the sliding enforcement, m.
_HORIZON_M = 0.25


class RowLimit:
    """Shared by all limits that are made of rows.

    Commands keep a standoff from the bound. Within it the curve of a motion along the bound may bend.
    """

    def __init__(self, standoff: float) -> None:
        """Set the distance from the bound, m, at which commands are stopped."""
        self.standoff = standoff

    def judge_rows(self, motion: Motion, rows: Rows) -> Judgement:
        """Judge the rows of this tick."""
        slack, margin = judge_rows(
            rows.normals,
            rows.first,
            rows.second,
            rows.offsets,
            motion.points,
            motion.middle_points,
            motion.end_points,
            motion.rates,
            motion.reach_time,
            motion.rest,
            self.standoff if motion.gentle else 0.0,
        )
        return Judgement(slack, margin)

    def bound_rows(self, motion: Motion, rows: Rows) -> Inequalities:
        """Bound the joint velocity by the rows of this tick."""
        size = len(rows.offsets) + 1
        matrix, bounds = np.empty((size, motion.velocity.shape[0])), np.empty(size)
        used = bound_rows(
            rows.normals,
            rows.first,
            rows.second,
            rows.offsets,
            motion.points,
            motion.middle_points,
            motion.end_points,
            motion.rates,
            motion.jacobian,
            motion.dt,
            motion.stop_time,
            motion.reach_time,
            motion.rest,
            self.standoff if motion.gentle else 0.0,
            _HORIZON_M,
            motion.velocity.copy(),  # compiled code takes writable arrays only
            matrix,
            bounds,
        )
        return Inequalities(matrix[:used], bounds[:used])
