"""Cost of one control tick at 200 Hz: the expert drives whole episodes, each tick is timed.

The garbage collector stays out, as in the real-time driver. The reference is MuJoCo's own cost for the same control
period (its physics steps), timed in the same run.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import numpy as np

from benchmarks.machine import Machine, no_collection
from controllers.drivers import run_lockstep
from controllers.loop import ControlLoop, LoopState
from controllers.types import JointCommand, TickInputs, TickOutputs
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.rollout import ExpertSource, Tally, success_condition
from sim.tasks.catalog import task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench tick``."""

    episodes: int = 2
    """Episodes for each task."""
    seed: int = 2_000_000
    """First seed."""


@dataclass(frozen=True, slots=True)
class Result:
    """Percentiles over ticks, microseconds; ``budget_share`` is the median's share of the control period."""

    ticks: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    budget_share: float
    executor_p50_us: float
    controller_p50_us: float
    safety_p50_us: float
    reference: str
    reference_p50_us: float
    reference_p99_us: float
    machine: Machine


@dataclass
class _Timed:
    """Wraps one function; keeps how long each call took."""

    nanoseconds: list[int] = field(default_factory=list)

    def wrap(self, function):
        def timed(*arguments):
            started = time.perf_counter_ns()
            result = function(*arguments)
            self.nanoseconds.append(time.perf_counter_ns() - started)
            return result

        return timed

    def percentiles(self, *levels: float) -> list[float]:
        return [float(value) * 1e-3 for value in np.percentile(self.nanoseconds, levels)]


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    config = replace(default_config(), cameras={})
    whole, parts = assemble_loop(config), assemble_loop(config)
    tick, physics = _Timed(), _Timed()
    executor, controller, safety = _Timed(), _Timed(), _Timed()
    # Parts are timed in episodes of their own, so that the clock's cost is not in the whole.
    with ExitStack() as stack:
        for part, method, timed in (
            (parts.executor, "update", executor),
            (parts.controller, "update", controller),
            (parts.safety, "enforce", safety),
        ):
            stack.enter_context(patch.object(part, method, timed.wrap(getattr(part, method))))
        for task in task_names():
            for seed in range(options.seed, options.seed + options.episodes):
                _episode(whole, config, task, seed, tick, physics)
                _episode(parts, config, task, seed, _Timed(), _Timed())
    p50, p99, p999, worst = tick.percentiles(50, 99, 99.9, 100)
    reference_p50, reference_p99 = physics.percentiles(50, 99)
    return Result(
        ticks=len(tick.nanoseconds),
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        max_us=worst,
        budget_share=p50 * 1e-6 * config.control_rate_hz,
        executor_p50_us=executor.percentiles(50)[0],
        controller_p50_us=controller.percentiles(50)[0],
        safety_p50_us=safety.percentiles(50)[0],
        reference="MuJoCo's physics for the same 5 ms",
        reference_p50_us=reference_p50,
        reference_p99_us=reference_p99,
        machine=machine,
    )


def _episode(loop: ControlLoop, config, task: str, seed: int, tick: _Timed, physics: _Timed) -> None:
    with assemble_sim(config, task, seed) as cell, no_collection():
        timed_loop = _TimedLoop(loop, tick)
        robot = _TimedRobot(cell.robot, physics)
        run_lockstep(
            timed_loop,  # pyright: ignore[reportArgumentType]
            robot,
            ExpertSource().client(cell, config),
            cell.source,
            Tally(cell, None, 1_000_000),
            max_ticks=round(cell.instance.time_limit_s * config.control_rate_hz),
            stop=success_condition(cell, config),
        )


class _TimedLoop:
    """The loop with a stopwatch around ``tick``."""

    def __init__(self, loop: ControlLoop, timed: _Timed) -> None:
        self.initial = loop.initial
        self.commanded_pose = loop.commanded_pose
        self.prefix = loop.prefix
        self._tick = timed.wrap(loop.tick)

    def tick(self, state: LoopState, inputs: TickInputs) -> tuple[LoopState, TickOutputs]:
        return self._tick(state, inputs)


class _TimedRobot:
    """The robot with a stopwatch around ``write``, which is where its physics runs."""

    def __init__(self, robot, timed: _Timed) -> None:
        self.read = robot.read
        self.physics_digest = robot.physics_digest
        self._write = timed.wrap(robot.write)

    def write(self, command: JointCommand) -> None:
        self._write(command)
