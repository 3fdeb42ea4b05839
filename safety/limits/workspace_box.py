"""Watched points of the arm stay inside their boxes, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Inequalities, Judgement, stoppable_share
from safety.motion import Motion


class WorkspaceBoxLimit:
    """Point i stays within ``[lower[i], upper[i]]``, each (k, 3) m in the base frame.

    A point moves on a curve while the joints move on a straight line. Along a joint step ``d`` its distance to a wall
    is at least ``distance - (J d) - 0.5 |d|^T curvature |d|``, a concave function of the progress: where it is not
    negative at the end of the stop, it is negative nowhere on the way.
    """

    name = "workspace_box"
    unit = "m"
    margin_scale = 0.1

    def __init__(self, lower: FloatArray, upper: FloatArray, curvature: FloatArray) -> None:
        """Set the boxes.

        Args:
            lower: (k, 3) m.
            upper: (k, 3) m.
            curvature: (k, n, n) m/rad^2, :attr:`safety.kinematics.SafetyKinematics.curvature`.
        """
        k, n = curvature.shape[:2]
        self.lower = lower
        self.upper = upper
        self._k, self._n = k, n
        self._centre: FloatArray = 0.5 * (lower + upper)
        self._half: FloatArray = 0.5 * (upper - lower)
        self._curvature: FloatArray = np.ascontiguousarray(curvature.reshape(k * n, n))

    def judge(self, motion: Motion) -> Judgement:
        """The distance at the end of the stop, bent towards the wall as far as the curve can be."""
        k, reach = self._k, motion.reach_time
        offset = motion.points - self._centre
        way = motion.rates[: 3 * k].reshape(k, 3) * reach
        start = self._half - np.abs(offset)
        end = self._half - np.abs(offset + way) - self._bend(motion)
        margin = min(min(start.ravel().tolist()), min(end.ravel().tolist()))
        if margin >= 0.0:
            return Judgement(margin, margin)
        distance, rate, bend = self._rows(motion)
        return Judgement(min((np.maximum(distance, 0.0) - rate * reach - bend).tolist()), margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each point, axis and side, towards the wall positive.

        Where the motion leaves a wall on so sharp a curve that it could swing back into it, one more row bounds the
        speed along the motion.
        """
        linear = motion.jacobian[: 3 * self._k]
        rows = np.concatenate((linear, -linear))
        distance, rate, bend = self._rows(motion)
        free = np.maximum(distance, 0.0)
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
        """For each wall (6 k,): distance m, rate towards it m/s, and bend during tick and stop, m."""
        rate = motion.rates[: 3 * self._k]
        above, below = (self.upper - motion.points).ravel(), (motion.points - self.lower).ravel()
        bend = np.repeat(self._bend(motion).ravel(), 3)
        return np.concatenate((above, below)), np.concatenate((rate, -rate)), np.concatenate((bend, bend))

    def _bend(self, motion: Motion) -> FloatArray:
        """How far each point can depart from its tangent during tick and stop, (k, 1) m."""
        k, n, speeds, reach = self._k, self._n, motion.speeds, motion.reach_time
        squares = self._curvature.dot(speeds).reshape(k, n).dot(speeds)
        return (squares * (0.5 * reach * reach)).reshape(k, 1)
