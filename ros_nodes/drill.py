"""A process for fault drills: it drives the arm to and fro in the policy's place, and sends garbage in anybody's name.

``python -m ros_nodes.drill`` publishes swaying chunks and heartbeats as the policy does, without a model. Each line on
its stdin, ``FAULT TOPIC``, starts a fault; ``off`` ends it. It answers with the graph time at which the fault began, in
ns.
"""

from __future__ import annotations

import argparse
import math
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.experimental.events_executor import EventsExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, Int64MultiArray

from controllers.realtime import go_realtime
from controllers.types import ActionChunk, ChunkArrival
from ros_nodes import topics
from ros_nodes.conversion import chunk_message, header, stamp_ns, time_message
from ros_nodes.qos import profile
from ros_nodes.topics import Qos, Reliability, Topic
from sim.stack import StackConfig
from vla.tokenizers import tokenizer_from_id

_CHUNK_PERIOD_S = 0.1
_SWAY_M = 0.004  # in a row of 50 ms
_SWAY_PERIOD_S = 2.0
_RATES = {"babble": 1000.0}
_RATE = 20.0
_FIRST_S = 10.0  # longest time until there is something to imitate
_PRIORITY = 30


class Fault(Enum):
    """What is sent."""

    BABBLE = "babble"  # valid messages, 1000 a second
    NAN = "nan"  # NaN, or for chunks tokens out of the vocabulary
    STALE = "stale"  # stamps of two seconds ago
    NAMES = "names"  # another joint's name, or for chunks another tokenizer's
    QOS = "qos"  # the chunks are offered with less than is asked for


