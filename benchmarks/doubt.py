"""Does a policy's doubt foretell failure? Calibrated on some recorded episodes, reported on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from controllers.doubt import DoubtMeasure
from episodes.calibration import (
    BoolArray,
    CalibrationError,
    FitKind,
    ReliabilityBin,
    auroc,
    auroc_interval,
    brier_score,
    expected_calibration_error,
    fit_success,
    reliability,
    threshold_for,
)
from episodes.doubtfulness import EpisodeDoubt, Summary, halves, read_doubts
from episodes.report.reliability import write_reliability
from episodes.results import EpisodeResult, read_results
from episodes.statistics import Proportion, paired_difference, wilson


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench doubt``."""

    folders: str = "runs/eval"
    """Folders of recorded episodes (vla eval --record all), separated by commas."""
    held_out: str = ""
    """Folders to report on, separated by commas; empty to fit on every other seed and report on the others."""
    measure: Literal["best", "mean_entropy", "mean_probability", "min_probability", "agreement"] = "best"
    """Which doubt; best is the one that ranks the fitting half best."""
    summary: Literal["best", "mean", "max"] = "best"
    """How the chunks of an episode become one score, for the probability of success."""
    fit: Literal["logistic", "isotonic"] = "logistic"
    """How that score becomes a probability."""
    first_s: float = 0.0
    """Score the chunks of the first so many seconds only, as how long an episode lasts tells something; 0 for all."""
    bins: int = 5
    """Bins of the reliability plot."""
    false_hold: float = 0.05
    """Share of successful episodes that hold_above may hold."""
    false_slow: float = 0.2
    """Share of successful episodes that slow_above may slow down."""
    html: Path | None = None
    """Page with the reliability plot."""
    off: Path | None = None
    """Folder of vla eval without thresholds, to compare in pairs with --on."""
    on: Path | None = None
    """Folder of vla eval of the same tasks and seeds with thresholds; of --off, only these episodes count."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well one score ranks failures above successes: AUROC, 0.5 for a coin, with a bootstrap 95% interval.

    ``within_tasks`` compares episodes of one task only: that tasks differ in difficulty does not help there.
    """

    measure: str
    summary: str
    fitting: float
    held_out: float
    low: float
    high: float
    within_tasks: float
    within_low: float
    within_high: float


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of the held-out half; the interval is Wilson's."""

    predicted: float
    observed: float
    low: float
    high: float
    episodes: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """A suggested threshold, and what it would have done in the held-out half.

    ``threshold`` is None where so few successes can promise no such rate. ``passed_s`` is the median time from the
    first crossing to the end of a failure that it catches.
    """

    option: str
    wished: float
    threshold: float | None
    false_alarms: str
    false_low: float
    false_high: float
    failures_caught: str
    caught_low: float
    caught_high: float
    passed_s: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Success without and with thresholds over the same episodes; intervals are 95%."""

    episodes: int
    off: str
    on: str
    lost: int
    won: int
    difference: float
    low: float
    high: float
    p_value: float
    mean_s_off: float
    mean_s_on: float


@dataclass(frozen=True, slots=True)
class Result:
    """See the fields' classes. ``brier_of_base_rate`` is that of a model that knows the share of successes only."""

    episodes: int
    successes: int
    fitting: int
    held_out: int
    measure: str
    summary: str
    threshold_measure: str
    calibration_error: float
    brier: float
    brier_of_base_rate: float
    rankings: list[Ranking]
    reliability: list[Bin]
    thresholds: list[Threshold]
    pairs: list[Pairs]


