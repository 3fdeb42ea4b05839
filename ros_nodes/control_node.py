"""Chunks and joint states in, candidate commands out, at 50 to 200 Hz: the control loop's first half as a node."""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, Int64MultiArray, UInt8MultiArray

from controllers.executor import is_finite
from controllers.loop import LoopState
from controllers.remote_safety import RemoteSafety, hear
from controllers.robot import load_robot
from controllers.types import (
    ChunkArrival,
    ExecutorStatus,
    OperatorEvent,
    Rejection,
    RejectionReason,
    SafetyResult,
    SafetyStatus,
    TickInputs,
    TickOutputs,
)
from ros_nodes import topics
from ros_nodes.conversion import (
    chunk_from_message,
    command_message,
    header,
    pose_message,
    record_data,
    record_message,
)
from ros_nodes.errors import MessageError
from ros_nodes.gate import Gate
from ros_nodes.loops import control_loop
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import declare, option
from ros_nodes.records import (
    CONTROL_LABEL,
    SAFETY_LABEL,
    ControlTick,
    SafetyTick,
    pack_control_tick,
    unpack_safety_tick,
)
from ros_nodes.schedule import TickSchedule
from ros_nodes.sensing import StateListener
from ros_nodes.stack_options import StackParameters
from ros_nodes.statistics import Statistics

_MOVING = (SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.OFF)
# What also a healthy policy's chunks are refused for, when they overtake each other.
_HARMLESS = (RejectionReason.OUT_OF_ORDER, RejectionReason.PREFIX_MISMATCH)
_QUARANTINE_MS = 500.0


@dataclass(frozen=True)
class ControlOptions(StackParameters):
    """Parameters of the control node."""

    max_chunk_rate_hz: float = option(40.0, "more chunks per second are babble, and hold", low=1.0, high=1000.0)


@dataclass(slots=True)
class _Unfinished:
    """A tick whose verdict is not known yet."""

    inputs: TickInputs
    outputs: TickOutputs
    lateness_ns: int
    published_ns: int


