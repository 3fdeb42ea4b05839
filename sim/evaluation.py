"""Success rates over tasks and seeds, in parallel: the same numbers for any number of workers.

Every episode depends on its task and seed only, results are sorted, and nothing that is written holds a wall-clock
time, so two evaluations of one policy can be compared with ``diff``.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from queue import Empty
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from controllers.drivers import InterruptSwitch, StopReason
from episodes.profile import LogOptions
from episodes.results import EpisodeResult, write_results
from episodes.statistics import Proportion, wilson
from sim.assembly import assemble_loop
from sim.rollout import PolicySource, Teaching, interruptible, new_interrupt, run_episode
from sim.stack import StackConfig
from sim.tasks.base import PhrasingSet
from sim.tasks.catalog import get_task

RESULTS_NAME = "results.jsonl"
SUMMARY_NAME = "summary.json"
EPISODES_NAME = "episodes"
_POLL_S = 0.2

PolicyFactory = Callable[[], PolicySource]


class EvaluationError(RuntimeError):
    """An episode raised, or a worker died."""


class Recording(Enum):
    """Which episodes to keep."""

    NONE = "none"
    FAILURES = "failures"
    ALL = "all"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to evaluate.

    Attributes:
        policy: Makes the policy in each worker; it must pickle (a class or a module's function).
        config: The stack.
        tasks: Task names.
        episodes: Episodes for each task.
        first_seed: Seeds run from here.
        phrasing: Wordings; None for the tasks' sampled ones.
        workers: Processes; 0 runs in this one.
        out_dir: Folder for results and episodes, None to write nothing.
        recording: Which episodes to keep.
        teaching: Record the expert's labels; needs every episode kept.
        log: How kept episodes are logged.
    """

    policy: PolicyFactory
    config: StackConfig
    tasks: tuple[str, ...]
    episodes: int = 20
    first_seed: int = 1_000_000
    phrasing: PhrasingSet | None = None
    workers: int = 1
    out_dir: Path | None = None
    recording: Recording = Recording.NONE
    teaching: Teaching | None = None
    log: LogOptions = field(default_factory=LogOptions)

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ValueError: Nothing to do, an unknown or repeated task, or recording without a folder.
        """
        if not self.tasks or self.episodes < 1:
            raise ValueError(f"expected at least one task and episode, found {self.tasks} and {self.episodes}")
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"expected different tasks, found {self.tasks}")
        for task in self.tasks:
            get_task(task)
        if self.workers < 0:
            raise ValueError(f"expected 0 or more workers, found {self.workers}")
        if self.recording is not Recording.NONE and self.out_dir is None:
            raise ValueError(f"expected out_dir to record {self.recording.value} in, found none")
        if self.teaching is not None and self.recording is not Recording.ALL:
            raise ValueError(f"expected every episode to be recorded for teaching, found {self.recording.value}")

    def cases(self) -> tuple[tuple[str, int], ...]:
        """Task and seed of every episode, in the order of the results."""
        seeds = range(self.first_seed, self.first_seed + self.episodes)
        return tuple((task, seed) for task in self.tasks for seed in seeds)


def success_rate(outcomes: Iterable[bool]) -> Proportion:
    """Successes out of trials, with the 95% Wilson interval."""
    results = list(outcomes)
    return wilson(sum(results), len(results))


def avoidance_rate(outcomes: Iterable[EpisodeResult]) -> Proportion | None:
    """Episodes without a collision, of those with obstacles, with the 95% Wilson interval; None if there are none."""
    counts = [outcome.collisions for outcome in outcomes if outcome.collisions is not None]
    return success_rate(count == 0 for count in counts) if counts else None


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """Results of an evaluation.

    Attributes:
        policy: Name of the policy.
        outcomes: One for each finished episode, by task, then seed.
        by_task: Success rate of each task.
        total: Success rate over all episodes.
        avoidance: Episodes without a collision, of those with obstacles; None without obstacles.
        complete: All episodes ran; False after Ctrl-C.
    """

    policy: str
    outcomes: tuple[EpisodeResult, ...]
    by_task: dict[str, Proportion]
    total: Proportion
    complete: bool
    avoidance: Proportion | None = None

    def to_json(self) -> dict[str, object]:
        """A JSON-ready summary, without the single episodes."""
        data: dict[str, object] = {
            "policy": self.policy,
            "complete": self.complete,
            "total": _rate_json(self.total),
            "by_task": {task: _rate_json(rate) for task, rate in self.by_task.items()},
        }
        if self.avoidance is not None:
            data["avoidance"] = _rate_json(self.avoidance)
            data["collisions"] = sum(outcome.collisions or 0 for outcome in self.outcomes)
        return data


def _rate_json(rate: Proportion) -> dict[str, object]:
    return {**asdict(rate), "rate": rate.rate}


def evaluate(options: EvalOptions, *, show_progress: bool = True) -> EvalSummary:
    """Run all episodes and write the results.

    Ctrl-C ends the running episodes gently, keeps the finished ones and returns an incomplete summary.

    Raises:
        EvaluationError: An episode raised or a worker died; the message holds the worker's traceback.
        FileExistsError: The folder already holds results.
    """
    if options.out_dir is not None and (options.out_dir / RESULTS_NAME).exists():
        raise FileExistsError(f"{options.out_dir} already holds results; choose another folder")
    cases = options.cases()
    collected = run_cases(options, cases, show_progress=show_progress)
    summary = summarize(options.tasks, collected, complete=len(collected) == len(cases))
    if options.out_dir is not None:
        write_summary(options.out_dir, summary, options.config)
    return summary


def run_cases(
    options: EvalOptions, cases: Sequence[tuple[str, int]], *, show_progress: bool = True
) -> list[EpisodeResult]:
    """Run the given (task, seed) pairs and return the outcomes in the order in which they finished.

    Raises:
        EvaluationError: An episode raised or a worker died; the message holds the worker's traceback.
    """
    if not cases:
        return []
    with _progress_bar(len(cases), show_progress) as advance:
        run = _run_here if options.workers == 0 else _run_workers
        return run(options, cases, advance)


def summarize(tasks: Sequence[str], outcomes: Iterable[EpisodeResult], *, complete: bool = True) -> EvalSummary:
    """Sort outcomes by task and seed and count successes."""
    order = {task: index for index, task in enumerate(tasks)}
    ordered = tuple(sorted(outcomes, key=lambda o: (order[o.task], o.seed)))
    return EvalSummary(
        policy=ordered[0].policy if ordered else "",
        outcomes=ordered,
        by_task={task: success_rate(o.success for o in ordered if o.task == task) for task in tasks},
        total=success_rate(o.success for o in ordered),
        complete=complete,
        avoidance=avoidance_rate(ordered),
    )


def write_summary(out_dir: Path, summary: EvalSummary, config: StackConfig) -> None:
    """Write ``results.jsonl`` (one episode a line) and ``summary.json`` (rates and configuration)."""
    out_dir.mkdir(parents=True, exist_ok=True)
    write_results(out_dir / RESULTS_NAME, summary.outcomes)
    data = {**summary.to_json(), "stack": config.to_json()}
    (out_dir / SUMMARY_NAME).write_text(json.dumps(_jsonable(data), indent=2) + "\n", encoding="utf-8")


def _jsonable(value: Any) -> Any:
    """Replace what JSON has no word for by null: NaN of an empty rate, the infinite margin without safety."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------------------------------------- running


