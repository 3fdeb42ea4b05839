"""Which processes a graph consists of, and their supervision. Needs no ROS itself: it starts processes that do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType

# Exit codes of nodes that would end the same way again.
BAD_INPUT, REFUSED = 2, 3

ParameterValue = bool | int | float | str


class GraphError(RuntimeError):
    """A graph that cannot be started, or that fell apart."""


class NodeName(Enum):
    """Every executable of the graph."""

    RECORDER = "recorder_node"
    ROBOT_SIM = "robot_sim_node"
    SAFETY = "safety_node"
    CONTROL = "control_node"
    POLICY = "policy_node"
    REPLAY = "replay_node"

    @property
    def module(self) -> str:
        """Module that runs as the node's process."""
        return f"ros_nodes.{self.value}"


# Safety comes before control, and both before the simulated robot, which is as punctual as a robot's drives only with a
# priority of its own: niceness alone let it wait 10 to 75 ms for the processor on a loaded machine. Together the three
# need about 60% of one core, well below the 95% that Linux grants such processes.
PRIORITIES: Mapping[NodeName, int] = MappingProxyType(
    {NodeName.SAFETY: 60, NodeName.CONTROL: 50, NodeName.ROBOT_SIM: 40}
)
# For the threads without that priority (rendering), and where it is not granted.
NICENESS: Mapping[NodeName, int] = MappingProxyType({NodeName.ROBOT_SIM: -15})
# Parameters that differ from the nodes' own defaults when the graph is started as a whole.
COMMON: Mapping[str, ParameterValue] = MappingProxyType({"autostart": True})
SIM: tuple[NodeName, ...] = (
    NodeName.RECORDER,
    NodeName.ROBOT_SIM,
    NodeName.SAFETY,
    NodeName.CONTROL,
    NodeName.POLICY,
)
ROBOT: tuple[NodeName, ...] = (NodeName.RECORDER, NodeName.SAFETY, NodeName.CONTROL, NodeName.POLICY)
REPLAY: tuple[NodeName, ...] = (NodeName.REPLAY,)


@dataclass(frozen=True)
class NodeProcess:
    """How one node's process is started.

    Attributes:
        name: Which node.
        parameters: Its parameters, over those of the files.
        files: ROS parameter YAML files, the later one wins.
        namespace: Namespace of the node.
        realtime: Ask for real-time priority where the node has one.
        restart: Start it again when it ends by itself.
    """

    name: NodeName
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    namespace: str = ""
    realtime: bool = True
    restart: bool = True

    def command(self) -> list[str]:
        """The process's arguments."""
        priority = PRIORITIES.get(self.name, 0) if self.realtime else 0
        words = [sys.executable, "-m", self.name.module, "--end-with-parent", "--realtime-priority", str(priority)]
        if self.realtime and self.name in NICENESS:
            words += ["--niceness", str(NICENESS[self.name])]
        words += ["--ros-args", "--log-level", "info"]
        for path in self.files:
            words += ["--params-file", str(path)]
        for key, value in self.parameters.items():
            words += ["-p", f"{key}:={_yaml(value)}"]
        if self.namespace:
            words += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        return words


