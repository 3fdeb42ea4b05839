"""The recording process of a real-time episode, and the loop's side of it.

Ticks, chunks and all other numbers go through a ring in shared memory, which costs the loop no system call; camera
frames through a sequenced-packet socket, so that no tick ever queues behind a picture. The loop never waits: what does
not fit stays in its own memory, except for frames beyond a bound, which are dropped (the finished episode shows which).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from episodes.errors import EpisodeError, LogLossError
from episodes.hand_off import PACKET_BYTES, POLL_S, Receiver, Sender, SocketWay
from episodes.images import Frame, decode_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Payload, Reserve, read_journal
from episodes.log_faults import LogReport, PatientJournal, RecorderStatus, StallWatch, fault_payload
from episodes.manifest import LogFault, Manifest
from episodes.profile import camera_profile
from episodes.ring import PacketRing
from episodes.schema import row_dtype
from episodes.store import finalize

_RING_BYTES = 2 << 20
_LOOK_TICKS = 20  # how often the loop looks whether the recorder is there at all
FRAME_BACKLOG_BYTES = 64 << 20
_PUMP_BYTES = 512 * 1024  # frame bytes moved in one tick: bounds its cost to a fraction of a millisecond
_START_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 300.0
_SYNC_PERIOD_S = 1.0
_READY = b"ready"
_STALL = "the recording process took nothing: a slow disk, or it was stopped"


class ProcessBackend:
    """Hands records to a recording process; see :class:`episodes.backends.Backend`."""

    def __init__(self, path: Path) -> None:
        """Prepare for the store at ``path``; :meth:`start` starts the process."""
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        self._ticks: Sender | None = None
        self._frames: Sender | None = None
        self._recorder: SocketWay | None = None
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
        ring = PacketRing.create("vla-ticks", _RING_BYTES)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = [ring.fd, theirs.fileno(), self._status.fd]
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
        theirs.close()
        line = self._answer(_START_TIMEOUT_S)
        if line != _READY.decode():
            ring.close()
            ours.close()
            raise self._gone(line)
        self._recorder = SocketWay(ours)
        self._ticks, self._frames = Sender(ring), Sender(self._recorder)

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
        if self._ticks is None or self._frames is None or self._recorder is None or self.failure:
            return
        if tick % _LOOK_TICKS == 0 and self._recorder.gone():
            self.failure = "the recording process has gone"
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

    def _pump(self, sender: Sender, budget: int = sys.maxsize) -> None:
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
        if self._ticks is None or self._frames is None or self._recorder is None:
            return LogReport()
        try:
            deadline = time.monotonic() + _FINISH_TIMEOUT_S
            if not self.failure:
                self._frames.drain(self._recorder, deadline)
                self._ticks.drain(self._recorder, deadline)
                stall = self._stall.end()
                if stall is not None:
                    self._note_stall(*stall)
                    self._ticks.drain(self._recorder, deadline)
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


class _Recorder:
    """Appends what arrives to the journal, ticks before frames."""

    def __init__(self, path: Path, ring_fd: int, frame_fd: int, status_fd: int) -> None:
        self._path = path
        self._status = RecorderStatus.of(status_fd)
        self._file = JournalFile(path / JOURNAL_NAME)
        opening = Manifest.from_json(json.loads(bytes(read_journal(path / JOURNAL_NAME).records[0][1])))
        layout = row_dtype(opening.joints)
        self._profile = camera_profile(opening.camera_profile)
        self._reserve = Reserve(path)
        self._journal = PatientJournal(self._file, self._reserve, layout, self._status)
        self._ring, self._socket = PacketRing.of(ring_fd), socket.socket(fileno=frame_fd)
        self._ticks, self._frames = Receiver(), Receiver()
        self._buffer = bytearray(PACKET_BYTES)
        self._open = True
        self._frame_header = b""
        self._end: bytearray | None = None
        self._stalls: list[LogFault] = []

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
        return LogReport((*self._stalls, *self._journal.faults), lost, failure=failure)

    def _take_ticks(self) -> bool:
        """Take all that is in the ring; whether there was anything."""
        any_taken = False
        while (packet := self._ring.take()) is not None:
            any_taken = True
            record = self._ticks.receive(memoryview(packet))
            if record is not None:
                self._take(self._ticks, *record)
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
            self._take(self._frames, *record)

    def _take(self, receiver: Receiver, kind: Kind, payload: bytearray) -> None:
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
    """Entry of the recording process: store path, the descriptors of ring, socket and status page."""
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
