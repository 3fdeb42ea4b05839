"""Faults of every node of the ROS 2 graph, while the arm moves: does it come to a safe stop in time, and is it named?

The arm is driven to and fro by a process in the policy's place. Each trial lets one fault happen, and looks for the
first tick with a stop (of the safety node, or of the robot itself where the safety node is the culprit), for the arm at
rest, and for words in the diagnostics that name the fault. The bound is the watchdog in charge plus one tick: of
commands (60 ms), of states (100 ms) or of the robot (60 ms); for the policy its heartbeat's (500 ms), within which its
last chunk has also been played (400 ms).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Machine
from benchmarks.ros import isolated
from benchmarks.ros_fault_cases import CASES, POLICY_MS, Case
from controllers.names import unknown_name
from ros_nodes.errors import require_rclpy
from ros_nodes.graph import GraphError, NodeName, Supervisor, nodes_of

_TICK_MS = 5.0
_REST_RAD_S = 0.02
_MOVING_RAD_S = 0.05
_FRESH_NS = 100_000_000
_LATELY_NS = 1_000_000_000
_LASTING_NS = 100_000_000  # how long the arm must be slow to be at rest, and not just turning round
_PATIENCE = 2000  # ticks that may wait for this process, which has no priority
_OFFERED = {"control_node": "/candidate_command", "safety_node": "/safe_command"}
_GRAPH = (NodeName.ROBOT_SIM, NodeName.SAFETY, NodeName.CONTROL)


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench ros-faults``."""

    trials: int = 1
    """Trials of each fault of each node."""
    only: tuple[str, ...] = ()
    """Only these faults, e.g. babble or kill/control_node; empty for all."""
    estop_trials: int = 5
    """Emergency stops from a plain client."""
    start_timeout_s: float = 300.0
    """Longest time until every node is active."""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of one node.

    Attributes:
        fault: Which fault, of which node.
        trials: Trials.
        safe_stops: Stopped within the bound, came to rest, and named.
        stopped: Stopped within the bound.
        named: Named in the diagnostics.
        worst_ms: Longest time from the fault to the first tick with a stop.
        bound_ms: Bound.
        rest_ms: Longest time until the arm was at rest.
    """

    fault: str
    trials: int
    safe_stops: int
    stopped: int
    named: int
    worst_ms: float
    bound_ms: float
    rest_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla bench ros-faults`` found.

    Attributes:
        trials: Trials in all.
        safe_stops: Safe stops in all.
        worst_ms: Longest time from a fault to the first tick with a stop.
        estop_trials: Emergency stops.
        estop_worst_ms: Longest time from the request's receipt to a stopping safe command.
        estop_latched: Emergency stops that were still there after a RESUME and a new chunk, and left on RESET.
        faults: By fault.
        machine: Where.
    """

    trials: int
    safe_stops: int
    worst_ms: float
    estop_trials: int
    estop_worst_ms: float
    estop_latched: int
    faults: list[Row]
    machine: Machine