class _Runner:
    """Runs single episodes of one evaluation, keeping loop and policy between them."""

    def __init__(self, options: EvalOptions) -> None:
        self._options = options
        self._loop = assemble_loop(options.config)
        self._policy = options.policy()

    def run(self, task: str, seed: int, interrupt: InterruptSwitch) -> EpisodeResult:
        options = self._options
        keep = options.recording
        folder = options.out_dir / EPISODES_NAME if options.out_dir and keep is not Recording.NONE else None
        outcome = run_episode(
            task,
            seed,
            self._policy,
            options.config,
            out_dir=folder,
            phrasing=options.phrasing,
            teaching=options.teaching,
            interrupt=interrupt,
            loop=self._loop,
            log=options.log,
        )
        if folder is not None and keep is Recording.FAILURES and outcome.success:
            shutil.rmtree(folder / outcome.episode)
            outcome = replace(outcome, episode="")
        return outcome

    def close(self) -> None:
        self._policy.close()


def _finished(outcome: EpisodeResult) -> bool:
    return outcome.reason != StopReason.INTERRUPTED.value


def _run_here(
    options: EvalOptions, cases: Sequence[tuple[str, int]], advance: Callable[[EpisodeResult], None]
) -> list[EpisodeResult]:
    outcomes: list[EpisodeResult] = []
    runner = _Runner(options)
    try:
        with interruptible() as interrupt:
            for task, seed in cases:
                outcome = runner.run(task, seed, interrupt)
                if _finished(outcome):
                    outcomes.append(outcome)
                    advance(outcome)
                if interrupt.pressed:
                    break
    finally:
        runner.close()
    return outcomes


