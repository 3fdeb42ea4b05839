"""The kernel's loop: sense, judge, write, publish, in every period, whatever the controller does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controllers.protocols import Robot, SafetyFilter
from controllers.types import (
    CommandMode,
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from safety.process.bounded import Answer, BoundedCall, Failure
from safety.process.contract import EVENTS, KernelConfig
from safety.process.errors import SafetyKernelError
from safety.process.estop import ButtonReader
from safety.process.inbox import InboxReader, Taken
from safety.process.outbox import Outbox
from safety.process.records import EventKind, KernelCounters, KernelEvent, KernelTick
from safety.process.wire import BINS, lateness_bin

_IO_SHARE = 0.4  # of the period that one robot call may take before it counts as hanging
_LONG_AGO_NS = 10_000_000_000
_REST_TICKS = 20
_STATISTICS_EVERY = 10
_MILLISECOND_NS = 1_000_000


@dataclass(slots=True)
class KernelFlags:
    """What signal handlers and other threads tell the loop; plain stores, so that nobody waits.

    Attributes:
        emergency_stop: SIGUSR1 came.
        told_to_stop: SIGTERM came: hold, and leave once at rest.
        orphaned: The parent process is gone.
    """

    emergency_stop: bool = False
    told_to_stop: bool = False
    orphaned: bool = False


class SafetyKernel:
    """Owns the robot and the filter. Runs in a process of its own, but knows nothing of processes."""

    def __init__(
        self,
        config: KernelConfig,
        safety: SafetyFilter[Any],
        robot: Robot,
        inbox: InboxReader,
        button: ButtonReader,
        outbox: Outbox,
        flags: KernelFlags,
    ) -> None:
        """Sense once, to see that the robot answers.

        Raises:
            SafetyKernelError: The robot cannot be read, or is not stamped with CLOCK_MONOTONIC.
        """
        self._config, self._filter = config, safety
        self._inbox, self._button, self._outbox, self._flags = inbox, button, outbox, flags
        self._period_ns = config.period_ns
        self._dt = 1.0 / config.rate_hz
        timing = config.profile.timing
        self._watchdog_ns = round(timing.watchdog_ms * _MILLISECOND_NS)
        self._rest_speed = config.profile.monitoring.rest_speed_rad_s
        self._read: BoundedCall[None, tuple[RobotState, bytes]] = BoundedCall("Robot.read", _reader(config, robot))
        self._write: BoundedCall[JointCommand, None] = BoundedCall("Robot.write", robot.write)
        self._state, self._digest = self._first_state(timing.state_timeout_ms, timing.future_tolerance_ms)
        self._memory: Any = None
        started = time.monotonic_ns()
        q = self._state.joint_position
        still = q if config.mode is CommandMode.POSITION else np.zeros_like(q)
        # What is judged before the first command: a command from long ago, which the filter calls stale.
        self._nothing = JointCommand(
            config.mode, frozen_array(still), self._state.gripper_opening, started - _LONG_AGO_NS
        )
        self._candidate = self._nothing
        self._last = SafetyResult(self._nothing, SafetyStatus.HOLD, (), 0.0, 0.0)
        self._pending: set[OperatorEvent] = set()
        self._histogram = [0] * BINS
        self._overruns = self._read_failures = self._write_failures = self._filter_failures = self._worst_ns = 0
        self._failing: dict[EventKind, bool] = {}
        self._unwritten_since = -1
        self._said_goodbye = self._said_orphaned = False
        self._rest_ticks = 0
        self._rest_since = -1

    def _first_state(self, timeout_ms: float, future_ms: float) -> tuple[RobotState, bytes]:
        answer = self._read(None, 5.0)  # a driver may take its time once
        if isinstance(answer, Failure):
            raise SafetyKernelError(f"expected the robot to answer before the first tick, found: {answer.message}")
        state, digest = answer.value
        age_ms = (time.monotonic_ns() - state.stamp_ns) / _MILLISECOND_NS
        if not -future_ms <= age_ms <= timeout_ms + 1000.0 * _IO_SHARE:
            raise SafetyKernelError(
                f"expected robot states stamped with time.monotonic_ns(), found a stamp {age_ms:g} ms old; wrap the "
                "robot so that each reading carries CLOCK_MONOTONIC of the moment of sensing"
            )
        return state, digest

    # ------------------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Tick until told to stop and at rest, or orphaned, at rest and past the grace period."""
        deadline = time.monotonic_ns() + self._period_ns
        tick = 0
        while True:
            remaining = deadline - time.monotonic_ns()
            if remaining > 0:
                time.sleep(remaining * 1e-9)
            self._tick(tick, time.monotonic_ns() - deadline)
            tick += 1
            if self._may_leave():
                break
            deadline += self._period_ns
            behind = time.monotonic_ns() - deadline
            if behind > 0:
                skipped = behind // self._period_ns
                self._overruns += skipped
                deadline += skipped * self._period_ns
        self._note(EventKind.ENDED, tick, "the arm is at rest")
        self._publish_statistics(tick)

    def _tick(self, tick: int, lateness_ns: int) -> None:
        fresh_state = self._sense(tick)
        if tick == 0:
            self._memory = self._filter.initial(self._state)  # from the first published state: replay starts there too
        now_ns = time.monotonic_ns()
        taken = self._inbox.take(now_ns)
        if taken.attached:
            self._note(EventKind.CONTROLLER_ATTACHED, tick, "another controller is listened to")
        if taken.command is not None:
            self._candidate = self._in_mode(taken.command)
        events = self._gather(tick, taken, now_ns)
        result = self._judge(tick, events, now_ns)
        written = self._apply(tick, result, now_ns)
        if result.status is not self._last.status:
            self._transition(tick, now_ns, result)
        self._last = result
        self._watch_rest(result, fresh_state, now_ns)
        self._outbox.tick(
            KernelTick(
                tick=tick,
                now_ns=now_ns,
                lateness_ns=lateness_ns,
                state=self._state,
                state_fresh=fresh_state,
                candidate=self._candidate,
                candidate_fresh=taken.command is not None,
                events=events,
                result=result,
                written=written,
                physics_digest=self._digest,
            )
        )
        self._histogram[lateness_bin(lateness_ns)] += 1
        self._worst_ns = max(self._worst_ns, lateness_ns)
        if tick % _STATISTICS_EVERY == 0:
            self._publish_statistics(tick + 1)

    # ------------------------------------------------------------------------------------------ its steps

    def _sense(self, tick: int) -> bool:
        """Read the robot; keep the last state, which grows stale, where that fails."""
        answer = self._read(None, self._dt * _IO_SHARE)
        if isinstance(answer, Answer):
            self._state, self._digest = answer.value
            self._recovered(EventKind.READ_FAILED, EventKind.READ_RECOVERED, tick)
            return True
        self._read_failures += 1
        self._failed(EventKind.READ_FAILED, tick, answer.message)
        return False

    def _in_mode(self, command: JointCommand) -> JointCommand:
        """Mark a command of another mode than the robot's, which the filter would take if it came first."""
        expected, found = self._config.mode, command.mode
        if found is expected or not isinstance(found, CommandMode):  # pyright: ignore[reportUnnecessaryIsInstance]
            return command
        wrong: Any = f"{found.value}: this robot takes {expected.value} commands"
        return replace(command, mode=wrong)

    def _gather(self, tick: int, taken: Taken, now_ns: int) -> tuple[OperatorEvent, ...]:
        """The operator events of this tick, from all sources; the more careful come last."""
        pending, flags = self._pending, self._flags
        pending.update(taken.events)
        button = self._button.poll()
        if button.pressed_now:
            self._note(EventKind.BUTTON_PRESSED, tick, "emergency stop through shared memory")
        if button.stop:
            pending.add(OperatorEvent.EMERGENCY_STOP)
        if button.reset:
            pending.add(OperatorEvent.RESET)
        if flags.emergency_stop:
            flags.emergency_stop = False
            pending.add(OperatorEvent.EMERGENCY_STOP)
            self._note(EventKind.SIGNAL_STOP, tick, "emergency stop through SIGUSR1")
        if flags.orphaned or flags.told_to_stop:
            pending.add(OperatorEvent.HOLD)
            self._say_leaving(tick)
        if self._unwritten_since >= 0 and now_ns - self._unwritten_since > self._watchdog_ns:
            # What the arm has done meanwhile is unknown: it must not start to move by itself when it obeys again.
            if self._last.status is not SafetyStatus.EMERGENCY_STOP:
                self._note(EventKind.WRITE_LOST_STOP, tick, "the robot took no command for the watchdog time")
            pending.add(OperatorEvent.EMERGENCY_STOP)
        if OperatorEvent.EMERGENCY_STOP in pending:
            pending.discard(OperatorEvent.RESET)
        return tuple(event for event in EVENTS if event in pending)

    def _judge(self, tick: int, events: tuple[OperatorEvent, ...], now_ns: int) -> SafetyResult:
        """The filter's verdict; if the filter raises, its verdict on no command; if that raises, stand still."""
        message = ""
        for candidate in (self._candidate, self._nothing):
            try:
                self._memory, result = self._filter.enforce(
                    self._memory, self._state, candidate, events, now_ns, self._dt
                )
            except Exception as error:  # a fault of the filter must not end the process that holds the arm
                message = f"{type(error).__name__}: {error}"
                continue
            self._pending.clear()
            if not message:
                self._failing[EventKind.FILTER_FAILED] = False
                return result
            self._filter_failed(tick, message)
            self._candidate = self._nothing
            return result
        self._filter_failed(tick, message)  # pending events are tried again on the next tick
        command = self._last.command
        if command.mode is CommandMode.VELOCITY:
            command = replace(command, values=frozen_array(np.zeros_like(command.values)))
        reason = SafetyReason("filter_failed", -1.0, message)
        return SafetyResult(replace(command, stamp_ns=now_ns), SafetyStatus.HOLD, (reason,), 0.0, -1.0)

    def _filter_failed(self, tick: int, message: str) -> None:
        self._filter_failures += 1
        self._failed(EventKind.FILTER_FAILED, tick, message)

    def _apply(self, tick: int, result: SafetyResult, now_ns: int) -> bool:
        answer = self._write(result.command, self._dt * _IO_SHARE)
        if isinstance(answer, Answer):
            self._recovered(EventKind.WRITE_FAILED, EventKind.WRITE_RECOVERED, tick)
            self._unwritten_since = -1
            return True
        if self._unwritten_since < 0:
            self._unwritten_since = now_ns
        self._write_failures += 1
        self._failed(EventKind.WRITE_FAILED, tick, answer.message)
        return False

    # --------------------------------------------------------------------------------------- leaving

    def _say_leaving(self, tick: int) -> None:
        if self._flags.orphaned and not self._said_orphaned:
            self._said_orphaned = True
            grace = self._config.orphan_grace_s
            self._note(EventKind.PARENT_DIED, tick, f"holding; leaving {grace:g} s after the arm is at rest")
        if self._flags.told_to_stop and not self._said_goodbye:
            self._said_goodbye = True
            self._note(EventKind.TOLD_TO_STOP, tick, "holding; leaving once the arm is at rest")

    def _watch_rest(self, result: SafetyResult, fresh_state: bool, now_ns: int) -> None:
        stopped = result.status not in (SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.OFF)
        slow = fresh_state and float(np.abs(self._state.joint_velocity).max()) <= self._rest_speed
        if not (stopped and slow):
            self._rest_ticks, self._rest_since = 0, -1
            return
        self._rest_ticks += 1
        if self._rest_ticks == _REST_TICKS:
            self._rest_since = now_ns

    def _may_leave(self) -> bool:
        if self._rest_since < 0:
            return False
        grace_over = time.monotonic_ns() - self._rest_since > self._config.orphan_grace_s * 1e9
        return self._flags.told_to_stop or (self._flags.orphaned and grace_over)

    # --------------------------------------------------------------------------------------- accounts

    def _publish_statistics(self, ticks: int) -> None:
        inbox = self._inbox
        counters = KernelCounters(
            ticks=ticks,
            overruns=self._overruns,
            accepted=inbox.accepted,
            torn=inbox.torn,
            foreign=inbox.foreign,
            out_of_order=inbox.out_of_order,
            read_failures=self._read_failures,
            write_failures=self._write_failures,
            filter_failures=self._filter_failures,
            lateness_max_ns=self._worst_ns,
        )
        self._outbox.statistics(counters, self._histogram)

    def _failed(self, kind: EventKind, tick: int, message: str) -> None:
        """Report the first failure of a row."""
        if not self._failing.get(kind, False):
            self._failing[kind] = True
            self._note(kind, tick, message)

    def _recovered(self, kind: EventKind, recovery: EventKind, tick: int) -> None:
        if self._failing.get(kind, False):
            self._failing[kind] = False
            self._note(recovery, tick, "")

    def _note(self, kind: EventKind, tick: int, message: str) -> None:
        status = self._last.status
        self._outbox.event(KernelEvent(kind, tick, time.monotonic_ns(), status, status, message=message))

    def _transition(self, tick: int, now_ns: int, result: SafetyResult) -> None:
        first = result.reasons[0] if result.reasons else SafetyReason("", 0.0)
        self._outbox.event(
            KernelEvent(
                EventKind.TRANSITION,
                tick,
                now_ns,
                self._last.status,
                result.status,
                first.limit,
                first.margin,
                first.message,
            )
        )


def _reader(config: KernelConfig, robot: Robot) -> Callable[[None], tuple[RobotState, bytes]]:
    def read(_: None) -> tuple[RobotState, bytes]:
        state = robot.read()
        return state, robot.physics_digest() if config.physics_digests else b""

    return read
