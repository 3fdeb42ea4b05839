"""The control loop where the safety filter runs in another process.

The tick stays what it is: :class:`RemoteSafety` stands in for the filter and assumes that the command passes. Before
the next tick the driver puts in what the filter really said, with :func:`hear`. That verdict is an input, and it is
logged in the place where a local filter's verdict would stand; replay feeds it back through :class:`LoggedVerdicts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from controllers.loop import LoopState
from controllers.types import (
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
)

VERDICT_MISSING = "verdict_missing"


@dataclass(frozen=True, slots=True)
class RemoteMemory:
    """What is known of the filter.

    Attributes:
        heard: Its last verdict, None before the first.
        missing: Ticks since then without one.
    """

    heard: SafetyResult | None
    missing: int


class RemoteSafety:
    """Stands in for a filter in another process; a ``SafetyFilter``."""

    def __init__(self, patience_ticks: int = 4) -> None:
        """After ``patience_ticks`` without a verdict the loop holds: it would only run ahead of the arm."""
        self._patience = patience_ticks

    def initial(self, state: RobotState) -> RemoteMemory:
        """Nothing was heard."""
        del state
        return RemoteMemory(None, 0)

    def enforce(
        self,
        memory: RemoteMemory,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[RemoteMemory, SafetyResult]:
        """Assume that the command passes as the last one did."""
        del state, events, now_ns, dt
        after = RemoteMemory(memory.heard, memory.missing + 1)
        last = memory.heard
        if last is None or memory.missing >= self._patience:
            silent = SafetyReason(VERDICT_MISSING, -1.0, f"no verdict of the safety filter for {after.missing} ticks")
            return after, SafetyResult(command, SafetyStatus.HOLD, (silent,), 0.0, 0.0)
        return after, replace(last, command=command)


def hear(loop_state: LoopState[RemoteMemory], verdict: SafetyResult) -> LoopState[RemoteMemory]:
    """The loop state with what the filter really said about the last command."""
    return replace(loop_state, verdict=verdict, applied=verdict.command, safety=RemoteMemory(verdict, 0))


class LoggedVerdicts:
    """Says again what was logged, tick by tick; a ``SafetyFilter`` for the replay of such a loop."""

    def __init__(self, verdict: Callable[[int], SafetyResult]) -> None:
        """``verdict`` gives the logged verdict of the tick with that index."""
        self._verdict = verdict

    def initial(self, state: RobotState) -> int:
        """Begin at the first tick."""
        del state
        return 0

    def enforce(
        self,
        memory: int,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[int, SafetyResult]:
        """The logged verdict."""
        del state, command, events, now_ns, dt
        return memory + 1, self._verdict(memory)
