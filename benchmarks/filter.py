"""Cost of the safety filter at 200 Hz with every limit on: the expert drives whole episodes, each verdict is timed.

The garbage collector stays out, as in the real-time driver. The profile is the tabletop one with keep-outs of all five
shapes, a polytope, an orientation cone and a carried object added. The reference is a published filter from the package
registry, flexiv-control, timed on the same states in the same run, where it is installed (``pip install '.[peers]'``).
It checks a box, speeds and steps; ours verifies a stop.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.machine import Machine, no_collection
from controllers.drivers import run_lockstep
from controllers.types import JointCommand, RobotState, SafetyStatus
from safety.filter import PathConsistentFilter
from safety.profile import (
    BoxZone,
    CapsuleZone,
    CarriedObject,
    CylinderZone,
    Enforcement,
    HalfSpaceZone,
    OrientationCone,
    Plane,
    Polytope,
    SafetyProfile,
    SphereZone,
    load_profile,
)
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.rollout import ExpertSource, Tally, success_condition
from sim.tasks.catalog import task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench filter``."""

    episodes: int = 1
    """Episodes for each task."""
    seed: int = 2_000_000
    """First seed."""
    sliding: bool = False
    """Time the sliding enforcement instead of the path-consistent one."""


@dataclass(frozen=True, slots=True)
class StatusCost:
    """Percentiles over the ticks that ended in one status, microseconds."""

    status: str
    ticks: int
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Result:
    """Percentiles over all ticks, microseconds; the peer's are None where it is not installed."""

    ticks: int
    limits: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    by_status: tuple[StatusCost, ...]
    peer: str
    peer_p50_us: float | None
    peer_p99_us: float | None
    machine: Machine


@dataclass
class _Stopwatch:
    """Times ``enforce``, and the peer on the same state and command right after it."""

    peer: _Peer | None
    nanoseconds: list[int] = field(default_factory=list)
    peer_nanoseconds: list[int] = field(default_factory=list)
    statuses: list[SafetyStatus] = field(default_factory=list)

    def wrap(self, enforce):
        def timed(memory, state, command, events, now_ns, dt):
            started = time.perf_counter_ns()
            result = enforce(memory, state, command, events, now_ns, dt)
            self.nanoseconds.append(time.perf_counter_ns() - started)
            self.statuses.append(result[1].status)
            if self.peer is not None:
                self.peer_nanoseconds.append(self.peer.time(state, command))
            return result

        return timed


class _Peer:
    """flexiv-control's filter, for joints and for the end effector: together they watch what ours watches at least."""

    def __init__(self, module: Any, types: Any) -> None:
        self._filter = module.SafetyFilter(module.SafetyProfile(), control_dt=0.005)
        self._types = types

    def time(self, state: RobotState, command: JointCommand) -> int:
        pose = np.concatenate((state.ee_pose.position, state.ee_pose.quaternion))
        seen = self._types.RobotState(
            q=state.joint_position, dq=state.joint_velocity, tcp_pose=pose, wrench=np.zeros(6), tau=state.joint_effort
        )
        started = time.perf_counter_ns()
        self._filter.filter_joint(command.values, seen)
        self._filter.filter_cartesian(pose, seen)
        return time.perf_counter_ns() - started


def everything_on(base: SafetyProfile) -> SafetyProfile:
    """A profile that uses every limit, with zones beside the tabletop workspace."""
    corner = Polytope("corner", ("tcp", "hand", "wrist"), (Plane((0.6, 0.0, 0.8), 1.05), Plane((0.6, 0.8, 0.0), 0.85)))
    zones = (
        BoxZone("camera_stand", (0.55, 0.62, 0.3), (0.04, 0.04, 0.3)),
        SphereZone("lamp", (0.3, -0.6, 0.7), 0.08),
        CapsuleZone("cable", (0.0, 0.6, 0.2), (0.4, 0.65, 0.8), 0.03),
        CylinderZone("post", (0.75, -0.55, 0.0), (0.75, -0.55, 0.6), 0.05),
        HalfSpaceZone("wall", (1.0, 0.0, 0.0), -0.75),
    )
    return replace(
        base,
        name="everything_on",
        keep_outs=base.keep_outs + zones,
        polytopes=(*base.polytopes, corner),
        orientation=OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), 1.2),
        carried_object=CarriedObject((0.0, 0.0, 0.0), 0.003),
    )


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    profile = everything_on(load_profile("panda_tabletop"))
    if options.sliding:
        profile = replace(profile, enforcement=Enforcement.SLIDING)
    config = replace(default_config(), cameras={}, safety=profile)
    loop = assemble_loop(config)
    peer = _installed_peer()
    watch, safety = _Stopwatch(peer), loop.safety
    assert isinstance(safety, PathConsistentFilter)
    with patch.object(safety, "enforce", watch.wrap(safety.enforce)):
        for task in task_names():
            for seed in range(options.seed, options.seed + options.episodes):
                with assemble_sim(config, task, seed) as cell, no_collection():
                    run_lockstep(
                        loop,
                        cell.robot,
                        ExpertSource().client(cell, config),
                        cell.source,
                        Tally(cell, None, 1_000_000),
                        max_ticks=round(cell.instance.time_limit_s * config.control_rate_hz),
                        stop=success_condition(cell, config),
                    )
    p50, p99, p999, worst = _percentiles(watch.nanoseconds, 50, 99, 99.9, 100)
    peer_p50, peer_p99 = _percentiles(watch.peer_nanoseconds, 50, 99) if peer else (None, None)
    return Result(
        ticks=len(watch.nanoseconds),
        limits=len(safety.limits),
        p50_us=p50,
        p99_us=p99,
        p999_us=p999,
        max_us=worst,
        by_status=_by_status(watch),
        peer="flexiv-control, joints and end effector" if peer else "flexiv-control is not installed",
        peer_p50_us=peer_p50,
        peer_p99_us=peer_p99,
        machine=machine,
    )


def _installed_peer() -> _Peer | None:
    try:
        module = importlib.import_module("flexiv_control.safety")
        types = importlib.import_module("flexiv_control.types")
    except ModuleNotFoundError:
        return None
    return _Peer(module, types)


def _by_status(watch: _Stopwatch) -> tuple[StatusCost, ...]:
    costs: list[StatusCost] = []
    for status in SafetyStatus:
        times = [cost for cost, found in zip(watch.nanoseconds, watch.statuses, strict=True) if found is status]
        if times:
            p50, p99 = _percentiles(times, 50, 99)
            costs.append(StatusCost(status.value, len(times), p50, p99))
    return tuple(costs)


def _percentiles(nanoseconds: list[int], *levels: float) -> list[float]:
    return [float(value) * 1e-3 for value in np.percentile(nanoseconds, levels)]
