"""A blow by the arm delivers no more energy than allowed."""

from __future__ import annotations

import math

import numpy as np

from safety.kernel.dynamics import blow
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion

_STILL_J = 1e-12


class KineticEnergyLimit:
    """What any watched point delivers to whatever stops it is at most ``maximum`` J, whichever way that faces.

    A surface with normal u feels the speed along u and the mass ``1 / (u^T J M^-1 J^T u)`` that the point reflects
    there. The worst u need not be the direction of motion: the largest energy is ``v^T (J M^-1 J^T)^-1 v / 2``. And
    the wrist yields to a blow at the fingertips, but not to one at the back of the hand: every point counts.

    It is taken at the start of the tick; the stop only slows down.
    """

    name = "kinetic_energy"
    unit = "J"

    def __init__(self, maximum: float, n: int, points: tuple[int, ...] = (0,)) -> None:
        """Set the limit.

        Args:
            maximum: J.
            n: Number of joints.
            points: Indices of the watched points that count.
        """
        self.maximum = maximum
        self.first_rows = tuple(3 * point for point in points)
        self._rows, self._qd = np.zeros((3, n)), np.zeros(n)
        self.margin_scale = maximum

    def judge(self, motion: Motion) -> Judgement:
        """The energy at full velocity decides."""
        margin = self.maximum - self._energy(motion)[0]
        return Judgement(margin, margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """The speed along the direction of motion of the point that would hit hardest, m/s."""
        energy, first = self._energy(motion)
        rate = motion.rates[first : first + 3]
        speed = math.sqrt(float(rate.dot(rate)))
        if energy <= _STILL_J or speed == 0.0:
            return Inequalities(np.zeros((1, motion.velocity.shape[0])), np.array([1.0]))
        row = (rate / speed).dot(motion.jacobian[first : first + 3])
        return Inequalities(row[None], np.array([speed * math.sqrt(self.maximum / energy)]))

    def share(self, margin: float) -> float:
        """The share of a motion that has a negative ``margin``, J, that satisfies its inequalities."""
        return math.sqrt(self.maximum / (self.maximum - margin))

    def _energy(self, motion: Motion) -> tuple[float, int]:
        """J, and the first row of the point."""
        self._qd[:] = motion.velocity
        most, where = 0.0, self.first_rows[0]
        for first in self.first_rows:
            energy = 0.5 * blow(motion.jacobian, first, motion.dynamics.factor, self._qd, self._rows)
            if energy > most:
                most, where = energy, first
        return most, where
