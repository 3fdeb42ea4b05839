"""The recording process of a real-time episode, and the loop's side of it.

Two sequenced-packet sockets lead to the recorder: one for ticks, chunks and all other numbers, one for camera frames,
so that no tick ever queues behind a picture. A packet is sent whole or not at all, and carries a number, so that an
interrupted send is simply repeated. The loop never waits: what does not fit stays in its own memory, except for
frames beyond a bound, which are dropped (the finished episode shows which).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

from episodes.errors import EpisodeError, LogLossError
from episodes.images import Frame, decode_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Payload, Reserve, read_journal
from episodes.log_faults import RETRY_S, LogReport, PatientJournal, RecorderStatus, StallWatch, fault_payload
from episodes.manifest import LogFault, Manifest
from episodes.profile import camera_profile
from episodes.schema import row_dtype
from episodes.store import finalize

_PACKET = struct.Struct("<QBQQ")  # number, kind, offset of this part, length of the record
_PART_BYTES = 64 * 1024
_SOCKET_BYTES = 1 << 20
FRAME_BACKLOG_BYTES = 64 << 20
_PUMP_BYTES = 512 * 1024  # frame bytes moved in one tick: bounds its cost to a fraction of a millisecond
_START_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 300.0
_SYNC_PERIOD_S = 1.0
_READY = b"ready"
_STALL = "the recording process took nothing: a slow disk, or it was stopped"


@dataclass(frozen=True, slots=True)
class _Part:
    header: bytes
    data: memoryview


class _Sender:
    """The loop's end of one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._queue: deque[_Part] = deque()
        self._next = 0
        self.waiting_bytes = 0
        self.records = 0
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)

    def put(self, kind: Kind, payload: Payload) -> None:
        """Queue a record. ``payload`` must not change any more."""
        view = memoryview(payload)
        total = len(view)
        self.records += 1
        for offset in range(0, max(total, 1), _PART_BYTES):
            part = view[offset : offset + _PART_BYTES]
            self._queue.append(_Part(_PACKET.pack(self._next, kind, offset, total), part))
            self._next += 1
            self.waiting_bytes += len(part)

    def pump(self, budget: int = sys.maxsize) -> None:
        """Send what the socket takes, up to ``budget`` bytes."""
        queue = self._queue
        while queue and budget > 0:
            part = queue[0]
            try:
                self._socket.sendmsg((part.header, part.data))
            except BlockingIOError:
                return
            # Interrupted before the next line, the packet goes out twice; its number tells the recorder.
            queue.popleft()
            self.waiting_bytes -= len(part.data)
            budget -= len(part.data)

    def drain(self, deadline: float) -> None:
        """Send everything, waiting for the recorder."""
        while self._queue:
            self.pump()
            if self._queue:
                if time.monotonic() > deadline:
                    raise TimeoutError
                select.select((), (self._socket,), (), 0.1)

    def close(self) -> None:
        self._socket.close()


