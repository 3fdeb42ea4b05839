"""What every node of the graph shares: life cycle, clock, publishers, diagnostics, and the loop that spins it.

Nodes are managed: *configure* builds everything and makes publishers and subscriptions, *activate* lets it act,
*deactivate* makes it stop acting, *cleanup* takes everything down again. One thread does it all.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.experimental.events_executor import EventsExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from controllers.realtime import go_realtime
from ros_nodes import topics
from ros_nodes.clock import GraphClock
from ros_nodes.conversion import header, stamp_ns
from ros_nodes.graph import BAD_INPUT, REFUSED
from ros_nodes.qos import overridable, profile
from ros_nodes.topics import Qos, Topic

_DIAGNOSTICS_NS = 200_000_000
_IDLE_S = 0.05
_MESSAGES_WHEN_BEHIND = 8
_NOTED_NS = 10_000_000_000
_PR_SET_PDEATHSIG = 1


class Level(Enum):
    """Level of a diagnostic status."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR
    STALE = DiagnosticStatus.STALE


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How a node is: a level, words that name what is wrong, and numbers."""

    level: Level
    message: str
    values: Mapping[str, str]


class GraphNode(LifecycleNode):
    """A managed node. Subclasses implement the hooks; each may raise ``ValueError`` to refuse."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.declare_parameter("autostart", False)
        self.clock = GraphClock()
        self.active = False
        self.realtime_priority = 0
        self._clock_known = True
        self._following: Subscription | None = None
        self._taken: list[tuple[Callable[[Any], bool], Any]] = []
        self._notes: dict[str, tuple[str, int]] = {}
        self._diagnostics: Publisher | None = None
        self._diagnosed_ns = 0
        self._last_words = ""

    # ---------------------------------------------------------------------------------------------- hooks

    def setup(self) -> None:
        """Build everything, make publishers and subscriptions."""

    def start(self) -> None:
        """Begin to act."""

    def halt(self) -> None:
        """Stop acting."""

    def teardown(self) -> None:
        """Let go of everything; publishers and subscriptions are destroyed afterwards."""

    def wake_ns(self) -> int | None:
        """When :meth:`work` wants to be called next, on the monotonic clock; None while there is nothing to do."""
        return None

    def work(self) -> None:
        """Do what is due."""

    def diagnose(self) -> Diagnosis:
        """How the node is."""
        return Diagnosis(Level.OK, "active" if self.active else "inactive", {})

    # --------------------------------------------------------------------------------------- making things

    def publish_on(self, topic: Topic, message: type[Any], name: str = "", qos: Qos | None = None) -> Publisher:
        """A publisher of a declared topic; destroyed at cleanup."""
        where = name or topic.name

        def mismatch(info: Any) -> None:
            self.note(where, f"a subscriber asks for more than is offered ({_policy(info)})")

        made = self.create_publisher(
            message,
            where,
            profile(qos or topic.offered),
            event_callbacks=PublisherEventCallbacks(incompatible_qos=mismatch),
            qos_overriding_options=overridable(),
        )
        self._taken.append((self.destroy_publisher, made))
        return made

    def subscribe_to(
        self,
        topic: Topic,
        message: type[Any],
        callback: Callable[[Any], None],
        name: str = "",
        requested: Qos | None = None,
    ) -> Subscription:
        """A subscription to a declared topic; destroyed at cleanup. What happens to it is noted for the diagnostics."""
        where = name or topic.name
        qos = requested or topic.requested

        def mismatch(info: Any) -> None:
            self.note(where, f"a publisher offers less than is asked for ({_policy(info)})")

        def missed(info: Any) -> None:
            self.note(f"{where} deadline", f"missed {info.total_count} times")

        def liveliness(info: Any) -> None:
            self.note(f"{where} publishers", f"{info.alive_count} alive, {info.not_alive_count} gone")

        events = SubscriptionEventCallbacks(
            incompatible_qos=mismatch,
            deadline=None if qos.deadline_ms is None else missed,
            liveliness=None if qos.lease_ms is None else liveliness,
        )
        made = self.create_subscription(
            message, where, callback, profile(qos), event_callbacks=events, qos_overriding_options=overridable()
        )
        self._taken.append((self.destroy_subscription, made))
        return made

    def serve(self, name: str, kind: type[Any], answer: Callable[[Any, Any], Any]) -> None:
        """A service; destroyed at cleanup."""
        self._taken.append((self.destroy_service, self.create_service(kind, name, answer)))

    def note(self, what: str, words: str) -> None:
        """Keep something for the diagnostics of the next seconds."""
        self._notes[what] = (words, time.monotonic_ns())
        self._diagnosed_ns = 0

    @property
    def noted(self) -> Mapping[str, str]:
        """What was noted lately, e.g. an incompatible quality of service."""
        since = time.monotonic_ns() - _NOTED_NS
        return {what: words for what, (words, when) in self._notes.items() if when >= since}

    # ------------------------------------------------------------------------------------------ transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Build."""
        del state
        try:
            self._diagnostics = self.publish_on(topics.DIAGNOSTICS, DiagnosticArray)
            self.setup()
        except (ValueError, OSError, RuntimeError) as error:
            self.get_logger().error(f"cannot be configured: {error}")
            self._let_go()
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act."""
        self.clock = GraphClock()
        if self.get_parameter("use_sim_time").value and not self.is_clock_source:
            self._clock_known = False
            qos = profile(topics.CLOCK.requested)
            self._following = self.create_subscription(Clock, topics.CLOCK.name, self._on_clock, qos)
        try:
            self.start()
        except (ValueError, OSError, RuntimeError) as error:
            self.get_logger().error(f"cannot be activated: {error}")
            return TransitionCallbackReturn.FAILURE
        self.active = True
        print(json.dumps({"node": self.get_fully_qualified_name(), "state": "active"}), flush=True)
        gc.collect()
        gc.freeze()
        gc.disable()
        if self.realtime_priority:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self.realtime_priority))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take everything down."""
        self._let_go()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, and take everything down."""
        if self.active:
            self._stop()
        self._let_go()
        return super().on_shutdown(state)

    def _stop(self) -> None:
        self.active = False
        if self.realtime_priority:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        self.halt()
        self._unfollow()
        gc.unfreeze()
        gc.enable()
        gc.collect()

    def _let_go(self) -> None:
        self.teardown()
        for destroy, thing in reversed(self._taken):
            destroy(thing)
        self._taken.clear()
        self._notes.clear()
        self._diagnostics = None
        # Overrides were declared with their entities, which may be made again.
        gc.collect()

    # ------------------------------------------------------------------------------------------------- clock

    # The simulated robot and the replay publish the clock and do not follow it.
    is_clock_source = False

    @property
    def ready(self) -> bool:
        """Active, and the time is known."""
        return self.active and self._clock_known

    def _on_clock(self, message: Clock) -> None:
        if not self._clock_known and self.clock.follow(stamp_ns(message.clock)):
            self._clock_known = True

    def _unfollow(self) -> None:
        if self._following is not None:
            self.destroy_subscription(self._following)
            self._following = None

    # ------------------------------------------------------------------------------------------- diagnostics

    def publish_diagnosis(self) -> None:
        """Say how the node is, now and then and whenever it changes."""
        now = time.monotonic_ns()
        if self._diagnostics is None or now - self._diagnosed_ns < _DIAGNOSTICS_NS:
            return
        self._diagnosed_ns = now
        if self._clock_known:
            self._unfollow()
        found = self.diagnose()
        values = [KeyValue(key=key, value=value) for key, value in (*found.values.items(), *self.noted.items())]
        status = DiagnosticStatus(
            level=found.level.value, name=self.get_fully_qualified_name(), message=found.message, values=values
        )
        self._diagnostics.publish(DiagnosticArray(header=header(self.clock.now_ns()), status=[status]))
        # What is wrong is logged once, not each time that a number in it changes.
        words = "".join(letter for letter in found.message if not letter.isdigit())
        if words != self._last_words and found.level is not Level.OK:
            self.get_logger().warning(found.message)
        self._last_words = words

    def diagnose_soon(self) -> None:
        """Publish the diagnostics at the next opportunity rather than at their rate."""
        self._diagnosed_ns = 0


def _policy(info: Any) -> str:
    kind = info.last_policy_kind
    return getattr(kind, "name", str(kind)).lower()


class _Stop:
    """Set by a signal."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def run(make: Callable[[], GraphNode], arguments: list[str] | None = None) -> int:
    """Run one node in this process until it is told to end; the exit code.

    Besides ROS arguments the process takes ``--realtime-priority N`` (0: none), which is granted before the middleware
    starts its threads, so that they have it too; ``--niceness N``; and ``--end-with-parent``, to be told to end when
    the parent process dies, however it dies.
    """
    arguments = sys.argv if arguments is None else arguments
    parser = argparse.ArgumentParser(description="A node of the graph; see docs/ros2.md.")
    parser.add_argument("--realtime-priority", type=int, default=0)
    parser.add_argument("--niceness", type=int, default=0)
    parser.add_argument("--end-with-parent", action="store_true")
    own = parser.parse_args(remove_ros_args(arguments)[1:])
    if own.end_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if own.niceness:
        with contextlib.suppress(OSError):  # then it runs as everybody does
            os.nice(own.niceness)
            # Linux shares the processor between sessions first, and within them by niceness.
            Path("/proc/self/autogroup").write_text(str(own.niceness))
    # Shared memory, the middleware's own choice on one machine, takes locks that all processes share: one that was
    # killed while it held such a lock stopped the publishing of all others for three seconds. Sockets have none.
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    priority = own.realtime_priority
    grants = go_realtime(priority) if priority > 0 else None
    stop = _Stop()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
    except (ValueError, OSError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        rclpy.shutdown()
        return BAD_INPUT
    if grants is not None and grants.fifo:
        # The middleware's threads keep it. This thread has it only while it is active: building must not starve others.
        node.realtime_priority = priority
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    gc.enable()
    if grants is not None and grants.message:
        node.get_logger().warning(grants.message)
    executor = EventsExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value:
            done = node.trigger_configure()
            done = node.trigger_activate() if done == TransitionCallbackReturn.SUCCESS else done
            if done != TransitionCallbackReturn.SUCCESS:
                return REFUSED
        spin(node, executor, lambda: stop.asked)
        node.trigger_shutdown()
    except ExternalShutdownException:
        pass
    finally:
        executor.remove_node(node)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def spin(node: GraphNode, executor: Executor, ended: Callable[[], bool]) -> None:
    """Call back for messages, and work when work is due, until ``ended``."""
    worked = False
    while not ended():
        wake = node.wake_ns()
        remaining = _IDLE_S if wake is None else min((wake - time.monotonic_ns()) * 1e-9, _IDLE_S)
        if remaining > 0.0:
            executor.spin_once(timeout_sec=remaining)
        elif worked:
            # Work that is due again at once must not shut out messages: a node that cannot keep up would never hear
            # another command, and hold for want of what has long arrived.
            for _ in range(_MESSAGES_WHEN_BEHIND):
                executor.spin_once(timeout_sec=0.0)
        worked = wake is not None and time.monotonic_ns() >= wake
        if worked:
            node.work()
        node.publish_diagnosis()
