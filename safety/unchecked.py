"""The one way to run without safety: loud, and marked in every result."""

from __future__ import annotations

import sys

from controllers.types import JointCommand, OperatorEvent, RobotState, SafetyReason, SafetyResult, SafetyStatus


class UncheckedFilter:
    """Passes every command unchecked and says so. It ignores the emergency stop, too.

    Every result carries :attr:`~controllers.types.SafetyStatus.OFF` and the reason given here.
    """

    def __init__(self, reason: str) -> None:
        """Switch safety off, with a warning on standard error.

        Args:
            reason: Why; it is logged with every tick.

        Raises:
            ValueError: No reason given.
        """
        if not reason.strip():
            raise ValueError("expected a reason for running without safety, found none; it is logged with every tick")
        self._reasons = (SafetyReason("off", 0.0, reason),)
        print(f"WARNING: SAFETY IS OFF: no limit, watchdog or emergency stop is active: {reason}", file=sys.stderr)

    def initial(self, state: RobotState) -> None:
        """No memory."""

    def enforce(
        self,
        memory: None,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[None, SafetyResult]:
        """Pass the command as it is."""
        return None, SafetyResult(command, SafetyStatus.OFF, self._reasons, 1.0, 0.0)
