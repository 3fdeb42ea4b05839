"""Intervals for success rates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Proportion:
    """A success rate and what it is worth.

    Attributes:
        successes: Successful trials.
        trials: All trials.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    successes: int
    trials: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Successes over trials, NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Proportion:
    """Success rate with its Wilson score interval (E. B. Wilson, JASA 22, 1927, p. 209).

    Args:
        successes: Successful trials.
        trials: All trials; none gives the interval [0, 1].
        confidence: Coverage of the interval.

    Raises:
        ValueError: More successes than trials, or a negative number.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, found {successes} of {trials}")
    if trials == 0:
        return Proportion(0, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = successes / trials
    scale = 1.0 + z * z / trials
    centre = (rate + z * z / (2.0 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4.0 * trials * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Proportion(successes, trials, low, high)
