"""Attack the safety filter in simulation, and let an independent monitor judge what the arm really does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from rich.progress import Progress
from rich.table import Table

from cli.output import console, print_json
from controllers.robot import BUILT_IN_ROBOTS
from safety.monitor import MonitorTolerance, SenseError
from sim.fuzz import (
    SENSE_ERROR,
    Attack,
    CampaignOptions,
    CampaignReport,
    EpisodeName,
    Finding,
    Tally,
    run_campaign,
)

_SHOWN_FINDINGS = 10


@dataclass(frozen=True)
class Options:
    """Options of ``vla safety fuzz``."""

    ticks: int = 20_000
    """Ticks that the filter shall face, over all arms and attacks."""
    seed: int = 0
    """Seed of everything; the same seed gives the same attacks for any number of workers."""
    attack: Literal["random", "bang-bang", "max", "nan", "replay", "near-limit", "adversarial", "all"] = "all"
    """Which attack."""
    arms: str = ",".join(BUILT_IN_ROBOTS)
    """Robots, separated by commas; each needs a profile NAME_tabletop."""
    workers: int = 1
    """Processes."""
    reference: bool = True
    """Also run every attack without the filter."""
    only: str = ""
    """Run one episode alone, ARM:ATTACK:INDEX as findings name it; mind the seed."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class LimitResult:
    """One limit's part of the result."""

    violations: int
    violations_without_filter: int
    min_margin: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class FindingResult:
    """An episode in which the filter failed, and how to run it again."""

    episode: str
    limit: str
    where: str
    margin: float
    unit: str
    time_s: float
    violations: int
    crash: str
    reproduce: str


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla safety fuzz --json`` prints."""

    ticks: int
    violations: int
    ticks_without_filter: int
    violations_without_filter: int
    min_margin: float
    crashes: int
    episodes: int
    attacks: dict[str, Tally]
    arms: dict[str, Tally]
    limits: dict[str, LimitResult]
    first_violations: tuple[FindingResult, ...]
    tolerance: MonitorTolerance
    sense_error: SenseError
    seed: int
    seconds: float


def fuzz(options: Options) -> int:
    """Attack; 1 if the monitor found a violation or the stack raised anything."""
    attacks = tuple(Attack) if options.attack == "all" else (Attack(options.attack),)
    arms = tuple(name.strip() for name in options.arms.split(",") if name.strip())
    if options.ticks < 1 or options.workers < 1 or not arms:
        raise ValueError("expected at least one tick, one worker and one arm")
    only = EpisodeName.parse(options.only) if options.only else None
    campaign = CampaignOptions(options.ticks, options.seed, attacks, arms, options.workers, options.reference, only)
    started = time.monotonic()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("fuzzing", total=options.ticks)
        report = run_campaign(campaign, lambda done, _: bar.update(task, completed=done))
    result = _result(options, report, time.monotonic() - started)
    _print(result)
    if options.json:
        print_json(result)
    return 1 if result.violations or result.crashes else 0


main = fuzz


def _result(options: Options, report: CampaignReport, seconds: float) -> Result:
    total = report.total
    limits = {
        limit.value: LimitResult(
            tally.violations,
            tally.violations_without_filter,
            None if tally.lowest is None else tally.lowest.margin,
            "" if tally.lowest is None else tally.lowest.unit,
        )
        for limit, tally in sorted(report.limits.items(), key=lambda item: item[0].value)
    }
    return Result(
        ticks=total.ticks,
        violations=total.violations,
        ticks_without_filter=total.ticks_without_filter,
        violations_without_filter=total.violations_without_filter,
        min_margin=total.min_margin,
        crashes=total.crashes,
        episodes=report.episodes,
        attacks={attack.value: tally for attack, tally in report.attacks.items()},
        arms=report.arms,
        limits=limits,
        first_violations=tuple(_finding(finding, options.seed) for finding in report.findings),
        tolerance=MonitorTolerance(),
        sense_error=SENSE_ERROR,
        seed=options.seed,
        seconds=seconds,
    )


def _finding(finding: Finding, seed: int) -> FindingResult:
    violation = finding.violation
    return FindingResult(
        episode=str(finding.episode),
        limit="" if violation is None else violation.limit.value,
        where="" if violation is None else violation.where,
        margin=0.0 if violation is None else violation.margin,
        unit="" if violation is None else violation.unit,
        time_s=0.0 if violation is None else violation.time_ns * 1e-9,
        violations=finding.violations,
        crash=finding.crash,
        reproduce=f"vla safety fuzz --seed {seed} --only {finding.episode}",
    )


def _print(result: Result) -> None:
    table = Table("", "ticks", "violations", "without filter", "min margin", title="vla safety fuzz")
    rows = [*result.attacks.items(), *result.arms.items()]
    for name, tally in rows:
        without = f"{tally.violations_without_filter} of {tally.ticks_without_filter}"
        style = "red" if tally.violations or tally.crashes else None
        table.add_row(name, str(tally.ticks), str(tally.violations), without, f"{tally.min_margin:.3g}", style=style)
    without = f"{result.violations_without_filter} of {result.ticks_without_filter}"
    row = ("all", str(result.ticks), str(result.violations), without, f"{result.min_margin:.3g}")
    table.add_row(*row, style="bold")
    console.print(table)
    for finding in result.first_violations[:_SHOWN_FINDINGS]:
        what = finding.crash or f"{finding.limit} at {finding.where} by {-finding.margin:.3g} {finding.unit}"
        console.print(f"{what} after {finding.time_s:.3f} s: {finding.reproduce}", highlight=False)
    console.print(
        f"{result.ticks / max(result.seconds, 1e-9):.0f} ticks/s with and without the filter", highlight=False
    )
