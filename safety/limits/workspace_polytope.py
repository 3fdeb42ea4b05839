"""Watched points of the arm stay inside convex regions, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray, IntArray
from safety.kernel.rows import NO_POINT, rows_of
from safety.limits.base import Inequalities, Judgement
from safety.limits.rows import RowLimit
from safety.motion import Motion


class WorkspacePolytopeLimit(RowLimit):
    """``normals[i] . p <= offsets[i]`` for the point ``points[i]``; base frame, normals (m, 3), offsets (m,) m."""

    name = "workspace_polytope"
    unit = "m"
    margin_scale = 0.1

    def __init__(self, points: IntArray, normals: FloatArray, offsets: FloatArray, standoff: float) -> None:
        """Set the facets; ``standoff`` in m is where commands are stopped."""
        super().__init__(standoff)
        self.rows = rows_of(-normals, points, np.full_like(points, NO_POINT), -offsets)

    def judge(self, motion: Motion) -> Judgement:
        """Every facet, for every point."""
        return self.judge_rows(motion, self.rows)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each near facet and point."""
        return self.bound_rows(motion, self.rows)
