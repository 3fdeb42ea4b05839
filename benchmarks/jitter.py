"""How late the ticks of the real-time control loop begin, with a model working beside it.

Ours is the whole thing: simulated arm, executor, controller, all safety limits, the compact VLA in its own process,
pictures, and the episode recorded. It runs with and without real-time priority. The references do one tick of the same
loop and arm at a time (no model, no pictures, no recording), and wait for the next: a plain sleep loop until absolute
deadlines, and LeRobot's ``precise_sleep`` for the rest of the period, as its own loops use it. A loop without
deadlines is judged by how much longer than a period it took from tick to tick.

The loops take turns, so that all see the same machine. Ctrl-C ends the run and prints what there is.
"""

from __future__ import annotations

import importlib
import itertools
import math
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.jitter_loops import RATE_HZ, SEED, TASK, Loop, Turn, reference
from benchmarks.machine import Machine
from controllers.lateness import LatenessHistogram
from episodes.reader import open_episode

_SETTLED_S = 10.0  # memory is compared from here on: by then every part has been used
_PATIENCE_S = 300.0


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench jitter``."""

    minutes: float = 1.0
    """Of our loop with real-time priority."""
    others_minutes: float = -1.0
    """Of each other loop; negative for as long as ours."""
    round_s: float = 30.0
    """Length of a turn, s. Each turn of ours is one recorded episode."""
    load: bool = False
    """Beside it, a model infers without pause on every core."""
    record: bool = True
    """Record our episodes (and delete them)."""
    priority: int = 50
    """SCHED_FIFO priority of our loop."""
    cpus: tuple[int, ...] = ()
    """Processors that our loop may run on; none given: any."""
    camera_px: int = 0
    """Width and height of both cameras, which the policy scales down; 0 for what it was trained with."""
    camera_hz: float = 0.0
    """Log so many pictures a second of each camera; 0 for what the policy asks for."""
    keep: Path | None = None
    """Keep the recorded episodes in folders of this one, one a turn."""


@dataclass(frozen=True, slots=True)
class LoopFigures:
    """Lateness of the ticks of one loop."""

    loop: str
    ticks: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    missed_share: float
    realtime_priority: bool

    @staticmethod
    def of(loop: Loop, turn: Turn) -> LoopFigures:
        """Sum up."""
        late = turn.lateness
        p50, p99, p999 = (late.quantile_ns(share) * 1e-6 for share in (0.5, 0.99, 0.999))
        share = turn.missed / max(1, late.count + turn.missed)
        return LoopFigures(loop.value, late.count, p50, p99, p999, late.max_ns * 1e-6, share, turn.realtime_priority)


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds after the deadline, of our loop with real-time priority; ``loops`` has all of them.

    ``missed_share`` is the share of periods in which no tick began. ``memory_growth_mb`` compares the resident memory
    of the loop's process from 10 s after the start of its episode to the end; over several turns from the first to the
    last. ``expected_frames`` is both cameras' rate times the time; the policy's own pictures are frames, too.
    """

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    missed_share: float
    realtime_priority: bool
    ticks: int
    better_than_references: bool
    loops: tuple[LoopFigures, ...]
    chunks: int
    memory_start_mb: float
    memory_end_mb: float
    memory_growth_mb: float
    memory_hours: float
    expected_frames: int
    frames: int
    dropped_frames: int
    lost_ticks: int
    rate_hz: int
    load: bool
    complete: bool
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    if options.minutes <= 0.0 or options.round_s <= 0.0:
        raise ValueError(f"expected minutes and round_s above 0, found {options.minutes} and {options.round_s}")
    machine = Machine.here()
    turns = {loop: Turn() for loop in Loop}
    complete = False
    with ExitStack() as stack:
        if options.load:
            stack.enter_context(_load())
        try:
            legs = {loop: stack.enter_context(_leg(loop, options)) for loop in Loop}
            for loop, seconds in _schedule(options):
                turn = legs[loop](seconds)
                turns[loop].add(turn)
                _progress(loop, turns[loop])
            complete = True
        except KeyboardInterrupt:
            print("interrupted: these are the turns so far", file=sys.stderr)
    return _result(turns, options, complete, machine)


def _schedule(options: Options) -> Iterator[tuple[Loop, float]]:
    """Turns, s, so that the loops alternate and each gets its time."""
    total_s = 60.0 * options.minutes
    others_s = total_s if options.others_minutes < 0.0 else 60.0 * options.others_minutes
    rounds = max(1, math.ceil(total_s / options.round_s))
    for _ in range(rounds):
        for loop in Loop:
            seconds = (total_s if loop is Loop.OURS else others_s) / rounds
            if seconds > 0.0:
                yield loop, seconds


def _progress(loop: Loop, turn: Turn) -> None:
    figures = LoopFigures.of(loop, turn)
    print(
        f"{figures.loop:<26} {figures.ticks:>8} ticks: p50 {figures.p50_ms:.4f}, p99 {figures.p99_ms:.4f}, "
        f"p99.9 {figures.p999_ms:.4f}, max {figures.max_ms:.3f} ms; missed {100 * figures.missed_share:.4f}%; "
        f"memory {turn.memory_mb[0]:.2f} -> {turn.memory_mb[1]:.2f} MB",
        file=sys.stderr,
        flush=True,
    )


