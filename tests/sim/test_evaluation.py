"""Evaluations: the same numbers for any number of workers, honest intervals, nothing lost on Ctrl-C or failure."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from episodes.reader import find_episodes
from episodes.results import EpisodeResult, read_results
from sim import evaluation
from sim.assembly import default_config
from sim.evaluation import (
    EvalOptions,
    EvaluationError,
    Recording,
    evaluate,
    success_rate,
    summarize,
)
from sim.rollout import ExpertSource
from sim.stack import StackConfig

BLIND = replace(default_config(), cameras={})


class Broken(ExpertSource):
    """Refuses every stack."""

    def check(self, config: StackConfig) -> None:
        raise ValueError("the policy was trained on another robot")


class Dying(ExpertSource):
    """Takes its worker down with it."""

    def check(self, config: StackConfig) -> None:
        os._exit(3)


def options(**changes) -> EvalOptions:
    defaults = {"policy": ExpertSource, "config": BLIND, "tasks": ("press_button", "reach"), "episodes": 2}
    return EvalOptions(**{**defaults, **changes})


def outcome(task: str, seed: int, success: bool) -> EpisodeResult:
    reason = "success" if success else "time_limit"
    return EpisodeResult(
        task=task,
        seed=seed,
        instruction="do",
        policy="p",
        success=success,
        reason=reason,
        ticks=10,
        duration_s=0.05,
        chunks=1,
        rejections={},
        safety_ticks={},
        limits={},
        min_margin=0.1,
        final_digest="00",
    )


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    texts = set()
    for workers in (0, 1, 3):
        folder = tmp_path / str(workers)
        summary = evaluate(options(workers=workers, out_dir=folder), show_progress=False)
        assert summary.complete
        assert [(o.task, o.seed) for o in summary.outcomes] == list(options().cases())
        texts.add((folder / "results.jsonl").read_text() + (folder / "summary.json").read_text())
    assert len(texts) == 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (3, 5), (17, 20), (190, 200)])
def test_wilson_interval_agrees_with_scipy(successes: int, trials: int) -> None:
    rate = success_rate([True] * successes + [False] * (trials - successes))
    reference = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (rate.low, rate.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert rate.rate == successes / trials


def test_no_trials_know_nothing() -> None:
    rate = success_rate([])
    assert math.isnan(rate.rate)
    assert (rate.low, rate.high) == (0.0, 1.0)


def test_summary_sorts_by_task_then_seed() -> None:
    outcomes = [outcome("b", 2, True), outcome("a", 5, False), outcome("b", 1, False), outcome("a", 4, True)]
    summary = summarize(("b", "a"), outcomes)
    assert [(o.task, o.seed) for o in summary.outcomes] == [("b", 1), ("b", 2), ("a", 4), ("a", 5)]
    assert summary.by_task["b"].successes == 1
    assert summary.total.trials == 4


def test_results_survive_the_file(tmp_path: Path) -> None:
    summary = evaluate(options(workers=0, out_dir=tmp_path, tasks=("reach",)), show_progress=False)
    recorded = read_results(tmp_path / "results.jsonl")
    assert recorded == sorted(summary.outcomes, key=lambda o: (o.task, o.seed))
    assert StackConfig.from_json(json.loads((tmp_path / "summary.json").read_text())["stack"]) == BLIND
    with pytest.raises(FileExistsError, match="another folder"):
        evaluate(options(workers=0, out_dir=tmp_path), show_progress=False)
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"results.jsonl, line 1: expected the result"):
        read_results(tmp_path / "results.jsonl")


def test_only_failures_are_kept_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluation.run_episode

    def second_fails(task: str, seed: int, *args, **kwargs) -> EpisodeResult:
        result = real(task, seed, *args, **kwargs)
        return replace(result, success=False) if seed % 2 else result

    monkeypatch.setattr(evaluation, "run_episode", second_fails)
    chosen = options(workers=0, out_dir=tmp_path, tasks=("reach",), recording=Recording.FAILURES)
    summary = evaluate(chosen, show_progress=False)
    kept = [path.name for path in find_episodes(tmp_path / "episodes")]
    assert kept == [o.episode for o in summary.outcomes if not o.success] == ["reach-1000001.zarr"]


def test_interrupt_keeps_the_finished_episodes(tmp_path: Path) -> None:
    seen: list[str] = []
    real = evaluation.run_episode

    def interrupted_after_one(*args, **kwargs) -> EpisodeResult:
        if seen:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append("episode")
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "run_episode", interrupted_after_one)
        summary = evaluate(options(workers=0, out_dir=tmp_path), show_progress=False)
    assert not summary.complete
    assert len(summary.outcomes) == 1
    assert len(read_results(tmp_path / "results.jsonl")) == 1


@pytest.mark.slow
def test_interrupt_ends_workers_gently(tmp_path: Path) -> None:
    chosen = options(workers=1, out_dir=tmp_path, episodes=500)
    timer = threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    summary = evaluate(chosen, show_progress=False)
    timer.cancel()
    assert not summary.complete
    assert len(read_results(tmp_path / "results.jsonl")) == len(summary.outcomes) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "message"), [(Broken, "trained on another robot"), (Dying, "exit code 3")])
def test_failing_worker_is_an_error_not_a_failure_of_the_policy(policy: type, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(options(policy=policy), show_progress=False)


def test_nothing_to_do_or_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        options(tasks=())
    with pytest.raises(ValueError, match="did you mean 'reach'"):
        options(tasks=("reech",))
    with pytest.raises(ValueError, match="different tasks"):
        options(tasks=("reach", "reach"))
    with pytest.raises(ValueError, match="out_dir"):
        options(recording=Recording.ALL)
