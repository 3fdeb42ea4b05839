"""The recording process of a real-time episode: appends what arrives to the journal, and finishes the store.

One that is started in place of one that was killed goes on where that one was: a record stays in the ring until it is
in the journal, and the page of memory beside it says which one was on its way.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from episodes.errors import EpisodeError
from episodes.hand_off import PACKET_BYTES, POLL_S, Receiver
from episodes.images import decode_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Reserve, read_journal
from episodes.log_faults import LogReport, PatientJournal, RecorderStatus
from episodes.manifest import LogFault, Manifest
from episodes.packing import block_span
from episodes.profile import camera_profile
from episodes.ring import PacketRing
from episodes.schema import row_dtype
from episodes.store import finalize

READY = b"ready"
_SYNC_PERIOD_S = 1.0


class _Recorder:
    """Appends what arrives to the journal, ticks before frames."""

    def __init__(self, path: Path, ring_fd: int, frame_fd: int, status_fd: int) -> None:
        self._path = path
        self._status = RecorderStatus.of(status_fd)
        self._file = JournalFile(path / JOURNAL_NAME)
        records = read_journal(path / JOURNAL_NAME).records
        opening = Manifest.from_json(json.loads(bytes(records[0][1])))
        self._layout = layout = row_dtype(opening.joints)
        blocks = [payload for kind, payload in records if kind is Kind.BLOCK]
        self._next_tick = sum(block_span(blocks[-1], layout)) if blocks else -1
        self._profile = camera_profile(opening.camera_profile)
        self._reserve = Reserve(path)
        self._journal = PatientJournal(self._file, self._reserve, layout, self._status)
        self._ring, self._socket = PacketRing.of(ring_fd), socket.socket(fileno=frame_fd)
        self._ring.free(self._status.resume(self._ring.freed, self._file.length))
        self._ticks, self._frames = Receiver(), Receiver()
        self._buffer = bytearray(PACKET_BYTES)
        self._open = True
        self._frame_header = b""
        self._end: bytearray | None = None
        self._ended = any(kind is Kind.END for kind, _ in records)
        self._told = [LogFault(**json.loads(bytes(payload))) for kind, payload in records if kind is Kind.FAULT]

    def run(self) -> LogReport:
        """Record until the loop has closed the socket or died, then finish the store."""
        synced = time.monotonic()
        while True:
            was_open = self._open  # what the loop put before it closed the socket is in the ring by now
            if not self._take_ticks() and not was_open:
                break
            if self._open:
                self._take_frame()
            self._journal.retry()
            if time.monotonic() - synced > _SYNC_PERIOD_S:
                self._journal.sync()
                synced = time.monotonic()
        lost = self._journal.end(self._end)
        failure = self._finalized() if not lost else f"the disk refused to the end: {self._journal.faults[-1].cause}"
        self._file.close()
        return LogReport((*self._told, *self._journal.faults), lost, failure=failure)

    def _take_ticks(self) -> bool:
        """Take all that is in the ring; whether there was anything."""
        any_taken = False
        while (packet := self._ring.take()) is not None:
            any_taken = True
            record = self._ticks.receive(memoryview(packet))
            if record is not None:
                self._take_number(*record)
        return any_taken

    def _take_frame(self) -> None:
        """Take a packet from the socket, waiting for it no longer than ticks may wait in the ring."""
        readable, _, _ = select.select((self._socket,), (), (), POLL_S)
        if not readable:
            return
        try:
            size = self._socket.recv_into(self._buffer)
        except ConnectionError:
            size = 0
        if size == 0:
            self._open = False
            return
        record = self._frames.receive(memoryview(self._buffer)[:size])
        if record is not None:
            self._take_frame_record(*record)

    def _take_number(self, kind: Kind, payload: bytearray) -> None:
        """Append a record of the ring, exactly once whenever this process is killed."""
        if kind is Kind.END:
            self._end = None if self._ended else payload  # it is written last; until then it stays in the ring
            return
        self._status.intend(self._ring.cursor, self._file.length)
        if kind is Kind.BLOCK:
            self._check_gap(payload)
        self._journal.append(kind, payload)
        if kind is Kind.FAULT:
            self._told.append(LogFault(**json.loads(payload)))
        self._status.handled += 1
        self._ring.free(self._ring.cursor)

    def _check_gap(self, payload: bytearray) -> None:
        """End where ticks are missing: what was killed before held them, because the disk refused them."""
        first, count = block_span(payload, self._layout)
        if first != self._next_tick >= 0:
            raise EpisodeError(
                str(self._path),
                f"tick {self._next_tick} next",
                f"tick {first}",
                "the recorder was killed while its disk was full; the episode ends where it was",
            )
        self._next_tick = first + count

    def _take_frame_record(self, kind: Kind, payload: bytearray) -> None:
        if kind is not Kind.IMAGE:
            self._frame_header = bytes(payload)
        elif self._frame_header:
            raw = decode_frame(self._frame_header + payload)
            packed = raw.compressed(self._profile)
            self._journal.append(Kind.IMAGE, packed.header() + bytes(packed.data))
            self._frame_header = b""

    def _finalized(self) -> str:
        """Turn the journal into plain zarr; why not, if it cannot be. The journal is the episode then."""
        try:
            finalize(self._path)
        except OSError as error:
            self._reserve.release()
            return f"the journal is complete, the finished store is not: {error}"
        return ""


def main() -> None:
    """Entry of the recording process: store path, the descriptors of ring, socket and status page."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setscheduler"):
        # The recorder must not inherit the loop's real-time priority, and must not push the loop off its core
        # when a packet wakes it up.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        recorder = _Recorder(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
        os.write(1, READY + b"\n")
        report = recorder.run()
    except EpisodeError as error:
        sys.exit(str(error))
    # Nobody listens when the loop's process was killed; the store is complete all the same.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, report.to_json().encode() + b"\n")


if __name__ == "__main__":
    main()
