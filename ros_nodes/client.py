"""A plain client of the graph, as a person's own program would be one: for tests, benchmarks and evaluation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String, UInt8MultiArray
from std_srvs.srv import Trigger

from ros_nodes import topics
from ros_nodes.conversion import record_data, stamp_ns
from ros_nodes.graph import GraphError, NodeName, ParameterValue
from ros_nodes.qos import profile
from ros_nodes.records import CONTROL_LABEL, SAFETY_LABEL, ControlTick, SafetyTick, unpack_control_tick
from ros_nodes.records import unpack_safety_tick as unpack_safety
from ros_nodes.topics import Qos, Service, Topic

# Notes in the diagnostics are filed under the topic that they are about, e.g. "candidate_command deadline".
_TOPIC_NAMES = frozenset(topic.name for topic in topics.TOPICS)
_TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
    "cleanup": Transition.TRANSITION_CLEANUP,
}


@dataclass(frozen=True, slots=True)
class Heard:
    """One diagnostic status.

    Attributes:
        node: Who said it.
        stamp_ns: When, graph time.
        level: Level of ``DiagnosticStatus``.
        words: Its message and what was noted of its topics: what is so now.
        values: All of its numbers and notes by name, counts since activation among them.
    """

    node: str
    stamp_ns: int
    level: int
    words: str
    values: Mapping[str, str]


class GraphClient:
    """Listens to a graph from a thread of its own, and calls its services. A context manager.

    Attributes:
        safety: Ticks of the safety node, newest last; cut at the front by whoever reads.
        control: Ticks of the control node, if they were asked for.
        heard: Diagnostics.
        joints: Stamp in ns and largest joint speed in rad/s of each joint state, if they were asked for.
        received_ns: Monotonic time at which each entry of ``safety`` came.
    """

    def __init__(
        self,
        *,
        namespace: str = "",
        control: bool = False,
        joints: bool = False,
        on_safety: Callable[[SafetyTick, int], None] | None = None,
        on_control: Callable[[ControlTick, int], None] | None = None,
        patience: int = 0,
    ) -> None:
        """Listen to what is asked for; entering the context starts.

        Args:
            namespace: Of the graph.
            control: Keep the control node's ticks.
            joints: Keep the joint states' stamps and speeds.
            on_safety: Takes each safety tick, with the monotonic time in ns at which it came, instead of the lists,
                which grow for as long as the client runs.
            on_control: The same for control ticks.
            patience: Ticks of each kind that may wait for this process before the oldest are lost; 0 for the topics'.
        """
        self._namespace, self._control, self._joints = namespace, control or on_control is not None, joints
        self._safety_taken, self._control_taken, self._patience = on_safety, on_control, patience
        self.safety: list[SafetyTick] = []
        self.received_ns: list[int] = []
        self.control: list[ControlTick] = []
        self.heard: list[Heard] = []
        self.joints: list[tuple[int, float]] = []
        self.instruction = ""
        self.succeeded = False

    def __enter__(self) -> GraphClient:
        """Start."""
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("graph_client", namespace=self._namespace, context=self._context)
        self._subscribe(topics.SAFETY_TICK, UInt8MultiArray, self._on_safety, self._tick_qos(topics.SAFETY_TICK))
        self._subscribe(topics.DIAGNOSTICS, DiagnosticArray, self._on_diagnostics)
        self._subscribe(topics.TASK_INSTRUCTION, String, self._on_instruction)
        self._subscribe(topics.TASK_SUCCESS, Bool, self._on_success)
        if self._control:
            self._subscribe(topics.CONTROL_TICK, UInt8MultiArray, self._on_control, self._tick_qos(topics.CONTROL_TICK))
        if self._joints:
            self._subscribe(topics.JOINT_STATES, JointState, self._on_joints)
        self._say = self._node.create_publisher(String, topics.INSTRUCTION.name, profile(topics.INSTRUCTION.offered))
        self._executor = EventsExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="graph-client", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._context.try_shutdown()
        self._thread.join(5.0)
        self._executor.remove_node(self._node)
        self._node.destroy_node()

    def _spin(self) -> None:
        try:
            while self._context.ok():
                self._executor.spin_once(timeout_sec=0.1)
        except (ExternalShutdownException, RuntimeError):
            if self._context.ok():
                raise

    def _subscribe(
        self, topic: Topic, kind: type[Any], callback: Callable[[Any], None], qos: Qos | None = None
    ) -> None:
        self._node.create_subscription(kind, topic.name, callback, profile(qos or topic.requested))

    def _tick_qos(self, topic: Topic) -> Qos:
        """What is asked for ticks: with patience only what comes from now on, since who watches needs no past."""
        return Qos(depth=self._patience) if self._patience else topic.requested

    # ------------------------------------------------------------------------------------------- what it hears

    def _on_safety(self, message: UInt8MultiArray) -> None:
        received = time.monotonic_ns()
        tick = unpack_safety(record_data(message, SAFETY_LABEL))
        if self._safety_taken is not None:
            self._safety_taken(tick, received)
            return
        self.received_ns.append(received)
        self.safety.append(tick)

    def _on_control(self, message: UInt8MultiArray) -> None:
        received = time.monotonic_ns()
        tick = unpack_control_tick(record_data(message, CONTROL_LABEL))
        if self._control_taken is not None:
            self._control_taken(tick, received)
            return
        self.control.append(tick)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            notes = [f"{key}: {words}" for key, words in values.items() if key.split(" ")[0] in _TOPIC_NAMES]
            level = int.from_bytes(status.level, "little")
            words = "; ".join((status.message, *notes))
            node = status.name.rpartition("/")[2]
            self.heard.append(Heard(node, stamp_ns(message.header.stamp), level, words, values))

    def _on_joints(self, message: JointState) -> None:
        speed = max((abs(value) for value in message.velocity), default=0.0)
        self.joints.append((stamp_ns(message.header.stamp), speed))

    def _on_instruction(self, message: String) -> None:
        self.instruction = message.data

    def _on_success(self, message: Bool) -> None:
        self.succeeded = self.succeeded or bool(message.data)

    # ---------------------------------------------------------------------------------------------- what it does

    def say(self, words: str, timeout_s: float = 30.0) -> None:
        """Give an instruction, once the policy listens.

        Raises:
            GraphError: Nobody listens.
        """
        self.wait(lambda: self._say.get_subscription_count() > 0, timeout_s, "a subscriber of the instruction")
        self._say.publish(String(data=words))

    def trigger(self, service: Service, timeout_s: float = 10.0) -> str:
        """Call a service of the safety node; its words.

        Raises:
            GraphError: It did not answer, or refused.
        """
        response = self._call(Trigger, service.name, Trigger.Request(), timeout_s)
        if not response.success:
            raise GraphError(f"{service.name}: {response.message}")
        return response.message

    def change(self, node: NodeName, transition: str, timeout_s: float = 60.0) -> None:
        """One lifecycle transition.

        Raises:
            GraphError: It failed, or took too long.
        """
        request = ChangeState.Request(transition=Transition(id=_TRANSITIONS[transition]))
        if not self._call(ChangeState, f"{node.value}/change_state", request, timeout_s).success:
            raise GraphError(f"{node.value}: {transition} failed; its log says why")

    def state(self, node: NodeName, timeout_s: float = 10.0) -> str:
        """Label of a node's lifecycle state."""
        return self._call(GetState, f"{node.value}/get_state", GetState.Request(), timeout_s).current_state.label

    def set(self, node: NodeName, values: dict[str, ParameterValue], timeout_s: float = 10.0) -> None:
        """Set parameters.

        Raises:
            GraphError: One was refused; says why.
        """
        found: list[ParameterMessage] = [
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
        request = SetParameters.Request(parameters=found)
        for result in self._call(SetParameters, f"{node.value}/set_parameters", request, timeout_s).results:
            if not result.successful:
                raise GraphError(f"{node.value}: {result.reason}")

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait for something.

        Raises:
            GraphError: It did not happen.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise GraphError(f"expected {what} within {timeout_s:g} s")
            time.sleep(0.005)

    def _call(self, kind: type[Any], name: str, request: Any, timeout_s: float) -> Any:
        client = self._node.create_client(kind, name)
        try:
            if not client.wait_for_service(timeout_sec=timeout_s):
                raise GraphError(f"expected the service {name} within {timeout_s:g} s")
            future = client.call_async(request)
            self.wait(future.done, timeout_s, f"an answer of {name}")
            return future.result()
        finally:
            self._node.destroy_client(client)