def run(options: Options) -> Result:
    """Calibrate, and compare pairs where there are some.

    Raises:
        EpisodeError: A folder without episodes that tell their doubt.
        CalibrationError: Too few episodes, or a measure that they do not tell.
    """
    if (options.off is None) != (options.on is None):
        raise CalibrationError("expected --off and --on together, found one of them; name both folders or none")
    pairs = [] if options.off is None or options.on is None else [compare(options.off, options.on)]
    episodes = read_doubts(_paths(options.folders))
    fitting, held_out = halves(episodes)
    if options.held_out:
        fitting, held_out = episodes, read_doubts(_paths(options.held_out))
        seen = {(item.task, item.seed) for item in fitting}
        if again := [item for item in held_out if (item.task, item.seed) in seen]:
            raise CalibrationError(
                f"expected held-out episodes of other seeds than those that are fitted, found {len(again)} that are in "
                f"both, such as {again[0].task} {again[0].seed}; evaluate with another --seed"
            )
        episodes = [*fitting, *held_out]
    learned, judged = (cut_short(part, options.first_s) for part in (fitting, held_out))
    rankings = [rank(learned, judged, measure, summary) for measure in told(episodes) for summary in Summary]
    chosen = choose(rankings, options.measure, options.summary)
    measure, summary = DoubtMeasure(chosen.measure), Summary(chosen.summary)
    model = fit_success(scores(learned, measure, summary), succeeded(fitting), FitKind(options.fit))
    predicted, outcome = model.predict(scores(judged, measure, summary)), succeeded(held_out)
    bins = reliability(predicted, outcome, options.bins)
    acting = acting_measure(fitting, options.measure)
    thresholds = [
        threshold("slow_above", options.false_slow, acting, fitting, held_out),
        threshold("hold_above", options.false_hold, acting, fitting, held_out),
    ]
    base = np.full(len(outcome), float(succeeded(fitting).mean()))
    result = Result(
        episodes=len(episodes),
        successes=int(succeeded(episodes).sum()),
        fitting=len(fitting),
        held_out=len(held_out),
        measure=measure.value,
        summary=summary.value,
        threshold_measure=acting.value,
        calibration_error=expected_calibration_error(bins),
        brier=brier_score(predicted, outcome),
        brier_of_base_rate=brier_score(base, outcome),
        rankings=rankings,
        reliability=[_bin(item) for item in bins],
        thresholds=thresholds,
        pairs=pairs,
    )
    if options.html is not None:
        write_page(options.html, result, bins)
    return result


def _paths(folders: str) -> list[Path]:
    return [Path(name.strip()) for name in folders.split(",") if name.strip()]


def told(episodes: Sequence[EpisodeDoubt]) -> list[DoubtMeasure]:
    """Measures that every episode tells."""
    return [measure for measure in DoubtMeasure if all(measure in item.values for item in episodes)]


def cut_short(episodes: Sequence[EpisodeDoubt], first_s: float) -> list[EpisodeDoubt]:
    """The first seconds of each; all of it for 0."""
    return [item.until(first_s) if first_s > 0.0 else item for item in episodes]


def scores(episodes: Sequence[EpisodeDoubt], measure: DoubtMeasure, summary: Summary) -> np.ndarray:
    """(N,) one number an episode."""
    return np.array([summary.of(item.values[measure]) for item in episodes])


def succeeded(episodes: Sequence[EpisodeDoubt]) -> BoolArray:
    """(N,) whether each succeeded."""
    return np.array([item.success for item in episodes], np.bool_)


def rank(
    fitting: Sequence[EpisodeDoubt], held_out: Sequence[EpisodeDoubt], measure: DoubtMeasure, summary: Summary
) -> Ranking:
    """AUROC of one score."""
    found, failed = scores(held_out, measure, summary), ~succeeded(held_out)
    tasks = [item.task for item in held_out]
    return Ranking(
        measure.value,
        summary.value,
        auroc(scores(fitting, measure, summary), ~succeeded(fitting)),
        auroc(found, failed),
        *auroc_interval(found, failed),
        auroc(found, failed, tasks),
        *auroc_interval(found, failed, tasks),
    )


def choose(rankings: Sequence[Ranking], measure: str, summary: str) -> Ranking:
    """The score that ranks the fitting half best, among those that are asked for.

    Raises:
        CalibrationError: The episodes do not tell that measure.
    """
    wanted = [row for row in rankings if measure in ("best", row.measure) and summary in ("best", row.summary)]
    if not wanted:
        names = sorted({row.measure for row in rankings})
        raise CalibrationError(
            f"expected episodes that tell their doubt by {measure}, found {', '.join(names)}; take one of these, or "
            "record again (agreement needs --doubt-samples)"
        )
    return max(wanted, key=lambda row: row.fitting)


