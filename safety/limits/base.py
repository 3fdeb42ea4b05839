"""What a limit is, and the mathematics that limits share.

A limit looks at a :class:`~safety.motion.Motion` and answers twice. ``judge`` says whether the tick *and the stop after
it* stay inside, and with what margin. ``inequalities`` says by how much the commanded velocity must shrink: linear
inequalities on the joint velocity ``qd`` whose right-hand side already allows for braking. Both agree: the largest
share of the velocity that satisfies the inequalities is a motion that ``judge`` accepts. And both always admit rest
(the acceleration limit admits the straight-line stop instead): a robot found outside a limit may stand still or move
back in, never farther out.

A new limit is one class in a new file, listed in ``safety/limits/__init__.py``.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from controllers.types import FloatArray
from safety.motion import Motion

_NO_SHARE = (1.0, 0.0)
_FEW_ROWS = 8  # so few are looked at one by one sooner than by numpy


class Inequalities(NamedTuple):
    """Linear inequalities ``A @ qd <= b``: A (m, n), b (m,) in the limit's unit of rate."""

    A: FloatArray
    b: FloatArray


class VelocityBox(NamedTuple):
    """Linear inequalities that are bounds on each joint: ``lower <= qd <= upper``, each (n,) rad/s."""

    lower: FloatArray
    upper: FloatArray

    def as_inequalities(self) -> Inequalities:
        """The same set as a dense ``A @ qd <= b``."""
        eye = np.eye(self.lower.shape[0])
        return Inequalities(np.concatenate((eye, -eye)), np.concatenate((self.upper, -self.lower)))


class Judgement(NamedTuple):
    """A limit's verdict on a motion.

    Attributes:
        slack: The motion is admissible when this is >= 0. For a limit that is violated already, it measures against
            where the robot is now instead of against the limit.
        margin: Signed distance to the limit that the stop leaves, in the limit's unit.
    """

    slack: float
    margin: float


class Limit(Protocol):
    """One bound on the motion of the arm."""

    @property
    def name(self) -> str:
        """Name that reasons carry."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the margin."""
        ...

    @property
    def margin_scale(self) -> float:
        """The margin that counts as 1 when margins of different limits are compared."""
        ...

    def judge(self, motion: Motion) -> Judgement:
        """Whether the tick and the stop after it stay inside."""
        ...

    def inequalities(self, motion: Motion) -> Inequalities | VelocityBox:
        """Bounds on the joint velocity, for braking along ``motion``'s direction."""
        ...


def scale_interval(constraint: Inequalities | VelocityBox, velocity: FloatArray) -> tuple[float, float]:
    """The shares s in [0, 1] for which ``s * velocity`` satisfies the inequalities.

    Args:
        constraint: The inequalities.
        velocity: (n,) rad/s.

    Returns:
        (lowest, highest), lowest > highest where there is none.
    """
    lowest, highest = 0.0, 1.0
    if isinstance(constraint, VelocityBox):
        columns = zip(velocity.tolist(), constraint.lower.tolist(), constraint.upper.tolist(), strict=True)
        for rate, low, high in columns:
            if low <= 0.0 <= high and low <= rate <= high:
                continue
            if rate > 0.0:
                lowest, highest = max(lowest, low / rate), min(highest, high / rate)
            elif rate < 0.0:
                lowest, highest = max(lowest, high / rate), min(highest, low / rate)
            else:
                return _NO_SHARE
        return lowest, highest
    rates, bounds = constraint.A.dot(velocity), constraint.b
    if len(bounds) > _FEW_ROWS:
        biting = np.flatnonzero((rates > bounds) | (bounds < 0.0))
        rates, bounds = rates[biting], bounds[biting]
    for rate, bound in zip(rates.tolist(), bounds.tolist(), strict=True):
        if not (rate > bound or bound < 0.0):
            continue
        if rate > 0.0:
            highest = min(highest, bound / rate)
        elif rate < 0.0:
            lowest = max(lowest, bound / rate)
        else:
            return _NO_SHARE
    return lowest, highest


def stoppable_share(first: float, second: float, distance: float) -> float:
    """Largest s with ``first s + second s^2 <= distance``.

    ``first`` is the way made before braking starts and ``second`` the way made while braking, both at the proposed
    velocity: with all joints slowed together by s, the first shrinks by s and the second by s^2.

    Args:
        first: Of any sign.
        second: Not negative where ``first`` is positive.
        distance: Free way ahead, >= 0.

    Returns:
        A share in [0, inf].
    """
    bending = max(second, 0.0)
    root = math.hypot(first, 2.0 * math.sqrt(bending) * math.sqrt(distance))
    if first < 0.0:  # two forms of one root: each avoids the cancellation of the other
        return (root - first) / (2.0 * bending) if bending > 0.0 else math.inf
    if first + root > 0.0:
        return 2.0 * distance / (first + root)
    return 0.0 if bending > 0.0 else math.inf  # no room to bend, or nothing that bends
