"""Faults of the policy process while the arm moves in real time: does the arm hold in time, and go on afterwards?

The compact VLA runs in its own process; the rows it answers with are replaced by a way to and fro, so that the arm
moves in every trial. Each trial lets one fault happen: the process is killed (SIGKILL), hangs (SIGSTOP), takes many
times as long, or answers with garbage. The bound is what the arm may still do by itself: play the rows of the newest
good chunk that there was. Afterwards the process must be running again, its chunks accepted, and the arm moving; the
episode of all trials must have every tick and, re-executed in a fresh process, be identical.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine
from controllers.drivers import StopReason
from controllers.names import unknown_name
from controllers.protocols import Policy, PolicyClient
from controllers.types import (
    ActionChunk,
    ActionSpec,
    ExecutorStatus,
    IntArray,
    Observation,
    SafetyStatus,
    TickInputs,
    TickOutputs,
)
from episodes.manifest import PolicyIdentity
from sim.assembly import SimCell, default_config
from sim.policies import PolicyChoice, supervised_client
from sim.realtime import run_episode_realtime
from sim.stack import StackConfig
from vla.process import PolicyFactory, ProcessMode

KINDS = ("kill", "hang", "slow", "garbage")
RATE_HZ = 200
_SLOWNESS = 20.0
_INFERENCE_S = 0.1  # of the model that the slowness multiplies: a 7B model on a good GPU
_SWAY_S = 1.2
_SETTLED_CHUNKS = 3
_PATIENCE_TICKS = 60 * RATE_HZ
_TICK_MS = 1000.0 / RATE_HZ


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench policy-faults``."""

    trials: int = 10
    """Of each kind of fault."""
    kinds: tuple[str, ...] = KINDS
    """Which kinds."""
    seed: int = 0
    """Of the moments."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault; times in ms.

    Attributes:
        fault: Its kind.
        trials: How often it was made to happen.
        held: The arm held within ``bound``.
        resumed: It moved again on chunks of the restarted process.
        hold_p50_ms: From the fault, or a last good chunk on its way then, to the first tick that held; of the
            executor's clock, which runs slowly where safety slows the arm.
        hold_max_ms: Longest.
        bound_ms: A whole chunk and two ticks, or the deadline of the answer if that is later.
        resume_p50_ms: From the fault to the first tick on a new chunk.
        resume_max_ms: Longest.
        refused_chunks: Chunks that the executor refused.
        restarts: Processes that were started again.
        ticks: Of the episode.
        ticks_lost: Numbers missing in its log.
        replays: Re-executed in a fresh process, the episode is identical.
    """

    fault: str
    trials: int
    held: int
    resumed: int
    hold_p50_ms: float
    hold_max_ms: float
    bound_ms: float
    resume_p50_ms: float
    resume_max_ms: float
    refused_chunks: int
    restarts: int
    ticks: int
    ticks_lost: int
    replays: bool


@dataclass(frozen=True, slots=True)
class Result:
    """All kinds together, then each; the reference is what the arm did with the policy well, between the faults."""

    trials: int
    held: int
    resumed: int
    ticks_lost: int
    all_replay: bool
    kinds: tuple[Row, ...]
    reference: str
    reference_holds: int
    machine: Machine


# ------------------------------------------------------------------------------------------ the policy


class Fault(IntEnum):
    """What a :class:`FaultyPolicy` does wrong."""

    NONE = 0
    SLOW = 1
    OUT_OF_VOCABULARY = 2
    WRONG_SHAPE = 3
    OTHER_SPEC = 4
    UNKNOWN_TOKENIZER = 5
    RAISES = 6


_GARBAGE = tuple(fault for fault in Fault if fault > Fault.SLOW)


class FaultSwitch:
    """A file that tells a policy in another process what to do wrong."""

    def __init__(self, path: Path) -> None:
        """Bind to ``path``, which is made if it is not there."""
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                file.write(bytes(1))
                file.flush()
            self._map = mmap.mmap(file.fileno(), 1)

    def set(self, fault: Fault) -> None:
        """Fail like this from now on."""
        self._map[0] = fault

    def get(self) -> Fault:
        """How to fail."""
        return Fault(self._map[0])


