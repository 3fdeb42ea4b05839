"""The loop's side of the recording process.

Ticks, chunks and all other numbers go through a ring in shared memory, which costs the loop no system call; camera
frames through a sequenced-packet socket, so that no tick ever queues behind a picture. The loop never waits: what does
not fit stays in its own memory, except for frames beyond a bound, which are dropped (the finished episode shows which).

A recorder that ends by itself is started again, from a thread. Meanwhile numbers wait in the ring and in the loop's
memory, and frames are dropped.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from episodes.errors import EpisodeError, LogLossError
from episodes.hand_off import Sender, SocketWay
from episodes.images import Frame
from episodes.journal import JOURNAL_NAME, Kind, Payload
from episodes.log_faults import LogReport, RecorderStatus, StallWatch, fault_payload
from episodes.manifest import LogFault
from episodes.recorder import READY
from episodes.ring import PacketRing

FRAME_BACKLOG_BYTES = 64 << 20
_RING_BYTES = 2 << 20
_LOOK_TICKS = 20  # how often the loop looks whether the recorder is there at all
_PUMP_BYTES = 512 * 1024  # frame bytes moved in one tick: bounds its cost to a fraction of a millisecond
_START_TIMEOUT_S = 30.0
_FINISH_TIMEOUT_S = 300.0
_DYING_S = 1.0
_MOST_RESTARTS = 3  # of one episode: a recorder that ends again and again will not record this one
_STALL = "the recording process took nothing: a slow disk, or it was stopped"
_ENDED = "the recording process ended"


@dataclass(slots=True)
class _Outage:
    """A time without a recorder: why, since when, the first tick of it, and the frames dropped before."""

    cause: str
    began: float
    first_tick: int
    dropped_before: int


@dataclass(frozen=True, slots=True)
class _Recorder:
    """A running recording process and the loop's end of the socket to it."""

    process: subprocess.Popen[bytes]
    way: SocketWay

    def answer(self, timeout_s: float) -> str:
        """Its next line, empty if there is none in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select((self.process.stdout,), (), (), timeout_s)
        return self.process.stdout.readline().strip().decode() if ready else ""

    def bury(self) -> str:
        """Make sure that it has ended, let go of its pipe, and say how it ended. Takes its time."""
        assert self.process.stdout is not None
        try:
            code = self.process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class ProcessBackend:
    """Hands records to a recording process; see :class:`episodes.backends.Backend`."""

    def __init__(self, path: Path) -> None:
        """Prepare for the store at ``path``; :meth:`start` starts the process."""
        self._path = path
        self._recorder: _Recorder | None = None
        self._ring: PacketRing | None = None
        self._ticks: Sender | None = None
        self._frames: Sender | None = None
        self._status = RecorderStatus.create()
        self._stall = StallWatch()
        self._dropped = self._dropped_before = 0
        self._restarts = 0
        self._starting: threading.Thread | None = None
        self._started: _Recorder | EpisodeError | None = None
        self._outage: _Outage | None = None
        self.failure = ""

    @property
    def trouble(self) -> str:
        """Why nothing reaches the disk at the moment, empty while all is well."""
        if self._outage is not None:
            return f"{self._outage.cause}; starting it again"
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
        self._ring = PacketRing.create("vla-ticks", _RING_BYTES)
        try:
            self._take(self._spawned())
        except EpisodeError:
            self._ring.close()
            raise
        self._ticks = Sender(self._ring)

    def _spawned(self) -> _Recorder:
        """A recorder that listens.

        Raises:
            EpisodeError: It did not start.
        """
        assert self._ring is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends = [self._ring.fd, theirs.fileno(), self._status.fd]
        root = str(Path(__file__).parent.parent)
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        process = subprocess.Popen(
            [sys.executable, "-m", "episodes.recorder", str(self._path.resolve()), *map(str, ends)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=ends,
            start_new_session=True,  # Ctrl-C in the terminal is for the loop; the recorder outlives it
            env={**os.environ, "PYTHONPATH": search},
        )
        theirs.close()
        recorder = _Recorder(process, SocketWay(ours))
        line = recorder.answer(_START_TIMEOUT_S)
        if line != READY.decode():
            recorder.way.close()
            raise self._dead(f"{line or 'no answer'} ({recorder.bury()})")
        return recorder

    def _take(self, recorder: _Recorder) -> None:
        self._recorder, self._frames = recorder, Sender(recorder.way)

    # --------------------------------------------------------------------------------------------- in the loop

    def put(self, kind: Kind, payload: Payload) -> None:
        """Send a record, or keep it until there is room."""
        if self._ticks is not None and not self.failure:
            self._ticks.put(kind, payload)
            self._ticks.pump()

    def put_frame(self, frame: Frame) -> None:
        """Queue a frame unless too many wait already."""
        if self._frames is None or self.failure or self._frames.waiting_bytes + len(frame.data) > FRAME_BACKLOG_BYTES:
            self._dropped += 1
            return
        self._frames.put(Kind.OBSERVATION, frame.header())
        self._frames.put(Kind.IMAGE, frame.data)

    def pump(self, tick: int) -> None:
        """Send waiting ticks, then a bounded amount of frames; look at how the recorder fares."""
        if self._ticks is None or self.failure:
            return
        if tick % _LOOK_TICKS == 0:
            self._look(tick)
        if self._ticks.waiting_bytes:
            self._ticks.pump()
        if self._frames is None:
            return
        ended = self._stall.step(tick, self._ticks.records, self._status.handled)
        if ended is not None:
            self._note(_STALL, *ended, self._dropped_before)
        elif not self._stall.stalled:
            self._dropped_before = self._dropped
        if self._frames.waiting_bytes:
            try:
                self._frames.pump(_PUMP_BYTES)
            except OSError:
                self._lost(tick)

    def _look(self, tick: int) -> None:
        """Look whether the recorder, or the next one, is there."""
        if self._recorder is not None:
            if self._recorder.way.gone():
                self._lost(tick)
        elif self._started is not None:
            self._go_on()

    def _lost(self, tick: int) -> None:
        """The recorder has gone: start another, from a thread, since that takes a while."""
        assert self._recorder is not None
        assert self._frames is not None
        old = self._recorder
        old.way.close()
        self._outage = _Outage(_ENDED, time.monotonic(), tick, self._dropped)
        self._dropped += self._frames.waiting(Kind.IMAGE)
        self._recorder = self._frames = None
        if self._restarts >= _MOST_RESTARTS or not (self._path / JOURNAL_NAME).is_file():
            self.failure = _ENDED
            threading.Thread(target=old.bury, daemon=True).start()
            return
        self._restarts += 1
        self._started = None
        self._starting = threading.Thread(target=self._replace, args=(old, self._outage), name="recorder", daemon=True)
        self._starting.start()

    def _replace(self, old: _Recorder, outage: _Outage) -> None:
        outage.cause = f"{_ENDED} ({old.bury()})"
        try:
            self._started = self._spawned()
        except EpisodeError as error:
            self._started = error

    def _go_on(self) -> None:
        """Use the recorder that was started, and say what happened."""
        found, self._started = self._started, None
        outage = self._outage
        assert outage is not None
        if not isinstance(found, _Recorder):
            why = found.found if found is not None else "no answer"
            self.failure = f"{outage.cause}, and did not start again: {why}"
            return
        self._take(found)
        self._outage = None
        self._note(outage.cause, time.monotonic() - outage.began, outage.first_tick, outage.dropped_before)

    def _note(self, cause: str, seconds: float, first_tick: int, dropped_before: int) -> None:
        self.put(Kind.FAULT, fault_payload(LogFault(cause, first_tick, seconds, self._dropped - dropped_before)))

    # ---------------------------------------------------------------------------------------------- at the end

    def finish(self) -> LogReport:
        """Send the rest and wait for the recorder to finish the store.

        Raises:
            EpisodeError: The recorder died, again and again, or does not answer.
        """
        if self._ticks is None:
            return LogReport()
        try:
            deadline = time.monotonic() + _FINISH_TIMEOUT_S
            while not self.failure:
                report = self._finished(deadline)
                if report is not None:
                    return report
            raise self._dead(self.failure)
        finally:
            self._ticks.close()
            self._status.close()

    def _finished(self, deadline: float) -> LogReport | None:
        """Send the rest and hear the report; None if the recorder went meanwhile and another was tried."""
        assert self._ticks is not None
        if self._starting is not None:
            self._starting.join(_START_TIMEOUT_S)
            self._starting = None
        if self._recorder is None:
            self._go_on()
            return None
        assert self._frames is not None
        recorder = self._recorder
        try:
            self._frames.drain(recorder.way, deadline)
            self._ticks.drain(recorder.way, deadline)
            stall = self._stall.end()
            if stall is not None:
                self._note(_STALL, *stall, self._dropped_before)
                self._ticks.drain(recorder.way, deadline)
            self._frames.close()  # says that this was all
            report = LogReport.from_json(recorder.answer(_FINISH_TIMEOUT_S))
        except TimeoutError:
            self.failure = "the recording process takes nothing"
            return None
        except (OSError, ValueError):
            self._lost(-1)
            return None
        recorder.bury()
        lost = sum(fault.lost_frames for fault in report.faults if not fault.cause.startswith((_STALL, _ENDED)))
        return replace(report, dropped_frames=self._dropped + lost)

    def _dead(self, found: str) -> EpisodeError:
        return LogLossError(
            str(self._path),
            "a recording process that answers",
            found,
            "look at its messages above and for a full disk; open_episode still reads what was recorded",
        )
