"""What happens when the log cannot be written: who notices, what is kept, and how it is told."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from controllers.shared_memory import PAGE, Segment
from episodes.journal import JournalFile, Kind, Payload, Reserve
from episodes.manifest import LogFault
from episodes.packing import block_span

STALL_S = 1.0  # a healthy recorder takes every record within some milliseconds
RETRY_S = 0.1
CLOSING_PATIENCE_S = 5.0  # what a full disk is given at the end of an episode before its ticks are given up
# Words of the page: records taken care of, length of the text of trouble, and of the record that is being taken care of
# its number, the ring's cursor behind it, and the length of the journal before it.
_HANDLED, _TROUBLE, _NUMBER, _BEHIND, _BEFORE = range(5)
_TEXT = 64
_TEXT_BYTES = 512


@dataclass(frozen=True, slots=True)
class LogReport:
    """How the log of an episode fared.

    Attributes:
        faults: Times in which nothing could be written.
        lost_ticks: Ticks that are not in the episode.
        dropped_frames: Frames that are not in the episode.
        failure: Why the episode is not complete or not turned into a finished store, empty if all is well.
    """

    faults: tuple[LogFault, ...] = ()
    lost_ticks: int = 0
    dropped_frames: int = 0
    failure: str = ""

    @property
    def clean(self) -> bool:
        """Nothing went wrong."""
        return not (self.faults or self.lost_ticks or self.dropped_frames or self.failure)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> LogReport:
        """Rebuild from :meth:`to_json`.

        Raises:
            ValueError: It is no report.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            data["faults"] = tuple(LogFault(**fault) for fault in data["faults"])
            return LogReport(**data)
        except (TypeError, KeyError) as error:
            raise ValueError(f"expected a log report, found {text[:60]!r} ({error})") from error


class RecorderStatus:
    """A page of memory in which the recording process says how it fares; reading it costs the loop no system call."""

    def __init__(self, segment: Segment) -> None:
        """Wrap a segment of a page."""
        self._segment = segment
        self._words, self._view = segment.words, segment.view

    @classmethod
    def create(cls) -> Self:
        """A new page, all well."""
        return cls(Segment.create("vla-recorder", PAGE, only_mine=False))

    @classmethod
    def of(cls, fd: int) -> Self:
        """The page behind the descriptor that the loop passed on."""
        return cls(Segment.map(fd, writable=True))

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._segment.fd

    @property
    def handled(self) -> int:
        """Records that the recorder has taken care of."""
        return self._words[_HANDLED]

    @handled.setter
    def handled(self, count: int) -> None:
        self._words[_HANDLED] = count

    @property
    def trouble(self) -> str:
        """Why the disk takes nothing, empty while it does."""
        length = self._words[_TROUBLE]
        return bytes(self._view[_TEXT : _TEXT + min(length, _TEXT_BYTES)]).decode(errors="replace") if length else ""

    @trouble.setter
    def trouble(self, text: str) -> None:
        data = text.encode()[:_TEXT_BYTES]
        self._view[_TEXT : _TEXT + len(data)] = data
        self._words[_TROUBLE] = len(data)

    def intend(self, cursor: int, journal_bytes: int) -> None:
        """Say which record is appended next: that up to ``cursor`` of the ring, to a journal of so many bytes."""
        words = self._words
        words[_NUMBER], words[_BEFORE], words[_BEHIND] = words[_HANDLED], journal_bytes, cursor

    def resume(self, freed: int, journal_bytes: int) -> int:
        """Where in the ring a recorder goes on that was started in place of one that was killed.

        Args:
            freed: Up to where the ring was freed.
            journal_bytes: Length of the journal as it is.

        Returns:
            The cursor behind the record that was being appended, if it is in the journal, else ``freed``.
        """
        words = self._words
        if words[_BEHIND] <= freed:
            return freed
        appended = journal_bytes > words[_BEFORE]
        words[_HANDLED] = words[_NUMBER] + appended
        return words[_BEHIND] if appended else freed

    def close(self) -> None:
        """Unmap."""
        self._segment.close()


