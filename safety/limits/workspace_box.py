"""Watched points of the arm stay inside their boxes, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Inequalities, Judgement, stoppable_share
from safety.motion import Motion


class WorkspaceBoxLimit:
    """Point i stays within ``[lower[i], upper[i]]``, each (k, 3) m in the base frame.

    A point moves on a curve while the joints move on a straight line. At progress x of tick and stop it is at ``start +
    way x + u(x) x^2``, where ``way`` is the tangent's. Forward kinematics gives u(1/2) and u(1) exactly, hence u(x) on
    the line through them, up to a rest of a 48th of the fourth derivative. With the worst u on that line, the distance
    to each wall is bounded below by a concave function of x: where it is not negative at the end, the point is inside
    all the way.

    Commands keep the points a standoff away from the walls. Within it the curve of a motion along a wall may bend.
    """

    name = "workspace_box"
    unit = "m"
    margin_scale = 0.1

    def __init__(self, lower: FloatArray, upper: FloatArray, standoff: float) -> None:
        """Set the boxes.

        Args:
            lower: (k, 3) m.
            upper: (k, 3) m.
            standoff: m.
        """
        self.lower = lower
        self.upper = upper
        self.standoff = standoff
        self._rows3 = 3 * lower.shape[0]
        # Three candidates for the end of each point's way: on the tangent, and on two curves.
        self._centre: FloatArray = np.tile((0.5 * (lower + upper)).ravel(), 3)
        half = (0.5 * (upper - lower)).ravel()
        self._half: FloatArray = np.tile(half, 3)

    def judge(self, motion: Motion) -> Judgement:
        """The end of the tangent, and those of the curves that enclose the true one, decide."""
        ends, rest = self._ends(motion)
        distances: list[float] = (self._half - np.abs(ends - self._centre)).tolist()
        margin = min(distances) - rest
        slack = margin
        if motion.gentle:
            slack = min(margin, min(distances[: self._rows3]) - self.standoff)
        if slack >= 0.0:
            return Judgement(slack, margin)
        free, rate, bend = self._rows(motion)
        return Judgement(min((free - rate * motion.reach_time - bend).tolist()), margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each point, axis and side, towards the wall positive.

        Where the motion leaves a wall on so sharp a curve that it could swing back into it, one more row bounds the
        speed along the motion.
        """
        linear = motion.jacobian[: self._rows3]
        rows = np.concatenate((linear, -linear))
        free, rate, bend = self._rows(motion)
        bound = free / motion.reach_time  # at that rate the wall is reached; more is allowed where slowing shortens it
        swing = 1.0
        for row in np.flatnonzero(rate * motion.reach_time + bend > free).tolist():
            toward = float(rate[row])
            second = 0.5 * toward * motion.stop_time + float(bend[row])
            share = stoppable_share(toward * motion.first_time, second, float(free[row]))
            if toward > 0.0:
                bound[row] = toward * share
            else:
                swing = min(swing, share)
        if swing >= 1.0:
            return Inequalities(rows, bound)
        along = motion.velocity / float(np.dot(motion.velocity, motion.velocity))
        return Inequalities(np.concatenate((rows, along[None])), np.append(bound, swing))

    def _rows(self, motion: Motion) -> tuple[FloatArray, FloatArray, FloatArray]:
        """For each wall (6 k,): free distance m, rate towards it m/s, and bend towards it during tick and stop, m."""
        rate = motion.rates[: self._rows3]
        above, below = (self.upper - motion.points).ravel(), (motion.points - self.lower).ravel()
        ends, rest = self._ends(motion)
        tangent, first, last = ends.reshape(3, self._rows3)
        outward = np.maximum(np.maximum(first - tangent, last - tangent), 0.0)
        inward = np.maximum(np.maximum(tangent - first, tangent - last), 0.0)
        bend = np.concatenate((outward, inward)) + rest
        rates = np.concatenate((rate, -rate))
        free = np.maximum(np.concatenate((above, below)), 0.0)
        if not motion.gentle:
            return free, rates, bend
        # Of the standoff, only what is left of it may be used for bending.
        return np.maximum(free - self.standoff, 0.0), rates, np.maximum(bend - np.minimum(free, self.standoff), 0.0)

    def _ends(self, motion: Motion) -> tuple[FloatArray, float]:
        """Where points would end on the tangent, on the curvature of the start, and on that of the end (9 k,) m.

        The last is where they do end. With them comes how far off this may be on the way, m.
        """
        reach = motion.reach_time
        way = motion.rates[: self._rows3] * reach
        start, last = motion.points.ravel(), motion.end_points.ravel()
        tangent = start + way
        # u(0) = 2 u(1/2) - u(1), with u(1) = last - tangent and u(1/2) = 4 (middle - start - way / 2)
        first = tangent + (8.0 * (motion.middle_points.ravel() - start) - 3.0 * way - (last - start))
        rest = motion.bend * motion.speed_sum**2 * reach**4 / 48.0
        return np.concatenate((tangent, first, last)), rest
