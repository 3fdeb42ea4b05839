"""Run one episode: a policy drives the arm through tokens, controller and safety, and everything is logged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from cli.output import console, print_json
from cli.stack import StackOptions, build_config, fresh_folder
from cli.timing import TimingOptions
from episodes.log_faults import LogReport
from episodes.profile import LOSSLESS, LogOptions, camera_profile
from episodes.results import EpisodeResult
from sim.foreign import ForeignAccess, ForeignSource
from sim.policies import CompactSource, PolicyChoice
from sim.preflight import require_preflight
from sim.realtime import Timing, run_episode_realtime
from sim.remote import RemoteAccess
from sim.rollout import interruptible, run_episode
from sim.tasks.catalog import get_task
from vla.process import ProcessMode
from vla.process.account import BoundaryAccount
from vla.process.timing import LatencySummary


@dataclass(frozen=True)
class Options:
    """Options of ``vla run``."""

    task: str
    """Task of the tabletop suite, e.g. pick_up."""
    instruction: str = ""
    """Words for the policy; empty for the task's own."""
    policy: str = "compact"
    """expert, compact, the path of a policy folder, lerobot:PATH, rt2:PATH, openvla:PATH, openvla-oft:PATH, or ws://host:port."""
    seed: int = 1_000_000
    """Seed of scene, arrangement and wording."""
    realtime: bool = False
    """Run against the wall clock; otherwise in lock-step, as fast as the machine allows."""
    latency: str = ""
    """How long the policy takes, on the virtual clock: 300ms, normal:300ms,50ms, FILE.jsonl, ...; empty for no time."""
    out: Path = Path("runs/run")
    """Folder for the episode; numbered if it is taken."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda."""
    doubt_samples: int = 0
    """Sampled decodes that the compact VLA compares each chunk with, for the doubt agreement; 0 for none."""
    remote: RemoteAccess = field(default_factory=RemoteAccess)
    """How to talk to a policy server."""
    foreign: tyro.conf.OmitArgPrefixes[ForeignAccess] = field(default_factory=ForeignAccess)
    """How to run another project's policy."""
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Precision of the policy."""
    threads: int = 1
    """Compute threads of the policy's process."""
    stack: StackOptions = field(default_factory=StackOptions)
    """How tokens become motion."""
    camera_log: str = LOSSLESS
    """How pictures are logged: lossless, or jpeg:QUALITY, which is smaller and not what the policy saw."""
    timing: TimingOptions = field(default_factory=TimingOptions)
    """With --realtime: what the system is asked for, and what happens when something is late."""
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
    boundary: BoundaryAccount | None
    inference: LatencySummary | None


def main(options: Options) -> int:
    """Run it; 0 when the episode ran to its end, whether or not the task succeeded, 130 after Ctrl-C.

    1 when ticks are missing from its log, or the log could not be turned into a finished store.
    """
    get_task(options.task)
    mode = ProcessMode.ASYNCHRONOUS if options.realtime else ProcessMode.LOCK_STEP
    if options.latency and options.realtime:
        raise ValueError(
            f"expected no --latency with --realtime, found {options.latency!r}: the wall clock cannot be told how long "
            "the policy takes; drop one of them"
        )
    choice = PolicyChoice(
        options.policy,
        device=options.device,
        dtype=options.dtype,
        threads=options.threads,
        mode=mode,
        supervision=options.timing.supervision(),
        remote=options.remote,
        foreign=options.foreign,
        doubt_samples=options.doubt_samples,
    )
    cameras = camera_profile(options.camera_log)
    settings = options.timing.settings(cameras)
    config = choice.configure(build_config(options.stack, latency=options.latency))
    require_preflight(choice, config, options.instruction)
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
                    settings=settings,
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
                    log=LogOptions(cameras),
                )
        account = policy.account if isinstance(policy, ForeignSource) else None
        timings = policy.timings if isinstance(policy, ForeignSource | CompactSource) else ()
    finally:
        policy.close()
    inference = LatencySummary.of(timings) if timings else None
    _explain(outcome, timing, out, account)
    if inference is not None:
        console.print(f"policy, {inference.line()}", highlight=False)
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
                boundary=account,
                inference=inference,
            )
        )
    if timing is not None and timing.log.failure:
        return 1
    return 130 if outcome.reason == "interrupted" else 0


def _explain_log(log: LogReport) -> None:
    for fault in log.faults:
        console.print(f"[yellow]the log could not be written[/] {fault}", highlight=False)
    if log.dropped_frames:
        console.print(f"[yellow]{log.dropped_frames} frames are not in the log[/]: it could not keep up")
    if log.failure:
        console.print(f"[red]the log is not complete[/]: {log.lost_ticks} ticks lost; {log.failure}", highlight=False)


def _explain(outcome: EpisodeResult, timing: Timing | None, out: Path, account: BoundaryAccount | None) -> None:
    verdict = "[green]success[/]" if outcome.success else f"[red]no success[/] ({outcome.reason})"
    console.print(f'{verdict}: "{outcome.instruction}" in {outcome.duration_s:.2f} s, {outcome.chunks} chunks')
    slowed = ", ".join(f"{limit} {ticks}" for limit, ticks in outcome.limits.items())
    console.print(f"safety: {dict(outcome.safety_ticks)} ticks; limits that intervened: {slowed or 'none'}")
    if outcome.rejections:
        console.print(f"[yellow]rejected chunks[/]: {dict(outcome.rejections)}")
    if timing is not None:
        record = timing.deadlines
        priority = "with" if record.realtime_priority else "without"
        console.print(
            f"late {priority} real-time priority: median {record.late_p50_ms:.3f} ms, p99 {record.late_p99_ms:.3f} ms, "
            f"p99.9 {record.late_p999_ms:.3f} ms, worst {record.late_max_ms:.2f} ms; "
            f"{record.missed} deadlines missed, held {record.holds} times for it"
        )
        if timing.policy_faults:
            found = ", ".join(f"{count} times {kind}" for kind, count in timing.policy_faults.items())
            console.print(f"[yellow]the policy's process was restarted[/]: {found}; the arm held meanwhile")
        if timing.refused:
            console.print(f"[yellow]{timing.refused}[/]")
        _explain_log(timing.log)
    if account is not None:
        console.print("\n".join(account.lines()), highlight=False)
    console.print(f"episode: {out / outcome.episode}", highlight=False)
