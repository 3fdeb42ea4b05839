"""Candidate command in, safe command out, as ROS 2 nodes over real DDS, with the model running beside.

In: the control node hands a candidate to the middleware. Out: the safety node hands the safe command to it. So one hop
of the middleware, the wait for the node's tick, the filter and the conversion are all in it. Candidates that no tick
judged have no latency; their share stands beside. The reference, measured in the same run, is one bare hop: a safety
record on its way to this process, which has no real-time priority.
"""

from __future__ import annotations

import os
import random
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.machine import Machine, Stolen
from ros_nodes.errors import require_rclpy
from ros_nodes.graph import SIM, NodeName, Supervisor, nodes_of
from ros_nodes.records import ControlTick, SafetyTick

_SETTLE_S = 5.0
_SCENE_S = 60.0
_PATIENCE = 2000  # ticks, ten seconds: this process has no priority and must not lose what it measures


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench ros``."""

    minutes: float = 1.0
    """How long to measure."""
    rate_hz: int = 200
    """Control ticks per second."""
    task: str = "pick_up"
    """Scene, whose own instruction the model follows."""
    model: bool = True
    """Run the model beside."""
    realtime: bool = True
    """Ask for real-time priorities."""
    start_timeout_s: float = 300.0
    """Longest time until every node is active."""


@dataclass(frozen=True, slots=True)
class Result:
    """Latencies in milliseconds; shares of the control periods.

    Attributes:
        p50_ms: Median, candidate published to safe command published.
        p99_ms: 99th percentile.
        p999_ms: 99.9th percentile.
        max_ms: Worst.
        missed_share: Control periods that passed whole without a tick, over all of them.
        late_share: Control ticks that began more than one and a half periods after the one before.
        safety_missed_share: Missed periods of the safety node.
        safety_late_share: Late ticks of the safety node.
        superseded_share: Candidates that a newer one overtook before a tick judged them.
        unseen_share: Ticks of either node that this process did not hear of; they are in the missed shares (by their
            numbers), but not in the latencies.
        load: Load average of the last minute at the end.
        load_before: The same when measuring began.
        stolen_share: Processor time that the host of a virtual machine gave to others meanwhile.
        ticks: Control ticks seen.
        held_share: Ticks in which the safety node did not let the arm move.
        chunks: Chunks that the control node took.
        node_p50_ms: Median from the candidate's callback to the safe command, inside the safety node.
        node_p99_ms: 99th percentile of that.
        state_age_p50_ms: Median age of the joint state that a control tick acted on.
        state_age_p99_ms: 99th percentile of that.
        chunk_age_p50_ms: Median from the pictures' stamp to the first control tick that has the chunk made from them.
        chunk_age_p99_ms: 99th percentile of that.
        reference: What the reference is.
        reference_p50_ms: Its median.
        reference_p99_ms: Its 99th percentile.
        machine: Where.
    """

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    missed_share: float
    late_share: float
    safety_missed_share: float
    safety_late_share: float
    superseded_share: float
    unseen_share: float
    load: float
    load_before: float
    stolen_share: float
    ticks: int
    held_share: float
    chunks: int
    node_p50_ms: float
    node_p99_ms: float
    state_age_p50_ms: float
    state_age_p99_ms: float
    chunk_age_p50_ms: float
    chunk_age_p99_ms: float
    reference: str
    reference_p50_ms: float
    reference_p99_ms: float
    machine: Machine


@dataclass(frozen=True, slots=True)
class _Safety:
    """What is kept of a safety tick; times in ns of the graph's clock, ``heard`` of this process's."""

    tick: int
    now: int
    candidate: int
    fresh: bool
    received: int
    published: int
    held: bool
    heard: int


@dataclass(frozen=True, slots=True)
class _Control:
    """What is kept of a control tick."""

    tick: int
    now: int
    command: int
    published: int
    state_age: int
    accepted: int
    chunk_ages: tuple[int, ...]


class Watch:
    """Keeps of each tick only what the figures need, so that ten minutes of them neither fill nor slow this process."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.safety: list[_Safety] = []
        self.control: list[_Control] = []

    def forget(self) -> None:
        """Begin to measure: what came before does not count."""
        self.safety, self.control = [], []

    def on_safety(self, tick: SafetyTick, heard_ns: int) -> None:
        """One tick of the safety node."""
        held = tick.result.status.stop_category is not None
        inputs = tick.inputs
        self.safety.append(
            _Safety(
                inputs.tick, inputs.now_ns, tick.candidate.stamp_ns, tick.fresh,
                tick.received_ns, tick.published_ns, held, heard_ns,
            )
        )  # fmt: skip

    def on_control(self, tick: ControlTick, heard_ns: int) -> None:
        """One tick of the control node."""
        del heard_ns
        inputs, outputs = tick.inputs, tick.outputs
        accepted = set(outputs.executor.accepted)
        ages = tuple(
            inputs.now_ns - arrival.chunk.observation_stamp_ns
            for arrival in inputs.arrivals
            if arrival.chunk.chunk_id in accepted
        )
        self.control.append(
            _Control(
                inputs.tick, inputs.now_ns, outputs.command.stamp_ns, tick.published_ns,
                inputs.now_ns - inputs.state.stamp_ns, len(accepted), ages,
            )
        )  # fmt: skip


