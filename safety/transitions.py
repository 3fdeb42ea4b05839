"""When the filter's status changed, and why: pure functions of its results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controllers.types import SafetyReason, SafetyResult, SafetyStatus


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of status.

    Attributes:
        tick: The first tick with the new status.
        before: The status until then.
        after: The status from then on.
        reasons: Those of that tick; empty where the arm is free again.
    """

    tick: int
    before: SafetyStatus
    after: SafetyStatus
    reasons: tuple[SafetyReason, ...]


def transition(tick: int, before: SafetyStatus, result: SafetyResult) -> Transition | None:
    """The change that one result makes; None if it makes none."""
    if result.status is before:
        return None
    return Transition(tick, before, result.status, result.reasons)


def transitions(
    results: Iterable[tuple[int, SafetyResult]], before: SafetyStatus | None = None
) -> Iterator[Transition]:
    """The changes of status in a sequence of ticks and their results.

    Args:
        results: In the order of the ticks; gaps between ticks are allowed.
        before: The status before the first; None where the first result only sets it.
    """
    for tick, result in results:
        if before is not None and (found := transition(tick, before, result)) is not None:
            yield found
        before = result.status
