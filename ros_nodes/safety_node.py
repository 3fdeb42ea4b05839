"""The safety filter as a node of its own, between candidate and safe command. It needs no other node to stop the arm.

It owns the emergency stop and the watchdogs. Commands and states that are none, stale, too many or of another quality
of service are named in its diagnostics, and the arm holds. It imports neither torch nor anything of the model.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, String, UInt8MultiArray
from std_srvs.srv import Trigger

from controllers.drivers import HoldEvents
from controllers.names import unknown_name
from controllers.robot import load_robot
from controllers.types import (
    CommandMode,
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    TickInputs,
    frozen_array,
)
from ros_nodes import topics
from ros_nodes.conversion import joint_command, record_message
from ros_nodes.errors import MessageError
from ros_nodes.gate import Gate
from ros_nodes.hardware import HardwareOptions, outgoing
from ros_nodes.joints import JointIndex
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import declare, option
from ros_nodes.records import SAFETY_LABEL, SafetyTick, pack_safety_tick
from ros_nodes.schedule import TickSchedule
from ros_nodes.sensing import StateListener
from ros_nodes.statistics import Statistics
from safety.building import build_filter
from safety.process.contract import EVENTS, KernelConfig
from safety.profile import load_profile

_LONG_AGO_NS = 10_000_000_000
# The more careful comes last and has the last word.
_ORDER = (OperatorEvent.POLICY_HEARTBEAT, OperatorEvent.REDUCED_SPEED, *EVENTS)
_SERVICES = {
    topics.EMERGENCY_STOP: OperatorEvent.EMERGENCY_STOP,
    topics.RESET: OperatorEvent.RESET,
    topics.ACKNOWLEDGE: OperatorEvent.ACKNOWLEDGE,
    topics.HOLD: OperatorEvent.HOLD,
    topics.RESUME: OperatorEvent.RESUME,
    topics.REDUCED_SPEED: OperatorEvent.REDUCED_SPEED,
}


@dataclass(frozen=True)
class SafetyOptions(HardwareOptions):
    """Parameters of the safety node."""

    robot: str = option("panda", "built-in robot, or the path of its robot.yaml")
    safety_profile: str = option("", "safety profile, built-in or a path; empty for ROBOT_tabletop")
    command_mode: str = option("position", "what the robot takes: position, velocity or torque")
    rate_hz: int = option(200, "ticks per second; that of the control node", low=10, high=1000)
    wrench: bool = option(True, "the robot publishes the wrench at its wrist")
    max_state_rate_hz: float = option(0.0, "more joint states per second are babble; 0: any", low=0.0, high=10000.0)
    policy_timeout_ms: float = option(
        0.0, "longest silence of the policy's heartbeat, where shorter than the profile's; 0: the profile's",
        low=0.0, high=60000.0,
    )  # fmt: skip
    log_timeout_ms: float = option(
        0.0, "longest silence of the recorder's heartbeat before the arm holds; 0: it moves without a log",
        low=0.0, high=60000.0,
    )  # fmt: skip


class SafetyNode(GraphNode):
    """Judges every candidate, at the control rate, whether or not one came."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("safety_node")
        self._options = declare(self, SafetyOptions)

    def setup(self) -> None:
        """Build the filter, which compiles it; nothing is commanded yet."""
        options = self._options
        description = load_robot(options.robot)
        modes = [mode.value for mode in CommandMode]
        if options.command_mode not in modes:
            raise ValueError(f"parameter command_mode: {unknown_name('mode', options.command_mode, modes)}")
        self._mode = CommandMode(options.command_mode)
        profile = load_profile(options.safety_profile or f"{description.name}_tabletop")
        if options.policy_timeout_ms > 0.0:
            shorter = min(options.policy_timeout_ms, profile.timing.policy_timeout_ms)
            profile = replace(profile, timing=replace(profile.timing, policy_timeout_ms=shorter))
        self._profile = profile
        self._command_timeout_ns = round(profile.timing.command_timeout_ms * 1e6)
        enforced = KernelConfig(options.robot, profile, self._mode, options.rate_hz).enforced_profile()
        self._filter: Any = build_filter(replace(description, actuator_mode=self._mode.value), enforced)
        self._dt, self._period_ns = 1.0 / options.rate_hz, 1_000_000_000 // options.rate_hz
        names = options.names(description)
        self._index = JointIndex(names)
        self._outputs = [
            (self.publish_on(topics.SAFE_COMMAND, item.message, item.topic), item.fill)
            for item in outgoing(options, names)
        ]
        self._record = self.publish_on(topics.SAFETY_TICK, UInt8MultiArray)
        self._status = self.publish_on(topics.SAFETY_STATUS, String)
        self._sensing = StateListener(
            self, description, names, wrench=options.wrench, max_rate_hz=options.max_state_rate_hz
        )
        self._gate = Gate(topics.CANDIDATE.name, options.rate_hz)
        self.subscribe_to(topics.CANDIDATE, JointState, self._on_candidate)
        self.subscribe_to(topics.POLICY_HEARTBEAT, Header, self._on_heartbeat)
        self.subscribe_to(topics.LOG_HEARTBEAT, Header, self._on_log_heartbeat)
        for service, event in _SERVICES.items():
            self.serve(service.name.replace("safety_node/", "~/"), Trigger, self._answering(event))
        self._forget()

    def start(self) -> None:
        """Begin with an empty memory, at the first state."""
        self._forget()

    def teardown(self) -> None:
        """Let the filter go."""
        self._filter = None

    def _forget(self) -> None:
        self._memory: Any = None
        self._tick = 0
        self._fresh = False
        self._received_ns = 0
        self._candidate = self._nothing = JointCommand(self._mode, frozen_array([]), 0.0, 0)
        self._last: SafetyResult | None = None
        self._pending: set[OperatorEvent] = set()
        self._urgent = False
        self._filter_failure = ""
        self._logged_ns = time.monotonic_ns()
        self._log_holder = HoldEvents()
        self._schedule = TickSchedule(self._period_ns, time.monotonic_ns())
        self._lateness, self._latency, self._margin = Statistics(), Statistics(), math.inf

    # ------------------------------------------------------------------------------------------- what comes in

    def _on_candidate(self, message: JointState) -> None:
        received = time.monotonic_ns()
        now = self.clock.at(received)
        if not self.active or not self._gate.arrived(now):
            return
        try:
            command = joint_command(message, self._index, self._mode)
            if not np.isfinite(command.values).all() or not math.isfinite(command.gripper_opening):
                raise MessageError("NaN or infinity")
            age = now - command.stamp_ns
            if age > self._command_timeout_ns:
                raise MessageError(f"stale stamp, {age * 1e-6:.0f} ms old")
        except MessageError as error:
            self._gate.refuse(now, f"{topics.CANDIDATE.name}: {error}")
            self._fresh = True  # the tick that holds need not wait
            return
        self._candidate, self._received_ns, self._fresh = command, received, True

    def _on_heartbeat(self, message: Header) -> None:
        del message
        self._pending.add(OperatorEvent.POLICY_HEARTBEAT)

    def _on_log_heartbeat(self, message: Header) -> None:
        del message
        self._logged_ns = time.monotonic_ns()

    def _answering(self, event: OperatorEvent) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def answer(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            del request
            if not self.active:
                response.success, response.message = False, "the safety node is not active: it commands nothing"
                return response
            self._pending.add(event)
            if self.ready and self._sensing.state is not None and event is OperatorEvent.EMERGENCY_STOP:
                self._urgent = True
                self._do_tick()
            response.success, response.message = True, f"{event.value} taken; {self._words()}"
            return response

        return answer

    # --------------------------------------------------------------------------------------------- the tick

    def wake_ns(self) -> int | None:
        """The schedule's time, once there is a state."""
        if not self.ready or self._sensing.state is None:
            return None
        return self._schedule.wake_ns(message=self._fresh)

    def work(self) -> None:
        """Tick if it is time."""
        if self._schedule.due(time.monotonic_ns(), message=self._fresh):
            self._do_tick()

    def _do_tick(self) -> None:
        started = time.monotonic_ns()
        if self._memory is None and not self._begin(started):
            return
        fresh, self._fresh = self._fresh, False
        # An emergency stop is an extra tick, which leaves the deadlines alone.
        if self._urgent:
            self._urgent = False
        else:
            self._lateness.add(self._schedule.ticked(started, message=fresh))
        now = self.clock.at(started)
        state = self._sense(now)
        events = self._events()
        candidate = self._nothing if self._gate.closed(now) else self._candidate
        candidate, result = self._judge(state, candidate, events, now)
        for publisher, fill in self._outputs:
            publisher.publish(fill(result.command))
        published = time.monotonic_ns()
        if fresh and candidate is self._candidate:
            self._latency.add(published - self._received_ns)
        inputs = TickInputs(self._tick, now, state, (), events)
        record = SafetyTick(
            inputs, candidate, fresh, self.clock.at(self._received_ns), self.clock.at(published), result
        )
        self._record.publish(record_message(pack_safety_tick(record), SAFETY_LABEL))
        self._tick += 1
        changed = self._last is None or self._last.status is not result.status
        self._last = result
        if result.status is not SafetyStatus.HOLD:
            self._margin = min(self._margin, result.min_margin)
        if changed:
            self._status.publish(String(data=self._words()))
            self.diagnose_soon()

    def _sense(self, now: int) -> RobotState:
        state = self._sensing.take()
        assert state is not None
        # States from a sender of garbage are as good as none.
        return replace(state, stamp_ns=now - _LONG_AGO_NS) if self._sensing.gate.closed(now) else state

    def _begin(self, started: int) -> bool:
        """Start from the first state that is fit for it; before that there is nothing to hold on to."""
        self._schedule = TickSchedule(self._period_ns, started)
        now = self.clock.at(started)
        state = self._sense(now)
        try:
            self._memory = self._filter.initial(state)
        except ValueError as error:
            self._schedule.ticked(started, message=False)
            self.note("start", str(error))
            return False
        q = state.joint_position
        still = q if self._mode is CommandMode.POSITION else np.zeros_like(q)
        # What is judged before the first command: one from long ago, which the filter calls stale.
        self._nothing = JointCommand(self._mode, frozen_array(still), state.gripper_opening, now - _LONG_AGO_NS)
        if not self._candidate.values.size:
            self._candidate = self._nothing
        return True

    def _events(self) -> tuple[OperatorEvent, ...]:
        pending = self._pending
        pending.update(self._log_holder.step(bool(self._log_fault()), tuple(pending)))
        if OperatorEvent.EMERGENCY_STOP in pending:
            pending.discard(OperatorEvent.RESET)
        events = tuple(event for event in _ORDER if event in pending)
        pending.clear()
        return events

    def _log_fault(self) -> str:
        """Why the arm may not move for want of a log, empty if it may."""
        allowed = self._options.log_timeout_ms
        silent = (time.monotonic_ns() - self._logged_ns) * 1e-6
        if allowed <= 0.0 or silent <= allowed:
            return ""
        return f"log_silent: the recorder has not said for {silent:.0f} ms that ticks reach the disk: holding"

    def _judge(
        self, state: RobotState, candidate: JointCommand, events: tuple[OperatorEvent, ...], now: int
    ) -> tuple[JointCommand, SafetyResult]:
        """The filter's verdict; if it raises, its verdict on no command; if that raises too, the last command again."""
        message = ""
        for command in (candidate, self._nothing):
            try:
                self._memory, result = self._filter.enforce(self._memory, state, command, events, now, self._dt)
                return command, result
            except Exception as error:  # a fault of the filter must not end the process that holds the arm
                message = f"{type(error).__name__}: {error}"
                self._filter_failure = message
        self._pending.update(events)
        last = self._nothing if self._last is None else self._last.command
        if last.mode is CommandMode.VELOCITY:
            last = replace(last, values=frozen_array(np.zeros_like(last.values)))
        reason = SafetyReason("filter_failed", -1.0, message)
        return candidate, SafetyResult(replace(last, stamp_ns=now), SafetyStatus.HOLD, (reason,), 0.0, -1.0)

    # -------------------------------------------------------------------------------------------- what it says

    def _words(self) -> str:
        last = self._last
        if last is None:
            return "waiting"
        reasons = "; ".join(f"{reason.limit}: {reason.message}" for reason in last.reasons)
        return f"{last.status.value}{': ' if reasons else ''}{reasons}"

    def diagnose(self) -> Diagnosis:
        """Status, reasons, faults at the gates, rates and lateness."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        if self._last is None:
            return Diagnosis(Level.WARN, self._why_waiting(), {})
        now = self.clock.now_ns()
        gates = (self._gate, self._sensing.gate)
        faults = [gate.fault for gate in gates if gate.closed(now)]
        log_fault = self._log_fault()
        if log_fault:
            faults.append(log_fault)
        if self._filter_failure:
            faults.append(f"filter failed: {self._filter_failure}")
        running = self._last.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
        level = Level.OK if running and not faults else Level.ERROR if self._last.status.stop_category else Level.WARN
        values = {
            "status": self._last.status.value,
            "speed_scale": f"{self._last.speed_scale:.3f}",
            "min_margin": f"{self._margin:.3f}",
            "ticks": str(self._tick),
            "ticks_missed": str(self._schedule.missed),
            "lateness_ms": self._lateness.words(1e-6),
            "latency_ms": self._latency.words(1e-6),
            "candidates_refused": str(self._gate.refused),
            "states_refused": str(self._sensing.gate.refused),
        }
        self._margin = math.inf
        return Diagnosis(level, "; ".join((self._words(), *faults)), values)

    def _why_waiting(self) -> str:
        noted = "".join(f"; {what}: {words}" for what, words in self.noted.items())
        fault = self._sensing.gate.fault
        return f"waiting for {topics.JOINT_STATES.name}{f'; {fault}' if fault else ''}{noted}"


def main() -> None:
    """Run the node."""
    sys.exit(run(SafetyNode))


if __name__ == "__main__":
    main()