def run(options: Options) -> Result:
    """Measure."""
    require_rclpy()
    environment = isolated()
    names = tuple(
        name for name in SIM if name is not NodeName.RECORDER and (options.model or name is not NodeName.POLICY)
    )
    own = {NodeName.ROBOT_SIM: {"task": options.task}}
    processes = nodes_of(names, {"rate_hz": options.rate_hz}, realtime=options.realtime, own=own)
    os.environ.update(environment)
    from ros_nodes.client import GraphClient

    watch = Watch()
    listening = GraphClient(on_safety=watch.on_safety, on_control=watch.on_control, patience=_PATIENCE)
    with Supervisor(processes, environment) as graph, listening as client:
        graph.wait_active(options.start_timeout_s)
        client.wait(lambda: bool(client.instruction), _SCENE_S, "the scene's instruction")
        if options.model:
            client.say(client.instruction)
        time.sleep(_SETTLE_S)
        load_before, stolen = os.getloadavg()[0], Stolen()
        watch.forget()
        ends = time.monotonic() + options.minutes * 60.0
        while time.monotonic() < ends:
            graph.check()
            time.sleep(0.5)
        stolen_share, load = stolen.share(), os.getloadavg()[0]
        safety, control = list(watch.safety), list(watch.control)
    if len(control) < 2 or len(safety) < 2:
        raise RuntimeError("expected ticks of control and safety node, found none; the nodes' log lines say why")
    period = 1_000_000_000 // options.rate_hz
    published = {tick.command: tick.published for tick in control}
    judged = [tick for tick in safety if tick.fresh and tick.candidate in published]
    # Stamps count from the system's epoch, this process's clock from the machine's start.
    offset = time.time_ns() - time.monotonic_ns()
    through = _percentiles([tick.published - published[tick.candidate] for tick in judged], (50, 99, 99.9, 100))
    inside = _percentiles([tick.published - tick.received for tick in safety if tick.fresh], (50, 99))
    state_age = _percentiles([tick.state_age for tick in control], (50, 99))
    chunk_age = _percentiles([age for tick in control for age in tick.chunk_ages], (50, 99))
    hop = _percentiles([tick.heard + offset - tick.published for tick in safety], (50, 99))
    gaps = _gaps([(tick.tick, tick.now) for tick in control], period)
    safety_gaps = _gaps([(tick.tick, tick.now) for tick in safety], period)
    return Result(
        p50_ms=through[0],
        p99_ms=through[1],
        p999_ms=through[2],
        max_ms=through[3],
        missed_share=_missed(gaps),
        late_share=sum(gap > 1.5 for gap in gaps) / len(gaps),
        safety_missed_share=_missed(safety_gaps),
        safety_late_share=sum(gap > 1.5 for gap in safety_gaps) / len(safety_gaps),
        superseded_share=_superseded(safety, control),
        unseen_share=1.0 - (len(safety) + len(control)) / (_span(safety) + _span(control)),
        load=round(load, 2),
        load_before=round(load_before, 2),
        stolen_share=round(stolen_share, 5),
        ticks=len(control),
        held_share=sum(tick.held for tick in safety) / len(safety),
        chunks=sum(tick.accepted for tick in control),
        node_p50_ms=inside[0],
        node_p99_ms=inside[1],
        state_age_p50_ms=state_age[0],
        state_age_p99_ms=state_age[1],
        chunk_age_p50_ms=chunk_age[0],
        chunk_age_p99_ms=chunk_age[1],
        reference="one bare hop of the middleware, to a process without real-time priority",
        reference_p50_ms=hop[0],
        reference_p99_ms=hop[1],
        machine=Machine.here(),
    )


def _percentiles(values_ns: list[int], shares: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles in ms; NaN where there is nothing."""
    if not values_ns:
        return (float("nan"),) * len(shares)
    return tuple(float(value) for value in np.percentile(values_ns, shares) * 1e-6)


def _gaps(ticks: list[tuple[int, int]], period_ns: int) -> list[float]:
    """Periods between ticks that follow each other, from (number, start) of each tick that was heard of.

    Where records were lost in between, the numbers tell how many ticks there were: as many whole periods are not
    missing.
    """
    return [(ended - began) / period_ns - (last - first - 1) for (first, began), (last, ended) in pairwise(ticks)]


def _missed(gaps: list[float]) -> float:
    """Share of periods that passed whole without a tick.

    Each gap counts by itself: a tick that comes early later on does not make up for one that was missed.
    """
    missed = sum(int(gap) - 1 for gap in gaps if gap >= 2.0)
    return missed / (len(gaps) + missed)


def _superseded(safety: list[_Safety], control: list[_Control]) -> float:
    """Share of candidates that no tick judged, where the safety ticks of that time were all heard of."""
    judged = {tick.candidate for tick in safety}
    heard = {tick.tick for tick in safety}
    starts = [tick.now for tick in safety]
    counted = lost = 0
    for candidate in control:
        place = bisect_left(starts, candidate.published)
        if place + 2 >= len(safety):
            continue
        if any(safety[place].tick + step not in heard for step in (-1, 0, 1, 2)):
            continue
        counted += 1
        lost += candidate.command not in judged
    return lost / max(counted, 1)


def _span(ticks: Sequence[_Safety] | Sequence[_Control]) -> int:
    return ticks[-1].tick - ticks[0].tick + 1


def isolated() -> dict[str, str]:
    """Environment of a graph that hears nothing of others on this machine."""
    return {"ROS_DOMAIN_ID": str(random.randrange(1, 100)), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