def acting_measure(fitting: Sequence[EpisodeDoubt], measure: str) -> DoubtMeasure:
    """The measure for thresholds, which act on the worst chunk of whole episodes."""
    if measure != "best":
        return DoubtMeasure(measure)
    failed = ~succeeded(fitting)
    return max(told(fitting), key=lambda item: auroc(scores(fitting, item, Summary.MAX), failed))


def threshold(
    option: str, wished: float, measure: DoubtMeasure, fitting: Sequence[EpisodeDoubt], held_out: Sequence[EpisodeDoubt]
) -> Threshold:
    """A threshold from the successes of the fitting half, judged on the other half."""
    peaks = scores([item for item in fitting if item.success], measure, Summary.MAX)
    value = threshold_for(peaks, wished)
    if value is None:
        return Threshold(option, wished, None, "", 0.0, 1.0, "", 0.0, 1.0, float("nan"))
    false, caught = (
        wilson(sum(item.values[measure].max() > value for item in part), len(part))
        for part in ([i for i in held_out if i.success], [i for i in held_out if not i.success])
    )
    left = [
        item.duration_s - float(item.time_s[int(np.argmax(item.values[measure] > value))])
        for item in held_out
        if not item.success and item.values[measure].max() > value
    ]
    return Threshold(
        option,
        wished,
        value,
        _of(false),
        false.low,
        false.high,
        _of(caught),
        caught.low,
        caught.high,
        float(np.median(left)) if left else float("nan"),
    )


def compare(off: Path, on: Path) -> Pairs:
    """Success of the same episodes without and with thresholds.

    Raises:
        CalibrationError: An episode of ``on`` that ``off`` does not have.
    """
    before = {(row.task, row.seed): row for row in read_results(off / "results.jsonl")}
    after = read_results(on / "results.jsonl")
    missing = [f"{row.task} {row.seed}" for row in after if (row.task, row.seed) not in before]
    if missing:
        raise CalibrationError(
            f"expected every task and seed of {on} in {off}, found {len(missing)} without, such as {missing[0]}; "
            "evaluate both with the same --tasks, --seed and --episodes"
        )
    matched: list[tuple[EpisodeResult, EpisodeResult]] = [(before[row.task, row.seed], row) for row in after]
    found = paired_difference([(a.success, b.success) for a, b in matched])
    return Pairs(
        found.trials,
        _of(found.first),
        _of(found.second),
        found.lost,
        found.won,
        found.difference,
        found.low,
        found.high,
        found.p_value,
        float(np.mean([a.duration_s for a, _ in matched])),
        float(np.mean([b.duration_s for _, b in matched])),
    )


def _of(rate: Proportion) -> str:
    return f"{rate.successes}/{rate.trials}"


def _bin(item: ReliabilityBin) -> Bin:
    observed = item.observed
    return Bin(item.predicted, observed.rate, observed.low, observed.high, observed.trials)


def write_page(path: Path, result: Result, bins: Sequence[ReliabilityBin]) -> None:
    """The plot and the tables as one HTML file."""
    tables = [
        ("Ranking of failures (AUROC)", _cells(Ranking, result.rankings)),
        ("Reliability, held out", _cells(Bin, result.reliability)),
        ("Suggested thresholds", _cells(Threshold, result.thresholds)),
    ]
    if result.pairs:
        tables.append(("Success without and with thresholds", _cells(Pairs, result.pairs)))
    title = f"Doubt: {result.measure.replace('_', ' ')}, {result.summary} of an episode's chunks"
    write_reliability(path, title, bins, tables)


def _cells(kind: Any, rows: Sequence[Any]) -> list[list[str]]:
    head = [item.name.replace("_", " ") for item in fields(kind)]
    body = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in astuple(row)] for row in rows]
    return [head, *body]
