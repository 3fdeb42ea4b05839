"""Chunk execution strategies under delay: success, idle ticks, seams, and what the commands ask of the joints.

Every strategy runs the same episodes on the virtual clock at each delay; the naive asynchronous switch is the
reference. The expert writes chunks long enough for the largest delay (``--expert-horizon``); the compact VLA's chunks
are as long as it was trained for, so that token_rtc and ensembling slow its motion down where a delay outlasts them.
With ``--out`` every finished episode is kept, and a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track as progress

from benchmarks.machine import Machine
from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.drivers import run_lockstep
from controllers.executor import ExecutorState
from controllers.latency import ConstantLatency, LatencyClient, LatencyModel
from controllers.loop import ControlLoop, LoopState
from controllers.robot import load_robot
from controllers.spatial import rotation_difference
from controllers.types import ExecutorStatus, FloatArray, RobotState, SafetyStatus, TickInputs, TickOutputs
from controllers.waypoints import sample
from safety.yielding import SETS_BACK
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.policies import EXPERT, PolicyChoice
from sim.rollout import PolicySource, Tally, success_condition
from sim.stack import StackConfig
from sim.tasks.catalog import get_task, task_names
from vla.tokenizers import COMPACT_TOKENIZER

_MOVING = (SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.OFF)
_ROUNDING = 1.0 + 1e-6  # differences of rounded positions
# A stop for one of these lets go: the command goes back to where the arm stands.
_FORCES = ("contact_force", "external_torque")
_DIFFERENCES = 4  # ticks that a jerk is a difference of


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench chunking``."""

    episodes: int = 1
    """Episodes of each task, for each policy, strategy and delay."""
    policies: str = "expert,compact"
    """Policies, separated by commas."""
    strategies: str = "synchronous,switch,ensembling,token_rtc"
    """Strategies, separated by commas."""
    delays_ms: str = "0,300,750"
    """Delays, separated by commas."""
    tasks: str = ""
    """Tasks, separated by commas; empty for all."""
    seed: int = 2_000_000
    """First seed."""
    expert_horizon: int = 34
    """Rows of the expert's chunks."""
    out: Path | None = None
    """File of finished episodes, one JSON object a line; those that are there are not run again."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What one episode came to.

    ``in_time``: success within the task's time limit; ``success``: within that limit in the executor's time, which a
    slow model stretches. Peaks are the largest joint's share of its limit, over the applied commands; ``asked`` ones
    over what the controller asked the safety filter for. Where the filter sets the path back because the servos press
    too hard on something, or stops for a force above the ceiling and lets go, that outranks acceleration and jerk:
    ``set_back`` counts samples above them there, and peaks leave them out.
    """

    policy: str
    strategy: str
    delay_ms: float
    task: str
    seed: int
    in_time: bool
    success: bool
    duration_s: float
    idle_ticks: int
    seam_bins: float
    over_acceleration: int
    over_jerk: int
    set_back: int
    peak_acceleration: float
    peak_jerk: float
    asked_acceleration: float
    asked_jerk: float
    chunks: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Row:
    """All episodes of one policy, strategy and delay."""

    policy: str
    strategy: str
    delay_ms: float
    episodes: int
    in_time: float
    success: float
    mean_s: float
    idle_ticks: int
    max_seam_bins: float
    over_limits: int
    set_back: int
    peak_acceleration: float
    peak_jerk: float
    asked_acceleration: float
    asked_jerk: float
    rejected: int


