"""How well deadlines were kept: a histogram of fixed size, so that an hour costs no more memory than a second."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

_LINEAR = 64  # ns counted exactly; above, 32 bins to an octave, so a bin's edges differ by 3%
_HALF_BITS = 5
_LARGEST_NS = (1 << 42) - 1  # 73 minutes; whatever is later counts as this late
_BINS = ((_LARGEST_NS.bit_length() - 6) << _HALF_BITS) + _LINEAR


def _bin_of(nanoseconds: int) -> int:
    if nanoseconds < _LINEAR:
        return nanoseconds
    shift = nanoseconds.bit_length() - 6
    return (shift << _HALF_BITS) + (nanoseconds >> shift)


def _upper_edge(index: int) -> int:
    """Largest value that a bin holds, ns."""
    if index < _LINEAR:
        return index
    shift = (index >> _HALF_BITS) - 1
    return (((index & 31) + 33) << shift) - 1


class LatenessHistogram:
    """Counts of lateness in nanoseconds.

    Attributes:
        count: Values added.
        max_ns: The largest, exact.
    """

    __slots__ = ("_counts", "count", "max_ns")

    def __init__(self) -> None:
        """Empty."""
        self._counts = array("q", bytes(8 * _BINS))
        self.count = 0
        self.max_ns = 0

    def add(self, nanoseconds: int) -> None:
        """Count one value; early (negative) counts as on time."""
        if nanoseconds < 0:
            nanoseconds = 0
        elif nanoseconds > _LARGEST_NS:
            nanoseconds = _LARGEST_NS
        if nanoseconds > self.max_ns:
            self.max_ns = nanoseconds
        self._counts[_bin_of(nanoseconds)] += 1
        self.count += 1

    def quantile_ns(self, share: float) -> int:
        """A value that at least ``share`` of all values do not exceed, at most 3% above the exact one; 0 when empty.

        Raises:
            ValueError: The share is not in [0, 1].
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"expected a share from 0 to 1, found {share}")
        wanted = share * self.count
        seen = 0
        for index, number in enumerate(self._counts):
            seen += number
            if number and seen >= wanted:
                return min(_upper_edge(index), self.max_ns)
        return self.max_ns

    def merge(self, other: LatenessHistogram) -> None:
        """Add all values of another."""
        for index, number in enumerate(other._counts):
            self._counts[index] += number
        self.count += other.count
        self.max_ns = max(self.max_ns, other.max_ns)

    def bins(self) -> tuple[tuple[int, int], ...]:
        """(upper edge in ns, count) of every bin that is not empty, in order."""
        return tuple((_upper_edge(index), number) for index, number in enumerate(self._counts) if number)

    @staticmethod
    def of_bins(bins: tuple[tuple[int, int], ...], max_ns: int) -> LatenessHistogram:
        """Rebuild from :meth:`bins` and the maximum."""
        histogram = LatenessHistogram()
        for edge, number in bins:
            histogram._counts[_bin_of(edge)] += number
            histogram.count += number
        histogram.max_ns = max_ns
        return histogram


@dataclass(frozen=True, slots=True)
class DeadlineRecord:
    """How an episode kept its deadlines; part of the episode log.

    Attributes:
        rate_hz: Ticks per second that were asked for.
        realtime_priority: SCHED_FIFO was granted.
        memory_locked: All memory was locked.
        ticks: Ticks executed.
        overruns: Ticks that were still at work at the next deadline.
        missed: Deadlines skipped for that reason.
        holds: Times that the overrun policy made the arm hold.
        late_p50_ms: Median of the start of a tick after its deadline.
        late_p99_ms: 99th percentile.
        late_p999_ms: 99.9th percentile.
        late_max_ms: Worst.
        histogram_ns: (upper edge in ns, count) of every bin that is not empty.
    """

    rate_hz: int
    realtime_priority: bool
    memory_locked: bool
    ticks: int
    overruns: int
    missed: int
    holds: int
    late_p50_ms: float
    late_p99_ms: float
    late_p999_ms: float
    late_max_ms: float
    histogram_ns: tuple[tuple[int, int], ...] = field(repr=False)

    @staticmethod
    def of(
        lateness: LatenessHistogram,
        *,
        rate_hz: int,
        realtime_priority: bool,
        memory_locked: bool,
        overruns: int,
        missed: int,
        holds: int,
    ) -> DeadlineRecord:
        """Sum up."""
        return DeadlineRecord(
            rate_hz=rate_hz,
            realtime_priority=realtime_priority,
            memory_locked=memory_locked,
            ticks=lateness.count,
            overruns=overruns,
            missed=missed,
            holds=holds,
            late_p50_ms=lateness.quantile_ns(0.5) * 1e-6,
            late_p99_ms=lateness.quantile_ns(0.99) * 1e-6,
            late_p999_ms=lateness.quantile_ns(0.999) * 1e-6,
            late_max_ms=lateness.max_ns * 1e-6,
            histogram_ns=lateness.bins(),
        )

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> DeadlineRecord:
        """Rebuild from ``dataclasses.asdict`` that went through JSON.

        Raises:
            TypeError: Other fields than these.
        """
        values: dict[str, Any] = dict(data)
        pairs = cast(list[tuple[int, int]], values.get("histogram_ns", []))
        values["histogram_ns"] = tuple((int(edge), int(number)) for edge, number in pairs)
        return DeadlineRecord(**values)

    @property
    def missed_share(self) -> float:
        """Deadlines skipped, as a share of all deadlines."""
        return self.missed / max(1, self.ticks + self.missed)
