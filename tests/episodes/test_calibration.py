"""Calibration: rankings, probabilities and thresholds mean what they say."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.doubt import Options, run
from controllers.doubt import ChunkDoubt, DoubtMeasure
from controllers.types import FloatArray, frozen_array
from episodes.calibration import (
    BoolArray,
    CalibrationError,
    FitKind,
    auroc,
    auroc_interval,
    brier_score,
    expected_calibration_error,
    fit_success,
    reliability,
    threshold_for,
)
from episodes.doubtfulness import Summary, halves, read_doubts
from episodes.errors import EpisodeError
from episodes.manifest import Outcome
from episodes.reader import open_episode
from episodes.results import result_of, write_results
from episodes.statistics import paired_difference
from episodes.writer import EpisodeWriter
from tests.episodes.builders import make_chunk, manifest, simple_tick

LABELLED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=40)


def split(items: list[tuple[int, bool]]) -> tuple[FloatArray, BoolArray]:
    return np.array([score for score, _ in items], np.float64), np.array([flag for _, flag in items], np.bool_)


@given(LABELLED)
def test_auroc_counts_the_pairs_that_are_in_order(items: list[tuple[int, bool]]) -> None:
    scores, failed = split(items)
    pairs = [
        1.0 if f > s else 0.5 if f == s else 0.0
        for f, s in itertools.product(scores[failed].tolist(), scores[~failed].tolist())
    ]
    found = auroc(scores, failed)
    assert (math.isnan(found) and not pairs) or found == pytest.approx(np.mean(pairs))
    if pairs:
        assert auroc(-scores, failed) == pytest.approx(1.0 - found)
        low, high = auroc_interval(scores, failed)
        assert 0.0 <= low <= high <= 1.0


def test_within_groups_a_difference_of_tasks_is_no_skill() -> None:
    scores = np.array([1.0, 1.0, 1.0, 5.0, 5.0, 5.0])
    failed = np.array([False, False, True, True, True, False])
    tasks = ["easy"] * 3 + ["hard"] * 3
    assert auroc(scores, failed) > 0.6
    assert auroc(scores, failed, tasks) == 0.5


@given(LABELLED, st.sampled_from(FitKind))
def test_a_predicted_success_is_a_probability_that_never_rises_with_doubt(
    items: list[tuple[int, bool]], kind: FitKind
) -> None:
    scores, success = split(items)
    if success.all() or not success.any():
        with pytest.raises(CalibrationError, match="expected successes and failures"):
            fit_success(scores, success, kind)
        return
    grid = np.linspace(-3.0, 9.0, 50, dtype=np.float64)
    predicted = fit_success(scores, success, kind).predict(grid)
    assert ((predicted >= 0.0) & (predicted <= 1.0)).all()
    assert (np.diff(predicted) <= 1e-12).all()


@pytest.mark.parametrize("kind", FitKind)
def test_a_fit_finds_the_probabilities_that_made_the_outcomes(kind: FitKind) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.0, 4.0, 4000)
    truth = 1.0 / (1.0 + np.exp(2.0 * (scores - 2.0)))
    success = rng.uniform(size=4000) < truth
    model = fit_success(scores[::2], success[::2], kind)
    predicted = model.predict(scores[1::2])
    assert np.abs(predicted - truth[1::2]).mean() < 0.04
    bins = reliability(predicted, success[1::2], 10)
    assert expected_calibration_error(bins) < 0.04
    assert brier_score(predicted, success[1::2]) < 0.15
    assert [item.observed.trials for item in bins] == [200] * 10


def test_a_perfect_forecast_has_no_error_and_the_opposite_has_all() -> None:
    success = np.array([True, True, False, False])
    sure = success.astype(np.float64)
    assert expected_calibration_error(reliability(sure, success, 2)) == brier_score(sure, success) == 0.0
    assert expected_calibration_error(reliability(1.0 - sure, success, 2)) == brier_score(1.0 - sure, success) == 1.0
    with pytest.raises(CalibrationError, match="expected at least one bin and episode, found 0 and 4"):
        reliability(sure, success, 0)


def test_a_threshold_keeps_its_promise_on_average() -> None:
    rng = np.random.default_rng(0)
    false = [(rng.normal(size=30) > (threshold_for(rng.normal(size=59), 0.1) or 0.0)).mean() for _ in range(400)]
    assert 0.08 < float(np.mean(false)) <= 0.105


def test_too_few_successes_promise_nothing() -> None:
    assert threshold_for(frozen_array(range(18)), 0.05) is None
    assert threshold_for(frozen_array(range(19)), 0.05) == 18.0
    with pytest.raises(CalibrationError, match=r"expected a rate of false holds in \(0, 1\), found 0"):
        threshold_for(frozen_array(range(5)), 0.0)


# ------------------------------------------------------------------------------------------------ pairs


def test_paired_difference_of_a_published_example() -> None:
    """M. W. Fagerland, S. Lydersen, P. Laake, Statistics in Medicine 33, 2014, p. 2850: 1, 1, 7, 12 of 21."""
    pairs = [(True, True)] + [(True, False)] + [(False, True)] * 7 + [(False, False)] * 12
    found = paired_difference(pairs)
    assert (found.lost, found.won, found.trials) == (1, 7, 21)
    assert found.difference == pytest.approx(6 / 21)
    assert (found.low, found.high) == pytest.approx((0.026, 0.507), abs=0.0006)
    assert found.p_value == pytest.approx(2 * (1 + 8) / 2**8)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_interval_holds_the_difference_and_turns_with_the_pairs(pairs: list[tuple[bool, bool]]) -> None:
    found, turned = paired_difference(pairs), paired_difference([(b, a) for a, b in pairs])
    assert -1.0 <= found.low <= found.difference <= found.high <= 1.0
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    assert 0.0 < found.p_value == turned.p_value <= 1.0


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one pair of trials to compare, found none"):
        paired_difference([])


# ------------------------------------------------------------------------------------- recorded episodes


def record(folder: Path, count: int, task: str = "reach", *, told: bool = True) -> Path:
    """Every third episode fails, with more doubt."""
    rng = np.random.default_rng(count)
    rows = []
    for seed in range(count):
        success = seed % 3 != 2
        path = folder / "episodes" / f"{task}-{seed:06d}.zarr"
        with EpisodeWriter(path, manifest(task=task, seed=seed, episode_id=path.stem)) as writer:
            for tick in range(41):
                mean = float(rng.uniform(0.5, 0.8 if success else 0.6))
                doubt = ChunkDoubt(mean, mean / 2, 4.0 - 3.0 * mean) if told else None
                arrivals = (make_chunk(tick, tick // 20, doubt=doubt),) if tick % 20 == 0 else ()
                writer.record_tick(*simple_tick(tick, arrivals=arrivals), b"")
            writer.close(Outcome(success, "success" if success else "time_limit"))
        rows.append(result_of(open_episode(path)))
    write_results(folder / "results.jsonl", rows)
    return folder


def test_episodes_are_read_with_their_doubts_and_split_within_tasks(tmp_path: Path) -> None:
    episodes = read_doubts([record(tmp_path / "a", 6), record(tmp_path / "b", 4, "stack")])
    assert [(item.task, item.seed) for item in episodes][:2] == [("reach", 0), ("reach", 1)]
    first = episodes[0]
    assert DoubtMeasure.AGREEMENT not in first.values
    assert first.time_s.tolist() == [0.0, 0.1, 0.2]
    assert len(first.until(0.15).time_s) == 2
    assert len(first.until(-1.0).time_s) == 1
    entropy = first.values[DoubtMeasure.MEAN_ENTROPY]
    assert Summary.MEAN.of(entropy) <= Summary.MAX.of(entropy)
    fitting, held_out = halves(episodes)
    assert [(item.task, item.seed) for item in fitting] == [(t, s) for t in ("reach", "stack") for s in (0, 2, 4)][:5]
    assert len(held_out) == 5


def test_episodes_without_doubt_say_so(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="expected episodes with an outcome whose policy told its doubt"):
        read_doubts([record(tmp_path, 2, told=False)])


@pytest.mark.parametrize("fit", ["logistic", "isotonic"])
def test_the_bench_reports_the_held_out_half_and_writes_a_page(tmp_path: Path, fit) -> None:
    folder = record(tmp_path / "off", 48)
    page = tmp_path / "page.html"
    result = run(Options(str(folder), fit=fit, bins=3, false_hold=0.1, html=page, off=folder, on=folder))
    assert (result.episodes, result.successes, result.fitting, result.held_out) == (48, 32, 24, 24)
    assert {row.measure for row in result.rankings} == {"mean_entropy", "mean_probability", "min_probability"}
    best = max(result.rankings, key=lambda row: row.fitting)
    assert (result.measure, result.summary) == (best.measure, best.summary)
    assert best.held_out > 0.8
    assert sum(row.episodes for row in result.reliability) == 24
    slow, hold = result.thresholds
    assert slow.threshold is not None
    assert hold.threshold is not None
    assert slow.threshold <= hold.threshold
    apart = run(Options(str(folder), held_out=str(record(tmp_path / "other", 12, "stack")), fit=fit))
    assert (apart.fitting, apart.held_out) == (48, 12)
    (pairs,) = result.pairs
    assert (pairs.lost, pairs.won, pairs.difference, pairs.p_value) == (0, 0, 0.0, 1.0)
    text = page.read_text()
    assert text.count("<circle") == 3
    assert "{{" not in text
    for title in ("Reliability on held-out episodes", "Suggested thresholds", "hold_above", "without and with"):
        assert title in text


def test_a_measure_that_was_not_told_and_half_a_comparison_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path / "off", 12)
    with pytest.raises(CalibrationError, match=r"by agreement, found mean_entropy, .* needs --doubt-samples"):
        run(Options(str(folder), measure="agreement"))
    with pytest.raises(CalibrationError, match="expected --off and --on together"):
        run(Options(str(folder), off=folder))
    with pytest.raises(CalibrationError, match="found 12 that are in both, such as reach 0"):
        run(Options(str(folder), held_out=str(folder)))
    other = record(tmp_path / "on", 12, "stack")
    with pytest.raises(CalibrationError, match="found 12 without, such as stack 0"):
        run(Options(str(folder), off=folder, on=other))
