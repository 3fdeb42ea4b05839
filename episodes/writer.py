"""The recorder: takes every tick and every observation, never blocks, and survives being killed."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from controllers.types import FloatArray, IntArray, Observation, TickInputs, TickOutputs
from episodes.backends import Backend, InProcessBackend, loss_of
from episodes.chunks import chunk_record
from episodes.errors import EpisodeError, LogLossError
from episodes.images import Frame, raw_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, read_journal
from episodes.log_faults import LogReport
from episodes.loop_memory import encoding_steps
from episodes.manifest import Manifest, Outcome, canonical_json, model_hash
from episodes.packing import TickPacker, encode_block
from episodes.profile import camera_profile
from episodes.schema import UNKNOWN_STAMP, row_dtype
from episodes.store import write_opening
from episodes.tables import written_ticks

LOCKSTEP_BLOCK_TICKS = 256
REALTIME_BLOCK_S = 0.05  # what a kill can cost, with room below the 100 ms promised
_REALTIME_BATCH = 4  # ticks packed at a time: no single tick pays for many
_REALTIME_STEPS = 3  # pieces of a key frame's memory encoded at a tick


class EpisodeWriter:
    """Records one episode; a :class:`~controllers.protocols.TickSink`.

    Use it as a context manager: leaving the block by an exception or Ctrl-C still closes the store. Ticks and the
    closing belong to one thread; observations, labels and key frames may come from any other.
    """

    def __init__(
        self,
        path: Path | str,
        manifest: Manifest,
        *,
        model_xml: bytes = b"",
        initial_state: FloatArray | None = None,
        in_process: bool = False,
    ) -> None:
        """Describe the recording; nothing is written before :meth:`open`.

        Args:
            path: The store, a folder named ``NAME.zarr`` that does not exist yet.
            manifest: Identity of the episode; ``realtime`` chooses the recording process, and ``created`` and
                ``model_xml_sha256`` are filled in.
            model_xml: The compiled scene, for replay.
            initial_state: (s,) full physics state before tick 0, for replay.
            in_process: Write a real-time episode from this process: for imports, where no loop waits.

        Raises:
            EpisodeError: The path is taken or badly named.
            ValueError: No such camera profile.
        """
        self.path = Path(path)
        if self.path.suffix != ".zarr":
            raise EpisodeError(
                str(path), "a folder named NAME.zarr", f"the name {self.path.name!r}", "add the suffix .zarr"
            )
        if self.path.exists():
            raise EpisodeError(
                str(path), "a path that does not exist", "something there", "delete it or choose another name"
            )
        created = manifest.created or datetime.now(UTC).isoformat(timespec="seconds")
        digest = model_hash(model_xml)
        self.manifest = replace(manifest, created=created, model_xml_sha256=digest).opening()
        self._profile = camera_profile(manifest.camera_profile)
        self._model_xml = model_xml
        self._in_process = in_process or not manifest.realtime
        self._initial = np.zeros(0) if initial_state is None else np.asarray(initial_state, np.float64)
        slow = self._in_process  # nobody waits for the tick
        realtime_block = max(1, int(REALTIME_BLOCK_S * manifest.control_rate_hz))
        block = LOCKSTEP_BLOCK_TICKS if slow else realtime_block
        self._packer = TickPacker(manifest.joints, block, block if slow else _REALTIME_BATCH)
        self._steps = sys.maxsize if slow else _REALTIME_STEPS
        self._encoding: tuple[int, Iterator[str]] | None = None
        self._encoded: list[str] = []
        self._backend: Backend | None = None
        self._inbox: deque[tuple[Kind, bytes, list[Frame]]] = deque()
        self._observations = count()
        self._image_shapes: dict[str, tuple[int, ...]] = {}
        self._ticks = 0
        self._expected_tick = -1
        self._report = LogReport()

    @property
    def report(self) -> LogReport:
        """How the log fared; complete once the writer is closed, and what :meth:`close` raised is in it."""
        return self._report

    @property
    def ticks(self) -> int:
        """Ticks taken so far."""
        return self._ticks

    @property
    def failure(self) -> str:
        """Why recording has stopped, empty while it works; worth a look by whoever supervises the loop."""
        return self._backend.failure if self._backend is not None else ""

    @property
    def trouble(self) -> str:
        """Why nothing reaches the disk at the moment, empty while all is well. Ticks wait in memory meanwhile."""
        return (self._backend.failure or self._backend.trouble) if self._backend is not None else ""

    def open(self) -> Self:
        """Create the store and, for a real-time episode, start the recording process.

        Raises:
            EpisodeError: The disk does not take even that, or no recording process starts.
        """
        try:
            write_opening(self.path, self.manifest)
            journal = JournalFile(self.path / JOURNAL_NAME)
            journal.append(Kind.MANIFEST, canonical_json(self.manifest.to_json()).encode())
            journal.append(Kind.MODEL, self._model_xml)
            journal.append(Kind.INITIAL_STATE, self._initial.tobytes())
            journal.close()
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise EpisodeError(
                str(self.path),
                "a disk that takes the log",
                str(error),
                "make room, check the permissions or choose another folder; nothing has moved yet",
            ) from error
        if not self._in_process:
            from episodes.recording import ProcessBackend

            backend = ProcessBackend(self.path)
            backend.start()
            self._backend = backend
        else:
            self._backend = InProcessBackend(self.path, row_dtype(self.manifest.joints), self._profile)
        return self

    def __enter__(self) -> Self:
        """Open the store."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store if nobody did, saying why."""
        if self._backend is None:
            return
        if error is None:
            reason = "closed without an outcome"
        elif isinstance(error, KeyboardInterrupt):
            reason = "interrupted"
        else:
            reason = f"{type(error).__name__}: {error}"
        try:
            self.close(Outcome(None, reason))
        except LogLossError:
            if error is None:
                raise  # otherwise the first error says more

    def record_tick(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = UNKNOWN_STAMP,
        applied_ns: int = UNKNOWN_STAMP,
    ) -> None:
        """Take one tick; see :meth:`controllers.protocols.TickSink.record_tick`.

        Raises:
            ValueError: An array has the wrong shape, or ticks are not consecutive.
        """
        backend, packer = self._backend, self._packer
        if backend is None:
            raise self._not_open()
        if inputs.tick != self._expected_tick and self._expected_tick >= 0:
            raise ValueError(f"expected tick {self._expected_tick}, found {inputs.tick}; ticks must be consecutive")
        packer.pack(inputs, outputs, physics_digest, sent_ns, applied_ns)
        self._expected_tick = inputs.tick + 1
        self._ticks += 1
        if inputs.arrivals:
            for arrival in inputs.arrivals:
                tick = inputs.tick.to_bytes(8, "little", signed=True)
                backend.put(Kind.CHUNK, tick + chunk_record(arrival).encode())
        if self._inbox:
            self._empty_inbox(backend)
        if packer.full:
            self._flush(backend)
        elif self._encoding is not None:
            self._encode(backend, self._steps)
        backend.pump(inputs.tick)

    def _encode(self, backend: Backend, steps: int) -> None:
        """Go on with the key frame's memory; the last step hands it over."""
        assert self._encoding is not None
        tick, pieces = self._encoding
        for _ in range(steps):
            try:
                piece = next(pieces, None)
            except TypeError:  # a loop whose memory is not plain data: replays of it begin at tick 0
                self._encoding, self._encoded = None, []
                return
            if piece is None:
                text = "".join(self._encoded).encode()
                backend.put(Kind.MEMORY, tick.to_bytes(8, "little", signed=True) + text)
                self._encoding, self._encoded = None, []
                return
            self._encoded.append(piece)

    def _empty_inbox(self, backend: Backend) -> None:
        inbox = self._inbox
        while inbox:
            kind, payload, frames = inbox.popleft()
            backend.put(kind, payload)
            for frame in frames:
                backend.put_frame(frame)

    def _flush(self, backend: Backend) -> None:
        packer = self._packer
        if packer.count:
            events = b"".join(packer.events)
            backend.put(Kind.BLOCK, encode_block(events, packer.block()))
            packer.clear()

    def record_observation(self, observation: Observation) -> None:
        """Take one observation; its frames may be dropped on overload, its numbers never are.

        Raises:
            ValueError: A frame is not (H, W, 3) uint8 or has changed its size, or a camera name is unusable.
        """
        self._opened()
        for camera, image in observation.images.items():
            if self._image_shapes.get(camera) != image.shape or image.dtype != np.uint8:
                self._check_camera(camera, image.shape, image.dtype)
        state, commanded = observation.state, observation.commanded_pose
        header = canonical_json(
            {
                "stamp_ns": int(observation.stamp_ns),
                "instruction": observation.instruction,
                "cameras": list(observation.images),
                **({} if observation.prefix is None else {"prefix": observation.prefix.tokens.tolist()}),
            }
        ).encode()
        numbers = np.concatenate(
            (
                commanded.position,
                commanded.quaternion,
                state.ee_pose.position,
                state.ee_pose.quaternion,
                state.joint_position,
                state.joint_velocity,
                state.joint_effort,
                state.wrench,
                (state.gripper_opening,),
            ),
            dtype=np.float64,
        )
        index = next(self._observations)
        frames = [raw_frame(index, camera, image) for camera, image in observation.images.items()]
        payload = struct.pack("<qI", index, len(header)) + header + numbers.tobytes()
        self._inbox.append((Kind.OBSERVATION, payload, frames))

    def _check_camera(self, camera: str, shape: tuple[int, ...], dtype: np.dtype[np.uint8]) -> None:
        if not camera or camera != camera.strip() or any(mark in camera for mark in "/\\\0") or camera[0] in "._":
            raise ValueError(
                f"expected a camera name that can be a folder, found {camera!r}; rename it to letters, digits and _"
            )
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
            raise ValueError(f"camera {camera!r}: expected (H, W, 3) uint8, found {shape} {dtype}")
        known = self._image_shapes.setdefault(camera, shape)
        if known != shape:
            raise ValueError(f"camera {camera!r}: expected frames of shape {known} as before, found {shape}")

    def record_label(self, stamp_ns: int, tokens: IntArray) -> None:
        """Take a training label: the clean (rows, dims) int64 chunk that answers the observation at ``stamp_ns``."""
        if tokens.ndim != 2 or tokens.dtype != np.int64:
            raise ValueError(f"expected label tokens (rows, dims) int64, found {tokens.shape} {tokens.dtype}")
        self._opened()
        payload = struct.pack("<qII", stamp_ns, *tokens.shape) + tokens.tobytes()
        self._inbox.append((Kind.LABEL, payload, []))

    def offer_memory(self, tick: int, loop_state: object) -> None:
        """Keep what the loop remembers before ``tick`` where the manifest's period asks for a key frame."""
        period = self.manifest.keyframe_ticks
        if period and tick and tick % period == 0:
            self.record_keyframe(tick, None, loop_state)

    def record_keyframe(self, tick: int, physics_state: FloatArray | None, loop_state: object = None) -> None:
        """Take a key frame: a replay can begin there.

        Args:
            tick: The tick that comes next; it has been sensed.
            physics_state: (s,) the state that it sensed, of the same size as the initial state; None on a real robot.
            loop_state: All that the loop remembers before it, frozen; None to keep the physics only.
        """
        backend = self._opened()
        if physics_state is not None:
            if physics_state.shape != self._initial.shape:
                raise ValueError(
                    f"expected a physics state of shape {self._initial.shape}, found {physics_state.shape}"
                )
            state = np.asarray(physics_state, np.float64).tobytes()
            self._inbox.append((Kind.KEYFRAME, struct.pack("<q", tick) + state, []))
        if loop_state is not None:
            if self._encoding is not None:
                self._encode(backend, sys.maxsize)
            self._encoding = (tick, encoding_steps(loop_state))

    def close(self, outcome: Outcome) -> Path:
        """Write out what is left and turn the recording into plain zarr.

        Returns:
            The finished store.

        Raises:
            LogLossError: Not all of it could be written; the store holds what could, and :attr:`report` says the same.
        """
        backend = self._opened()
        try:
            self._write_out(backend, outcome)
        finally:
            self._backend = None
            self._report = self._finished(backend)
        if self._report.failure:
            raise loss_of(self.path, self._report)
        return self.path

    def _finished(self, backend: Backend) -> LogReport:
        try:
            return backend.finish()
        except LogLossError as error:
            left = self.path / JOURNAL_NAME  # gone only if the recorder died after its work was done
            written = written_ticks(read_journal(left)) if left.is_file() else self._ticks
            self._report = LogReport(lost_ticks=self._ticks - written, failure=error.found)
            raise

    def _write_out(self, backend: Backend, outcome: Outcome) -> None:
        self._empty_inbox(backend)
        if self._encoding is not None:
            self._encode(backend, sys.maxsize)
        self._flush(backend)
        backend.put(Kind.END, json.dumps(asdict(replace(outcome, ticks=self._ticks))).encode())

    def _opened(self) -> Backend:
        if self._backend is None:
            raise self._not_open()
        return self._backend

    def _not_open(self) -> EpisodeError:
        return EpisodeError(
            str(self.path), "an open episode", "one that is not", "use 'with EpisodeWriter(...) as writer:'"
        )