def _yaml(value: ParameterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else repr(value)


class State(Enum):
    """State of one node's process."""

    STARTING = "starting"
    ACTIVE = "active"
    ENDED = "ended"


@dataclass(slots=True)
class _Child:
    spec: NodeProcess
    process: subprocess.Popen[str]
    state: State = State.STARTING
    restarts: list[float] = field(default_factory=list)


class Supervisor:
    """Starts, watches and stops the processes of a graph. A context manager.

    Log lines of the nodes go to this process's stderr. A process that ends by itself is started again, up to three
    times a minute; after that the graph is given up.
    """

    _MOST_RESTARTS = 3

    def __init__(
        self,
        nodes: tuple[NodeProcess, ...],
        environment: Mapping[str, str] | None = None,
        told: Callable[[str], None] | None = None,
        stop_timeout_s: float = 15.0,
    ) -> None:
        """Keep the settings; entering the context starts the processes.

        Args:
            nodes: What to start, in this order.
            environment: Variables to set, such as ROS_DOMAIN_ID.
            told: Called with a line about each change.
            stop_timeout_s: How long processes may take to end when they are told to; a recorder that writes bags takes
                about as long as a few minutes' recording is.
        """
        self._nodes = nodes
        self._environment = {**os.environ, **(environment or {})}
        self._told = told or (lambda words: None)
        self._children: dict[NodeName, _Child] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._stop_timeout_s = stop_timeout_s

    def __enter__(self) -> Supervisor:
        """Start every process; :meth:`wait_active` waits for them."""
        try:
            for spec in self._nodes:
                self._start(spec, [])
        except OSError:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every process."""
        self.stop()

    def pid(self, name: NodeName) -> int:
        """Process id of a node."""
        return self._children[name].process.pid

    def state(self, name: NodeName) -> State:
        """State of a node's process."""
        return self._children[name].state

    def wait_active(self, timeout_s: float = 120.0) -> None:
        """Wait until every node is active.

        Raises:
            GraphError: One could not be started, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            waiting = [name.value for name, child in self._children.items() if child.state is not State.ACTIVE]
            if not waiting:
                return
            self.check()
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise GraphError(
                    f"expected all nodes active within {timeout_s:g} s; still waiting for {', '.join(waiting)}"
                )
            with self._changed:
                self._changed.wait(min(remaining, 0.2))

    def check(self) -> None:
        """Look after the processes: start again what has ended by itself.

        Raises:
            GraphError: One ends again and again, or may not be started again.
        """
        for name, child in list(self._children.items()):
            code = child.process.poll()
            if code is None or self._stopping:
                continue
            child.state = State.ENDED
            now = time.monotonic()
            recent = [when for when in child.restarts if now - when < 60.0]
            if not child.spec.restart or len(recent) >= self._MOST_RESTARTS or code in (BAD_INPUT, REFUSED):
                raise GraphError(f"{name.value} ended with code {code}; its last lines above say why")
            self._told(f"{name.value} ended with code {code}: starting it again")
            self._start(child.spec, [*recent, now])

    def restart(self, name: NodeName, parameters: Mapping[str, ParameterValue] | None = None) -> None:
        """End a node's process, whatever it does, and start it again, for this once with further parameters."""
        child = self._children[name]
        child.process.kill()
        child.process.wait()
        original = next(spec for spec in self._nodes if spec.name is name)
        spec = replace(original, parameters={**original.parameters, **(parameters or {})})
        self._start(spec, child.restarts)

    def stop(self) -> None:
        """Tell all to end, the later ones first, and end what does not."""
        self._stopping = True
        for child in reversed(self._children.values()):
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGCONT)
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout_s
        for child in self._children.values():
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.state = State.ENDED

    def _start(self, spec: NodeProcess, restarts: list[float]) -> None:
        process = subprocess.Popen(
            spec.command(),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is this process's to answer
        )
        child = _Child(spec, process, restarts=restarts)
        self._children[spec.name] = child
        threading.Thread(target=self._listen, args=(child,), name=spec.name.value, daemon=True).start()

    def _listen(self, child: _Child) -> None:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("state") == State.ACTIVE.value:
                with self._changed:
                    child.state = State.ACTIVE
                    self._changed.notify_all()
                self._told(f"{child.spec.name.value} is active")


def nodes_of(
    names: tuple[NodeName, ...],
    parameters: Mapping[str, ParameterValue],
    *,
    files: tuple[Path, ...] = (),
    namespace: str = "",
    realtime: bool = True,
    own: Mapping[NodeName, Mapping[str, ParameterValue]] | None = None,
) -> tuple[NodeProcess, ...]:
    """Processes that share parameters.

    Args:
        names: Which nodes.
        parameters: For all of them.
        files: Parameter files for all of them.
        namespace: Of all of them.
        realtime: Ask for real-time priorities.
        own: Further parameters by node.
    """
    return tuple(
        NodeProcess(
            name,
            {**COMMON, **parameters, **(own or {}).get(name, {})},
            files,
            namespace,
            realtime,
        )
        for name in names
    )