def _run_workers(
    options: EvalOptions, cases: Sequence[tuple[str, int]], advance: Callable[[EpisodeResult], None]
) -> list[EpisodeResult]:
    context = multiprocessing.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    # A plain flag: setting a multiprocessing.Event waits for every sleeper, and one that has exited never answers.
    stop = context.Value("b", 0, lock=False)
    for case in cases:
        todo.put(case)
    count = min(options.workers, len(cases))
    for _ in range(count):
        todo.put(None)
    todo.cancel_join_thread()  # leaving early must not wait for cases that nobody will take
    outcomes: list[EpisodeResult] = []
    with interruptible() as interrupt, _started(context, count, (options, todo, done, stop)) as workers:
        left = count
        while left:
            if interrupt.pressed:
                stop.value = 1
            try:
                result = done.get(timeout=_POLL_S)
            except Empty:
                _check_alive(workers)
                continue
            if result is None:
                left -= 1
            elif isinstance(result, str):
                stop.value = 1
                raise EvaluationError(f"an episode failed in a worker:\n{result}")
            elif _finished(result):
                outcomes.append(result)
                advance(result)
    return outcomes


@contextmanager
def _started(context: SpawnContext, count: int, arguments: tuple[Any, ...]) -> Iterator[list[SpawnProcess]]:
    """Workers with one thread of linear algebra each; ended when the block is left, however it is left."""
    limits = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    for name in limits:
        os.environ[name] = "1"
    workers = [context.Process(target=_work, args=arguments, name=f"eval-{i}") for i in range(count)]
    try:
        for worker in workers:
            worker.start()
    finally:
        for name, value in limits.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    try:
        yield workers
        for worker in workers:
            worker.join()
    finally:
        arguments[3].value = 1
        for worker in workers:
            worker.join(timeout=5.0)
            if worker.is_alive():
                worker.terminate()
                worker.join()


def _check_alive(workers: Sequence[SpawnProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise EvaluationError(
                f"worker {worker.name} died with exit code {worker.exitcode}; look at its messages above, and "
                "for a negative code at the memory"
            )


def _work(options: EvalOptions, todo: Any, done: Any, stop: Any) -> None:
    """A worker process: takes cases until there are none left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent passes Ctrl-C on by ``stop``
    interrupt = new_interrupt()

    def watch() -> None:
        while not stop.value:
            time.sleep(_POLL_S)
        interrupt.press()

    threading.Thread(target=watch, daemon=True).start()
    try:
        runner = _Runner(options)
        try:
            while not stop.value and (case := todo.get()) is not None:
                task, seed = case
                done.put(runner.run(task, seed, interrupt))
        finally:
            runner.close()
        done.put(None)
    except BaseException:
        done.put(traceback.format_exc())


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Callable[[EpisodeResult], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as progress:
        bar = progress.add_task("episodes", total=total, rate="")
        results: list[bool] = []

        def advance(outcome: EpisodeResult) -> None:
            results.append(outcome.success)
            progress.update(bar, advance=1, rate=f"{100.0 * sum(results) / len(results):.1f}% success")

        yield advance
