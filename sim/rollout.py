"""One episode in lock-step simulation: scene, loop, policy and log, from the seed to the outcome."""

from __future__ import annotations

import math
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

from controllers.clients import InlinePolicyClient
from controllers.drivers import (
    EventSource,
    InterruptSwitch,
    RunSummary,
    StopCondition,
    StopReason,
    no_events,
    run_lockstep,
)
from controllers.latency import LatencyClient
from controllers.loop import ControlLoop
from controllers.protocols import PolicyClient
from controllers.robot import load_robot
from controllers.types import Observation, SafetyStatus, TickInputs, TickOutputs
from episodes.backends import loss_of
from episodes.errors import LogLossError
from episodes.log_faults import LogReport
from episodes.manifest import Manifest, Outcome, PolicyIdentity, statistics_hash
from episodes.profile import LogOptions
from episodes.results import EpisodeResult
from episodes.writer import EpisodeWriter
from sim.assembly import SimCell, assemble_loop, assemble_sim, episode_config
from sim.experts.policy import ExpertPolicy
from sim.obstacles.collisions import CollisionMonitor
from sim.scene import SceneLook
from sim.stack import StackConfig, options_to_json
from sim.tasks.base import PhrasingSet
from sim.teaching import BurstNoise, Mixture, NoiseBursts, TeachingClient
from vla.tokenizers import UniformBinTokenizer, tokenizer_from_id

SUCCESS_HOLD_S = 0.25
KEYFRAME_PERIOD_S = 1.0
REALTIME_KEYFRAME_PERIOD_S = 2.0  # the tick thread encodes them
INTERRUPT_SETTLE_TICKS = 120


class PolicySource(Protocol):
    """Gives each episode a client of the policy; it may keep a process between episodes."""

    @property
    def identity(self) -> PolicyIdentity:
        """Which policy it is, for the log."""
        ...

    def check(self, config: StackConfig) -> None:
        """Refuse a stack that the policy was not built for.

        Raises:
            ValueError: Another action spec, tokenizer or set of cameras; says what was expected and found.
        """
        ...

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """A client for one episode, with the policy's memory reset."""
        ...

    def close(self) -> None:
        """End whatever it keeps."""
        ...


class ExpertSource:
    """The scripted expert, which sees the simulation's true state and needs no cameras."""

    identity = PolicyIdentity("expert")

    def __init__(self, latency_ns: int = 0, *, blind: bool = False) -> None:
        """Declare the latency of its chunks on the virtual clock, and whether it knows of obstacles."""
        self._latency_ns = latency_ns
        self._blind = blind
        if blind:
            self.identity = PolicyIdentity("blind_expert")

    def check(self, config: StackConfig) -> None:
        """Any stack will do."""

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The expert of this episode's task."""
        return InlinePolicyClient(expert_policy(cell, config, blind=self._blind), self._latency_ns)

    def close(self) -> None:
        """Nothing to end."""


def expert_policy(cell: SimCell, config: StackConfig, *, blind: bool = False) -> ExpertPolicy:
    """The expert for one cell, writing the tokens that the stack reads; it plans around obstacles unless ``blind``."""
    zones = () if blind else cell.obstacles.zones
    tokenizer = tokenizer_from_id(config.tokenizer_id, config.tokenizer_definition)
    return ExpertPolicy(cell.instance, cell.robot, config.action_spec, tokenizer, zones)


@dataclass(frozen=True, slots=True)
class Teaching:
    """Label every observation with the expert's clean chunk.

    Attributes:
        noise: Disturbs the expert where it drives, None for a clean one.
        mixture: With a student: how often the expert drives in its stead.
    """

    noise: BurstNoise | None = None
    mixture: Mixture | None = None