class FaultyPolicy:
    """A policy whose work is done and whose answer is replaced: by a way to and fro, or by what a fault makes of it."""

    def __init__(self, inner: Policy, switch: FaultSwitch) -> None:
        """Wrap ``inner``, whose tokens are those of the tabletop suite."""
        from vla.tokenizers import COMPACT_TOKENIZER

        self._inner, self._switch = inner, switch
        self._ways = tuple(COMPACT_TOKENIZER.encode(_way(inner.spec, sign), inner.spec) for sign in (1.0, -1.0))

    @property
    def spec(self) -> ActionSpec:
        """That of the wrapped policy."""
        return self._inner.spec

    @property
    def tokenizer_id(self) -> str:
        """That of the wrapped policy."""
        return self._inner.tokenizer_id

    def reset(self) -> None:
        """Forget the episode."""
        self._inner.reset()

    def infer(self, observation: Observation) -> ActionChunk:
        """Answer, or what the fault makes of it."""
        import time

        chunk = self._inner.infer(observation)
        back = int(observation.stamp_ns * 1e-9 / _SWAY_S) % 2
        chunk = replace(chunk, tokens=self._ways[back], log_probability=None)
        fault = self._switch.get()
        if fault is Fault.SLOW:
            time.sleep(_SLOWNESS * _INFERENCE_S)
        elif fault is Fault.OUT_OF_VOCABULARY:
            chunk = replace(chunk, tokens=chunk.tokens + 100_000)
        elif fault is Fault.WRONG_SHAPE:
            chunk = replace(chunk, tokens=chunk.tokens[:, :-1])
        elif fault is Fault.OTHER_SPEC:
            chunk = replace(chunk, spec_hash="0" * len(chunk.spec_hash))
        elif fault is Fault.UNKNOWN_TOKENIZER:
            chunk = replace(chunk, tokenizer_id="nobody's")
        elif fault is Fault.RAISES:
            raise RuntimeError("the model ran out of memory")
        return chunk


