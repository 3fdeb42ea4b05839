"""What the kernel reports: ticks, events and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from controllers.types import JointCommand, OperatorEvent, RobotState, SafetyResult, SafetyStatus


@dataclass(frozen=True, slots=True)
class KernelTick:
    """Everything that went into one tick of the kernel and came out of it.

    Feeding ``state``, ``candidate``, ``events`` and ``now_ns`` of consecutive ticks to the filter of
    :meth:`~safety.process.contract.KernelConfig.enforced_profile` gives ``result`` again, as long as no candidate was
    malformed beyond what a message can carry.

    Attributes:
        tick: Number of the tick, from 0.
        now_ns: CLOCK_MONOTONIC when the command was judged.
        lateness_ns: Start of the tick after its deadline.
        state: Sensed state.
        state_fresh: The state was read on this tick; False while reading fails.
        candidate: The command that was judged.
        candidate_fresh: It came on this tick.
        events: Operator events, from all sources, in the order in which the filter saw them.
        result: The verdict; its command was written to the robot.
        written: The robot took the command in time.
        physics_digest: 16 bytes that identify the physics state of ``state``; empty where not recorded.
    """

    tick: int
    now_ns: int
    lateness_ns: int
    state: RobotState
    state_fresh: bool
    candidate: JointCommand
    candidate_fresh: bool
    events: tuple[OperatorEvent, ...]
    result: SafetyResult
    written: bool
    physics_digest: bytes = b""


class EventKind(Enum):
    """What happened."""

    TRANSITION = "transition"  # the verdict's status changed
    READ_FAILED = "read_failed"  # the robot raised, or did not answer in time
    READ_RECOVERED = "read_recovered"
    WRITE_FAILED = "write_failed"
    WRITE_RECOVERED = "write_recovered"
    FILTER_FAILED = "filter_failed"  # the filter raised: the arm is stopped all the same
    CONTROLLER_ATTACHED = "controller_attached"
    BUTTON_PRESSED = "button_pressed"  # emergency stop through shared memory
    SIGNAL_STOP = "signal_stop"  # emergency stop through SIGUSR1
    WRITE_LOST_STOP = "write_lost_stop"  # emergency stop because the robot took no command for the watchdog time
    PARENT_DIED = "parent_died"
    TOLD_TO_STOP = "told_to_stop"
    ENDED = "ended"  # at rest, the kernel leaves


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One event of the kernel.

    Attributes:
        kind: What happened.
        tick: When, in ticks.
        now_ns: When, CLOCK_MONOTONIC.
        before: Status of the verdict before.
        after: Status of the verdict after.
        limit: Name of the limit or fault of the first reason, empty if none.
        margin: Its margin, in the limit's own unit.
        message: In words.
    """

    kind: EventKind
    tick: int
    now_ns: int
    before: SafetyStatus
    after: SafetyStatus
    limit: str = ""
    margin: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class KernelCounters:
    """Counts since the start.

    Attributes:
        ticks: Ticks executed.
        overruns: Deadlines skipped because a tick overran.
        accepted: Messages that were handed to the filter.
        torn: Messages that were cut off or whose checksum did not fit.
        foreign: Messages of a controller that another one has replaced.
        out_of_order: Messages that were older than one already judged.
        read_failures: Ticks without a new state.
        write_failures: Ticks whose command the robot did not take.
        filter_failures: Ticks on which the filter raised.
        lateness_max_ns: Worst start of a tick after its deadline.
    """

    ticks: int = 0
    overruns: int = 0
    accepted: int = 0
    torn: int = 0
    foreign: int = 0
    out_of_order: int = 0
    read_failures: int = 0
    write_failures: int = 0
    filter_failures: int = 0
    lateness_max_ns: int = 0


@dataclass(frozen=True, slots=True)
class KernelStatistics:
    """How the kernel did.

    Attributes:
        counters: Counts since the start.
        late_p50_ms: Median of the start of a tick after its deadline, to a fifth.
        late_p99_ms: 99th percentile, to a fifth.
        late_max_ms: Worst, exact.
        events: The newest events, oldest first.
    """

    counters: KernelCounters
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    events: tuple[KernelEvent, ...]

    @property
    def transitions(self) -> tuple[KernelEvent, ...]:
        """The events that changed the status."""
        return tuple(event for event in self.events if event.kind is EventKind.TRANSITION)
