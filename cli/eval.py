"""Run many episodes and report success rates with Wilson 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.table import Table

from cli.output import console, print_json
from cli.stack import StackOptions, build_config, fresh_folder
from episodes.report.page import write_report
from episodes.statistics import Proportion
from sim.evaluation import EPISODES_NAME, EvalOptions, EvalSummary, Recording, evaluate
from sim.policies import PolicyChoice
from sim.tasks.base import PhrasingSet
from sim.tasks.catalog import get_task, task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla eval``."""

    suite: Literal["tabletop"] = "tabletop"
    """Suite of tasks."""
    tasks: str = ""
    """Tasks, separated by commas; empty for all of the suite."""
    policy: str = "compact"
    """expert, compact, or the path of a policy folder."""
    episodes: int = 20
    """Episodes for each task."""
    seed: int = 1_000_000
    """First seed; seeds below 1,000,000 are for collecting training data."""
    phrasings: Literal["seen", "unseen"] = "seen"
    """Wordings of the instructions: those of training, or held-out ones."""
    workers: int = 1
    """Processes; the results do not depend on it."""
    record: Literal["none", "failures", "all"] = "all"
    """Which episodes to keep."""
    out: Path = Path("runs/eval")
    """Folder for results, episodes and report; numbered if it is taken."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda."""
    stack: StackOptions = field(default_factory=StackOptions)
    """How tokens become motion."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task's part of the result."""

    success_rate: float
    wilson95: tuple[float, float]
    episodes: int


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla eval --json`` prints."""

    success_rate: float
    wilson95: tuple[float, float]
    episodes: int
    tasks: dict[str, TaskResult]
    rejected_chunks: int
    complete: bool
    out: str
    report: str


def main(options: Options) -> int:
    """Evaluate; 130 after Ctrl-C."""
    names = tuple(name.strip() for name in options.tasks.split(",") if name.strip()) or task_names()
    for name in names:
        get_task(name)
    choice = PolicyChoice(options.policy, device=options.device)
    config = build_config(options.stack)
    out = fresh_folder(options.out)
    summary = evaluate(
        EvalOptions(
            policy=choice,
            config=config,
            tasks=names,
            episodes=options.episodes,
            first_seed=options.seed,
            phrasing=PhrasingSet(options.phrasings),
            workers=options.workers,
            out_dir=out,
            recording=Recording(options.record),
        )
    )
    report = write_report(
        out / EPISODES_NAME, summary.outcomes, out / "report.html", title=f"{options.policy} on {options.suite}"
    )
    result = _result(summary, out, report)
    console.print(_table(options.policy, summary))
    console.print(f"results: {out / 'results.jsonl'}\nreport:  {report}", highlight=False)
    if options.json:
        print_json(result)
    return 0 if summary.complete else 130


def _result(summary: EvalSummary, out: Path, report: Path) -> Result:
    def task(rate: Proportion) -> TaskResult:
        return TaskResult(rate.rate, (rate.low, rate.high), rate.trials)

    total = summary.total
    return Result(
        success_rate=total.rate,
        wilson95=(total.low, total.high),
        episodes=total.trials,
        tasks={name: task(rate) for name, rate in summary.by_task.items()},
        rejected_chunks=sum(sum(outcome.rejections.values()) for outcome in summary.outcomes),
        complete=summary.complete,
        out=str(out),
        report=str(report),
    )


def _table(policy: str, summary: EvalSummary) -> Table:
    table = Table("task", "success", "95% interval", "episodes", "mean s", title=f"vla eval: {policy}")
    for name, rate in (*summary.by_task.items(), ("all", summary.total)):
        durations = [o.duration_s for o in summary.outcomes if name in (o.task, "all")]
        mean = sum(durations) / max(1, len(durations))
        table.add_row(
            name,
            f"{100 * rate.rate:.1f}%",
            f"{100 * rate.low:.1f} to {100 * rate.high:.1f}",
            str(rate.trials),
            f"{mean:.1f}",
            style="bold" if name == "all" else None,
        )
    return table