class ControlNode(GraphNode):
    """Runs ``ControlLoop.tick`` with the safety filter in another process."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("control_node")
        self._options = declare(self, ControlOptions)

    def setup(self) -> None:
        """Build executor and controller, publishers and subscriptions."""
        options = self._options
        config = options.stack()
        description = load_robot(options.robot)
        self._names = options.names(description)
        self._loop = control_loop(config, RemoteSafety())
        self._command = self.publish_on(topics.CANDIDATE, JointState)
        self._record = self.publish_on(topics.CONTROL_TICK, UInt8MultiArray)
        self._pose = self.publish_on(topics.COMMANDED_POSE, PoseStamped)
        self._request = self.publish_on(topics.OBSERVATION_REQUEST, Header)
        self._sensing = StateListener(
            self, description, self._names, wrench=options.wrench, max_rate_hz=options.max_state_rate_hz
        )
        self._gate = Gate(topics.ACTION_CHUNK.name, options.max_chunk_rate_hz, quarantine_ms=_QUARANTINE_MS)
        self.subscribe_to(topics.ACTION_CHUNK, Int64MultiArray, self._on_chunk)
        self.subscribe_to(topics.SAFETY_TICK, UInt8MultiArray, self._on_verdict)
        self._forget()

    def start(self) -> None:
        """Begin where the robot stands."""
        self._forget()

    def halt(self) -> None:
        """Finish the record of the last tick."""
        self._finish(None)

    def _forget(self) -> None:
        self._loop_state: LoopState[Any] | None = None
        self._tick = 0
        self._unfinished: _Unfinished | None = None
        self._arrivals: list[ChunkArrival] = []
        self._verdicts: deque[SafetyTick] = deque(maxlen=64)
        self._held = self._asked = False
        self._schedule = TickSchedule(self._loop.period_ns, time.monotonic_ns())
        self._lateness, self._inference, self._age = Statistics(), Statistics(100), Statistics(100)
        self._rejected: dict[str, int] = {}
        self._last_rejection = ""
        self._distrusted_ns = 0
        self._unheard = 0

    # ------------------------------------------------------------------------------------------- what comes in

    def _on_chunk(self, message: Int64MultiArray) -> None:
        now = self.clock.now_ns()
        if not self.active or not self._gate.arrived(now):
            return
        try:
            self._arrivals.append(chunk_from_message(message))
        except MessageError as error:
            self._gate.refuse(now, f"{topics.ACTION_CHUNK.name}: {error}")

    def _on_verdict(self, message: UInt8MultiArray) -> None:
        if not self.active:
            return
        try:
            self._verdicts.append(unpack_safety_tick(record_data(message, SAFETY_LABEL)))
        except (MessageError, ValueError) as error:
            self.note(topics.SAFETY_TICK.name, str(error))

    # --------------------------------------------------------------------------------------------- the tick

    def wake_ns(self) -> int | None:
        """The schedule's time, once there is a state."""
        if not self.ready or self._sensing.state is None:
            return None
        return self._schedule.wake_ns(message=self._sensing.fresh)

    def work(self) -> None:
        """Tick if it is time."""
        fresh = self._sensing.fresh
        started = time.monotonic_ns()
        if self._loop_state is None:
            self._schedule = TickSchedule(self._loop.period_ns, started)
        if not self._schedule.due(started, message=fresh):
            return
        lateness = self._schedule.ticked(started, message=fresh)
        self._lateness.add(lateness)
        state = self._sensing.take()
        assert state is not None
        if self._loop_state is None and not is_finite(state):
            return  # the wrench has not come yet: there is nothing to start from
        now = self.clock.at(started)
        if self._loop_state is None:
            self._loop_state = self._loop.initial(state)
        events = self._listen()
        arrivals = tuple(self._arrivals)
        self._arrivals.clear()
        self._do_tick(TickInputs(self._tick, now, state, arrivals, (*events, *self._holding(now))), lateness)

    def _do_tick(self, inputs: TickInputs, lateness: int) -> None:
        assert self._loop_state is not None
        reference = self._loop.commanded_pose(self._loop_state, inputs.state)
        self._loop_state, outputs = self._loop.tick(self._loop_state, inputs)
        self._command.publish(command_message(outputs.command, self._names))
        published = time.monotonic_ns()
        if outputs.request_inference or self._tick == 0:
            self._asked = True
            self._request.publish(header(inputs.state.stamp_ns, "base"))
        elif inputs.arrivals:
            self._asked = False
        if self._asked:  # nobody else needs to know where the reference was
            self._pose.publish(pose_message(reference, inputs.state.stamp_ns))
        self._unfinished = _Unfinished(inputs, outputs, lateness, self.clock.at(published))
        self._tick += 1
        self._count(inputs, outputs)

    def _listen(self) -> tuple[OperatorEvent, ...]:
        """Put the verdict on the last command into the loop; the operator's holds that came with verdicts since."""
        events: list[OperatorEvent] = []
        heard: SafetyResult | None = None
        last = self._unfinished
        for verdict in self._verdicts:
            events += [e for e in verdict.inputs.events if e in (OperatorEvent.HOLD, OperatorEvent.RESUME)]
            if last is None:
                continue
            judged = verdict.candidate.stamp_ns == last.outputs.command.stamp_ns
            stopped = verdict.inputs.now_ns > last.inputs.now_ns and verdict.result.status not in _MOVING
            if judged or stopped:
                heard = verdict.result
        self._verdicts.clear()
        self._finish(heard)
        return tuple(events)

    def _finish(self, heard: SafetyResult | None) -> None:
        """Record the last tick with what is known of its verdict."""
        last, self._unfinished = self._unfinished, None
        if last is None or self._loop_state is None:
            return
        outputs = last.outputs
        if heard is not None:
            self._loop_state = hear(self._loop_state, heard)
            outputs = replace(outputs, safety=heard)
        else:
            self._unheard += 1
        record = ControlTick(last.inputs, outputs, heard is not None, last.lateness_ns, last.published_ns)
        self._record.publish(record_message(pack_control_tick(record), CONTROL_LABEL))

    def _holding(self, now: int) -> tuple[OperatorEvent, ...]:
        """Hold while chunks are not to be trusted."""
        closed = self._gate.closed(now)
        if closed == self._held:
            return ()
        self._held = closed
        return (OperatorEvent.HOLD,) if closed else (OperatorEvent.RESUME,)

    # -------------------------------------------------------------------------------------------- what it says

    def _count(self, inputs: TickInputs, outputs: TickOutputs) -> None:
        for arrival in inputs.arrivals:
            self._inference.add(arrival.inference_ns)
            self._age.add(inputs.now_ns - arrival.chunk.observation_stamp_ns)
        for rejection in outputs.executor.rejections:
            name = rejection.reason.value
            self._rejected[name] = self._rejected.get(name, 0) + 1
            self._last_rejection = f"{name}: {rejection.message}"
            self.diagnose_soon()
            held = outputs.executor.status is ExecutorStatus.HOLDING  # whatever comes is refused then
            if rejection.reason not in _HARMLESS and not held:
                self._distrust(rejection, inputs.now_ns)

    def _distrust(self, rejection: Rejection, now_ns: int) -> None:
        """Hold after the second bad chunk in a short time; after one the executor has brought the arm to rest.

        Good chunks in between would make the arm stutter, and whose they are nobody knows.
        """
        if now_ns - self._distrusted_ns < _QUARANTINE_MS * 1e6:
            words = f"rejected chunk: {rejection.reason.value}: {rejection.message}"
            self._gate.refuse(now_ns, f"{topics.ACTION_CHUNK.name}: {words}")
        self._distrusted_ns = now_ns

    def diagnose(self) -> Diagnosis:
        """What the executor does, refused chunks, lateness and the model's latency."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        if self._unfinished is None:
            fault = self._sensing.gate.fault
            waiting = f"waiting for {topics.JOINT_STATES.name}"
            return Diagnosis(Level.WARN, f"{waiting}; {fault}" if fault else waiting, {})
        now = self.clock.now_ns()
        report = self._unfinished.outputs.executor
        faults = [gate.fault for gate in (self._gate, self._sensing.gate) if gate.closed(now)]
        faults += [f"rejected chunk: {self._last_rejection}"] if self._last_rejection else []
        self._last_rejection = ""
        values = {
            "executor": report.status.value,
            "chunk": str(report.chunk_id),
            "ticks": str(self._tick),
            "ticks_missed": str(self._schedule.missed),
            "lateness_ms": self._lateness.words(1e-6),
            "model_latency_ms": self._inference.words(1e-6),
            "observation_age_ms": self._age.words(1e-6),
            "verdicts_unheard": str(self._unheard),
            "rejections": ", ".join(f"{name} {count}" for name, count in self._rejected.items()),
        }
        return Diagnosis(Level.WARN if faults else Level.OK, "; ".join((report.status.value, *faults)), values)


def main() -> None:
    """Run the node."""
    sys.exit(run(ControlNode))


if __name__ == "__main__":
    main()
