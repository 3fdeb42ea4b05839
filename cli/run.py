"""Run one episode: a policy drives the arm through tokens, controller and safety, and everything is logged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cli.output import console, print_json
from cli.stack import StackOptions, build_config, fresh_folder
from episodes.results import EpisodeResult
from sim.policies import PolicyChoice
from sim.realtime import Timing, run_episode_realtime
from sim.rollout import interruptible, run_episode
from sim.tasks.catalog import get_task
from vla.process import ProcessMode


@dataclass(frozen=True)
class Options:
    """Options of ``vla run``."""

    task: str
    """Task of the tabletop suite, e.g. pick_up."""
    instruction: str = ""
    """Words for the policy; empty for the task's own."""
    policy: str = "compact"
    """expert, compact, or the path of a policy folder."""
    seed: int = 1_000_000
    """Seed of scene, arrangement and wording."""
    realtime: bool = False
    """Run against the wall clock; otherwise in lock-step, as fast as the machine allows."""
    out: Path = Path("runs/run")
    """Folder for the episode; numbered if it is taken."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda."""
    stack: StackOptions = field(default_factory=StackOptions)
    """How tokens become motion."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla run --json`` prints."""

    success: bool
    reason: str
    instruction: str
    episode: str
    ticks: int
    rejected_chunks: int
    safety: dict[str, int]
    timing: Timing | None


def main(options: Options) -> int:
    """Run it; 0 when the episode ran to its end, whether or not the task succeeded, 130 after Ctrl-C."""
    get_task(options.task)
    mode = ProcessMode.ASYNCHRONOUS if options.realtime else ProcessMode.LOCK_STEP
    choice = PolicyChoice(options.policy, device=options.device, mode=mode)
    config = build_config(options.stack)
    out = fresh_folder(options.out)
    policy = choice()
    try:
        with interruptible() as interrupt:
            if options.realtime:
                outcome, timing = run_episode_realtime(
                    options.task,
                    options.seed,
                    policy,
                    config,
                    out_dir=out,
                    instruction=options.instruction or None,
                    interrupt=interrupt,
                )
            else:
                timing = None
                outcome = run_episode(
                    options.task,
                    options.seed,
                    policy,
                    config,
                    out_dir=out,
                    instruction=options.instruction or None,
                    interrupt=interrupt,
                )
    finally:
        policy.close()
    _explain(outcome, timing, out)
    if options.json:
        print_json(
            Result(
                success=outcome.success,
                reason=outcome.reason,
                instruction=outcome.instruction,
                episode=str(out / outcome.episode),
                ticks=outcome.ticks,
                rejected_chunks=sum(outcome.rejections.values()),
                safety=dict(outcome.safety_ticks),
                timing=timing,
            )
        )
    return 130 if outcome.reason == "interrupted" else 0


def _explain(outcome: EpisodeResult, timing: Timing | None, out: Path) -> None:
    verdict = "[green]success[/]" if outcome.success else f"[red]no success[/] ({outcome.reason})"
    console.print(f'{verdict}: "{outcome.instruction}" in {outcome.duration_s:.2f} s, {outcome.chunks} chunks')
    slowed = ", ".join(f"{limit} {ticks}" for limit, ticks in outcome.limits.items())
    console.print(f"safety: {dict(outcome.safety_ticks)} ticks; limits that intervened: {slowed or 'none'}")
    if outcome.rejections:
        console.print(f"[yellow]rejected chunks[/]: {dict(outcome.rejections)}")
    if timing is not None:
        priority = "with" if timing.realtime_priority else "without"
        console.print(
            f"late {priority} real-time priority: median {timing.late_p50_ms:.2f} ms, p99 {timing.late_p99_ms:.2f} ms, "
            f"worst {timing.late_max_ms:.2f} ms; {timing.missed} deadlines missed"
        )
    console.print(f"episode: {out / outcome.episode}", highlight=False)
