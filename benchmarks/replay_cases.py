"""The episodes of ``vla bench replay``: all tasks and chunk strategies, half in real time, a tenth with faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.drivers import EventSource, no_events
from controllers.latency import parse_latency
from controllers.protocols import PolicyClient
from controllers.types import ChunkArrival, Observation, OperatorEvent
from episodes.profile import LogOptions
from sim.assembly import SimCell, default_config
from sim.policies import COMPACT, PolicyChoice
from sim.realtime import RealtimeSettings, run_episode_realtime
from sim.rollout import ExpertSource, PolicySource, episode_name, run_episode
from sim.stack import StackConfig
from sim.tasks.catalog import task_names
from vla.process import ProcessMode

_BLOCK = 20  # of so many cases half run in real time and two have faults
_FAULTY = 2
_LATENCY = "normal:150ms,50ms"
_FAULTY_LATENCY_NS = 150_000_000
_PERIOD = 300  # ticks between two injected faults
_LENGTH = 60  # ticks that each lasts


class InjectedFault(Enum):
    """What is done to an episode on purpose."""

    BROKEN_CHUNKS = "broken_chunks"  # tokens out of vocabulary, of a wrong shape, repeated, of a foreign tokenizer
    LOST_CHUNKS = "lost_chunks"  # nothing arrives for a while
    OPERATOR = "operator"  # holds, resumes and reduced speed


@dataclass(frozen=True, slots=True)
class Case:
    """One episode to record.

    Attributes:
        index: Its number.
        task: Task.
        seed: Seed.
        strategy: How chunks follow each other.
        realtime: Against the wall clock, with a model inferring in a process of its own where no fault is injected.
        fault: What is injected, None for nothing.
    """

    index: int
    task: str
    seed: int
    strategy: ChunkStrategyName
    realtime: bool
    fault: InjectedFault | None

    @property
    def episode(self) -> str:
        """Name of its store."""
        return episode_name(self.task, self.seed)


def cases(count: int, first_seed: int) -> tuple[Case, ...]:
    """The first ``count`` cases; each depends on its number only, so that more can be asked for later."""
    return tuple(_case(index, first_seed) for index in range(count))


def _case(index: int, first_seed: int) -> Case:
    block, place = divmod(index, _BLOCK)
    shuffled = np.random.default_rng([first_seed, block])
    realtime = shuffled.permutation(np.arange(_BLOCK) % 2 == 0)
    faulty = shuffled.permutation(np.arange(_BLOCK) < _FAULTY)
    tasks, strategies, faults = task_names(), tuple(ChunkStrategyName), tuple(InjectedFault)
    return Case(
        index=index,
        task=tasks[index % len(tasks)],
        seed=first_seed + index,
        strategy=strategies[(index + index // len(tasks)) % len(strategies)],
        realtime=bool(realtime[place]),
        fault=faults[(2 * block + place) % len(faults)] if faulty[place] else None,
    )


class Recorder:
    """Records cases; a model's process is started when it is first needed, and kept."""

    def __init__(self, out: Path, policy: str = COMPACT) -> None:
        """Record to ``out``; ``policy`` acts in real time."""
        self._out, self._policy = out, policy
        self._model: PolicySource | None = None

    def record(self, case: Case) -> Path:
        """Record one case."""
        config = default_config()
        config = replace(config, chunking=ChunkingOptions(strategy=case.strategy))
        faults = {} if case.fault is None else {case.fault.value: {"every_ticks": _PERIOD, "ticks": _LENGTH}}
        log = LogOptions(faults=faults)
        if case.realtime:
            source = _FaultySource(case) if case.fault is not None else self._realtime_source()
            config = config if case.fault is None else replace(config, cameras={})
            settings = RealtimeSettings(log=log)
            result, _ = run_episode_realtime(
                case.task, case.seed, source, config, out_dir=self._out, settings=settings, events=events_of(case)
            )
        else:
            latency = parse_latency(_LATENCY) if case.fault is None else None  # faults come on top of a fixed one
            config = replace(config, cameras={}, latency=latency)
            source = _FaultySource(case)
            result = run_episode(
                case.task, case.seed, source, config, out_dir=self._out, events=events_of(case), log=log
            )
        return self._out / result.episode

    def _realtime_source(self) -> PolicySource:
        if self._model is None:
            self._model = PolicyChoice(self._policy, mode=ProcessMode.ASYNCHRONOUS)()
        return self._model

    def close(self) -> None:
        """End the model's process."""
        if self._model is not None:
            self._model.close()


def events_of(case: Case) -> EventSource:
    """The operator of a case."""
    if case.fault is not InjectedFault.OPERATOR:
        return no_events
    script = {
        _PERIOD // 2: OperatorEvent.HOLD,
        _PERIOD // 2 + _LENGTH: OperatorEvent.RESUME,
        _PERIOD - _LENGTH: OperatorEvent.REDUCED_SPEED,
    }

    def events(tick: int) -> tuple[OperatorEvent, ...]:
        event = script.get(tick % _PERIOD)
        return () if event is None else (event,)

    return events


class _FaultySource(ExpertSource):
    """The expert, whose chunks are spoilt as a case wants it."""

    def __init__(self, case: Case) -> None:
        super().__init__(_FAULTY_LATENCY_NS if case.fault is not None else 0)
        self._case = case

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        client = super().client(cell, config)
        rate_ns = 1_000_000_000 // config.control_rate_hz
        spoil = _SPOILERS.get(self._case.fault) if self._case.fault is not None else None
        return client if spoil is None else _FaultyClient(client, spoil, rate_ns, self._case.seed)


_Spoiler = Callable[[np.random.Generator, ChunkArrival], tuple[ChunkArrival, ...]]


class _FaultyClient:
    """Spoils what arrives for a while, again and again; a ``PolicyClient``."""

    def __init__(self, client: PolicyClient, spoil: _Spoiler, period_ns: int, seed: int) -> None:
        self._client, self._spoil, self._period_ns = client, spoil, period_ns
        self._rng = np.random.default_rng(seed)

    def request(self, observation: Observation) -> None:
        """Ask."""
        self._client.request(observation)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        """What has arrived, spoilt or not."""
        arrivals = self._client.poll(now_ns)
        if now_ns // self._period_ns % _PERIOD >= _LENGTH:
            return arrivals
        return tuple(item for arrival in arrivals for item in self._spoil(self._rng, arrival))


def _broken(rng: np.random.Generator, arrival: ChunkArrival) -> tuple[ChunkArrival, ...]:
    chunk = arrival.chunk
    broken = (
        replace(chunk, tokens=np.full_like(chunk.tokens, 1_000_000)),
        replace(chunk, tokens=chunk.tokens[:-1]),
        replace(chunk, tokens=chunk.tokens.astype(np.float64)),
        replace(chunk, tokenizer_id="foreign"),
        replace(chunk, observation_stamp_ns=chunk.observation_stamp_ns - 3_000_000_000),
    )
    spoilt = replace(arrival, chunk=broken[rng.integers(len(broken))])
    return ((spoilt,), (arrival, arrival), (arrival,))[rng.integers(3)]


def _lost(rng: np.random.Generator, arrival: ChunkArrival) -> tuple[ChunkArrival, ...]:
    del rng, arrival
    return ()


_SPOILERS: dict[InjectedFault, _Spoiler] = {
    InjectedFault.BROKEN_CHUNKS: _broken,
    InjectedFault.LOST_CHUNKS: _lost,
}
