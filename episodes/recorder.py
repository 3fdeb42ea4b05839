"""The recording process of a real-time episode, and the loop's side of it.

Two sequenced-packet sockets lead to the recorder: one for ticks, chunks and all other numbers, one for camera frames,
so that no tick ever queues behind a picture. A packet is sent whole or not at all, and carries a number, so that an
interrupted send is simply repeated. The loop never waits: what does not fit stays in its own memory, except for
frames beyond a bound, which are dropped (the finished episode shows which).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from episodes.errors import EpisodeError
from episodes.images import Frame, decode_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Payload
from episodes.store import finalize

_PACKET = struct.Struct("<QBQQ")  # number, kind, offset of this part, length of the record
_PART_BYTES = 64 * 1024
_SOCKET_BYTES = 1 << 20
FRAME_BACKLOG_BYTES = 64 << 20
_PUMP_BYTES = 512 * 1024  # frame bytes moved in one tick: bounds its cost to a fraction of a millisecond
_START_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 300.0
_SYNC_PERIOD_S = 1.0
_READY, _DONE = b"ready", b"done"


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
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)

    def put(self, kind: Kind, payload: Payload) -> None:
        """Queue a record. ``payload`` must not change any more."""
        view = memoryview(payload)
        total = len(view)
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
    """Hands records to a recording process; see :class:`episodes.writer.Backend`."""

    def __init__(self, path: Path) -> None:
        """Prepare for the store at ``path``; :meth:`start` starts the process."""
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._ticks: _Sender | None = None
        self._frames: _Sender | None = None
        self.failure = ""

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
        ends = [pair[1].fileno() for pair in pairs]
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
        self._await(_READY, _START_TIMEOUT_S)
        self._ticks, self._frames = _Sender(pairs[0][0]), _Sender(pairs[1][0])

    def put(self, kind: Kind, payload: Payload) -> None:
        """Send a record, or keep it until there is room."""
        if self._ticks is not None and not self.failure:
            self._ticks.put(kind, payload)
            self._pump(self._ticks)

    def put_frame(self, frame: Frame) -> None:
        """Queue a frame unless too many wait already."""
        if self._frames is not None and self._frames.waiting_bytes + len(frame.data) <= FRAME_BACKLOG_BYTES:
            self._frames.put(Kind.OBSERVATION, frame.header())
            self._frames.put(Kind.IMAGE, frame.data)

    def pump(self) -> None:
        """Send waiting ticks, then a bounded amount of frames."""
        if self._ticks is None or self._frames is None or self.failure:
            return
        if self._ticks.waiting_bytes:
            self._pump(self._ticks)
        if self._frames.waiting_bytes:
            self._pump(self._frames, _PUMP_BYTES)

    def _pump(self, sender: _Sender, budget: int = sys.maxsize) -> None:
        try:
            sender.pump(budget)
        except OSError as error:
            # The loop must go on: a dead log is reported here and when the episode is closed.
            self.failure = f"the recording process has gone: {error}"

    def finish(self) -> None:
        """Send the rest and wait for the recorder to finish the store.

        Raises:
            EpisodeError: The recorder died or does not answer.
        """
        if self._ticks is None or self._frames is None:
            return
        try:
            deadline = time.monotonic() + _FINISH_TIMEOUT_S
            if not self.failure:
                self._frames.drain(deadline)
                self._ticks.drain(deadline)
        except OSError as error:
            self.failure = f"the recording process has gone: {error}"
        finally:
            self._ticks.close()
            self._frames.close()
        if self.failure:
            raise self._dead(self.failure)
        self._await(_DONE, _FINISH_TIMEOUT_S)

    def _await(self, word: bytes, timeout_s: float) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        ready, _, _ = select.select((process.stdout,), (), (), timeout_s)
        line = process.stdout.readline().strip() if ready else b""
        if line != word:
            process.poll()
            raise self._dead(f"{line.decode() or 'no answer'} (exit status {process.returncode})")
        if word == _DONE:
            process.stdout.close()
            process.wait()

    def _dead(self, found: str) -> EpisodeError:
        return EpisodeError(
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

    def __init__(self, path: Path, tick_fd: int, frame_fd: int) -> None:
        self._path = path
        self._journal = JournalFile(path / JOURNAL_NAME)
        self._ticks, self._frames = _Receiver(tick_fd), _Receiver(frame_fd)
        self._frame_header = b""
        self._end: bytearray | None = None

    def run(self) -> None:
        """Record until the loop has closed both sockets or died, then finish the store."""
        synced = time.monotonic()
        for receiver in self._ready():
            record = receiver.receive()
            if record is not None:
                self._take(receiver, *record)
            if time.monotonic() - synced > _SYNC_PERIOD_S:
                self._journal.sync()
                synced = time.monotonic()
        if self._end is not None:
            self._journal.append(Kind.END, self._end)
        self._journal.sync()
        finalize(self._path)
        self._journal.close()

    def _ready(self) -> Iterator[_Receiver]:
        while self._ticks.open or self._frames.open:
            sockets = [receiver.socket for receiver in (self._ticks, self._frames) if receiver.open]
            readable, _, _ = select.select(sockets, (), (), _SYNC_PERIOD_S)
            if self._ticks.socket in readable:
                yield self._ticks
            elif readable:
                yield self._frames

    def _take(self, receiver: _Receiver, kind: Kind, payload: bytearray) -> None:
        if receiver is self._ticks:
            if kind is Kind.END:
                self._end = payload
            else:
                self._journal.append(kind, payload)
        elif kind is Kind.IMAGE:
            raw = decode_frame(self._frame_header + payload)
            packed = raw.compressed()
            self._journal.append(Kind.IMAGE, packed.header() + bytes(packed.data))
        else:
            self._frame_header = bytes(payload)


def main() -> None:
    """Entry of the recording process: store path and the numbers of the two sockets."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setscheduler"):
        # The recorder must not inherit the loop's real-time priority, and must not push the loop off its core
        # when a packet wakes it up.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    path, tick_fd, frame_fd = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    recorder = _Recorder(path, tick_fd, frame_fd)
    os.write(1, _READY + b"\n")
    recorder.run()
    # Nobody listens when the loop's process was killed; the store is complete all the same.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, _DONE + b"\n")


if __name__ == "__main__":
    main()
