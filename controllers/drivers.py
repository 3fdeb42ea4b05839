"""The two drivers of the tick: lock-step (virtual time) and real time (absolute deadlines).

Both read the robot, hand everything that happened to :meth:`ControlLoop.tick`, write the verdict and record the tick.
They differ in where the clock comes from and in who takes the pictures.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic

from controllers.loop import ControlLoop, LoopState
from controllers.protocols import MemoryT, ObservationSource, PolicyClient, Robot, TickSink
from controllers.types import OperatorEvent, Pose, RobotState, TickInputs, TickOutputs


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
        lateness_ns: Start of each tick after its deadline (real time only).
        missed: Deadlines skipped because a tick overran (real time only).
        final: The loop state after the last tick.
    """

    ticks: int
    reason: StopReason
    lateness_ns: tuple[int, ...]
    missed: int
    final: LoopState[MemoryT]


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
        loop_state, outputs = loop.tick(loop_state, inputs)
        robot.write(outputs.safety.command)
        sink.record_tick(inputs, outputs, digest)
        wanted = outputs.request_inference
        if last:
            reason = StopReason.INTERRUPTED
            break
        ended = stop(inputs, outputs)
        if ended is not None:
            reason = ended
            break
        state = robot.read()
    return RunSummary(tick + 1, reason, (), 0, loop_state)


CaptureRequest = Callable[[RobotState, Pose], None]


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
    events: EventSource = no_events,
    interrupt: InterruptSwitch | None = None,
    sleep_until: Callable[[int], None] | None = None,
) -> RunSummary[MemoryT]:
    """Run an episode against absolute deadlines on a monotonic clock.

    A tick that overruns does not shift the deadlines after it; deadlines that have passed are skipped and counted.

    Args:
        loop: The tick.
        robot: Its stamps must come from ``clock``.
        client: Polled on every tick; never waited for.
        capture: Starts taking pictures elsewhere (another thread or process) and returns at once.
        sink: The episode log; must not block.
        max_ticks: Time limit, 1 or more.
        stop: Ends the episode after a tick by returning a reason.
        clock: Monotonic nanoseconds.
        events: Operator events by tick.
        interrupt: Pressed by Ctrl-C.
        sleep_until: Sleeps until a time of ``clock``; default sleeps, then spins for the last 0.2 ms.
    """
    interrupt = interrupt or InterruptSwitch()
    wait = sleep_until or _sleeper(clock)
    loop_state: LoopState[MemoryT] | None = None
    wanted = True
    reason = StopReason.TIME_LIMIT
    lateness: list[int] = []
    missed = 0
    tick = 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        deadline = clock()
        for tick in range(max_ticks):
            wait(deadline)
            now = clock()
            lateness.append(now - deadline)
            state = robot.read()
            if loop_state is None:
                loop_state = loop.initial(state)  # from the first logged reading, so that replay starts there too
            if wanted:
                capture(state, loop.commanded_pose(loop_state, state))
            pressed, last = interrupt.step()
            inputs = TickInputs(tick, now, state, client.poll(now), (*events(tick), *pressed))
            digest = robot.physics_digest()
            loop_state, outputs = loop.tick(loop_state, inputs)
            robot.write(outputs.safety.command)
            sink.record_tick(inputs, outputs, digest)
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
            if behind > 0:
                skipped = behind // loop.period_ns
                missed += skipped
                deadline += skipped * loop.period_ns
    finally:
        gc.enable()
        gc.unfreeze()
    assert loop_state is not None
    return RunSummary(tick + 1, reason, tuple(lateness), missed, loop_state)


def _sleeper(clock: Callable[[], int], spin_ns: int = 200_000) -> Callable[[int], None]:
    def sleep_until(deadline_ns: int) -> None:
        remaining = deadline_ns - clock()
        if remaining > spin_ns:
            time.sleep((remaining - spin_ns) * 1e-9)
        while clock() < deadline_ns:
            pass

    return sleep_until
