"""The recorder: takes every tick and every observation, never blocks, and survives being killed."""

from __future__ import annotations

import json
import struct
from collections import deque
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from controllers.types import FloatArray, IntArray, Observation, TickInputs, TickOutputs
from episodes.chunks import chunk_record
from episodes.errors import EpisodeError
from episodes.images import Frame, raw_frame
from episodes.journal import JOURNAL_NAME, JournalFile, Kind, Payload
from episodes.manifest import Manifest, Outcome, canonical_json, model_hash
from episodes.packing import TickPacker
from episodes.store import finalize, write_opening

LOCKSTEP_BLOCK_TICKS = 256
REALTIME_BLOCK_S = 0.05  # what a kill can cost, with room below the 100 ms promised


class Backend(Protocol):
    """Where records go. Calls must not block the loop."""

    @property
    def failure(self) -> str:
        """Why recording has stopped, empty while it works."""
        ...

    def put(self, kind: Kind, payload: Payload) -> None:
        """Take a record that must not be lost."""
        ...

    def put_frame(self, frame: Frame) -> None:
        """Take a raw camera frame, or drop it on overload."""
        ...

    def pump(self) -> None:
        """Move on what is still waiting, within a bounded time."""
        ...

    def finish(self) -> None:
        """Write everything out and turn the journal into plain zarr; may take its time."""
        ...


class InProcessBackend:
    """Writes from the loop's own process: for lock-step, where nobody waits for the tick."""

    def __init__(self, path: Path) -> None:
        """Continue the journal of the store at ``path``."""
        self._path = path
        self._journal = JournalFile(path / JOURNAL_NAME)
        self.failure = ""

    def put(self, kind: Kind, payload: Payload) -> None:
        """Append at once."""
        self._journal.append(kind, payload)

    def put_frame(self, frame: Frame) -> None:
        """Compress and append at once."""
        packed = frame.compressed()
        self._journal.append(Kind.IMAGE, packed.header() + bytes(packed.data))

    def pump(self) -> None:
        """Nothing ever waits."""

    def finish(self) -> None:
        """Turn the journal into plain zarr."""
        finalize(self._path)
        self._journal.close()


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
    ) -> None:
        """Describe the recording; nothing is written before :meth:`open`.

        Args:
            path: The store, a folder named ``NAME.zarr`` that does not exist yet.
            manifest: Identity of the episode; ``realtime`` chooses the recording process, and ``created`` and
                ``model_xml_sha256`` are filled in.
            model_xml: The compiled scene, for replay.
            initial_state: (s,) full physics state before tick 0, for replay.

        Raises:
            EpisodeError: The path is taken or badly named.
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
        self._model_xml = model_xml
        self._initial = np.zeros(0) if initial_state is None else np.asarray(initial_state, np.float64)
        block = max(1, int(REALTIME_BLOCK_S * manifest.control_rate_hz)) if manifest.realtime else LOCKSTEP_BLOCK_TICKS
        self._packer = TickPacker(manifest.joints, block)
        self._backend: Backend | None = None
        self._inbox: deque[tuple[Kind, bytes, list[Frame]]] = deque()
        self._observations = count()
        self._image_shapes: dict[str, tuple[int, ...]] = {}
        self._ticks = 0
        self._expected_tick = -1

    @property
    def ticks(self) -> int:
        """Ticks taken so far."""
        return self._ticks

    @property
    def failure(self) -> str:
        """Why recording has stopped, empty while it works; worth a look by whoever supervises the loop."""
        return self._backend.failure if self._backend is not None else ""

    def open(self) -> Self:
        """Create the store and, for a real-time episode, start the recording process."""
        write_opening(self.path, self.manifest)
        journal = JournalFile(self.path / JOURNAL_NAME)
        journal.append(Kind.MANIFEST, canonical_json(self.manifest.to_json()).encode())
        journal.append(Kind.MODEL, self._model_xml)
        journal.append(Kind.INITIAL_STATE, self._initial.tobytes())
        journal.close()
        if self.manifest.realtime:
            from episodes.recorder import ProcessBackend

            backend = ProcessBackend(self.path)
            backend.start()
            self._backend = backend
        else:
            self._backend = InProcessBackend(self.path)
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
        self.close(Outcome(None, reason))

    def record_tick(self, inputs: TickInputs, outputs: TickOutputs, physics_digest: bytes) -> None:
        """Take one tick.

        Raises:
            ValueError: An array has the wrong shape, or ticks are not consecutive.
        """
        backend, packer = self._backend, self._packer
        if backend is None:
            raise self._not_open()
        if inputs.tick != self._expected_tick and self._expected_tick >= 0:
            raise ValueError(f"expected tick {self._expected_tick}, found {inputs.tick}; ticks must be consecutive")
        packer.pack(inputs, outputs, physics_digest)
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
        backend.pump()

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
            backend.put(Kind.BLOCK, b"".join((len(events).to_bytes(4, "little"), events, packer.block())))
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

    def record_keyframe(self, tick: int, physics_state: FloatArray) -> None:
        """Take the full physics state that ``tick`` sensed, of the same size as the initial state."""
        if physics_state.shape != self._initial.shape:
            raise ValueError(f"expected a physics state of shape {self._initial.shape}, found {physics_state.shape}")
        state = np.asarray(physics_state, np.float64).tobytes()
        self._opened()
        self._inbox.append((Kind.KEYFRAME, struct.pack("<q", tick) + state, []))

    def close(self, outcome: Outcome) -> Path:
        """Write out what is left and turn the recording into plain zarr.

        Returns:
            The finished store.

        Raises:
            EpisodeError: The recording process died; the store holds what it had.
        """
        backend = self._opened()
        self._empty_inbox(backend)
        self._flush(backend)
        backend.put(Kind.END, json.dumps(asdict(replace(outcome, ticks=self._ticks))).encode())
        backend.finish()
        self._backend = None
        return self.path

    def _opened(self) -> Backend:
        if self._backend is None:
            raise self._not_open()
        return self._backend

    def _not_open(self) -> EpisodeError:
        return EpisodeError(
            str(self.path), "an open episode", "one that is not", "use 'with EpisodeWriter(...) as writer:'"
        )
