"""Start the stack as ROS 2 nodes, watch over them, and stop them: simulated, on a robot, or from a recorded episode."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cli.output import console, print_json
from ros_nodes.errors import require_rclpy
from ros_nodes.graph import REPLAY, ROBOT, SIM, NodeName, NodeProcess, ParameterValue, Supervisor, nodes_of

_LOG_TIMEOUT_MS = 500.0  # five heartbeats of the recorder
_STOP_TIMEOUT_S, _BAG_TIMEOUT_S = 15.0, 600.0  # a bag is written at the end


@dataclass(frozen=True)
class Options:
    """Options of ``vla up``; exactly one of --sim, --robot and --replay."""

    sim: bool = False
    """MuJoCo as the robot."""
    robot: Path | None = None
    """ROS parameter YAML that says how the robot is spoken to; see docs/ros2.md."""
    replay: Path | None = None
    """Episode to publish again with its true timing."""
    task: str = "pick_up"
    """Task of the simulated scene."""
    seed: int = 1_000_000
    """Seed of the simulated scene."""
    instruction: str = ""
    """Words to start with; otherwise the policy waits for the topic `instruction`."""
    without_policy: bool = False
    """Start neither policy nor control: a program of yours commands, or `vla replay --robot ros2`."""
    controller: str = "differential_ik"
    """differential_ik, operational_space or joint_impedance."""
    rate_hz: int = 200
    """Control ticks per second."""
    record: Path | None = Path("runs/ros")
    """Folder for the episodes; None records nothing."""
    log_failure: Literal["continue", "hold"] = "continue"
    """What the arm does while the recorder is silent or its log cannot be written."""
    mcap: bool = False
    """Also write each episode as a ROS 2 bag."""
    params: Path | None = None
    """Further ROS parameter YAML for all nodes."""
    namespace: str = ""
    """Namespace of all nodes."""
    realtime: bool = True
    """Ask for real-time priorities."""
    seconds: float = 0.0
    """Stop after so long; 0 runs until Ctrl-C."""
    start_timeout_s: float = 300.0
    """Longest time until every node is active."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla up --json`` prints."""

    nodes: tuple[str, ...]
    seconds: float
    restarts: int


def main(options: Options) -> int:
    """Run the graph; 0 when it was stopped, 1 when it fell apart."""
    require_rclpy()
    restarts = 0

    def told(words: str) -> None:
        nonlocal restarts
        restarts += "starting it again" in words
        console.print(words, highlight=False)

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    processes = _processes(options)
    started = time.monotonic()
    stop_timeout_s = _BAG_TIMEOUT_S if options.mcap else _STOP_TIMEOUT_S
    with Supervisor(processes, told=told, stop_timeout_s=stop_timeout_s) as graph:
        console.print(f"starting {', '.join(item.name.value for item in processes)}", highlight=False)
        graph.wait_active(options.start_timeout_s)
        started = time.monotonic()
        console.print(_hint(options), highlight=False)
        while not stop.wait(0.2):
            graph.check()
            if options.seconds and time.monotonic() - started > options.seconds:
                break
        console.print("stopping", highlight=False)
    if options.json:
        names = tuple(item.name.value for item in processes)
        print_json(Result(names, round(time.monotonic() - started, 3), restarts))
    return 0


def _processes(options: Options) -> tuple[NodeProcess, ...]:
    chosen = [options.sim, options.robot is not None, options.replay is not None]
    if sum(chosen) != 1:
        raise ValueError(
            f"expected exactly one of --sim, --robot CFG and --replay EPISODE, found {sum(chosen)} of them"
        )
    for path in (options.robot, options.replay, options.params):
        if path is not None and not path.exists():
            raise ValueError(f"expected {path} to exist; found nothing there")
    shared: dict[str, ParameterValue] = {}
    own: dict[NodeName, dict[str, ParameterValue]] = {}
    files = tuple(path for path in (options.robot, options.params) if path is not None)
    if options.replay is not None:
        own[NodeName.REPLAY] = {"episode": str(options.replay.resolve())}
        names = REPLAY
    else:
        names = SIM if options.sim else ROBOT
        shared |= {"controller": options.controller, "rate_hz": options.rate_hz}
        own[NodeName.POLICY] = {"instruction": options.instruction}
        recording: dict[str, ParameterValue] = {"out": str(options.record), "task": options.task if options.sim else ""}
        recording |= {"mcap": options.mcap, "log_failure": options.log_failure}
        own[NodeName.RECORDER] = recording
        if options.sim:
            shared["use_sim_time"] = True
            own[NodeName.ROBOT_SIM] = {"task": options.task, "seed": options.seed}
            recording["seed"] = options.seed
        if options.log_failure == "hold":
            if options.record is None:
                raise ValueError(
                    "expected a folder in --record to hold for: without a recorder the arm would never move"
                )
            own[NodeName.SAFETY] = {"log_timeout_ms": _LOG_TIMEOUT_MS}
        if options.without_policy:
            names = tuple(name for name in names if name not in (NodeName.POLICY, NodeName.CONTROL))
        if options.record is None:
            names = tuple(name for name in names if name is not NodeName.RECORDER)
    return nodes_of(names, shared, files=files, namespace=options.namespace, realtime=options.realtime, own=own)


def _hint(options: Options) -> str:
    if options.replay is not None or options.without_policy:
        return "all nodes are active; Ctrl-C stops them"
    words = options.instruction or "WORDS"
    return (
        f"all nodes are active; Ctrl-C stops them. To instruct: python -m ros_nodes.say '{words}', or "
        f"ros2 topic pub --once /instruction std_msgs/msg/String \"{{data: '{words}'}}\""
    )
