"""How far a score foretells success: ranking, probability, and thresholds that keep a promise. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray, frozen_array
from episodes.statistics import Proportion, wilson

BoolArray = npt.NDArray[np.bool_]
_RESAMPLES = 2000


class CalibrationError(ValueError):
    """Episodes that nothing can be learned from."""


# ------------------------------------------------------------------------------------------------ ranking


def auroc(scores: FloatArray, failed: BoolArray, groups: Sequence[str] = ()) -> float:
    """Probability that a failure scores higher than a success, ties counting half; NaN without one of both.

    It is the area under the receiver operating characteristic (J. A. Hanley, B. J. McNeil, Radiology 143, 1982, p. 29).

    Args:
        scores: (N,) doubt.
        failed: (N,) whether the episode failed.
        groups: (N,) compare within equal groups only; empty to compare all with all.
    """
    better = 0.5 * np.sign(scores[failed, None] - scores[None, ~failed]) + 0.5
    if groups:
        names = np.asarray(groups)
        better = better[names[failed, None] == names[None, ~failed]]
    return float(better.mean()) if better.size else math.nan


def auroc_interval(
    scores: FloatArray, failed: BoolArray, groups: Sequence[str] = (), confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap of :func:`auroc` over episodes, 2,000 resamples from a fixed seed; NaN where it is NaN."""
    rng = np.random.default_rng(0)
    found: list[float] = []
    for _ in range(_RESAMPLES):
        pick = rng.integers(0, len(scores), len(scores))
        names: Sequence[str] = [groups[int(i)] for i in pick] if groups else ()
        value = auroc(scores[pick], failed[pick], names)
        if not math.isnan(value):
            found.append(value)
    if not found:
        return math.nan, math.nan
    half = 50.0 * (1.0 - confidence)
    low, high = np.percentile(found, (half, 100.0 - half)).tolist()
    return low, high


# -------------------------------------------------------------------------------------------- probability


class FitKind(Enum):
    """How a doubt becomes a probability of success."""

    LOGISTIC = "logistic"  # two parameters (J. Platt, "Probabilistic outputs for support vector machines", 1999)
    ISOTONIC = "isotonic"  # any falling step function (B. Zadrozny, C. Elkan, KDD 2002)


class SuccessModel(Protocol):
    """A doubt as a probability of success."""

    def predict(self, scores: FloatArray) -> FloatArray:
        """(N,) probabilities in [0, 1], never rising with the doubt."""
        ...


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """``1 / (1 + exp(slope * (score - middle) / scale - offset))`` with a slope of 0 or more."""

    slope: float
    offset: float
    middle: float
    scale: float

    def predict(self, scores: FloatArray) -> FloatArray:
        """(N,) probabilities."""
        return _sigmoid(self.offset - self.slope * (scores - self.middle) / self.scale)


@dataclass(frozen=True, slots=True)
class IsotonicModel:
    """Steps between the scores that were seen, linear in between.

    Attributes:
        scores: (K,) rising.
        probability: (K,) falling.
    """

    scores: FloatArray
    probability: FloatArray

    def predict(self, scores: FloatArray) -> FloatArray:
        """(N,) probabilities."""
        return np.interp(scores, self.scores, self.probability)


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))  # no overflow


def fit_success(scores: FloatArray, succeeded: BoolArray, kind: FitKind) -> SuccessModel:
    """Fit a probability of success that never rises with doubt.

    Targets are Platt's, ``(n + 1) / (n + 2)`` and ``1 / (m + 2)`` for n successes and m failures, so that separable
    episodes do not give certainty.

    Raises:
        CalibrationError: Successes only, failures only, or scores that are not finite.
    """
    wins = int(succeeded.sum())
    losses = len(succeeded) - wins
    if not wins or not losses or not np.isfinite(scores).all():
        raise CalibrationError(
            f"expected successes and failures with finite doubts to fit, found {wins} and {losses}; record more "
            "episodes, or harder tasks"
        )
    targets = np.where(succeeded, (wins + 1.0) / (wins + 2.0), 1.0 / (losses + 2.0))
    return _logistic(scores, targets) if kind is FitKind.LOGISTIC else _isotonic(scores, targets)


def _logistic(scores: FloatArray, targets: FloatArray) -> LogisticModel:
    from scipy.optimize import minimize

    middle, scale = float(scores.mean()), max(float(scores.std()), 1e-12)
    x = (scores - middle) / scale

    def loss(parameters: FloatArray) -> float:
        z = parameters[1] - parameters[0] * x
        return float((np.logaddexp(0.0, z) - targets * z).mean())

    found = minimize(loss, np.array((1.0, 0.0)), bounds=((0.0, 50.0), (-50.0, 50.0)), method="L-BFGS-B")
    slope, offset = found.x.tolist()
    return LogisticModel(slope, offset, middle, scale)


def _isotonic(scores: FloatArray, targets: FloatArray) -> IsotonicModel:
    from scipy.optimize import isotonic_regression

    known, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, targets) / weights
    fitted = isotonic_regression(means, weights=weights, increasing=False)
    return IsotonicModel(frozen_array(known), frozen_array(np.clip(np.asarray(fitted.x), 0.0, 1.0)))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Episodes of similar predicted probability.

    Attributes:
        predicted: Mean predicted probability of success.
        observed: Share that succeeded, with its Wilson interval.
    """

    predicted: float
    observed: Proportion


def reliability(predicted: FloatArray, succeeded: BoolArray, bins: int) -> tuple[ReliabilityBin, ...]:
    """Bins of as equal size as can be, by predicted probability.

    Raises:
        CalibrationError: Fewer than one bin, or no episodes.
    """
    if bins < 1 or not len(predicted):
        raise CalibrationError(f"expected at least one bin and episode, found {bins} and {len(predicted)}")
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    return tuple(
        ReliabilityBin(float(predicted[part].mean()), wilson(int(succeeded[part].sum()), len(part))) for part in parts
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean distance of predicted and observed share, weighted by episodes (M. P. Naeini et al., AAAI 2015)."""
    total = sum(item.observed.trials for item in bins)
    return sum(item.observed.trials * abs(item.predicted - item.observed.rate) for item in bins) / total


def brier_score(predicted: FloatArray, succeeded: BoolArray) -> float:
    """Mean squared error of the probabilities (G. W. Brier, Monthly Weather Review 78, 1950, p. 1)."""
    return float(((predicted - succeeded) ** 2).mean())


# --------------------------------------------------------------------------------------------- thresholds


def threshold_for(peaks: FloatArray, false_rate: float) -> float | None:
    """Threshold that the largest doubt of at most a share ``false_rate`` of further successes will exceed.

    Split conformal prediction: with n successes the threshold is their ``ceil((n + 1) (1 - rate))``-th smallest peak,
    and a further exchangeable success exceeds it with a probability of at most ``rate`` (V. Vovk, A. Gammerman,
    G. Shafer, "Algorithmic learning in a random world", 2005). None where so few successes can promise no such rate.

    Args:
        peaks: (n,) the largest doubt in each successful episode.
        false_rate: In (0, 1).

    Raises:
        CalibrationError: Another rate.
    """
    if not 0.0 < false_rate < 1.0:
        raise CalibrationError(f"expected a rate of false holds in (0, 1), found {false_rate}; 0.05 is one in twenty")
    place = math.ceil((len(peaks) + 1) * (1.0 - false_rate) - 1e-9)
    return float(np.sort(peaks)[place - 1]) if place <= len(peaks) else None
