"""The sliding alternative: bend a motion so that it goes along a limit, instead of slowing down in front of it.

A quadratic program finds the joint velocity nearest to the demand that satisfies every limit's linear inequalities.
Those hold for braking along the demand's direction, and the program bends that; so its answer is only a better demand:
the path-consistent choice then follows it as fast as a verified stop allows.
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import daqp
import numpy as np

from controllers.types import FloatArray
from safety.limits import LimitSet, VelocityBox
from safety.motion import MotionFactory

_SOLVED = 1
# Room kept from each inequality, in shares of the scale of its row: the program is solved to a finite precision.
_ROUNDING = 1e-6


class Slider:
    """Bends demands. Holds no memory."""

    def __init__(self, limits: LimitSet, approach_deceleration_fraction: float) -> None:
        """Join the limits; the fraction is of the acceleration limit, used to slow down ahead of a limit."""
        self._limits = limits
        self._approach = approach_deceleration_fraction

    def bent(self, factory: MotionFactory, demand: FloatArray) -> FloatArray:
        """The joint velocity (n,) rad/s nearest to ``demand`` (n,) rad/s that slides along what is in its way.

        Distance is measured by the motion of the end effector and, less, of the joints. Where the program has no
        solution the demand comes back as it is.
        """
        n = demand.shape[0]
        motion = factory.gentle_motion(demand, self._approach)
        fastest = self._limits.velocity.box()
        lower, upper = fastest.lower.copy(), fastest.upper.copy()
        rows: list[FloatArray] = []
        bounds: list[FloatArray] = []
        for limit in self._limits.others:
            constraint = limit.inequalities(motion)
            if isinstance(constraint, VelocityBox):
                lower, upper = np.maximum(lower, constraint.lower), np.minimum(upper, constraint.upper)
            elif len(constraint.b):
                rows.append(constraint.A)
                bounds.append(constraint.b)
        matrix = np.concatenate(rows) if rows else np.empty((0, n))
        bound = np.concatenate(bounds) if bounds else np.empty(0)
        scale = np.sqrt((matrix * matrix).sum(axis=1))
        used = scale > 1e-9
        matrix, bound = matrix[used] / scale[used, None], bound[used] / scale[used] - _ROUNDING
        tool = factory.geometry.jacobian[:3]
        weight = tool.T @ tool + 0.05 * np.eye(n)
        high = np.concatenate((upper, np.maximum(bound, 0.0)))
        low = np.concatenate((lower, np.full(len(bound), -1e30)))
        sense = np.zeros(len(high), dtype=ctypes.c_int)
        solve = cast(Any, daqp).solve
        solution, _, flag, _ = solve(weight, -(weight @ demand), np.ascontiguousarray(matrix), high, low, sense)
        bent: FloatArray = np.array(solution, dtype=np.float64)
        if flag != _SOLVED or not np.isfinite(bent).all():
            return demand
        return bent