def run(options: Options) -> Result:
    """Run the trials."""
    require_rclpy()
    names = {case.name for case in CASES} | {case.fault for case in CASES}
    for wanted in options.only:
        if wanted not in names:
            raise ValueError(unknown_name("fault", wanted, sorted(names)))
    cases = [case for case in CASES if not options.only or {case.name, case.fault} & set(options.only)]
    environment = isolated()
    os.environ.update(environment)
    with ExitStack() as stack:
        bench = stack.enter_context(_Bench(environment, options.start_timeout_s))
        rows = [bench.row(case, options.trials) for case in cases]
        estops = [bench.emergency_stop() for _ in range(options.estop_trials)]
    return Result(
        trials=sum(row.trials for row in rows),
        safe_stops=sum(row.safe_stops for row in rows),
        worst_ms=max((row.worst_ms for row in rows), default=0.0),
        estop_trials=len(estops),
        estop_worst_ms=max((took for took, _ in estops), default=0.0),
        estop_latched=sum(latched for _, latched in estops),
        faults=rows,
        machine=Machine.here(),
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    stop_ms: float
    rest_ms: float
    named: bool


class _Bench:
    """A running graph, its driver, and a client that watches."""

    def __init__(self, environment: dict[str, str], timeout_s: float) -> None:
        parameters: dict[str, bool | int | float | str] = {"policy_timeout_ms": POLICY_MS, "max_state_rate_hz": 300.0}
        own = {NodeName.ROBOT_SIM: {"camera_rate_hz": 0.0, "task": "reach"}}
        self._processes = nodes_of(_GRAPH, parameters, own=own)
        self._environment, self._timeout_s = environment, timeout_s
        self._drill: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Bench:
        from ros_nodes.client import GraphClient

        self._stack = ExitStack()
        self._graph = self._stack.enter_context(Supervisor(self._processes, self._environment))
        self._client: Any = self._stack.enter_context(GraphClient(joints=True, patience=_PATIENCE))
        self._stack.callback(self._end_drill)
        self._start_drill()
        self._graph.wait_active(self._timeout_s)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # ------------------------------------------------------------------------------------------------- driver

    def _start_drill(self) -> None:
        self._drill = subprocess.Popen(
            [sys.executable, "-m", "ros_nodes.drill"],
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._drill.stdout is not None
        if self._drill.stdout.readline().strip() != "ready":
            raise GraphError("the drill's process did not start; its messages above say why")

    def _end_drill(self) -> None:
        if self._drill is not None:
            self._drill.kill()
            self._drill.wait()

    def _tell(self, words: str) -> str:
        assert self._drill is not None
        assert self._drill.stdin is not None
        assert self._drill.stdout is not None
        self._drill.stdin.write(words + "\n")
        self._drill.stdin.flush()
        return self._drill.stdout.readline().strip()

    # ------------------------------------------------------------------------------------------------- trials

    def row(self, case: Case, trials: int) -> Row:
        """All trials of one case."""
        done = [self._trial(case) for _ in range(trials)]
        in_time = [trial.stop_ms <= case.bound_ms + _TICK_MS for trial in done]
        safe = [ok and trial.named and trial.rest_ms < float("inf") for ok, trial in zip(in_time, done, strict=True)]
        return Row(
            fault=case.name,
            trials=trials,
            safe_stops=sum(safe),
            stopped=sum(in_time),
            named=sum(trial.named for trial in done),
            worst_ms=max(trial.stop_ms for trial in done),
            bound_ms=case.bound_ms + _TICK_MS,
            rest_ms=max(trial.rest_ms for trial in done),
        )

    def _moving(self, words: tuple[str, ...] = ()) -> None:
        """Wait until the arm moves freely and nobody speaks of ``words`` any more, and forget what was before."""
        client = self._client

        def moves() -> bool:
            now = time.time_ns()
            recent = client.safety[-20:]
            running = len(recent) == 20 and all(tick.result.status.stop_category is None for tick in recent)
            fresh = running and now - recent[-1].inputs.now_ns < _FRESH_NS
            # What was heard last may be from before the robot was started again.
            stamp, speed = client.joints[-1] if client.joints else (0, 0.0)
            fast = speed > _MOVING_RAD_S and now - stamp < _FRESH_NS
            lately = [heard for heard in list(client.heard) if heard.stamp_ns >= now - _LATELY_NS]
            robot = [heard.words for heard in lately if heard.node == NodeName.ROBOT_SIM.value]
            follows = bool(robot) and "following" in robot[-1]
            unsaid = not any(word in heard.words for heard in lately for word in words)
            return fresh and fast and follows and unsaid

        client.wait(moves, 90.0, "an arm that moves under the drill's chunks")
        for kept in (client.safety, client.received_ns, client.joints, client.heard):
            kept.clear()

    def _trial(self, case: Case) -> _Trial:
        self._moving(case.words)
        began, recover = self._begin(case)
        client = self._client
        deadline = time.monotonic() + 2.5
        stopped, rest = float("inf"), float("inf")
        named = False
        while time.monotonic() < deadline and not (named and rest < float("inf") and stopped < float("inf")):
            time.sleep(0.02)
            stopped = min(stopped, self._first_stop(case, began))
            rest = min(rest, self._first_rest(case, began))
            named = named or any(
                word in heard.words for heard in client.heard if heard.stamp_ns >= began for word in case.words
            )
        recover()
        return _Trial(stopped, rest, named)

    def _first_stop(self, case: Case, began: int) -> float:
        """Milliseconds to the first tick with a stop."""
        client = self._client
        if case.by_robot:
            stamps = [
                heard.stamp_ns
                for heard in list(client.heard)
                if heard.node == "robot_sim_node" and "holding" in heard.words and heard.stamp_ns >= began
            ]
        elif case.node == "policy":
            # The executor answers a refused or missing chunk: the arm is brought to rest by the commands themselves.
            stamps = [
                tick.inputs.now_ns
                for tick in list(client.safety)
                if tick.inputs.now_ns >= began and tick.result.status.stop_category is not None
            ]
            rest = self._first_rest(case, began)
            if rest < float("inf"):
                stamps = [min([began + round(rest * 1e6), *stamps])]
        else:
            stamps = [
                tick.inputs.now_ns
                for tick in list(client.safety)
                if tick.inputs.now_ns >= began and tick.result.status.stop_category is not None
            ]
        return (stamps[0] - began) * 1e-6 if stamps else float("inf")

    def _first_rest(self, case: Case, began: int) -> float:
        """Milliseconds to the arm at rest; a dead or silenced robot counts as resting when its node is the culprit."""
        if case.node == "robot_sim_node":
            return 0.0
        since: int | None = None
        for stamp, speed in list(self._client.joints):
            if stamp < began or speed >= _REST_RAD_S:
                since = None
            elif since is None:
                since = stamp
            elif stamp - since >= _LASTING_NS:
                return (since - began) * 1e-6
        return float("inf")

    def _begin(self, case: Case) -> tuple[int, Callable[[], None]]:
        """Let the fault happen; when it did, and how to undo it."""
        if case.topic:
            return int(self._tell(f"{case.fault} {case.topic}")), lambda: (self._tell("off"), None)[1]
        kill = case.fault == "kill"
        if case.node == "policy":
            assert self._drill is not None
            drill = self._drill
            began = time.time_ns()
            drill.send_signal(signal.SIGKILL if kill else signal.SIGSTOP)

            def again() -> None:
                if kill:
                    self._end_drill()
                    self._start_drill()
                else:
                    drill.send_signal(signal.SIGCONT)

            return began, again
        name = NodeName(case.node)
        pid = self._graph.pid(name)
        began = time.time_ns()
        if case.fault == "qos":
            key = f"qos_overrides.{_OFFERED[case.node]}.publisher.reliability"
            self._graph.restart(name, {key: "best_effort"})
            self._graph.wait_active(self._timeout_s)

            def restore() -> None:
                self._graph.restart(name)
                self._graph.wait_active(self._timeout_s)

            return began, restore
        os.kill(pid, signal.SIGKILL if kill else signal.SIGSTOP)

        def again() -> None:
            if kill:
                self._graph.restart(name)
                self._graph.wait_active(self._timeout_s)
            else:
                os.kill(pid, signal.SIGCONT)

        return began, again

    def emergency_stop(self) -> tuple[float, bool]:
        """One emergency stop: ms from the receipt to the stopping safe command, and whether it stayed until RESET."""
        from controllers.types import OperatorEvent, SafetyStatus
        from ros_nodes import topics

        self._moving()
        client = self._client
        client.trigger(topics.EMERGENCY_STOP)
        client.wait(
            lambda: any(OperatorEvent.EMERGENCY_STOP in tick.inputs.events for tick in client.safety),
            5.0,
            "a tick with the emergency stop",
        )
        tick = next(tick for tick in client.safety if OperatorEvent.EMERGENCY_STOP in tick.inputs.events)
        took = (tick.published_ns - tick.inputs.now_ns) * 1e-6
        stopping = tick.result.status is SafetyStatus.EMERGENCY_STOP
        client.trigger(topics.RESUME)
        time.sleep(1.0)
        latched = stopping and client.safety[-1].result.status is SafetyStatus.EMERGENCY_STOP
        client.trigger(topics.RESET)
        time.sleep(0.2)
        released = client.safety[-1].result.status is not SafetyStatus.EMERGENCY_STOP
        return took if stopping else float("inf"), latched and released
