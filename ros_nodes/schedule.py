"""When a node ticks: at absolute deadlines whose phase follows the messages it waits for.

A free-running timer would let a message wait for up to a period. A tick at each message would hand the rate to the
sender, and with it the speed of the arm, since a filter that is called twice as often lets twice the motion pass. So
ticks follow messages only within a window around deadlines that keep the nominal rate. The phase may come forward by
two percent in the long run, and by less than a period once: a tick that missed its message and took the next one's
place would otherwise let each message wait for most of a period, until two percent at a time had made up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

_EARLY = 0.4  # of a period before its deadline at which a message may start a tick
_LATE = 0.5  # of a period after its deadline at which the tick happens without a message
_ADVANCE = 0.02  # of a period by which the phase may come forward at each tick in the long run
_STEP = 0.2  # of a period by which it may come forward at one tick, so that no two ticks come closer than their window
_CREDIT = 0.8  # of a period that it may come forward beyond the long run


@dataclass(slots=True)
class TickSchedule:
    """Absolute deadlines that lock to arriving messages.

    Attributes:
        period_ns: Control period.
        deadline_ns: When the next tick is due, on the clock of the caller.
        missed: Periods that passed without a tick.
        credit_ns: By how much the phase may come forward now.
    """

    period_ns: int
    deadline_ns: int
    missed: int = 0
    credit_ns: int = 0

    def due(self, now_ns: int, *, message: bool) -> bool:
        """Whether to tick now.

        Args:
            now_ns: The clock.
            message: A message that no tick has taken yet is there.
        """
        share = -_EARLY if message else _LATE
        return now_ns >= self.deadline_ns + round(share * self.period_ns)

    def wake_ns(self, *, message: bool) -> int:
        """When :meth:`due` becomes true if nothing happens meanwhile."""
        return self.deadline_ns + round((-_EARLY if message else _LATE) * self.period_ns)

    def ticked(self, now_ns: int, *, message: bool) -> int:
        """Move on after a tick that began at ``now_ns``.

        Returns:
            How late the tick began, ns; negative if it began before its deadline.
        """
        late = now_ns - self.deadline_ns
        period = self.period_ns
        shift = 0
        if message:
            # Later is slower, which is always safe, and may be made good; earlier only within the credit.
            earliest = -min(self.credit_ns, round(_STEP * period))
            shift = min(max(late, earliest), round(_LATE * period))
        self.deadline_ns += period + shift
        self.credit_ns = min(self.credit_ns + shift + round(_ADVANCE * period), round(_CREDIT * period))
        behind = now_ns - self.deadline_ns
        if behind > 0:
            skipped = behind // period + 1
            self.missed += skipped
            self.deadline_ns += skipped * period
        return late
