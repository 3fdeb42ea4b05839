"""The loops that ``vla bench jitter`` compares ours with, and what one turn of any loop gives."""

from __future__ import annotations

import importlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from controllers.lateness import LatenessHistogram

RATE_HZ = 200
TASK, SEED = "pick_up", 1_000_000
_PERIOD_NS = 1_000_000_000 // RATE_HZ


class Loop(Enum):
    """Who keeps the time."""

    OURS = "ours, real-time priority"
    ORDINARY = "ours, without priority"
    SLEEP = "plain sleep loop"
    LEROBOT = "lerobot precise_sleep"


@dataclass(slots=True)
class Turn:
    """What one turn of a loop gave; turns of a loop add up.

    Attributes:
        lateness: Of each tick.
        missed: Periods in which no tick began.
        realtime_priority: SCHED_FIFO was granted.
        chunks: Chunks of the model that were played.
        memory_mb: Resident memory of the loop's process at the first and the last look.
        memory_s: Time between those looks, s.
        frames: Pictures in the recorded episodes.
        dropped_frames: Those that the log left out because it could not keep up.
        lost_ticks: Tick records that are missing in them.
    """

    lateness: LatenessHistogram = field(default_factory=LatenessHistogram)
    missed: int = 0
    realtime_priority: bool = False
    chunks: int = 0
    memory_mb: tuple[float, float] = (math.nan, math.nan)
    memory_s: float = 0.0
    frames: int = 0
    dropped_frames: int = 0
    lost_ticks: int = 0

    def add(self, other: Turn) -> None:
        """Go on with another turn; memory is compared from the first turn's start to the last one's end."""
        self.lateness.merge(other.lateness)
        self.missed += other.missed
        self.realtime_priority = other.realtime_priority
        self.chunks += other.chunks
        first = other.memory_mb[0] if math.isnan(self.memory_mb[0]) else self.memory_mb[0]
        self.memory_mb = (first, other.memory_mb[1])
        self.memory_s += other.memory_s
        self.frames += other.frames
        self.dropped_frames += other.dropped_frames
        self.lost_ticks += other.lost_ticks


@contextmanager
def reference(loop: Loop) -> Iterator[Callable[[float], Turn]]:
    """One tick of the same loop and arm at a time."""
    from sim.assembly import assemble_loop, assemble_sim, default_config

    config = replace(default_config(), control_rate_hz=RATE_HZ, cameras={})
    with assemble_sim(config, TASK, SEED) as cell:
        control = assemble_loop(config)
        wait = _sleep_loop if loop is Loop.SLEEP else _lerobot_loop
        yield lambda seconds: wait(seconds, _tick_of(cell.robot, control))


def _tick_of(robot: Any, control: Any) -> Callable[[], None]:
    from controllers.types import TickInputs

    memory = control.initial(robot.read())
    number = 0

    def tick() -> None:
        nonlocal memory, number
        state = robot.read()
        inputs = TickInputs(number, state.stamp_ns, state)
        robot.physics_digest()
        memory, outputs = control.tick(memory, inputs)
        robot.write(outputs.safety.command)
        number += 1

    return tick


def _sleep_loop(seconds: float, tick: Callable[[], None]) -> Turn:
    """Absolute deadlines, ``time.sleep`` and nothing else."""
    turn = Turn()
    deadline = time.monotonic_ns()
    for _ in range(round(seconds * RATE_HZ)):
        time.sleep(max(0, deadline - time.monotonic_ns()) * 1e-9)
        turn.lateness.add(time.monotonic_ns() - deadline)
        tick()
        deadline += _PERIOD_NS
        behind = time.monotonic_ns() - deadline
        if behind > 0:
            turn.missed += behind // _PERIOD_NS
            deadline += behind // _PERIOD_NS * _PERIOD_NS
    return turn


def _lerobot_loop(seconds: float, tick: Callable[[], None]) -> Turn:
    """The way of LeRobot's own loops: measure the work, sleep for the rest of the period."""
    precise_sleep = _precise_sleep()
    turn = Turn()
    before = 0
    for number in range(round(seconds * RATE_HZ)):
        started = time.perf_counter()
        now = time.monotonic_ns()
        if number:
            longer = now - before - _PERIOD_NS
            turn.lateness.add(longer)
            turn.missed += max(0, longer) // _PERIOD_NS
        before = now
        tick()
        precise_sleep(max(1.0 / RATE_HZ - (time.perf_counter() - started), 0.0))
    return turn


def _precise_sleep() -> Callable[[float], None]:
    try:
        return importlib.import_module("lerobot.utils.robot_utils").precise_sleep
    except ImportError as error:
        raise RuntimeError(
            f"the reference needs LeRobot ({error}): `make setup EXTRAS=lerobot`, on Linux ({platform.system()} here)"
        ) from error