class StallWatch:
    """The loop's eye on a recorder that says nothing: stopped, or stuck in a write to a slow disk."""

    def __init__(self) -> None:
        """All is well."""
        self._handled = -1
        self._since = 0.0
        self._began = 0.0
        self._tick = -1
        self.stalled = False

    def step(self, tick: int, sent: int, handled: int) -> tuple[float, int] | None:
        """Take note of the records sent and handled so far.

        Returns:
            When a stall has ended: how long it lasted, s, and its first tick. Else None.
        """
        if sent == handled and not self.stalled:
            self._handled = -1
            return None
        now = time.monotonic()
        if self._handled < 0:
            self._tick, self._began = tick, now
        if handled != self._handled:
            self._handled, self._since = handled, now
            if self.stalled:
                self.stalled, self._handled = False, -1
                return now - self._began, self._tick
            self._tick, self._began = tick, now
        elif now - self._since > STALL_S:
            self.stalled = True
        return None

    def end(self) -> tuple[float, int] | None:
        """The episode is over: the stall that has not ended, as by :meth:`step`."""
        if not self.stalled:
            return None
        self.stalled = False
        return time.monotonic() - self._began, self._tick


class PatientJournal:
    """Appends to a journal; what the disk refuses waits in memory, in order, and is tried again.

    Frames are the exception: while anything waits they are dropped and counted.
    """

    def __init__(
        self, journal: JournalFile, reserve: Reserve, layout: np.dtype[np.void], status: RecorderStatus | None
    ) -> None:
        """Wrap ``journal``.

        Args:
            journal: An open journal.
            reserve: Room to say at the end that there was none.
            layout: Of a packed tick.
            status: Where the loop looks, None if it does not.
        """
        self._journal, self._reserve, self._layout, self._status = journal, reserve, layout, status
        self._waiting: deque[tuple[Kind, Payload]] = deque()
        self._fault: LogFault | None = None
        self._began = self._tried = 0.0
        self.faults: list[LogFault] = []

    @property
    def waiting(self) -> bool:
        """Whether the disk refuses."""
        return self._fault is not None

    def append(self, kind: Kind, payload: Payload) -> None:
        """Append a record, now or later."""
        if self._fault is not None:
            self._wait(kind, payload)
            return
        try:
            self._journal.append(kind, payload)
        except OSError as error:
            self._refused(error)
            self._wait(kind, payload)

    def sync(self) -> None:
        """Push everything to the disk."""
        if self._fault is None:
            try:
                self._journal.sync()
            except OSError as error:
                self._refused(error)

    def _wait(self, kind: Kind, payload: Payload) -> None:
        assert self._fault is not None
        if kind is Kind.IMAGE:
            self._fault = replace(self._fault, lost_frames=self._fault.lost_frames + 1)
            return
        self._waiting.append((kind, payload))
        if kind is Kind.BLOCK and self._fault.first_tick < 0:
            self._fault = replace(self._fault, first_tick=block_span(payload, self._layout)[0])

    def _refused(self, error: OSError) -> None:
        self._began = self._tried = time.monotonic()
        self._fault = LogFault(error.strerror or str(error), -1, 0.0, 0)
        if self._status is not None:
            self._status.trouble = f"the log's disk refuses: {self._fault.cause}"

    def retry(self) -> None:
        """Try again what waits, if it is time; call it often."""
        now = time.monotonic()
        if self._fault is None or now - self._tried < RETRY_S:
            return
        self._tried = now
        try:
            while self._waiting:
                self._journal.append(*self._waiting[0])
                self._waiting.popleft()
            self._journal.sync()
        except OSError:
            return
        fault = replace(self._fault, seconds=time.monotonic() - self._began)
        self._fault = None
        if self._status is not None:
            self._status.trouble = ""
        self.note(fault)

    def note(self, fault: LogFault) -> None:
        """Write a fault that is over."""
        self.faults.append(fault)
        self.append(Kind.FAULT, fault_payload(fault))

    def end(self, outcome: Payload | None) -> int:
        """Write the last records; what the disk does not take within some seconds is given up.

        Args:
            outcome: How the episode ended, None if the loop died.

        Returns:
            Ticks given up.
        """
        deadline = time.monotonic() + CLOSING_PATIENCE_S
        while self._fault is not None and time.monotonic() < deadline:
            time.sleep(RETRY_S)
            self.retry()
        lost = 0
        if self._fault is not None:
            spans = [block_span(data, self._layout) for kind, data in self._waiting if kind is Kind.BLOCK]
            lost = sum(count for _, count in spans)
            first = self._fault.first_tick if spans else -1
            seconds = time.monotonic() - self._began
            fault = replace(self._fault, first_tick=first, seconds=seconds, lost_ticks=lost)
            if spans:  # some of what waited may have been written since
                fault = replace(fault, first_tick=spans[0][0])
            self._waiting.clear()
            self._fault = None
            self._reserve.release()
            self.note(fault)
        if outcome is not None:
            self.append(Kind.END, outcome)
        self.sync()
        return lost


def fault_payload(fault: LogFault) -> bytes:
    """A fault as a record of the journal."""
    values: Mapping[str, object] = asdict(fault)
    return json.dumps(values).encode()
