"""The two drivers of the tick: lock-step (virtual time) and real time (absolute deadlines).

Both read the robot, hand everything that happened to :meth:`ControlLoop.tick`, write the verdict and record the tick.
They differ in where the clock comes from and in who takes the pictures.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Generic

from controllers.lateness import DeadlineRecord, LatenessHistogram
from controllers.loop import ControlLoop, LoopState
from controllers.protocols import LogHealth, MemoryT, ObservationSource, PolicyClient, PolicyHealth, Robot, TickSink
from controllers.realtime import RealtimeGrants
from controllers.types import OperatorEvent, Pose, RobotState, TickInputs, TickOutputs, TokenPrefix


class StopReason(Enum):
    """Why an episode ended."""

    SUCCESS = "success"
    TIME_LIMIT = "time_limit"
    INTERRUPTED = "interrupted"
    EMERGENCY_STOP = "emergency_stop"


EventSource = Callable[[int], tuple[OperatorEvent, ...]]
StopCondition = Callable[[TickInputs, TickOutputs], StopReason | None]


def no_events(tick: int) -> tuple[OperatorEvent, ...]:
    """An event source that stays silent."""
    del tick
    return ()


@dataclass(slots=True)
class InterruptSwitch:
    """Set by a signal handler: the arm is told to hold, comes to rest, and the episode closes.

    Attributes:
        settle_ticks: Ticks between the hold and the end.
    """

    settle_ticks: int = 60
    pressed: bool = False
    _remaining: int = field(default=-1, repr=False)

    def press(self) -> None:
        """Ask for the end of the episode. Safe to call from a signal handler."""
        self.pressed = True

    def step(self) -> tuple[tuple[OperatorEvent, ...], bool]:
        """Events for this tick, and whether it is the last."""
        if not self.pressed:
            return (), False
        if self._remaining < 0:
            self._remaining = self.settle_ticks
            return (OperatorEvent.HOLD,), False
        self._remaining -= 1
        return (), self._remaining <= 0


@dataclass(frozen=True, slots=True)
class RunSummary(Generic[MemoryT]):
    """What a driver did.

    Attributes:
        ticks: Ticks executed.
        reason: Why it ended.
        final: The loop state after the last tick.
        deadlines: How the deadlines were kept; None in lock-step, which has none.
    """

    ticks: int
    reason: StopReason
    final: LoopState[MemoryT]
    deadlines: DeadlineRecord | None = None


def run_lockstep(
    loop: ControlLoop[MemoryT],
    robot: Robot,
    client: PolicyClient,
    source: ObservationSource,
    sink: TickSink,
    *,
    max_ticks: int,
    stop: StopCondition,
    events: EventSource = no_events,
    interrupt: InterruptSwitch | None = None,
) -> RunSummary[MemoryT]:
    """Run an episode in virtual time, as fast as the machine allows; deterministic.

    Args:
        loop: The tick.
        robot: ``write`` advances it by one control period; its stamps are the virtual clock.
        client: Asked for a chunk whenever the tick before wanted one.
        source: Takes the pictures.
        sink: The episode log.
        max_ticks: Time limit.
        stop: Ends the episode after a tick by returning a reason.
        events: Operator events by tick.
        interrupt: Pressed by Ctrl-C.
    """
    interrupt = interrupt or InterruptSwitch()
    state = robot.read()
    loop_state = loop.initial(state)
    wanted = True
    reason = StopReason.TIME_LIMIT
    tick = 0
    for tick in range(max_ticks):
        if wanted:
            observation = source.observe(state, loop.commanded_pose(loop_state, state))
            prefix = loop.prefix(loop_state)
            observation = observation if prefix is None else replace(observation, prefix=prefix)
            sink.record_observation(observation)
            client.request(observation)
        pressed, last = interrupt.step()
        inputs = TickInputs(
            tick=tick,
            now_ns=state.stamp_ns,
            state=state,
            arrivals=client.poll(state.stamp_ns),
            events=(*events(tick), *pressed),
        )
        digest = robot.physics_digest()
        sink.offer_memory(tick, loop_state)
        loop_state, outputs = loop.tick(loop_state, inputs)
        robot.write(outputs.safety.command)
        sink.record_tick(inputs, outputs, digest, state.stamp_ns, state.stamp_ns)  # virtual time stood still
        wanted = outputs.request_inference
        if last:
            reason = StopReason.INTERRUPTED
            break
        ended = stop(inputs, outputs)
        if ended is not None:
            reason = ended
            break
        state = robot.read()
    return RunSummary(tick + 1, reason, loop_state)


CaptureRequest = Callable[[RobotState, Pose, TokenPrefix | None], None]
Onlooker = Callable[[int, RobotState, Pose], None]


@dataclass(frozen=True)
class OverrunPolicy:
    """What happens when ticks take longer than the period. Deadlines that pass meanwhile are skipped and counted."""

    hold_after: int = 20
    """Make the arm hold once this many ticks of the last second overran; 0 never does."""

    def __post_init__(self) -> None:
        """Refuse a negative number.

        Raises:
            ValueError: It is negative.
        """
        if self.hold_after < 0:
            raise ValueError(f"expected hold_after of 0 (never) or more ticks, found {self.hold_after}")


class LogFailure(Enum):
    """What the arm does while its log cannot be written. Ticks wait in memory meanwhile, whatever it does."""

    CONTINUE = "continue"
    HOLD = "hold"


class OverrunWatch:
    """Says when the loop is too slow to move the arm: many overruns in the last second; until a second without one.

    Attributes:
        overruns: Ticks that overran.
        holds: Times that it began to hold.
        holding: The arm should hold.
    """

    def __init__(self, policy: OverrunPolicy, rate_hz: int) -> None:
        """Watch a loop of ``rate_hz`` ticks per second."""
        self._limit = policy.hold_after
        self._window = bytearray(rate_hz)
        self._next = self._recent = 0
        self.overruns = self.holds = 0
        self.holding = False

    def step(self, overran: bool) -> None:
        """Take note of one tick."""
        self._recent += overran - self._window[self._next]
        self._window[self._next] = overran
        self._next = (self._next + 1) % len(self._window)
        self.overruns += overran
        if self.holding:
            self.holding = self._recent > 0
        elif self._limit and self._recent >= self._limit:
            self.holding = True
            self.holds += 1


class HoldEvents:
    """Turns a wish to hold into operator events, and never releases a hold that an operator asked for."""

    def __init__(self) -> None:
        """Nobody holds."""
        self._ours = self._operators = False

    def step(self, wanted: bool, others: tuple[OperatorEvent, ...]) -> tuple[OperatorEvent, ...]:
        """Our events for this tick.

        Args:
            wanted: The arm should hold.
            others: The operator's events of this tick.
        """
        for event in others:
            if event is OperatorEvent.HOLD:
                self._operators = True
            elif event is OperatorEvent.RESUME:
                self._operators = False
                self._ours = False  # it ends our hold too: ask for it again
        if wanted == self._ours:
            return ()
        self._ours = wanted
        if wanted:
            return (OperatorEvent.HOLD,)
        return () if self._operators else (OperatorEvent.RESUME,)


def run_realtime(
    loop: ControlLoop[MemoryT],
    robot: Robot,
    client: PolicyClient,
    capture: CaptureRequest,
    sink: TickSink,
    *,
    max_ticks: int,
    stop: StopCondition,
    clock: Callable[[], int],
    onlooker: Onlooker | None = None,
    events: EventSource = no_events,
    interrupt: InterruptSwitch | None = None,
    sleep_until: Callable[[int], None] | None = None,
    overruns: OverrunPolicy | None = None,
    health: PolicyHealth | None = None,
    log: LogHealth | None = None,
    log_failure: LogFailure = LogFailure.CONTINUE,
    grants: RealtimeGrants | None = None,
) -> RunSummary[MemoryT]:
    """Run an episode against absolute deadlines on a monotonic clock.

    A tick that overruns does not shift the deadlines after it; deadlines that have passed are skipped and counted.
    While the policy is gone, while too many ticks overrun, or while the log cannot be written and ``log_failure`` says
    so, the arm is told to hold: through operator events, so that the episode says so and replays. Run it inside
    :func:`controllers.realtime.realtime` for real-time priority.

    Args:
        loop: The tick.
        robot: Its stamps must come from ``clock``.
        client: Polled on every tick; never waited for.
        capture: Starts taking pictures elsewhere (another thread or process) and returns at once.
        sink: The episode log; must not block.
        max_ticks: Time limit, 1 or more.
        stop: Ends the episode after a tick by returning a reason.
        clock: Monotonic nanoseconds.
        onlooker: Told of every tick that asks for no observation; takes pictures that nobody infers from, and returns
            at once.
        events: Operator events by tick.
        interrupt: Pressed by Ctrl-C.
        sleep_until: Sleeps until a time of ``clock``; default sleeps, then spins for the last 0.2 ms.
        overruns: When to hold because of them; default :class:`OverrunPolicy`.
        health: Whether the policy lives.
        log: Whether the log can be written.
        log_failure: Whether the arm holds while it cannot.
        grants: What the system permitted, for the record.
    """
    interrupt = interrupt or InterruptSwitch()
    wait = sleep_until or sleeper(clock)
    watch = OverrunWatch(overruns or OverrunPolicy(), loop.rate_hz)
    holder = HoldEvents()
    lateness = LatenessHistogram()
    loop_state: LoopState[MemoryT] | None = None
    wanted = True
    reason = StopReason.TIME_LIMIT
    missed = 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        deadline = clock()
        for tick in range(max_ticks):
            wait(deadline)
            lateness.add(clock() - deadline)
            state = robot.read()
            now = clock()  # after the reading: a robot in another thread may have stamped it since this one woke
            if loop_state is None:
                loop_state = loop.initial(state)  # from the first logged reading, so that replay starts there too
            if wanted:
                capture(state, loop.commanded_pose(loop_state, state), loop.prefix(loop_state))
            elif onlooker is not None:
                onlooker(tick, state, loop.commanded_pose(loop_state, state))
            pressed, last = interrupt.step()
            arrivals = client.poll(now)
            operator = (*events(tick), *pressed)
            gone = health is not None and not health.alive
            unlogged = log is not None and log_failure is LogFailure.HOLD and log.trouble != ""
            operator += holder.step(gone or unlogged or watch.holding, operator)
            if health is not None and health.heard():
                operator += (OperatorEvent.POLICY_HEARTBEAT,)
            inputs = TickInputs(tick, now, state, arrivals, operator)
            digest = robot.physics_digest()
            sink.offer_memory(tick, loop_state)
            loop_state, outputs = loop.tick(loop_state, inputs)
            sent = clock()
            robot.write(outputs.safety.command)
            sink.record_tick(inputs, outputs, digest, sent, clock())
            wanted = outputs.request_inference
            if last:
                reason = StopReason.INTERRUPTED
                break
            ended = stop(inputs, outputs)
            if ended is not None:
                reason = ended
                break
            deadline += loop.period_ns
            behind = clock() - deadline
            skipped = behind // loop.period_ns if behind > 0 else 0
            missed += skipped
            deadline += skipped * loop.period_ns
            watch.step(behind > 0)
    finally:
        gc.enable()
        gc.unfreeze()
    assert loop_state is not None
    record = DeadlineRecord.of(
        lateness,
        rate_hz=loop.rate_hz,
        realtime_priority=grants is not None and grants.fifo,
        memory_locked=grants is not None and grants.locked,
        overruns=watch.overruns,
        missed=missed,
        holds=watch.holds,
    )
    return RunSummary(lateness.count, reason, loop_state, record)


def sleeper(clock: Callable[[], int], spin_ns: int = 200_000) -> Callable[[int], None]:
    """Sleeps until a time of ``clock``, ns; awake for the last ``spin_ns``."""

    def sleep_until(deadline_ns: int) -> None:
        remaining = deadline_ns - clock()
        if remaining > spin_ns:
            time.sleep((remaining - spin_ns) * 1e-9)
        while clock() < deadline_ns:
            pass

    return sleep_until