class ProcessBackend:
    """Hands records to a recording process; see :class:`episodes.backends.Backend`."""

    def __init__(self, path: Path) -> None:
        """Prepare for the store at ``path``; :meth:`start` starts the process."""
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._ticks: _Sender | None = None
        self._frames: _Sender | None = None
        self._status = RecorderStatus.create()
        self._stall = StallWatch()
        self._dropped = self._dropped_before = 0
        self.failure = ""

    @property
    def trouble(self) -> str:
        """Why nothing reaches the disk at the moment, empty while all is well."""
        if self._stall.stalled:
            return _STALL
        return self._status.trouble

    def start(self) -> None:
        """Start the recorder and wait until it listens.

        Raises:
            EpisodeError: It did not start.
        """
        if not hasattr(socket, "SOCK_SEQPACKET") or sys.platform == "darwin":
            raise EpisodeError(
                str(self._path),
                "a system with sequenced-packet sockets for real-time recording",
                sys.platform,
                "record in lock-step here (manifest.realtime=False)",
            )
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        ends = [*(pair[1].fileno() for pair in pairs), self._status.fd]
        root = str(Path(__file__).parent.parent)
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "episodes.recorder", str(self._path.resolve()), *map(str, ends)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=ends,
            start_new_session=True,  # Ctrl-C in the terminal is for the loop; the recorder outlives it
            env={**os.environ, "PYTHONPATH": search},
        )
        for _, end in pairs:
            end.close()
        line = self._answer(_START_TIMEOUT_S)
        if line != _READY.decode():
            raise self._gone(line)
        self._ticks, self._frames = _Sender(pairs[0][0]), _Sender(pairs[1][0])

    def put(self, kind: Kind, payload: Payload) -> None:
        """Send a record, or keep it until there is room."""
        if self._ticks is not None and not self.failure:
            self._ticks.put(kind, payload)
            self._pump(self._ticks)

    def put_frame(self, frame: Frame) -> None:
        """Queue a frame unless too many wait already."""
        if self._frames is None or self.failure or self._frames.waiting_bytes + len(frame.data) > FRAME_BACKLOG_BYTES:
            self._dropped += 1
            return
        self._frames.put(Kind.OBSERVATION, frame.header())
        self._frames.put(Kind.IMAGE, frame.data)

    def pump(self, tick: int) -> None:
        """Send waiting ticks, then a bounded amount of frames; look at how the recorder fares."""
        if self._ticks is None or self._frames is None or self.failure:
            return
        ended = self._stall.step(tick, self._ticks.records, self._status.handled)
        if ended is not None:
            self._note_stall(*ended)
        elif not self._stall.stalled:
            self._dropped_before = self._dropped
        if self._ticks.waiting_bytes:
            self._pump(self._ticks)
        if self._frames.waiting_bytes:
            self._pump(self._frames, _PUMP_BYTES)

    def _note_stall(self, seconds: float, first_tick: int) -> None:
        assert self._ticks is not None
        fault = LogFault(_STALL, first_tick, seconds, self._dropped - self._dropped_before)
        self._ticks.put(Kind.FAULT, fault_payload(fault))

    def _pump(self, sender: _Sender, budget: int = sys.maxsize) -> None:
        try:
            sender.pump(budget)
        except OSError as error:
            # The loop must go on: a dead log is reported here and when the episode is closed.
            self.failure = f"the recording process has gone: {error}"

    def finish(self) -> LogReport:
        """Send the rest and wait for the recorder to finish the store.

        Raises:
            EpisodeError: The recorder died or does not answer.
        """
        if self._ticks is None or self._frames is None:
            return LogReport()
        try:
            deadline = time.monotonic() + _FINISH_TIMEOUT_S
            if not self.failure:
                self._frames.drain(deadline)
                self._ticks.drain(deadline)
                stall = self._stall.end()
                if stall is not None:
                    self._note_stall(*stall)
                    self._ticks.drain(deadline)
        except OSError as error:
            self.failure = f"the recording process has gone: {error}"
        finally:
            self._ticks.close()
            self._frames.close()
            self._status.close()
        if self.failure:
            raise self._dead(self.failure)
        line = self._answer(_FINISH_TIMEOUT_S)
        try:
            report = LogReport.from_json(line)
        except ValueError:
            raise self._gone(line) from None
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        lost = sum(fault.lost_frames for fault in report.faults if fault.cause != _STALL)
        return replace(report, dropped_frames=self._dropped + lost)

    def _answer(self, timeout_s: float) -> str:
        """The recorder's next line, empty if there is none in time."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        ready, _, _ = select.select((process.stdout,), (), (), timeout_s)
        return process.stdout.readline().strip().decode() if ready else ""

    def _gone(self, line: str) -> EpisodeError:
        assert self._process is not None
        self._process.poll()
        return self._dead(f"{line or 'no answer'} (exit status {self._process.returncode})")

    def _dead(self, found: str) -> EpisodeError:
        return LogLossError(
            str(self._path),
            "a recording process that answers",
            found,
            "look at its messages above and for a full disk; open_episode still reads what was recorded",
        )


# --------------------------------------------------------------------------------- in the recording process


class _Receiver:
    """The recorder's end of one socket: puts parts together and skips repeated ones."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.open = True
        self._buffer = bytearray(_PACKET.size + _PART_BYTES)
        self._next = 0
        self._record = bytearray()

    def receive(self) -> tuple[Kind, bytearray] | None:
        """Take one packet; a record when it is the last part of one."""
        try:
            size = self.socket.recv_into(self._buffer)
        except ConnectionError:
            size = 0
        if size == 0:
            self.open = False
            return None
        number, kind, offset, total = _PACKET.unpack_from(self._buffer)
        if number < self._next:
            return None
        self._next = number + 1
        if offset == 0:
            self._record = bytearray()
        self._record += memoryview(self._buffer)[_PACKET.size : size]
        return (Kind(kind), self._record) if len(self._record) == total else None