def _way(spec: ActionSpec, sign: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A chunk (horizon, dims) sideways at a third of what the spec allows, the gripper open."""
    way = np.zeros((spec.horizon, spec.dims))
    way[:, 1] = sign * spec.upper[1] / 3.0
    way[:, -1] = 1.0
    return way


def build_faulty(switch: str) -> FaultyPolicy:
    """The compact VLA behind a :class:`FaultyPolicy`, in the process of the policy."""
    from vla.catalog import build_compact

    return FaultyPolicy(build_compact(), FaultSwitch(Path(switch)))


class _FaultySource:
    """Gives the episode its supervised client; a ``PolicySource``."""

    identity = PolicyIdentity("compact, to and fro")

    def __init__(self, switch: Path) -> None:
        factory = PolicyFactory("benchmarks.policy_faults:build_faulty", {"switch": str(switch)}, preload=("torch",))
        self.supervised = supervised_client(factory, PolicyChoice(mode=ProcessMode.ASYNCHRONOUS)).start()

    def check(self, config: StackConfig) -> None:
        """The stack is the policy's own."""

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The process."""
        self.supervised.reset()
        return self.supervised

    def close(self) -> None:
        """End it."""
        self.supervised.close()


# ------------------------------------------------------------------------------------------- the trials


@dataclass(slots=True)
class _Trial:
    fault_ns: int
    played_ms: float = 0.0  # of chunks since the fault, or since the last good one that was on its way then
    hold_ns: int = -1
    resume_ns: int = -1


@dataclass
class _Trials:
    """Makes faults happen and looks at what follows, tick by tick; a ``StopCondition``."""

    inject: Callable[[int], None]
    mend: Callable[[], None]
    count: int
    rng: np.random.Generator
    done: list[_Trial] = field(default_factory=list[_Trial])
    refused: int = 0
    well_holds: int = 0
    _chunks: int = 0
    _wait: int = -1
    _since: int = 0
    _running: _Trial | None = None

    def __call__(self, inputs: TickInputs, outputs: TickOutputs) -> StopReason | None:
        self.refused += len(outputs.executor.rejections)
        self._since += 1
        if self._since > _PATIENCE_TICKS:
            return StopReason.TIME_LIMIT  # what has not come by now does not come
        holds = outputs.safety.status is SafetyStatus.HOLD or outputs.executor.status is not ExecutorStatus.EXECUTING
        trial = self._running
        if trial is None:
            self._chunks += len(outputs.executor.accepted)
            self.well_holds += holds and self._chunks > 1
            return self._begin(inputs)
        if trial.hold_ns < 0:
            trial.played_ms += outputs.safety.speed_scale * _TICK_MS
            if outputs.executor.accepted:
                trial.played_ms = 0.0
            if holds:
                trial.hold_ns = inputs.now_ns
                self.mend()
        elif trial.resume_ns < 0 and not holds and outputs.executor.accepted:
            trial.resume_ns = inputs.now_ns
            self._running, self._chunks, self._since = None, 0, 0
            if len(self.done) == self.count:
                return StopReason.SUCCESS
        return None

    def _begin(self, inputs: TickInputs) -> None:
        if self._chunks < _SETTLED_CHUNKS:
            return
        if self._wait < 0:
            self._wait = int(self.rng.integers(1, round(0.4 * RATE_HZ)))
        self._wait -= 1
        if self._wait == 0:
            self._wait, self._since = -1, 0
            self._running = _Trial(inputs.now_ns)
            self.done.append(self._running)
            self.inject(len(self.done) - 1)


def run(options: Options) -> Result:
    """Let faults happen.

    Raises:
        ValueError: An unknown kind, or no trials.
    """
    if options.trials < 1:
        raise ValueError(f"expected 1 trial or more, found {options.trials}")
    for kind in options.kinds:
        if kind not in KINDS:
            raise ValueError(unknown_name("kind of fault", kind, KINDS))
    machine = Machine.here()
    rows: list[Row] = []
    well_holds = 0
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            row, holds = _kind(kind, options, Path(folder))
        rows.append(row)
        well_holds += holds
        print(row, file=sys.stderr, flush=True)
    return Result(
        trials=sum(row.trials for row in rows),
        held=sum(row.held for row in rows),
        resumed=sum(row.resumed for row in rows),
        ticks_lost=sum(row.ticks_lost for row in rows),
        all_replay=all(row.replays for row in rows),
        kinds=tuple(rows),
        reference="ticks that held while no fault was there",
        reference_holds=well_holds,
        machine=machine,
    )


def _kind(kind: str, options: Options, folder: Path) -> tuple[Row, int]:
    switch = FaultSwitch(folder / "fault")
    source = _FaultySource(folder / "fault")
    policy = source.supervised

    def inject(trial: int) -> None:
        if kind == "kill":
            os.kill(policy.pid, signal.SIGKILL)
        elif kind == "hang":
            os.kill(policy.pid, signal.SIGSTOP)
        else:
            switch.set(Fault.SLOW if kind == "slow" else _GARBAGE[trial % len(_GARBAGE)])

    trials = _Trials(inject, lambda: switch.set(Fault.NONE), options.trials, np.random.default_rng(options.seed))
    config = replace(default_config(), control_rate_hz=RATE_HZ)
    try:
        result, _ = run_episode_realtime(
            "reach",
            1_000_000,
            source,
            config,
            out_dir=folder,
            stop=trials,
            max_ticks=(options.trials + 1) * 2 * _PATIENCE_TICKS,
        )
        restarts = policy.restarts
    finally:
        source.close()
    lost, identical = _checked(folder / result.episode)
    spec = config.action_spec
    bound_ms = 1e3 * spec.horizon / spec.rate_hz + 2.0 * _TICK_MS
    holds = [trial.played_ms for trial in trials.done if trial.hold_ns >= 0]
    resumes = [1e-6 * (trial.resume_ns - trial.fault_ns) for trial in trials.done if trial.resume_ns >= 0]
    row = Row(
        fault=kind,
        trials=len(trials.done),
        held=sum(hold <= bound_ms for hold in holds),
        resumed=len(resumes),
        hold_p50_ms=float(np.median(holds)) if holds else float("nan"),
        hold_max_ms=max(holds, default=float("nan")),
        bound_ms=bound_ms,
        resume_p50_ms=float(np.median(resumes)) if resumes else float("nan"),
        resume_max_ms=max(resumes, default=float("nan")),
        refused_chunks=trials.refused,
        restarts=restarts,
        ticks=result.ticks,
        ticks_lost=lost,
        replays=identical,
    )
    return row, trials.well_holds


def _checked(path: Path) -> tuple[int, bool]:
    """Ticks that the log lacks, and whether it replays."""
    from episodes.reader import open_episode

    numbers: IntArray = open_episode(path).ticks.tick
    lost = int(numbers[-1]) + 1 - len(np.unique(numbers))
    command = [sys.executable, "-m", "cli.main", "replay", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.strip():
        raise RuntimeError(f"expected a replay of {path}, found: {done.stderr[-500:]}")
    return lost, bool(json.loads(done.stdout.splitlines()[-1])["identical"])
