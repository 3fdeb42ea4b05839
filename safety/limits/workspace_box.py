"""Watched points of the arm stay inside their boxes, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Inequalities, Judgement, stoppable_share
from safety.motion import Motion


class WorkspaceBoxLimit:
    """Point i stays within ``[lower[i], upper[i]]``, each (k, 3) m in the base frame.

    A point moves on a curve while the joints move on a straight line. With h(x) its distance to a wall at progress x of
    tick and stop, the tangent gives ``h(0) + h'(0)``, forward kinematics gives ``h(1)``, their difference D is the
    curve's second-order term up to a known rest r, and ``h(x) >= h(0) + h'(0) x + (min(D, 0) - 2 r) x^2``. That is
    concave: where it is not negative at the end, the point is inside all the way.

    Commands keep the points a standoff away from the walls. Within it the curve of a motion along a wall may bend.
    """

    name = "workspace_box"
    unit = "m"
    margin_scale = 0.1

    def __init__(self, lower: FloatArray, upper: FloatArray, standoff: float, curvature: FloatArray) -> None:
        """Set the boxes.

        Args:
            lower: (k, 3) m.
            upper: (k, 3) m.
            standoff: m.
            curvature: (k, n, n) m/rad^2, :attr:`safety.kinematics.SafetyKinematics.curvature`.
        """
        k, n = curvature.shape[:2]
        self.lower = lower
        self.upper = upper
        self.standoff = standoff
        self._k, self._n = k, n
        self._centre: FloatArray = (0.5 * (lower + upper)).ravel()
        self._half: FloatArray = (0.5 * (upper - lower)).ravel()
        self._curvature: FloatArray = np.ascontiguousarray(curvature.reshape(k * n, n))

    def judge(self, motion: Motion) -> Judgement:
        """The distances at the start, at the end, and at the end of the tangent decide."""
        half, reach = self._half, motion.reach_time
        offset = motion.points.ravel() - self._centre
        way = motion.rates[: 3 * self._k] * reach
        start = min((half - np.abs(offset)).tolist())
        tangent = min((half - np.abs(offset + way)).tolist())
        curved = min((half - np.abs(motion.end_points.ravel() - self._centre)).tolist())
        end = min(tangent, curved) - self._rest(motion)
        margin = min(start, end)
        slack = min(margin, min(start, tangent) - self.standoff) if motion.gentle else margin
        if slack >= 0.0:
            return Judgement(slack, margin)
        free, rate, bend = self._rows(motion)
        return Judgement(min((free - rate * reach - bend).tolist()), margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each point, axis and side, towards the wall positive.

        Where the motion leaves a wall on so sharp a curve that it could swing back into it, one more row bounds the
        speed along the motion.
        """
        linear = motion.jacobian[: 3 * self._k]
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
        rate = motion.rates[: 3 * self._k]
        above, below = (self.upper - motion.points).ravel(), (motion.points - self.lower).ravel()
        curve = (motion.end_points - motion.points).ravel() - rate * motion.reach_time
        bend = np.maximum(np.concatenate((curve, -curve)), 0.0) + self._rest(motion)
        standoff = self.standoff if motion.gentle else 0.0
        free = np.maximum(np.concatenate((above, below)) - standoff, 0.0)
        return free, np.concatenate((rate, -rate)), np.maximum(bend - standoff, 0.0)

    def _rest(self, motion: Motion) -> float:
        """Twice the most that a point can depart from its parabola during tick and stop, m."""
        k, n, speeds, reach = self._k, self._n, motion.speeds, motion.reach_time
        squares = self._curvature.dot(speeds).reshape(k, n).dot(speeds)
        return max(squares.tolist()) * sum(speeds.tolist()) * reach * reach * reach / 3.0
