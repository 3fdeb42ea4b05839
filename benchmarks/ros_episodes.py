"""Episodes through the ROS 2 graph, beside the same scenes in one process: the same seeds, words and model.

Through ROS: every node a process of its own, in real time, instructed on the topic as a person would. The reference is
the lock-step evaluation of the same pairs of task and seed in this process, with a declared latency. What the recorder
wrote is then replayed in a fresh process each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import Machine, Stolen
from benchmarks.ros import isolated
from controllers.latency import parse_latency
from episodes.statistics import wilson
from ros_nodes.errors import require_rclpy
from ros_nodes.graph import SIM, GraphError, NodeName, Supervisor, nodes_of
from sim.assembly import default_config
from sim.evaluation import EvalOptions, run_cases
from sim.policies import PolicyChoice
from sim.tasks.catalog import get_task, task_names

if TYPE_CHECKING:
    from ros_nodes.client import GraphClient

# Who listens is ready before who speaks; the way down is the way up backwards.
_ORDER = (NodeName.RECORDER, NodeName.ROBOT_SIM, NodeName.SAFETY, NodeName.CONTROL, NodeName.POLICY)
_SCENE_S = 60.0
_HEARD_S = 0.3


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench ros-episodes``."""

    episodes: int = 20
    """Episodes in all, dealt over the tasks."""
    tasks: str = ""
    """Tasks, separated by commas; empty for all of the suite."""
    seed: int = 1_000_000
    """First seed."""
    rate_hz: int = 200
    """Control ticks per second."""
    latency: str = "25ms"
    """Latency declared in the reference; the graph's own is what it is."""
    out: Path | None = None
    """Folder for the graph's episodes; none given: a temporary one."""
    start_timeout_s: float = 300.0
    """Longest time until every node is active."""


