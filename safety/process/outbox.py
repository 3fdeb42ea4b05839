"""The kernel's own segment: ticks, events and statistics, written by the kernel alone and read by anybody."""

from __future__ import annotations

from collections.abc import Sequence

from safety.process.contract import KernelContract
from safety.process.memory import OutboxHeader, Segment, read_header, write_header
from safety.process.records import KernelCounters, KernelEvent, KernelStatistics, KernelTick
from safety.process.slots import Ring, Slot, slot_size
from safety.process.wire import (
    EVENT_SIZE,
    STATISTICS_SIZE,
    TickCodec,
    lateness_percentile_ms,
    pack_event,
    pack_statistics,
    unpack_event,
    unpack_statistics,
)

_TICK_HEAD, _EVENT_HEAD = 512 // 8, 576 // 8  # words, behind the header
_STATISTICS_AT = 640
_RING_EVENTS = 256


class _Layout:
    """Where things are in the outbox."""

    def __init__(self, segment: Segment, codec: TickCodec, key: bytes, ticks: int, events: int) -> None:
        at = _STATISTICS_AT
        self.statistics = Slot(segment, at, STATISTICS_SIZE, key)
        at += slot_size(STATISTICS_SIZE)
        self.ticks = Ring(segment, _TICK_HEAD, at, codec.size, ticks, key)
        at += Ring.size(codec.size, ticks)
        self.events = Ring(segment, _EVENT_HEAD, at, EVENT_SIZE, events, key)

    @staticmethod
    def size(codec: TickCodec, ticks: int, events: int) -> int:
        slots = slot_size(STATISTICS_SIZE) + Ring.size(codec.size, ticks) + Ring.size(EVENT_SIZE, events)
        return _STATISTICS_AT + slots


class Outbox:
    """The kernel's side."""

    def __init__(self, contract: KernelContract, ring_ticks: int, inbox: Segment, button: Segment) -> None:
        """Make the segment."""
        self._codec = TickCodec(contract.joints)
        size = _Layout.size(self._codec, ring_ticks, _RING_EVENTS)
        self.segment = Segment.create("safety-outbox", size, only_mine=True)
        self._layout = _Layout(self.segment, self._codec, contract.key, ring_ticks, _RING_EVENTS)
        write_header(self.segment, contract, inbox, button, (ring_ticks, _RING_EVENTS))

    def tick(self, tick: KernelTick) -> None:
        """Publish a tick; never waits for a reader."""
        self._layout.ticks.append(self._codec.pack(tick))

    def event(self, event: KernelEvent) -> None:
        """Publish an event."""
        events = self._layout.events
        events.append(pack_event(events.count, event))

    def statistics(self, counters: KernelCounters, histogram: Sequence[int]) -> None:
        """Publish statistics."""
        self._layout.statistics.write(pack_statistics(counters, histogram))


class OutboxReader:
    """Anybody's side: reads what the kernel published, and keeps it readable after the kernel has gone.

    Attributes:
        header: What the kernel says about itself.
        dropped: Ticks that were overwritten before :meth:`drain` took them.
    """

    def __init__(self, address: str, *, oldest: bool = False) -> None:
        """Map the outbox of a running kernel.

        Args:
            address: ``SafetyKernelProcess.address``.
            oldest: :meth:`drain` begins with the oldest tick that is still there instead of the next one.

        Raises:
            SafetyKernelError: There is no kernel at ``address``.
        """
        self._segment = Segment.open(address, writable=False)
        self.header: OutboxHeader = read_header(self._segment, address)
        contract = self.header.contract
        self._codec = TickCodec(contract.joints)
        self._layout = _Layout(
            self._segment, self._codec, contract.key, self.header.ring_ticks, self.header.ring_events
        )
        count = self._layout.ticks.count
        self._next = max(0, count - self.header.ring_ticks + 1) if oldest else count
        self.dropped = 0

    @property
    def count(self) -> int:
        """Ticks published so far."""
        return self._layout.ticks.count

    def newest(self) -> KernelTick | None:
        """The newest tick; None before the first."""
        for _ in range(3):  # only a reader that is stopped for a whole round of the ring needs another attempt
            count = self.count
            if count == 0:
                return None
            tick = self._get(count - 1)
            if tick is not None:
                return tick
        return None

    def drain(self) -> tuple[KernelTick, ...]:
        """The ticks since the last call (or since this reader was made), in order. Never waits."""
        ring, ticks = self._layout.ticks, list[KernelTick]()
        count = ring.count
        oldest = max(0, count - ring.capacity + 1)  # the one before is being overwritten
        if self._next < oldest:
            self.dropped += oldest - self._next
            self._next = oldest
        for index in range(self._next, count):
            tick = self._get(index)
            if tick is None:
                self.dropped += 1
            else:
                ticks.append(tick)
        self._next = count
        return tuple(ticks)

    def _get(self, index: int) -> KernelTick | None:
        raw = self._layout.ticks.get(index)
        tick = None if raw is None else self._codec.unpack(raw)
        return tick if tick is not None and tick.tick == index else None

    def statistics(self) -> KernelStatistics:
        """Counters, percentiles of lateness, and the newest events."""
        raw = None
        for _ in range(100):  # the kernel is inside for microseconds, every tenth tick
            raw = self._layout.statistics.read()
            if raw is not None:
                break
        counters, histogram = (KernelCounters(), ()) if raw is None else unpack_statistics(raw)
        return KernelStatistics(
            counters,
            lateness_percentile_ms(histogram, 50.0),
            lateness_percentile_ms(histogram, 99.0),
            counters.lateness_max_ns * 1e-6,
            self.events(),
        )

    def events(self) -> tuple[KernelEvent, ...]:
        """The newest events, oldest first."""
        ring = self._layout.events
        count = ring.count
        found: list[KernelEvent] = []
        for index in range(max(0, count - ring.capacity + 1), count):
            raw = ring.get(index)
            number, event = (-1, None) if raw is None else unpack_event(raw)
            if event is not None and number == index:
                found.append(event)
        return tuple(found)

    def close(self) -> None:
        """Unmap."""
        self._segment.close()
