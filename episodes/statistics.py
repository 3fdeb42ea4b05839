"""Intervals for success rates, and for the difference of two over the same episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two success rates over the same trials, compared in pairs.

    Attributes:
        trials: Pairs.
        first: Success rate of the first.
        second: Success rate of the second.
        lost: Pairs in which only the first succeeded.
        won: Pairs in which only the second succeeded.
        difference: Second minus first.
        low: Lower end of the interval of the difference.
        high: Upper end.
        p_value: Of the exact two-sided McNemar test that the two are equally good.
    """

    trials: int
    first: Proportion
    second: Proportion
    lost: int
    won: int
    difference: float
    low: float
    high: float
    p_value: float


def paired_difference(pairs: Sequence[tuple[bool, bool]], confidence: float = 0.95) -> PairedDifference:
    """Compare two policies or stacks that were tried on the same episodes.

    The interval is Newcombe's hybrid score interval for paired data (R. G. Newcombe, Statistics in Medicine 17, 1998,
    p. 2635, method 10), the test McNemar's exact one (Q. McNemar, Psychometrika 12, 1947, p. 153).

    Args:
        pairs: Success of the first and of the second in each trial.
        confidence: Coverage of the interval.

    Raises:
        ValueError: No pairs.
    """
    n = len(pairs)
    if n == 0:
        raise ValueError("expected at least one pair of trials to compare, found none")
    both = sum(a and b for a, b in pairs)
    lost = sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    first, second = wilson(both + lost, n, confidence), wilson(both + won, n, confidence)
    difference = second.rate - first.rate
    neither = n - both - lost - won
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    covariance = both * neither - lost * won
    if covariance > 0:  # Newcombe's continuity correction of phi
        covariance = max(covariance - n / 2.0, 0.0)
    phi = covariance / math.sqrt(margins) if margins else 0.0

    def reach(left: float, right: float) -> float:
        return math.sqrt(max(0.0, left * left - 2.0 * phi * left * right + right * right))

    low = difference - reach(second.rate - second.low, first.high - first.rate)
    high = difference + reach(second.high - second.rate, first.rate - first.low)
    discordant = lost + won
    tail = sum(math.comb(discordant, k) for k in range(min(lost, won) + 1)) / 2.0**discordant
    return PairedDifference(n, first, second, lost, won, difference, low, high, min(1.0, 2.0 * tail))
