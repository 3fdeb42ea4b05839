"""Candidate command in, safe command out, as ROS 2 nodes over real DDS, with the model running beside.

In: the control node hands a candidate to the middleware. Out: the safety node hands the safe command to it. So one hop
of the middleware, the wait for the node's tick, the filter and the conversion are all in it. The reference, measured in
the same run, is one bare hop: a safety record on its way to this process, which has no real-time priority.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.machine import Machine
from ros_nodes.errors import require_rclpy
from ros_nodes.graph import SIM, NodeName, Supervisor, nodes_of

_SETTLE_S = 5.0


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
        missed_share: Control periods without a tick, over all of them.
        load: Load average of the last minute at the end.
        ticks: Control ticks seen.
        held_share: Ticks in which the safety node did not let the arm move.
        chunks: Chunks that the control node took.
        node_p50_ms: Median from the candidate's callback to the safe command, inside the safety node.
        node_p99_ms: 99th percentile of that.
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
    load: float
    ticks: int
    held_share: float
    chunks: int
    node_p50_ms: float
    node_p99_ms: float
    reference: str
    reference_p50_ms: float
    reference_p99_ms: float
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    require_rclpy()
    import os

    environment = isolated()
    names = tuple(
        name for name in SIM if name is not NodeName.RECORDER and (options.model or name is not NodeName.POLICY)
    )
    own = {NodeName.ROBOT_SIM: {"task": options.task}}
    processes = nodes_of(names, {"rate_hz": options.rate_hz}, realtime=options.realtime, own=own)
    os.environ.update(environment)
    from ros_nodes.client import GraphClient

    with Supervisor(processes, environment) as graph, GraphClient(control=True) as client:
        graph.wait_active(options.start_timeout_s)
        client.wait(lambda: bool(client.instruction), 30.0, "the scene's instruction")
        if options.model:
            client.say(client.instruction)
        time.sleep(_SETTLE_S)
        first_safety, first_control = len(client.safety), len(client.control)
        ends = time.monotonic() + options.minutes * 60.0
        while time.monotonic() < ends:
            graph.check()
            time.sleep(0.5)
        safety, received = client.safety[first_safety:], client.received_ns[first_safety:]
        control = client.control[first_control:]
    if len(control) < 2 or not safety:
        raise RuntimeError("expected ticks of control and safety node, found none; the nodes' log lines say why")
    published = {tick.outputs.command.stamp_ns: tick.published_ns for tick in control}
    through = np.array(
        [
            tick.published_ns - published[tick.candidate.stamp_ns]
            for tick in safety
            if tick.fresh and tick.candidate.stamp_ns in published
        ]
    )
    inside = np.array([tick.published_ns - tick.received_ns for tick in safety if tick.fresh])
    # Stamps count from the system's epoch, this process's clock from the machine's start.
    offset = time.time_ns() - time.monotonic_ns()
    hops = np.array([then + offset - tick.published_ns for then, tick in zip(received, safety, strict=False)])
    period = 1_000_000_000 // options.rate_hz
    numbers = [tick.inputs.now_ns for tick in control]
    periods = round((numbers[-1] - numbers[0]) / period)
    ms = 1e-6
    p50, p99, p999, worst = np.percentile(through, (50, 99, 99.9, 100)) * ms
    node_p50, node_p99 = np.percentile(inside, (50, 99)) * ms
    hop_p50, hop_p99 = np.percentile(hops, (50, 99)) * ms
    return Result(
        p50_ms=float(p50),
        p99_ms=float(p99),
        p999_ms=float(p999),
        max_ms=float(worst),
        missed_share=max(0.0, 1.0 - (control[-1].inputs.tick - control[0].inputs.tick) / max(periods, 1)),
        load=round(os.getloadavg()[0], 2),
        ticks=len(control),
        held_share=sum(tick.result.status.stop_category is not None for tick in safety) / len(safety),
        chunks=sum(len(tick.outputs.executor.accepted) for tick in control),
        node_p50_ms=float(node_p50),
        node_p99_ms=float(node_p99),
        reference="one bare hop of the middleware, to a process without real-time priority",
        reference_p50_ms=float(hop_p50),
        reference_p99_ms=float(hop_p99),
        machine=Machine.here(),
    )


def isolated() -> dict[str, str]:
    """Environment of a graph that hears nothing of others on this machine."""
    return {"ROS_DOMAIN_ID": str(random.randrange(1, 100)), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