class Drill:
    """The node and what it sends."""

    def __init__(self, node: Any, sway: bool) -> None:
        """Publish on the topics of a running graph."""
        self._node, self._sway = node, sway
        config = StackConfig()
        self._spec, self._tokenizer_id = config.action_spec, config.tokenizer_id
        self._tokenizer = tokenizer_from_id(config.tokenizer_id)
        self._newest: dict[Topic, Any] = {}
        self._publishers: dict[Topic, Any] = {}
        self._chunk_id = 0
        self._started = time.monotonic()
        self._fault: tuple[Fault, Topic] | None = None
        for topic in (topics.JOINT_STATES, topics.CANDIDATE, topics.SAFE_COMMAND):
            node.create_subscription(JointState, topic.name, self._keeper(topic), profile(Qos(Reliability.BEST_EFFORT)))
        self._chunks = node.create_publisher(
            Int64MultiArray, topics.ACTION_CHUNK.name, profile(topics.ACTION_CHUNK.offered)
        )
        self._heartbeat = node.create_publisher(
            Header, topics.POLICY_HEARTBEAT.name, profile(topics.POLICY_HEARTBEAT.offered)
        )
        node.create_timer(_CHUNK_PERIOD_S, self._drive)

    def _keeper(self, topic: Topic) -> Callable[[JointState], None]:
        def keep(message: JointState) -> None:
            if not (self._fault is not None and self._fault[1] is topic):
                self._newest[topic] = message

        return keep

    # ---------------------------------------------------------------------------------------------- as the policy

    def _drive(self) -> None:
        self._heartbeat.publish(header(time.time_ns()))
        chunk = self._chunk()
        if self._sway and chunk is not None:
            self._chunks.publish(chunk_message(chunk))

    def _chunk(self) -> ChunkArrival | None:
        state = self._newest.get(topics.JOINT_STATES)
        if state is None:
            return None
        spec, phase = self._spec, time.monotonic() - self._started
        actions = np.zeros((spec.horizon, spec.dims))
        times = phase + np.arange(spec.horizon) / spec.rate_hz
        actions[:, 1] = _SWAY_M * np.cos(2.0 * math.pi / _SWAY_PERIOD_S * times)
        actions[:, -1] = 1.0
        tokens = self._tokenizer.encode(actions, spec)
        self._chunk_id += 1
        return ChunkArrival(
            ActionChunk(tokens, self._tokenizer_id, spec.hash, stamp_ns(state.header.stamp), self._chunk_id)
        )

    # ------------------------------------------------------------------------------------------------ as a culprit

    def begin(self, fault: Fault, topic: Topic) -> int:
        """Start a fault; the time just before its first message."""
        if fault is Fault.QOS:
            self._fault = (fault, topic)
            began = time.time_ns()
            self._offer(Qos(Reliability.BEST_EFFORT))
            return began
        self._publisher(topic)
        time.sleep(0.3)  # until the publisher is matched
        self._fault = (fault, topic)
        first: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._send, args=(fault, topic, first), daemon=True).start()
        return first.get(timeout=_FIRST_S)

    def end(self) -> None:
        """Stop sending."""
        if self._fault is not None and self._fault[0] is Fault.QOS:
            self._offer(topics.ACTION_CHUNK.offered)
        self._fault = None
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _offer(self, qos: Qos) -> None:
        """Publish the chunks with another quality of service."""
        self._node.destroy_publisher(self._chunks)
        self._chunks = self._node.create_publisher(Int64MultiArray, topics.ACTION_CHUNK.name, profile(qos))

    def _publisher(self, topic: Topic) -> None:
        kind = Int64MultiArray if topic is topics.ACTION_CHUNK else JointState
        self._publishers[topic] = self._node.create_publisher(kind, topic.name, profile(topic.offered))

    def _send(self, fault: Fault, topic: Topic, first: queue.SimpleQueue[int]) -> None:
        publisher = self._publishers[topic]  # destroyed only after this thread has seen the end
        period = 1.0 / _RATES.get(fault.value, _RATE)
        due = time.monotonic()
        told = False
        while self._fault == (fault, topic):
            message = self._bad_chunk(fault) if topic is topics.ACTION_CHUNK else self._bad_joints(fault, topic)
            if message is not None and self._fault is not None:
                now = time.time_ns()
                publisher.publish(message)
                if not told:
                    first.put(now)
                    told = True
            due = max(due + period, time.monotonic() - period)
            time.sleep(max(0.0, due - time.monotonic()))

    def _bad_joints(self, fault: Fault, topic: Topic) -> JointState | None:
        good = self._newest.get(topic)
        if good is None:
            return None
        age = 2_000_000_000 if fault is Fault.STALE else 0
        bad = JointState(
            header=header(time.time_ns() - age),
            name=list(good.name),
            position=array("d", good.position),
            velocity=array("d", good.velocity),
            effort=array("d", good.effort),
        )
        bad.header.stamp = time_message(time.time_ns() - age)
        if fault is Fault.NAN:
            bad.position = array("d", [float("nan")] * len(good.position))
        if fault is Fault.NAMES:
            bad.name = [f"other_{name}" for name in good.name]
        return bad

    def _bad_chunk(self, fault: Fault) -> Int64MultiArray | None:
        arrival = self._chunk()
        if arrival is None:
            return None
        chunk = arrival.chunk
        tokens, tokenizer, stamp = chunk.tokens, chunk.tokenizer_id, chunk.observation_stamp_ns
        if fault is Fault.NAN:
            tokens = np.full_like(tokens, 2**40)
        if fault is Fault.NAMES:
            tokenizer = "other-1"
        if fault is Fault.STALE:
            stamp -= 2_000_000_000
        return chunk_message(ChunkArrival(ActionChunk(tokens, tokenizer, chunk.spec_hash, stamp, chunk.chunk_id)))


def main() -> int:
    """Run until stdin ends."""
    parser = argparse.ArgumentParser(description="Drive the arm to and fro, and send faults; see docs/ros2.md.")
    parser.add_argument("--no-sway", action="store_true")
    options = parser.parse_args()
    # Below the nodes under test, above everything else: a culprit that waits for the processor is a harmless one.
    go_realtime(_PRIORITY)
    rclpy.init()
    node = rclpy.create_node("drill")
    drill = Drill(node, not options.no_sway)
    executor = EventsExecutor()
    executor.add_node(node)
    threading.Thread(target=_spin, args=(executor,), daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        if words == ["off"]:
            drill.end()
            print("off", flush=True)
        elif words:
            topic = next(topic for topic in topics.TOPICS if topic.name == words[1])
            print(drill.begin(Fault(words[0]), topic), flush=True)
    rclpy.try_shutdown()
    return 0


def _spin(executor: Any) -> None:
    try:
        while True:
            executor.spin_once(timeout_sec=0.1)
    except (ExternalShutdownException, RuntimeError):
        return


if __name__ == "__main__":
    sys.exit(main())