@dataclass(slots=True)
class Tally:
    """Counts what the outcome reports, and hands everything on to the log if there is one; a ``TickSink``."""

    cell: SimCell
    writer: EpisodeWriter | None
    keyframe_ticks: int
    chunks: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    safety: Counter[str] = field(default_factory=Counter)
    limits: Counter[str] = field(default_factory=Counter)
    min_margin: float = math.inf
    monitor: CollisionMonitor = field(init=False)

    def __post_init__(self) -> None:
        robot = self.cell.robot
        self.monitor = CollisionMonitor(robot.model, robot.data, self.cell.obstacles.obstacles)

    @property
    def trouble(self) -> str:
        """Why nothing reaches the disk at the moment, empty while all is well or nothing is recorded."""
        return self.writer.trouble if self.writer is not None else ""

    @property
    def log_report(self) -> LogReport:
        """How the log fared, after :meth:`finish`."""
        return self.writer.report if self.writer is not None else LogReport()

    def offer_memory(self, tick: int, loop_state: object) -> None:
        """Keep a key frame where one is due."""
        if self.writer is not None and tick and tick % self.keyframe_ticks == 0:
            self.writer.record_keyframe(tick, self.cell.robot.get_state(), loop_state)

    def record_tick(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = -1,
        applied_ns: int = -1,
    ) -> None:
        """Take one tick."""
        verdict, report = outputs.safety, outputs.executor
        self.monitor.observe()
        self.safety[verdict.status.value] += 1
        self.limits.update({reason.limit for reason in verdict.reasons})
        self.rejections.update(rejection.reason.value for rejection in report.rejections)
        self.chunks += len(report.accepted)
        if verdict.status is not SafetyStatus.OFF:
            self.min_margin = min(self.min_margin, verdict.min_margin)
        if self.writer is not None:
            self.writer.record_tick(inputs, outputs, physics_digest, sent_ns, applied_ns)

    def record_observation(self, observation: Observation) -> None:
        """Take one observation."""
        if self.writer is not None:
            self.writer.record_observation(observation)

    def finish(self, seed: int, policy: str, config: StackConfig, summary: RunSummary) -> EpisodeResult:
        """Close the log and sum up; what the log lost is in :attr:`log_report`."""
        success = summary.reason is StopReason.SUCCESS
        obstacles, count = self.cell.obstacles.obstacles, self.monitor.count()
        if self.writer is not None:
            with suppress(LogLossError):  # the episode happened all the same
                self.writer.close(Outcome(success, summary.reason.value, deadlines=summary.deadlines))
        return EpisodeResult(
            task=self.cell.instance.task_name,
            seed=seed,
            instruction=self.cell.instruction,
            policy=policy,
            success=success,
            reason=summary.reason.value,
            ticks=summary.ticks,
            duration_s=summary.ticks / config.control_rate_hz,
            chunks=self.chunks,
            rejections=dict(sorted(self.rejections.items())),
            safety_ticks=dict(sorted(self.safety.items())),
            limits=dict(sorted(self.limits.items())),
            min_margin=self.min_margin,
            final_digest=self.cell.robot.physics_digest().hex(),
            episode=self.writer.path.name if self.writer is not None else "",
            collisions=count.collisions if obstacles else None,
            obstacle_shift_m=count.shift_m if obstacles else None,
        )


@contextmanager
def recorded_cell(
    cell: SimCell,
    seed: int,
    policy: PolicyIdentity,
    config: StackConfig,
    out_dir: Path | None,
    *,
    realtime: bool,
    log: LogOptions | None = None,
) -> Iterator[Tally]:
    """A tally that records to ``out_dir``, or records nothing; leaving the block closes the log in any case."""
    period_s = REALTIME_KEYFRAME_PERIOD_S if realtime else KEYFRAME_PERIOD_S
    keyframe_ticks = max(1, round(period_s * config.control_rate_hz))
    if out_dir is None:
        yield Tally(cell, None, keyframe_ticks)
        return
    out_dir.mkdir(parents=True, exist_ok=True)
    name = episode_name(cell.instance.task_name, seed)
    manifest = build_manifest(name.removesuffix(".zarr"), cell, seed, policy, config, realtime=realtime)
    log = log or LogOptions()
    manifest = replace(
        manifest,
        keyframe_ticks=keyframe_ticks,
        camera_profile=str(log.cameras),
        log_failure=log.failure.value,
        faults=log.faults,
    )
    xml = cell.scene.xml.encode()
    with EpisodeWriter(out_dir / name, manifest, model_xml=xml, initial_state=cell.initial_state) as writer:
        yield Tally(cell, writer, keyframe_ticks)


def run_episode(
    task_name: str,
    seed: int,
    policy: PolicySource,
    config: StackConfig,
    *,
    out_dir: Path | None = None,
    instruction: str | None = None,
    phrasing: PhrasingSet | None = None,
    look: SceneLook | None = None,
    teaching: Teaching | None = None,
    events: EventSource = no_events,
    interrupt: InterruptSwitch | None = None,
    success_hold_s: float = SUCCESS_HOLD_S,
    loop: ControlLoop | None = None,
    log: LogOptions | None = None,
) -> EpisodeResult:
    """Run one episode until success, the task's time limit or an interrupt, and close its log.

    Args:
        task_name: Name in the catalog.
        seed: Seed of everything random in the episode.
        policy: Who acts.
        config: The stack.
        out_dir: Folder for the recorded episode, None to record nothing.
        instruction: Words to use instead of the task's own.
        phrasing: Draw the wording from this set.
        look: A fixed look of the scene instead of a sampled one.
        teaching: Record the expert's labels; needs ``out_dir``.
        events: Operator events by tick.
        interrupt: Pressed by Ctrl-C: the arm is told to hold, comes to rest, and the episode closes.
        success_hold_s: The goal must hold this long.
        loop: A loop that :func:`assemble_loop` built from the same configuration, to save building it; not used where
            obstacles give the episode limits of its own.
        log: How it is logged; in lock-step a disk that takes nothing ends the episode, whatever it says.

    Raises:
        EpisodeError: The log cannot be written.
        ValueError: The policy does not fit the stack, or labels are asked for without a log.
    """
    policy.check(config)
    if teaching is not None and out_dir is None:
        raise ValueError("expected out_dir for the labels of teaching, found none")
    with ExitStack() as stack:
        cell = stack.enter_context(
            assemble_sim(config, task_name, seed, instruction=instruction, phrasing=phrasing, look=look)
        )
        own = episode_config(config, cell)
        if loop is None or own is not config:
            loop = assemble_loop(own)
        tally = stack.enter_context(recorded_cell(cell, seed, policy.identity, own, out_dir, realtime=False, log=log))
        summary = run_lockstep(
            loop,
            cell.robot,
            _client(cell, policy, config, tally.writer, teaching),
            cell.source,
            tally,
            max_ticks=max(1, round(cell.instance.time_limit_s * config.control_rate_hz)),
            stop=success_condition(cell, config, success_hold_s),
            events=events,
            interrupt=interrupt,
        )
        result = tally.finish(seed, policy.identity.name, config, summary)
        if tally.writer is not None and tally.log_report.failure:
            raise loss_of(tally.writer.path, tally.log_report)
        return result


