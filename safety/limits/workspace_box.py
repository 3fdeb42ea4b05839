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
        """The distances at the start, and at the end of the tangent and of the curves that enclose the true one."""
        start = motion.points.ravel() - self._centre
        tangent, first, last, rest = self._ends(motion)
        tangent = np.abs(tangent - self._centre)
        farthest = np.maximum(np.maximum(np.abs(first - self._centre), np.abs(last - self._centre)), tangent)
        start_margin = min((self._half - np.abs(start)).tolist())
        margin = min(start_margin, min((self._half - farthest).tolist()) - rest)
        if motion.gentle:
            slack = min(margin, min(start_margin, min((self._half - tangent).tolist())) - self.standoff)
        else:
            slack = margin
        if slack >= 0.0:
            return Judgement(slack, margin)
        free, rate, bend = self._rows(motion)
        return Judgement(min((free - rate * motion.reach_time - bend).tolist()), margin)

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
        tangent, first, last, rest = self._ends(motion)
        outward = np.maximum(np.maximum(first - tangent, last - tangent), 0.0)
        inward = np.maximum(np.maximum(tangent - first, tangent - last), 0.0)
        bend = np.concatenate((outward, inward)) + rest
        standoff = self.standoff if motion.gentle else 0.0
        free = np.maximum(np.concatenate((above, below)) - standoff, 0.0)
        return free, np.concatenate((rate, -rate)), np.maximum(bend - standoff, 0.0)

    def _ends(self, motion: Motion) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        """Where points would end on the tangent, with the curvature of the start and with that of the end (3 k,) m.

        The last is where they do end. With them comes how far off that may be on the way, m.
        """
        k, n, speeds, reach = self._k, self._n, motion.speeds, motion.reach_time
        way = motion.rates[: 3 * k] * reach
        start, last = motion.points.ravel(), motion.end_points.ravel()
        tangent = start + way
        # u(0) = 2 u(1/2) - u(1), with u(1) = last - tangent and u(1/2) = 4 (middle - start - way / 2)
        first = tangent + (8.0 * (motion.middle_points.ravel() - start) - 3.0 * way - (last - start))
        squares = self._curvature.dot(speeds).reshape(k, n).dot(speeds)
        step = sum(speeds.tolist()) * reach
        return tangent, first, last, max(squares.tolist()) * (reach * step) ** 2 / 48.0