class _Recorder:
    """Appends what arrives to the journal, ticks before frames."""

    def __init__(self, path: Path, tick_fd: int, frame_fd: int, status_fd: int) -> None:
        self._path = path
        self._status = RecorderStatus.of(status_fd)
        self._file = JournalFile(path / JOURNAL_NAME)
        opening = Manifest.from_json(json.loads(bytes(read_journal(path / JOURNAL_NAME).records[0][1])))
        layout = row_dtype(opening.joints)
        self._profile = camera_profile(opening.camera_profile)
        self._reserve = Reserve(path)
        self._journal = PatientJournal(self._file, self._reserve, layout, self._status)
        self._ticks, self._frames = _Receiver(tick_fd), _Receiver(frame_fd)
        self._frame_header = b""
        self._end: bytearray | None = None
        self._stalls: list[LogFault] = []

    def run(self) -> LogReport:
        """Record until the loop has closed both sockets or died, then finish the store."""
        synced = time.monotonic()
        while self._ticks.open or self._frames.open:
            receiver = self._next()
            record = None if receiver is None else receiver.receive()
            if receiver is not None and record is not None:
                self._take(receiver, *record)
            self._journal.retry()
            if time.monotonic() - synced > _SYNC_PERIOD_S:
                self._journal.sync()
                synced = time.monotonic()
        lost = self._journal.end(self._end)
        failure = self._finalized() if not lost else f"the disk refused to the end: {self._journal.faults[-1].cause}"
        self._file.close()
        return LogReport((*self._stalls, *self._journal.faults), lost, failure=failure)

    def _next(self) -> _Receiver | None:
        """The socket to read from, None if nothing has come for a while."""
        sockets = [receiver.socket for receiver in (self._ticks, self._frames) if receiver.open]
        readable, _, _ = select.select(sockets, (), (), RETRY_S if self._journal.waiting else _SYNC_PERIOD_S)
        if self._ticks.socket in readable:
            return self._ticks
        return self._frames if readable else None

    def _take(self, receiver: _Receiver, kind: Kind, payload: bytearray) -> None:
        if receiver is self._ticks:
            if kind is Kind.END:
                self._end = payload
            else:
                self._journal.append(kind, payload)
                if kind is Kind.FAULT:
                    self._stalls.append(LogFault(**json.loads(payload)))
            self._status.handled += 1
        elif kind is Kind.IMAGE:
            raw = decode_frame(self._frame_header + payload)
            packed = raw.compressed(self._profile)
            self._journal.append(Kind.IMAGE, packed.header() + bytes(packed.data))
        else:
            self._frame_header = bytes(payload)

    def _finalized(self) -> str:
        """Turn the journal into plain zarr; why not, if it cannot be. The journal is the episode then."""
        try:
            finalize(self._path)
        except OSError as error:
            self._reserve.release()
            return f"the journal is complete, the finished store is not: {error}"
        return ""


def main() -> None:
    """Entry of the recording process: store path, the numbers of the two sockets and of the page of its status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setscheduler"):
        # The recorder must not inherit the loop's real-time priority, and must not push the loop off its core
        # when a packet wakes it up.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    recorder = _Recorder(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
    os.write(1, _READY + b"\n")
    report = recorder.run()
    # Nobody listens when the loop's process was killed; the store is complete all the same.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, report.to_json().encode() + b"\n")


if __name__ == "__main__":
    main()