@dataclass(frozen=True, slots=True)
class Row:
    """One pair.

    Attributes:
        task: Task.
        seed: Seed of scene and arrangement.
        ros: It succeeded through ROS.
        in_process: It succeeded in one process.
        seconds: Time it took through ROS, or the task's limit.
    """

    task: str
    seed: int
    ros: bool
    in_process: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla bench ros-episodes`` found.

    Attributes:
        episodes: Pairs.
        ros: Successes through ROS.
        ros_wilson95: Their share's interval.
        in_process: Successes in one process.
        in_process_wilson95: Their share's interval.
        only_ros: Pairs that succeeded only through ROS.
        only_in_process: Pairs that succeeded only in one process.
        recorded: Halves that the recorder wrote.
        replayed_identical: Of these, replayed bit for bit in a fresh process.
        stolen_share: Processor time that the host of a virtual machine gave to others meanwhile.
        rows: The pairs.
        machine: Where.
    """

    episodes: int
    ros: int
    ros_wilson95: tuple[float, float]
    in_process: int
    in_process_wilson95: tuple[float, float]
    only_ros: int
    only_in_process: int
    recorded: int
    replayed_identical: int
    stolen_share: float
    rows: list[Row]
    machine: Machine


def run(options: Options) -> Result:
    """Run both."""
    require_rclpy()
    machine = Machine.here()
    cases = _cases(options)
    if options.out is not None:
        return _run(options, cases, options.out, machine)
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, cases, Path(folder), machine)


def _cases(options: Options) -> list[tuple[str, int]]:
    names = [name.strip() for name in options.tasks.split(",") if name.strip()] or list(task_names())
    for name in names:
        get_task(name)
    return [(names[k % len(names)], options.seed + k // len(names)) for k in range(options.episodes)]


def _run(options: Options, cases: list[tuple[str, int]], out: Path, machine: Machine) -> Result:
    stolen = Stolen()
    through = _through_ros(options, cases, out)
    share = stolen.share()
    latency = parse_latency(options.latency) if options.latency else None
    evaluation = EvalOptions(
        policy=PolicyChoice(),
        config=replace(default_config(), latency=latency, control_rate_hz=options.rate_hz),
        tasks=tuple(sorted({task for task, _ in cases})),
    )
    found = {(done.task, done.seed): done.success for done in run_cases(evaluation, cases, show_progress=False)}
    rows = [
        Row(task, seed, seconds is not None, bool(found[task, seed]), seconds or get_task(task).time_limit_s)
        for (task, seed), seconds in zip(cases, through, strict=True)
    ]
    recorded = sorted(out.glob("*.zarr"))
    ros, in_process = sum(row.ros for row in rows), sum(row.in_process for row in rows)
    return Result(
        episodes=len(rows),
        ros=ros,
        ros_wilson95=_interval(ros, len(rows)),
        in_process=in_process,
        in_process_wilson95=_interval(in_process, len(rows)),
        only_ros=sum(row.ros and not row.in_process for row in rows),
        only_in_process=sum(row.in_process and not row.ros for row in rows),
        recorded=len(recorded),
        replayed_identical=sum(_replays(path) for path in recorded),
        stolen_share=round(share, 5),
        rows=rows,
        machine=machine,
    )


def _through_ros(options: Options, cases: list[tuple[str, int]], out: Path) -> list[float | None]:
    """Seconds to success of each case, None where it did not succeed in time."""
    environment = isolated()
    os.environ.update(environment)
    from ros_nodes.client import GraphClient

    task, seed = cases[0]
    shared: dict[str, bool | int | float | str] = {"rate_hz": options.rate_hz, "use_sim_time": True}
    own: dict[NodeName, dict[str, bool | int | float | str]] = {
        NodeName.ROBOT_SIM: {"task": task, "seed": seed},
        NodeName.RECORDER: {"out": str(out), "task": task, "seed": seed},
    }
    done: list[float | None] = []
    # Ticks are not looked at here, and not kept.
    watching = GraphClient(on_safety=lambda tick, heard: None)
    with Supervisor(nodes_of(SIM, shared, own=own), environment) as graph, watching as client:
        graph.wait_active(options.start_timeout_s)
        for number, (task, seed) in enumerate(cases):
            if number:
                _next_scene(client, task, seed)
            client.wait(lambda: bool(client.instruction), _SCENE_S, "the scene's instruction")
            done.append(_attempt(graph, client, get_task(task).time_limit_s))
        for name in reversed(_ORDER):
            client.change(name, "deactivate")
    return done


def _next_scene(client: GraphClient, task: str, seed: int) -> None:
    """Take the graph down to where no node acts, and up again around another scene."""
    for name in reversed(_ORDER):
        client.change(name, "deactivate")
    client.change(NodeName.ROBOT_SIM, "cleanup")
    client.instruction, client.succeeded = "", False
    client.set(NodeName.ROBOT_SIM, {"task": task, "seed": seed})
    client.set(NodeName.RECORDER, {"task": task, "seed": seed})
    client.change(NodeName.ROBOT_SIM, "configure")
    client.wait(lambda: bool(client.instruction), _SCENE_S, "the scene's instruction")
    # Before the policy acts, so that it does not begin with the last scene's words.
    client.say(client.instruction)
    time.sleep(_HEARD_S)
    for name in _ORDER:
        client.change(name, "activate")


def _attempt(graph: Supervisor, client: GraphClient, limit_s: float) -> float | None:
    client.succeeded = False
    client.say(client.instruction)
    began = time.monotonic()
    while time.monotonic() < began + limit_s:
        graph.check()
        if client.succeeded:
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def _replays(path: Path) -> bool:
    """Whether a recorded half replays bit for bit in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "replay", str(path), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if not lines:
        raise GraphError(f"the replay of {path} said nothing; its messages above say why")
    return bool(json.loads(lines[-1]).get("identical"))


def _interval(successes: int, episodes: int) -> tuple[float, float]:
    found = wilson(successes, episodes)
    return found.low, found.high