@dataclass(frozen=True, slots=True)
class Result:
    """Rows, and for token_rtc over all delays: see the fields.

    ``success_delta`` is the worst difference to the same policy without delay, points; ``in_time_delta`` the same
    within the tasks' own time limits. ``peak_jerk_ratio`` is the mean over episodes with delay of the largest applied
    jerk, over that of the naive switch. ``samples_above_limits`` counts applied accelerations and jerks of all
    strategies; those of ``set_back_samples`` come from the filter giving way to a contact, and are not among them.
    """

    rows: list[Row]
    idle_ticks: int
    max_seam_bins: float
    success_delta: float
    in_time_delta: float
    peak_jerk_ratio: float
    samples_above_limits: int
    set_back_samples: int
    extra_forward_passes: int
    reference: str
    reference_idle_ticks: int
    reference_max_seam_bins: float
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    strategies = [ChunkStrategyName.named(name) for name in _names(options.strategies)]
    delays = [float(value) for value in _names(options.delays_ms)]
    tasks = _names(options.tasks) or list(task_names())
    for task in tasks:
        get_task(task)
    episodes = _finished(options.out)
    for policy in _names(options.policies):
        seeds = range(options.seed, options.seed + options.episodes)
        cases = [(s, d, t, seed) for seed in seeds for t in tasks for d in delays for s in strategies]
        todo = [case for case in cases if _key(policy, *case) not in episodes]
        if not todo:
            continue
        source = PolicyChoice(policy)()
        try:
            for strategy, delay, task, seed in progress(todo, description=policy):
                config = _config(policy, strategy, delay, options)
                episode = _episode(source, policy, config, delay, task, seed)
                episodes[_key(policy, strategy, delay, task, seed)] = episode
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(episode)) + "\n")
        finally:
            source.close()
    return _result(list(episodes.values()), machine)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _key(policy: str, strategy: ChunkStrategyName, delay: float, task: str, seed: int) -> tuple[object, ...]:
    return (policy, strategy.value, delay, task, seed)


