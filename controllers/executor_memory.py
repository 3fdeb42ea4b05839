"""How chunks are played, and all that the executor remembers from tick to tick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from controllers.doubt import NO_DOUBT, DoubtState
from controllers.plan import Plan, ReferenceMark, Request
from controllers.reference import Reference, TrackerOptions
from controllers.waypoints import PathPoint


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """How chunks are played.

    Attributes:
        execution_horizon: Rows to execute before asking for the next chunk.
        max_chunk_age_s: A chunk whose observation is older than this on arrival is stale.
        request_timeout_s: Ask again when a request has brought nothing for this long.
        tracker: Dynamics of the reference.
        max_lead_m: Largest distance of the reference ahead of the sensed pose.
        max_lead_rad: Largest angle of the reference ahead of the sensed pose.
    """

    execution_horizon: int = 2
    max_chunk_age_s: float = 1.5
    request_timeout_s: float = 2.0
    tracker: TrackerOptions = TrackerOptions()
    max_lead_m: float = 0.05
    max_lead_rad: float = 0.4


class ExecutorState(NamedTuple):
    """The executor's whole memory.

    Attributes:
        reference: The smooth setpoint.
        gripper_opening: Commanded opening, m.
        clock_s: The executor's own time; runs at the safety filter's speed scale times that of doubt times the pace.
        plan: What is being played, None while holding.
        rest: Where to hold while there is no plan.
        history: Marks of the last ticks, oldest first.
        newest_stamp_ns: Observation stamp of the newest chunk that was accepted, or too doubtful to be.
        requested_ns: When the outstanding request was made, -1 for none.
        request: What was asked for then, None when it has been answered.
        delays: The last delays from observation to arrival, ticks.
        pace: Rate of the clock that the delay allows, in (0, 1].
        holding: Told to hold by an operator.
        doubt: What the doubt of chunks asks for.
    """

    reference: Reference
    gripper_opening: float
    clock_s: float
    plan: Plan | None
    rest: PathPoint
    history: tuple[ReferenceMark, ...]
    newest_stamp_ns: int
    requested_ns: int
    request: Request | None
    delays: tuple[int, ...]
    pace: float
    holding: bool
    doubt: DoubtState = NO_DOUBT

    @property
    def chunk_id(self) -> int:
        """Newest chunk of what is being played, -1 for none."""
        return -1 if self.plan is None else self.plan.chunk_id

    def essential(self) -> ExecutorState:
        """The same memory for writing down: marks that no chunk can be anchored at any more share one reference.

        A chunk must be newer than the newest that was accepted, so the last mark before that one's observation is the
        oldest that can be asked for; of older ones only the stamps still count. Every tick goes on from it as from
        the memory itself.
        """
        marks = self.history
        oldest = len(marks) - 1
        while oldest > 0 and marks[oldest].stamp_ns > self.newest_stamp_ns:
            oldest -= 1
        if oldest <= 0:
            return self
        shared = marks[oldest].reference
        history = [ReferenceMark(mark.stamp_ns, 0.0, shared) for mark in marks[:oldest]]
        return self._replace(history=(*history, *marks[oldest:]))
