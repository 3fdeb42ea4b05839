"""Where a writer's records go: the protocol, and the way that writes from the loop's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from episodes.errors import EpisodeError, LogLossError
from episodes.images import Frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Payload, Reserve
from episodes.log_faults import LogReport, fault_payload
from episodes.manifest import LogFault
from episodes.packing import block_span
from episodes.profile import CameraProfile
from episodes.store import finalize


class Backend(Protocol):
    """Where records go. Calls must not block the loop."""

    @property
    def failure(self) -> str:
        """Why recording has stopped for good, empty while it works."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing can be written at the moment, empty while all is well."""
        ...

    def put(self, kind: Kind, payload: Payload) -> None:
        """Take a record that must not be lost."""
        ...

    def put_frame(self, frame: Frame) -> None:
        """Take a raw camera frame, or drop it on overload."""
        ...

    def pump(self, tick: int) -> None:
        """Move on what is still waiting, within a bounded time; ``tick`` is the last that was taken."""
        ...

    def finish(self) -> LogReport:
        """Write everything out and turn the journal into plain zarr; may take its time."""
        ...


class InProcessBackend:
    """Writes from the loop's own process: for lock-step, where nobody waits for the tick.

    Nothing has to go on there, so the first record that the disk refuses ends the episode.
    """

    def __init__(self, path: Path, layout: np.dtype[np.void], profile: CameraProfile) -> None:
        """Continue the journal of the store at ``path``.

        Args:
            path: The store.
            layout: Of a packed tick.
            profile: How pictures are kept.
        """
        self._path, self._layout, self._profile = path, layout, profile
        self._journal = JournalFile(path / JOURNAL_NAME)
        self._reserve = Reserve(path)
        self._report = LogReport()
        self.failure = self.trouble = ""

    def put(self, kind: Kind, payload: Payload) -> None:
        """Append at once.

        Raises:
            LogLossError: The disk does not take it. Later records but the last one are not even tried.
        """
        if self.failure:
            if kind is Kind.END:
                self._last_words(kind, payload)
            return
        try:
            self._journal.append(kind, payload)
        except OSError as error:
            self._give_up(error, kind, payload)
            raise _loss(self._path, self.failure) from error

    def _give_up(self, error: OSError, kind: Kind, payload: Payload) -> None:
        self.failure = self.trouble = str(error)
        first, count = block_span(payload, self._layout) if kind is Kind.BLOCK else (-1, 0)
        fault = LogFault(error.strerror or str(error), first, 0.0, 0, count)
        self._report = LogReport((fault,), count, failure=self.failure)
        self._reserve.release()
        self._last_words(Kind.FAULT, fault_payload(fault))

    def _last_words(self, kind: Kind, payload: Payload) -> None:
        try:
            self._journal.append(kind, payload)
        except OSError as error:
            self.failure = f"{self.failure}; nor could that be written down: {error}"

    def put_frame(self, frame: Frame) -> None:
        """Compress and append at once."""
        packed = frame.compressed(self._profile)
        self.put(Kind.IMAGE, packed.header() + bytes(packed.data))

    def pump(self, tick: int) -> None:
        """Nothing ever waits."""

    def finish(self) -> LogReport:
        """Turn the journal into plain zarr, unless it could not be written to the end."""
        self._reserve.release()
        if not self.failure:
            try:
                finalize(self._path)
            except OSError as error:
                self.failure = f"the journal is complete, the finished store is not: {error}"
                self._report = LogReport(failure=self.failure)
        self._journal.close()
        return self._report


def _loss(path: Path, found: str) -> EpisodeError:
    return LogLossError(
        str(path),
        "a disk that takes the log",
        found,
        "make room or choose another folder; open_episode reads what was written before",
    )


def loss_of(path: Path, report: LogReport) -> EpisodeError:
    """The error that tells what ``report`` tells."""
    lost = f"{report.lost_ticks} ticks lost: " if report.lost_ticks else ""
    return _loss(path, f"{lost}{report.failure}")
