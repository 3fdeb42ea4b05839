"""Watched points of the arm stay inside their boxes, braking included."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Inequalities, Judgement, stoppable_share
from safety.motion import Motion

_SIGNS: FloatArray = np.array([1.0, -1.0]).reshape(2, 1, 1)


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
        self._walls: FloatArray = np.stack((upper, -lower))  # (2, k, 3): distance = walls - signs * point
        self._curvature: FloatArray = np.ascontiguousarray(curvature.reshape(k * n, n))

    def judge(self, motion: Motion) -> Judgement:
        """The distance at the end of the stop, bent towards the wall as far as the curve can be."""
        distance, rate, bend = self._rows(motion)
        reach = motion.reach_time
        way = rate * reach + bend * (0.5 * reach * reach)
        margin = min(min(distance.ravel().tolist()), min((distance - way).ravel().tolist()))
        if margin >= 0.0:
            return Judgement(margin, margin)
        free = np.maximum(distance, 0.0)
        return Judgement(min((free - way).ravel().tolist()), margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each point, axis and side, towards the wall positive.

        Where the motion leaves a wall on so sharp a curve that it could swing back into it, one more row bounds the
        speed along the motion.
        """
        distance, rate, bend = self._rows(motion)
        k, reach = self._k, motion.reach_time
        linear = motion.jacobian[: 3 * k]
        rows = np.concatenate((linear, -linear))
        toward, free = rate.ravel(), np.maximum(distance, 0.0).ravel()
        sag = np.broadcast_to(bend * (0.5 * reach * reach), rate.shape).ravel()
        second = 0.5 * toward * motion.stop_time + sag
        share = stoppable_share(toward * motion.first_time, second, free)
        approaching = toward > 0.0
        bound = np.where(approaching, share, 0.0) * np.where(approaching, toward, 0.0)
        bound = np.where(approaching, bound, free / reach)
        swing = min(share[~approaching].tolist(), default=1.0)
        if swing >= 1.0:
            return Inequalities(rows, bound)
        speed = float(np.dot(motion.velocity, motion.velocity))
        along = motion.velocity / speed
        return Inequalities(np.concatenate((rows, along[None])), np.append(bound, swing))

    def _rows(self, motion: Motion) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Distance to each wall (2, k, 3) m, rate towards it m/s, and curvature bound (k, 1) m/s^2."""
        k, n, speeds = self._k, self._n, motion.speeds
        rate = _SIGNS * motion.rates[: 3 * k].reshape(k, 3)
        distance = self._walls - _SIGNS * motion.points
        bend = self._curvature.dot(speeds).reshape(k, n).dot(speeds)
        return distance, rate, bend.reshape(k, 1)
