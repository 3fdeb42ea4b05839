"""How well this machine keeps the deadlines of the control loop: for ``vla doctor``."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, replace

from controllers.lateness import LatenessHistogram
from controllers.realtime import RealtimeOptions, realtime

RATES_HZ = (50, 100, 125, 200, 250, 500, 1000)
_MARGIN = 0.8  # a rate is held when what a tick costs and how late it begins fill no more of its period


@dataclass(frozen=True, slots=True)
class Deadlines:
    """What one loop of the real arm and limits, without pictures or a model, did against absolute deadlines.

    Attributes:
        rate_hz: Ticks per second.
        ticks: Executed.
        missed: Deadlines that passed during a tick.
        late_p50_ms: Median of the start of a tick after its deadline.
        late_p999_ms: 99.9th percentile.
        late_max_ms: Worst.
        tick_p50_ms: Median cost of a tick: executor, controller, safety, and one period of physics in place of a robot.
        tick_p999_ms: 99.9th percentile.
        realtime_priority: SCHED_FIFO was granted.
        refused: What to change to get what the system refused; empty if it refused nothing.
        holds_hz: The highest usual rate that fits these figures, 0 if none does.
    """

    rate_hz: int
    ticks: int
    missed: int
    late_p50_ms: float
    late_p999_ms: float
    late_max_ms: float
    tick_p50_ms: float
    tick_p999_ms: float
    realtime_priority: bool
    refused: str
    holds_hz: int


def measure_deadlines(seconds: float, rate_hz: int = 200, priority: int = 50) -> Deadlines:
    """Run the loop of a Panda with all limits of its tabletop profile for a while.

    Args:
        seconds: How long, more than 0.
        rate_hz: Ticks per second.
        priority: SCHED_FIFO priority; 0 for none.

    Raises:
        ValueError: Times or rates that are not above 0.
    """
    if not (math.isfinite(seconds) and seconds > 0.0 and rate_hz > 0):
        raise ValueError(f"expected seconds and a rate above 0, found {seconds:g} s and {rate_hz} Hz")
    from controllers.types import TickInputs
    from sim.assembly import assemble_loop, assemble_sim, default_config

    config = replace(default_config(), control_rate_hz=rate_hz, cameras={})
    late, cost = LatenessHistogram(), LatenessHistogram()
    missed, period_ns = 0, 1_000_000_000 // rate_hz
    with assemble_sim(config, "reach", 0) as cell:
        loop, robot = assemble_loop(config), cell.robot
        memory = loop.initial(robot.read())
        gc.collect()
        with realtime(RealtimeOptions(priority, lock_memory=False)) as grants:
            deadline = time.monotonic_ns()
            for tick in range(max(1, round(seconds * rate_hz))):
                time.sleep(max(0, deadline - time.monotonic_ns()) * 1e-9)
                began = time.monotonic_ns()
                late.add(began - deadline)
                state = robot.read()
                memory, outputs = loop.tick(memory, TickInputs(tick, state.stamp_ns, state))
                robot.write(outputs.safety.command)
                ended = time.monotonic_ns()
                cost.add(ended - began)
                deadline += period_ns
                skipped = max(0, ended - deadline) // period_ns
                missed += skipped
                deadline += skipped * period_ns
    late_ms, cost_ms = late.quantile_ns(0.999) * 1e-6, cost.quantile_ns(0.999) * 1e-6
    return Deadlines(
        rate_hz=rate_hz,
        ticks=late.count,
        missed=missed,
        late_p50_ms=late.quantile_ns(0.5) * 1e-6,
        late_p999_ms=late_ms,
        late_max_ms=late.max_ns * 1e-6,
        tick_p50_ms=cost.quantile_ns(0.5) * 1e-6,
        tick_p999_ms=cost_ms,
        realtime_priority=grants.fifo,
        refused=grants.message,
        holds_hz=highest_rate(late_ms + cost_ms),
    )


def highest_rate(busy_ms: float) -> int:
    """The highest of :data:`RATES_HZ` whose period leaves room beside ``busy_ms`` of lateness and work; 0 if none."""
    return max((rate for rate in RATES_HZ if busy_ms <= _MARGIN * 1000.0 / rate), default=0)