def success_condition(cell: SimCell, config: StackConfig, hold_s: float = SUCCESS_HOLD_S) -> StopCondition:
    """Ends an episode once its goal has held for ``hold_s`` s, or once a latched emergency stop has lasted as long."""
    needed = max(1, round(hold_s * config.control_rate_hz))
    held = stopped = 0
    model, data = cell.robot.model, cell.robot.data

    def stop(inputs: TickInputs, outputs: TickOutputs) -> StopReason | None:
        nonlocal held, stopped
        held = held + 1 if cell.instance.success(model, data) else 0
        stopped = stopped + 1 if outputs.safety.status is SafetyStatus.EMERGENCY_STOP else 0
        if held >= needed:
            return StopReason.SUCCESS
        return StopReason.EMERGENCY_STOP if stopped >= needed else None

    return stop


def episode_name(task_name: str, seed: int) -> str:
    """Name of a recorded episode's folder."""
    return f"{task_name}-{seed:06d}.zarr"


def new_interrupt() -> InterruptSwitch:
    """A switch that leaves a simulated arm, which lags behind its commands, time to come to rest."""
    return InterruptSwitch(settle_ticks=INTERRUPT_SETTLE_TICKS)


@contextmanager
def interruptible() -> Iterator[InterruptSwitch]:
    """Turn the first Ctrl-C into a gentle end of the episode; a second one raises ``KeyboardInterrupt``."""
    switch = new_interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield switch
        return

    def press(number: int, frame: FrameType | None) -> None:
        if switch.pressed:
            raise KeyboardInterrupt
        switch.press()

    previous = signal.signal(signal.SIGINT, press)
    try:
        yield switch
    finally:
        signal.signal(signal.SIGINT, previous)


def _client(
    cell: SimCell,
    policy: PolicySource,
    config: StackConfig,
    writer: EpisodeWriter | None,
    teaching: Teaching | None,
) -> PolicyClient:
    if teaching is None or writer is None:
        client = policy.client(cell, config)
        return client if config.latency is None else LatencyClient(client, config.latency)
    if config.latency is not None:
        raise ValueError(f"expected no latency for teaching, found {config.latency}")
    noise_rng, driver_rng = cell.streams.policy.spawn(2)
    noise = None
    if teaching.noise is not None:
        tokenizer = tokenizer_from_id(config.tokenizer_id)
        if not isinstance(tokenizer, UniformBinTokenizer):
            raise ValueError(
                f"noise pushes tokens by bins: expected a uniform tokenizer, found {config.tokenizer_id!r}; teach with "
                "the stack's default"
            )
        noise = NoiseBursts(teaching.noise, tokenizer, noise_rng)
    return TeachingClient(
        expert_policy(cell, config),
        writer.record_label,
        driver_rng,
        student=None if isinstance(policy, ExpertSource) else policy.client(cell, config),
        mixture=teaching.mixture,
        noise=noise,
    )


def build_manifest(
    episode_id: str, cell: SimCell, seed: int, policy: PolicyIdentity, config: StackConfig, *, realtime: bool = False
) -> Manifest:
    """Identity of an episode in ``cell``."""
    description = load_robot(config.robot)
    safety = config.safety
    return Manifest(
        episode_id=episode_id,
        task=cell.instance.task_name,
        instruction=cell.instruction,
        seed=seed,
        robot=config.robot,
        robot_hash=description.content_hash,
        joints=description.n,
        controller={"name": config.controller_name, "options": options_to_json(config.controller)},
        control_rate_hz=config.control_rate_hz,
        physics_timestep_s=config.physics_timestep_s,
        action_spec=config.action_spec.to_json(),
        action_spec_hash=config.action_spec.hash,
        statistics_hash=statistics_hash(config.action_spec.statistics),
        tokenizer_id=config.tokenizer_id,
        safety_profile={} if safety is None else safety.to_json(),
        safety_profile_hash="" if safety is None else safety.hash,
        policy=policy,
        stack=config.to_json(),
        realtime=realtime,
        safety_off=safety is None,
    )
