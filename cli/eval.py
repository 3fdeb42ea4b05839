"""Run many episodes and report success rates with Wilson 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.table import Table

from cli.output import console, print_json
from cli.stack import StackOptions, build_config, fresh_folder
from episodes.report.page import write_report
from episodes.statistics import Proportion
from sim.evaluation import EPISODES_NAME, EvalOptions, EvalSummary, Recording, avoidance_rate, evaluate
from sim.foreign import ForeignAccess
from sim.obstacles.routes import ROUTED_TASKS
from sim.policies import PolicyChoice
from sim.preflight import require_preflight
from sim.remote import RemoteAccess
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
    """expert, blind_expert (knows of no obstacles), compact, a folder, lerobot:, rt2:, openvla: or openvla-oft:PATH, or
    ws://host:port."""
    episodes: int = 20
    """Episodes for each task."""
    seed: int = 1_000_000
    """First seed; seeds below 1,000,000 are for collecting training data."""
    phrasings: Literal["seen", "unseen"] = "seen"
    """Wordings of the instructions: those of training, or held-out ones."""
    latency: str = ""
    """How long the policy takes, on the virtual clock: 300ms, normal:300ms,50ms, FILE.jsonl, ...; empty for no time."""
    workers: int = 1
    """Processes; the results do not depend on it."""
    record: Literal["none", "failures", "all"] = "all"
    """Which episodes to keep."""
    out: Path = Path("runs/eval")
    """Folder for results, episodes and report; numbered if it is taken."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda."""
    doubt_samples: int = 0
    """Sampled decodes that the compact VLA compares each chunk with, for the doubt agreement; 0 for none."""
    remote: RemoteAccess = field(default_factory=RemoteAccess)
    """How to talk to a policy server."""
    foreign: tyro.conf.OmitArgPrefixes[ForeignAccess] = field(default_factory=ForeignAccess)
    """How to run another project's policy."""
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
    avoidance_rate: float | None
    avoidance_wilson95: tuple[float, float] | None
    collisions: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla eval --json`` prints."""

    success_rate: float
    wilson95: tuple[float, float]
    episodes: int
    tasks: dict[str, TaskResult]
    avoidance_rate: float | None
    avoidance_wilson95: tuple[float, float] | None
    collisions: int | None
    rejected_chunks: int
    complete: bool
    out: str
    report: str


def main(options: Options) -> int:
    """Evaluate; 130 after Ctrl-C."""
    names = tuple(name.strip() for name in options.tasks.split(",") if name.strip())
    names = names or (task_names() if options.stack.obstacles == "none" else ROUTED_TASKS)
    for name in names:
        get_task(name)
        if options.stack.obstacles != "none" and name not in ROUTED_TASKS:
            raise ValueError(f"expected tasks among {', '.join(ROUTED_TASKS)} with obstacles, found {name!r}")
    choice = PolicyChoice(
        options.policy,
        device=options.device,
        remote=options.remote,
        foreign=options.foreign,
        doubt_samples=options.doubt_samples,
    )
    config = choice.configure(build_config(options.stack, latency=options.latency))
    require_preflight(choice, config)
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
    def task(name: str, rate: Proportion) -> TaskResult:
        return TaskResult(rate.rate, (rate.low, rate.high), rate.trials, *_avoidance(summary, name))

    total = summary.total
    avoidance, interval, collisions = _avoidance(summary)
    return Result(
        success_rate=total.rate,
        wilson95=(total.low, total.high),
        episodes=total.trials,
        tasks={name: task(name, rate) for name, rate in summary.by_task.items()},
        avoidance_rate=avoidance,
        avoidance_wilson95=interval,
        collisions=collisions,
        rejected_chunks=sum(sum(outcome.rejections.values()) for outcome in summary.outcomes),
        complete=summary.complete,
        out=str(out),
        report=str(report),
    )


def _avoidance(summary: EvalSummary, task: str = "") -> tuple[float | None, tuple[float, float] | None, int | None]:
    """Rate, interval and number of collisions of one task or of all; None without obstacles."""
    outcomes = [outcome for outcome in summary.outcomes if task in ("", outcome.task)]
    rate = avoidance_rate(outcomes)
    if rate is None:
        return None, None, None
    return rate.rate, (rate.low, rate.high), sum(outcome.collisions or 0 for outcome in outcomes)


def _table(policy: str, summary: EvalSummary) -> Table:
    columns = ["task", "success", "95% interval", "episodes", "mean s"]
    if summary.avoidance is not None:
        columns += ["avoided", "95% interval", "collisions"]
    table = Table(*columns, title=f"vla eval: {policy}")
    for name, rate in (*summary.by_task.items(), ("all", summary.total)):
        durations = [o.duration_s for o in summary.outcomes if name in (o.task, "all")]
        mean = sum(durations) / max(1, len(durations))
        rate_avoided, interval, collisions = _avoidance(summary, "" if name == "all" else name)
        avoided = []
        if rate_avoided is not None and interval is not None:
            low, high = interval
            avoided = [f"{100 * rate_avoided:.1f}%", f"{100 * low:.1f} to {100 * high:.1f}", str(collisions)]
        table.add_row(
            name,
            f"{100 * rate.rate:.1f}%",
            f"{100 * rate.low:.1f} to {100 * rate.high:.1f}",
            str(rate.trials),
            f"{mean:.1f}",
            *avoided,
            style="bold" if name == "all" else None,
        )
    return table