def _finished(path: Path | None) -> dict[tuple[object, ...], Episode]:
    if path is None or not path.exists():
        return {}
    found = [Episode(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(e.policy, e.strategy, e.delay_ms, e.task, e.seed): e for e in found}


def _config(policy: str, strategy: ChunkStrategyName, delay_ms: float, options: Options) -> StackConfig:
    config = default_config()
    spec = config.action_spec
    if policy == EXPERT:
        config = replace(config, cameras={}, action_spec=replace(spec, horizon=options.expert_horizon))
    latency = LatencyModel(ConstantLatency(delay_ms)) if delay_ms > 0.0 else None
    return replace(config, chunking=ChunkingOptions(strategy=strategy), latency=latency)


def _episode(source: PolicySource, policy: str, config: StackConfig, delay_ms: float, task: str, seed: int) -> Episode:
    source.check(config)
    with assemble_sim(config, task, seed) as cell:
        loop = assemble_loop(config)
        watched = _Watched(loop, config)
        client = source.client(cell, config)
        tally = Tally(cell, None, 1_000_000)
        limit = round(cell.instance.time_limit_s * config.control_rate_hz)
        ticks = round(delay_ms * 1e-3 * config.control_rate_hz)
        stretched = round(limit / loop.executor.pace_for(ticks))
        summary = run_lockstep(
            watched,  # pyright: ignore[reportArgumentType]
            cell.robot,
            client if config.latency is None else LatencyClient(client, config.latency),
            cell.source,
            tally,
            max_ticks=stretched,
            stop=success_condition(cell, config),
        )
    success = summary.reason.value == "success"
    joints = watched.joints
    return Episode(
        policy=policy,
        strategy=config.chunking.strategy.value,
        delay_ms=delay_ms,
        task=task,
        seed=seed,
        in_time=success and summary.ticks <= limit,
        success=success,
        duration_s=summary.ticks / config.control_rate_hz,
        idle_ticks=watched.idle_ticks,
        seam_bins=watched.seam_bins,
        over_acceleration=joints.over_acceleration,
        over_jerk=joints.over_jerk,
        set_back=joints.set_back,
        peak_acceleration=joints.peak_acceleration,
        peak_jerk=joints.peak_jerk,
        asked_acceleration=joints.asked_acceleration,
        asked_jerk=joints.asked_jerk,
        chunks=tally.chunks,
        rejected=sum(tally.rejections.values()),
    )


class _Joints:
    """Differences of joint position commands, as shares of the robot's limits."""

    def __init__(self, config: StackConfig) -> None:
        limits = load_robot(config.robot).limits
        self._acceleration, self._jerk = limits.acceleration, limits.jerk
        self._rate = float(config.control_rate_hz)
        self._position = np.zeros(len(self._acceleration))
        self._velocity = np.zeros(len(self._acceleration))
        self._last = np.zeros(len(self._acceleration))
        self._disturbed = 0  # ticks whose differences still reach back to a path that was set back
        self.over_acceleration = self.over_jerk = self.set_back = 0
        self.peak_acceleration = self.peak_jerk = 0.0
        self.asked_acceleration = self.asked_jerk = 0.0

    def begin(self, position: FloatArray) -> None:
        """At rest at ``position`` (n,) rad before the first tick."""
        self._position = position

    def take(self, asked: FloatArray, applied: FloatArray, *, set_back: bool) -> None:
        """Count one tick: what the controller asked for and what was applied, (n,) rad each.

        Args:
            asked: By the controller.
            applied: By the safety filter.
            set_back: The filter set the path back on this tick.
        """
        self.asked_acceleration, self.asked_jerk = (
            max(before, share)
            for before, share in zip((self.asked_acceleration, self.asked_jerk), self._shares(asked)[:2], strict=True)
        )
        acceleration, jerk, velocity, change = self._shares(applied)
        self._disturbed = _DIFFERENCES if set_back else max(self._disturbed - 1, 0)
        if self._disturbed:
            self.set_back += (acceleration > _ROUNDING) + (jerk > _ROUNDING)
        else:
            self.over_acceleration += acceleration > _ROUNDING
            self.over_jerk += jerk > _ROUNDING
            self.peak_acceleration = max(self.peak_acceleration, acceleration)
            self.peak_jerk = max(self.peak_jerk, jerk)
        self._position, self._velocity, self._last = applied, velocity, change

    def _shares(self, values: FloatArray) -> tuple[float, float, FloatArray, FloatArray]:
        velocity = (values - self._position) * self._rate
        acceleration = (velocity - self._velocity) * self._rate
        jerk = (acceleration - self._last) * self._rate
        shares = np.abs(acceleration) / self._acceleration, np.abs(jerk) / self._jerk
        return float(shares[0].max()), float(shares[1].max()), velocity, acceleration


class _Watched:
    """The loop, with a look at every tick."""

    def __init__(self, loop: ControlLoop, config: StackConfig) -> None:
        self.commanded_pose = loop.commanded_pose
        self.prefix = loop.prefix
        self._loop = loop
        self._bins = 2.0 * COMPACT_TOKENIZER.bin_tolerance(config.action_spec)[:, 0]
        self.joints = _Joints(config)
        self.idle_ticks = 0
        self.seam_bins = 0.0
        self._begun = False

    def initial(self, state: RobotState) -> LoopState:
        """The loop state before the first tick."""
        self.joints.begin(state.joint_position)
        return self._loop.initial(state)

    def tick(self, state: LoopState, inputs: TickInputs) -> tuple[LoopState, TickOutputs]:
        after, outputs = self._loop.tick(state, inputs)
        before: ExecutorState = state.executor
        free = state.verdict is None or state.verdict.status in _MOVING
        if self._begun and free and self._idles(before, after.executor, outputs):
            self.idle_ticks += 1
        self._begun = self._begun or bool(outputs.executor.accepted)
        if outputs.executor.accepted and free:
            self.seam_bins = max(self.seam_bins, self._seam(before, after.executor))
        stopped = outputs.safety.status is SafetyStatus.PROTECTIVE_STOP
        set_back = any(
            reason.message in SETS_BACK or (stopped and reason.limit in _FORCES) for reason in outputs.safety.reasons
        )
        self.joints.take(outputs.command.values, outputs.safety.command.values, set_back=set_back)
        return after, outputs

    def _idles(self, before: ExecutorState, after: ExecutorState, outputs: TickOutputs) -> bool:
        if outputs.executor.status in (ExecutorStatus.WAITING, ExecutorStatus.EXHAUSTED):
            return True
        return after.clock_s <= before.clock_s

    def _seam(self, before: ExecutorState, after: ExecutorState) -> float:
        """How far the new path is from the old one at the moment of the change, in bins of one row."""
        old, new = before.plan, after.plan
        if old is None or new is None:
            return 0.0
        here, there = (sample(plan.path, max(plan.phase(before.clock_s), 0.0)) for plan in (old, new))
        jump = np.subtract(there.position, here.position)
        assert here.quaternion is not None
        assert there.quaternion is not None
        turn = rotation_difference(there.quaternion, here.quaternion)
        return float(np.max(np.abs(np.concatenate((jump, turn))) / self._bins[:6]))


# ----------------------------------------------------------------------------------------------- results


def _result(episodes: list[Episode], machine: Machine) -> Result:
    keys = dict.fromkeys((e.policy, e.strategy, e.delay_ms) for e in episodes)
    rows = [_row([e for e in episodes if (e.policy, e.strategy, e.delay_ms) == key]) for key in sorted(keys)]
    late = [row for row in rows if row.delay_ms > 0.0]
    ours = [row for row in late if row.strategy == ChunkStrategyName.TOKEN_RTC.value]
    naive = [row for row in late if row.strategy == ChunkStrategyName.SWITCH.value]
    return Result(
        rows=rows,
        idle_ticks=sum(row.idle_ticks for row in ours),
        max_seam_bins=max((row.max_seam_bins for row in ours), default=float("nan")),
        success_delta=_delta(rows, ours, "success"),
        in_time_delta=_delta(rows, ours, "in_time"),
        peak_jerk_ratio=_mean(r.peak_jerk for r in ours) / _mean(r.peak_jerk for r in naive),
        samples_above_limits=sum(row.over_limits for row in rows),
        set_back_samples=sum(row.set_back for row in rows),
        extra_forward_passes=_extra_forward_passes(),
        reference="the naive asynchronous switch, same episodes and delays",
        reference_idle_ticks=sum(row.idle_ticks for row in naive),
        reference_max_seam_bins=max((row.max_seam_bins for row in naive), default=float("nan")),
        machine=machine,
    )


def _row(episodes: list[Episode]) -> Row:
    first = episodes[0]
    return Row(
        policy=first.policy,
        strategy=first.strategy,
        delay_ms=first.delay_ms,
        episodes=len(episodes),
        in_time=_mean(e.in_time for e in episodes),
        success=_mean(e.success for e in episodes),
        mean_s=_mean(e.duration_s for e in episodes),
        idle_ticks=sum(e.idle_ticks for e in episodes),
        max_seam_bins=max(e.seam_bins for e in episodes),
        over_limits=sum(e.over_acceleration + e.over_jerk for e in episodes),
        set_back=sum(e.set_back for e in episodes),
        peak_acceleration=max(e.peak_acceleration for e in episodes),
        peak_jerk=_mean(e.peak_jerk for e in episodes),
        asked_acceleration=max(e.asked_acceleration for e in episodes),
        asked_jerk=_mean(e.asked_jerk for e in episodes),
        rejected=sum(e.rejected for e in episodes),
    )


def _delta(rows: list[Row], late: list[Row], name: str) -> float:
    """Worst difference to no delay, points."""
    prompt = {(r.policy, r.strategy): getattr(r, name) for r in rows if r.delay_ms == 0.0}
    found = [getattr(r, name) - prompt[r.policy, r.strategy] for r in late if (r.policy, r.strategy) in prompt]
    return 100.0 * min(found) if found else float("nan")


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found) if found else float("nan")


def _extra_forward_passes() -> int:
    """Passes of the compact model for a chunk with a forced prefix, less those without; in a process with torch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        plain, forced = pool.apply(count_forward_passes)
    return forced - plain


def count_forward_passes() -> tuple[int, int]:
    """Forward passes of the shipped compact model for one chunk, without and with a forced prefix."""
    from benchmarks.forward_passes import passes

    return passes(0), passes(3)