def _result(turns: dict[Loop, Turn], options: Options, complete: bool, machine: Machine) -> Result:
    loops = tuple(LoopFigures.of(loop, turn) for loop, turn in turns.items() if turn.lateness.count)
    ours, turn = LoopFigures.of(Loop.OURS, turns[Loop.OURS]), turns[Loop.OURS]
    references = [figures for figures in loops if figures.loop in (Loop.SLEEP.value, Loop.LEROBOT.value)]
    return Result(
        p50_ms=ours.p50_ms,
        p99_ms=ours.p99_ms,
        p999_ms=ours.p999_ms,
        max_ms=ours.max_ms,
        missed_share=ours.missed_share,
        realtime_priority=ours.realtime_priority,
        ticks=ours.ticks,
        better_than_references=bool(references) and all(ours.p999_ms < other.p999_ms for other in references),
        loops=loops,
        chunks=turn.chunks,
        memory_start_mb=turn.memory_mb[0],
        memory_end_mb=turn.memory_mb[1],
        memory_growth_mb=turn.memory_mb[1] - turn.memory_mb[0],
        memory_hours=turn.memory_s / 3600.0,
        expected_frames=round(2 * options.camera_hz * ours.ticks / RATE_HZ),
        frames=turn.frames,
        dropped_frames=turn.dropped_frames,
        lost_ticks=turn.lost_ticks,
        rate_hz=RATE_HZ,
        load=options.load,
        complete=complete,
        machine=machine,
    )


# ---------------------------------------------------------------------------------------------- processes


@contextmanager
def _load() -> Iterator[None]:
    """A model that infers without pause on every core."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_infer_for_ever, daemon=True) for _ in range(os.cpu_count() or 1)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _infer_for_ever() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    from vla.compact.policy import CompactPolicy

    catalog = importlib.import_module("vla.catalog")
    policy = CompactPolicy.load(catalog.DEFAULT_COMPACT_WEIGHTS, threads=1)
    while True:
        policy.warm_up()


@contextmanager
def _leg(loop: Loop, options: Options) -> Iterator[Callable[[float], Turn]]:
    """A process in which one loop runs, so that nothing of another loop is left in it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, loop, options))
    process.start()
    theirs.close()

    def turn(seconds: float) -> Turn:
        ours.send(seconds)
        if not ours.poll(seconds + _PATIENCE_S):
            raise RuntimeError(f"{loop.value}: expected a turn of {seconds:g} s to end, it did not")
        try:
            found = ours.recv()
        except EOFError:
            raise RuntimeError(f"{loop.value}: its process ended; its message is above") from None
        return found

    try:
        yield turn
    finally:
        ours.close()
        process.join(10.0)
        process.kill()
        process.join()


def _serve(pipe: Connection, loop: Loop, options: Options) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ExitStack() as stack:
        turn: Callable[[float], Turn] | None = None
        while True:
            try:
                seconds: float = pipe.recv()
            except EOFError:
                return
            if turn is None:  # only now: a loop that waits for its turn shall not keep a model warm before
                turn = stack.enter_context(_whole_stack(loop, options) if _is_ours(loop) else reference(loop))
            pipe.send(turn(seconds))


def _is_ours(loop: Loop) -> bool:
    return loop in (Loop.OURS, Loop.ORDINARY)


# ------------------------------------------------------------------------------------------------- ours


@contextmanager
def _whole_stack(loop: Loop, options: Options) -> Iterator[Callable[[float], Turn]]:
    from controllers.realtime import RealtimeOptions
    from sim.assembly import default_config
    from sim.policies import PolicyChoice
    from sim.realtime import RealtimeSettings, run_episode_realtime
    from vla.process import ProcessMode

    system = RealtimeOptions(options.priority, True, options.cpus)
    if loop is Loop.ORDINARY:
        system = RealtimeOptions(0, False, options.cpus)
    policy = PolicyChoice(mode=ProcessMode.ASYNCHRONOUS)()
    config = replace(default_config(), control_rate_hz=RATE_HZ)
    if options.camera_px:
        config = replace(config, cameras=dict.fromkeys(config.cameras, (options.camera_px, options.camera_px)))

    turns = itertools.count(1)

    def turn(seconds: float) -> Turn:
        memory = _MemoryWatch(seconds)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if options.keep is not None:
                folder = options.keep / f"{loop.name.lower()}-{next(turns)}"
            result, timing = run_episode_realtime(
                TASK,
                SEED,
                policy,
                config,
                out_dir=folder if options.record else None,
                settings=RealtimeSettings(system, camera_hz=options.camera_hz),
                stop=memory,
                max_ticks=max(1, round(seconds * RATE_HZ)),
            )
            frames = _frames(folder / result.episode) if options.record else 0
        record = timing.deadlines
        late = LatenessHistogram.of_bins(record.histogram_ns, round(record.late_max_ms * 1e6))
        return Turn(
            late,
            record.missed,
            record.realtime_priority,
            result.chunks,
            memory.seen_mb,
            memory.seconds,
            frames,
            timing.log.dropped_frames,
            timing.log.lost_ticks,
        )

    try:
        yield turn
    finally:
        policy.close()


def _frames(path: Path) -> int:
    """Pictures in an episode, all cameras together."""
    episode = open_episode(path, check=False)
    return sum(int(episode.present(camera).sum()) for camera in episode.cameras)


class _MemoryWatch:
    """Looks at the resident memory once a second, from when the loop has settled; a ``StopCondition`` that never stops.

    Attributes:
        seen_mb: The first and the last look.
        seconds: Between them.
    """

    def __init__(self, seconds: float) -> None:
        self._first = round(min(_SETTLED_S, 0.5 * seconds) * RATE_HZ)
        self.seen_mb = (math.nan, math.nan)
        self.seconds = 0.0
        self._page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6

    def __call__(self, inputs: Any, outputs: Any) -> None:
        tick = inputs.tick
        if tick >= self._first and (tick - self._first) % RATE_HZ == 0:
            with open("/proc/self/statm") as file:
                now_mb = int(file.read().split()[1]) * self._page_mb
            self.seen_mb = (now_mb if tick == self._first else self.seen_mb[0], now_mb)
            self.seconds = (tick - self._first) / RATE_HZ
