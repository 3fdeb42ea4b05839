"""Typed access to one recorded episode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray, ImageArray, Observation, Pose, RobotState, TokenPrefix, frozen_array
from episodes.chunks import CERTAINTY, DOUBT, ChunkRecord
from episodes.decoding import TickDecoder, check_enumerations
from episodes.errors import EpisodeError
from episodes.images import kept_digest
from episodes.integrity import array_checksum
from episodes.manifest import Manifest
from episodes.packing import EventRow
from episodes.profile import camera_profile
from episodes.schema import (
    UNKNOWN_STAMP,
    ChunkTable,
    EventKind,
    EventTable,
    LabelTable,
    LoopTable,
    ObservationTable,
    PhysicsTable,
    RowArray,
    TickTable,
    columns,
    rows_from_table,
    unknown_values,
)
from episodes.sources import ArraySource
from episodes.tables import token_shape

Array = npt.NDArray[Any]
TableT = TypeVar("TableT")


class Episode:
    """Typed, lazy access to one episode. Arrays are read-only; every array is checked against its checksum on loading.

    Attributes:
        path: The store.
        manifest: Its identity.
        live: Some process is still recording it.
        recovered: It was read from the journal, since it is live or its recorder was killed.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        source: ArraySource,
        integrity: Mapping[str, object] | None,
        *,
        live: bool,
        check: bool,
    ) -> None:
        """Wrap a source; use :func:`episodes.reader.open_episode`."""
        self.path = path
        self.manifest = manifest
        self.live = live
        self.recovered = integrity is None
        self.integrity = integrity
        self._source = source
        self._check = check
        self._cache: dict[str, Array] = {}

    def __len__(self) -> int:
        """Number of ticks."""
        return len(self.ticks.tick)

    @property
    def source(self) -> ArraySource:
        """Where the arrays come from."""
        return self._source

    def unchecked(self) -> Episode:
        """The same episode without checksums: to look at damage."""
        if not self._check:
            return self
        return Episode(self.path, self.manifest, self._source, self.integrity, live=self.live, check=False)

    # ------------------------------------------------------------------------------------------- arrays

    def array(self, name: str) -> Array:
        """The array at ``name`` in the store, e.g. ``"ticks/now_ns"``, read-only.

        Raises:
            EpisodeError: It is missing, cannot be decoded or does not match its checksum.
        """
        cached = self._cache.get(name)
        if cached is not None:
            return cached
        array = self._source.array(name)
        if self._check and self.integrity is not None:
            seals = cast(Mapping[str, str], self.integrity["arrays"])
            found = array_checksum(array)
            if name in seals and seals[name] != found:
                raise EpisodeError(
                    f"{self.path}: {name}",
                    f"checksum {seals[name]}",
                    found,
                    "the array was changed or cut after recording; episodes.verification.verify tells where",
                )
        array.flags.writeable = False
        self._cache[name] = array
        return array

    def attributes(self, group: str) -> Mapping[str, object]:
        """Attributes of a group of the store."""
        return self._source.attributes(group)

    def _table(self, group: str, table: type[TableT], own_length: Sequence[str] = (), **sizes: int) -> TableT:
        """Load a table and check every column's type and shape against the schema."""
        values: dict[str, Array] = {}
        length: int | None = None
        for name, column in columns(table).items():
            entry = tuple(
                size if isinstance(size, int) else sizes.get(size, self.manifest.joints) for size in column.shape
            )
            if column.since > self.manifest.format_version:
                count = 0 if name in own_length or length is None else length
                values[name] = unknown_values(column, count, *entry)
                values[name].flags.writeable = False
                continue
            array = self.array(f"{group}/{name}")
            if name not in own_length and length is None:
                length = array.shape[0]
            expected = (array.shape[0] if name in own_length else length, *entry)
            if array.shape != expected or array.dtype != np.dtype(column.dtype):
                raise EpisodeError(
                    f"{self.path}: {group}/{name}",
                    f"{expected} of {np.dtype(column.dtype).name}",
                    f"{array.shape} of {array.dtype.name}",
                    "the table was cut or written by another release; restore it from a copy",
                )
            values[name] = array
        return table(**values)

    def _names(self, group: str, key: str) -> list[str]:
        names = self.attributes(group).get(key)
        if not isinstance(names, list):
            raise EpisodeError(
                f"{self.path}: attribute {key} of {group}",
                "a list of names",
                repr(names),
                "the store is incomplete; restore it from a copy",
            )
        return [str(name) for name in cast(list[object], names)]

    # ------------------------------------------------------------------------------------------- tables

    @cached_property
    def ticks(self) -> TickTable:
        """Everything that entered and left each tick."""
        check_enumerations(f"{self.path}: ticks", self.attributes("ticks").get("enumerations"))
        return self._table("ticks", TickTable)

    @cached_property
    def rows(self) -> RowArray:
        """The ticks as packed rows."""
        rows = rows_from_table(self.ticks, self.manifest.joints)
        rows.flags.writeable = False
        return rows

    @cached_property
    def event_table(self) -> EventTable:
        """Events as columns."""
        return self._table("events", EventTable, ("message_data",))

    @cached_property
    def events(self) -> tuple[EventRow, ...]:
        """Events, decoded, in order."""
        table, names, kinds = self.event_table, self._names("events", "names"), tuple(EventKind)
        text = table.message_data.tobytes()
        return tuple(
            EventRow(
                int(table.tick[index]),
                kinds[int(table.kind[index])],
                names[int(table.name[index])],
                float(table.value[index]),
                int(table.chunk_id[index]),
                text[start : start + int(table.message_length[index])].decode("utf-8", "replace"),
            )
            for index, start in enumerate(cast(list[int], table.message_offset.tolist()))
        )

    @cached_property
    def chunks(self) -> ChunkTable:
        """Chunks as columns."""
        horizon, dims = token_shape(self.manifest)
        return self._table("chunks", ChunkTable, ("malformed_data",), horizon=horizon, dims=dims)

    @cached_property
    def chunk_records(self) -> tuple[tuple[int, ChunkRecord], ...]:
        """Arrival tick and content of every chunk, malformed ones included, in order of arrival."""
        table = self.chunks
        tokenizers, specs = self._names("chunks", "tokenizer_ids"), self._names("chunks", "spec_hashes")
        details = {
            int(entry["row"]): entry
            for entry in cast(list[dict[str, Any]], self.attributes("chunks").get("malformed", []))
        }
        raw = table.malformed_data.tobytes()
        forced = cast(dict[str, Any], self.attributes("chunks").get("forced_rows", {}))
        inferred: list[int] = table.inferred_ns.tolist()
        records: list[tuple[int, ChunkRecord]] = []
        for index, tick in enumerate(table.arrival_tick.tolist()):
            entry = details.get(index)
            if entry is not None:
                header: dict[str, Any] = {
                    key: value for key, value in entry.items() if key not in ("row", "offset", "bytes")
                }
                data = raw[entry["offset"] : entry["offset"] + entry["bytes"]]
            else:
                header = {
                    "chunk_id": int(table.chunk_id[index]),
                    "observation_stamp_ns": int(table.observation_stamp_ns[index]),
                    "inference_ns": int(table.inference_ns[index]),
                    "tokenizer_id": tokenizers[int(table.tokenizer_id[index])],
                    "spec_hash": specs[int(table.spec_hash[index])],
                    "shape": list(table.tokens.shape[1:]),
                    "dtype": "<i8",
                }
                if str(index) in forced:
                    header["forced_rows"] = forced[str(index)]
                data = table.tokens[index].tobytes()
                if inferred[index] != UNKNOWN_STAMP:
                    header["inferred_ns"] = inferred[index]
                for name in CERTAINTY:
                    certainty: FloatArray = getattr(table, name)[index]
                    if not np.isnan(certainty).all():
                        header[name] = certainty.nbytes
                        data += certainty.tobytes()
                doubt = [float(getattr(table, f"doubt_{name}")[index]) for name in DOUBT]
                if not math.isnan(doubt[0]):
                    header["doubt"] = [None if math.isnan(number) else number for number in doubt]
            records.append((tick, ChunkRecord(header, data)))
        return tuple(records)

    @cached_property
    def decoder(self) -> TickDecoder:
        """Rebuilds the typed inputs and outputs of any tick."""
        frames = self._names("ticks", "target_frames")
        return TickDecoder(self.ticks, self.events, self.chunk_records, frames)

    @property
    def frames_before(self) -> list[str]:
        """Target frames that ticks before the first of these have introduced: none but in a window."""
        introduced = {event.name for event in self.events if event.kind is EventKind.TARGET_FRAME}
        return [name for name in self._names("ticks", "target_frames") if name not in introduced]

    @cached_property
    def labels(self) -> LabelTable:
        """Training labels."""
        shape = self.array("labels/tokens").shape[1:]
        return self._table("labels", LabelTable, horizon=shape[0], dims=shape[1])

    @cached_property
    def physics(self) -> PhysicsTable:
        """Full physics states."""
        size = len(self.array("physics/initial_state"))
        return self._table("physics", PhysicsTable, ("initial_state",), physics=size)

    @cached_property
    def memories(self) -> Mapping[int, str]:
        """The loop's memory before some ticks, as JSON; see :mod:`episodes.loop_memory`."""
        table = self._table("loop", LoopTable, ("data",))
        text = table.data.tobytes()
        places = zip(table.keyframe_tick.tolist(), table.offset.tolist(), table.length.tolist(), strict=True)
        return {tick: text[start : start + length].decode() for tick, start, length in places}

    def memory(self, tick: int) -> str:
        """The loop's memory before one tick, read without the others; see :attr:`memories`.

        Raises:
            EpisodeError: There is no key frame at that tick.
        """
        places = np.flatnonzero(self.array("loop/keyframe_tick") == tick)
        if not len(places):
            raise EpisodeError(str(self.path), f"a key frame at tick {tick}", "none", "seek to another tick")
        start = int(self.array("loop/offset")[places[0]])
        length = int(self.array("loop/length")[places[0]])
        return self._source.rows("loop/data", start, start + length).tobytes().decode()

    @cached_property
    def model_xml(self) -> bytes:
        """The compiled scene, empty where there is none."""
        return self.array("model_xml").tobytes()

    # ------------------------------------------------------------------------------------- observations

    @cached_property
    def observations(self) -> ObservationTable:
        """Observations as columns, without pictures."""
        return self._table("observations", ObservationTable)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return tuple(self._names("observations", "cameras"))

    def images(self, camera: str) -> ImageArray:
        """All frames of a camera (N, H, W, 3) uint8; dropped ones are black, see :meth:`present`.

        Raises:
            EpisodeError: A frame is missing, damaged or changed.
        """
        self._check_camera(camera)
        frames = self._source.frames(camera, 0, len(self.array("observations/stamp_ns")))
        if self._check:
            for index, found in self.changed_frames(camera, 0, frames):
                raise self._changed_frame(camera, index, found)
        frames.flags.writeable = False
        return frames

    def present(self, camera: str) -> npt.NDArray[np.bool_]:
        """(N,) which frames were not dropped."""
        self._check_camera(camera)
        return self.array(f"observations/present/{camera}")

    def image(self, camera: str, index: int) -> ImageArray | None:
        """One frame (H, W, 3) uint8, None when it was dropped.

        Raises:
            EpisodeError: The frame is missing, damaged or changed.
        """
        if not self.present(camera)[index]:
            return None
        frames = self.frames(camera, index, index + 1)
        for _, found in self.changed_frames(camera, index, frames):
            raise self._changed_frame(camera, index, found)
        return frames[0]

    def frames(self, camera: str, start: int, stop: int) -> ImageArray:
        """Frames ``start`` to ``stop`` (N, H, W, 3) uint8 as stored, unchecked."""
        self._check_camera(camera)
        frames = self._source.frames(camera, start, stop)
        frames.flags.writeable = False
        return frames

    def changed_frames(self, camera: str, start: int, frames: ImageArray) -> Iterator[tuple[int, str]]:
        """Index and digest of those of ``frames``, beginning at ``start``, that are not as they were recorded."""
        digests = self.array(f"observations/image_digest/{camera}")
        present = self.present(camera)
        kept: Iterable[bytes] = (np.ascontiguousarray(frame).tobytes() for frame in frames)
        if camera_profile(self.manifest.camera_profile).lossy:
            kept = self._source.kept(camera, start, start + len(frames))
        for index, data in enumerate(kept, start):
            if present[index]:
                found = kept_digest(data)
                if found != digests[index].tobytes():
                    yield index, found.hex()

    def _changed_frame(self, camera: str, index: int, found: str) -> EpisodeError:
        expected = self.array(f"observations/image_digest/{camera}")[index].tobytes().hex()
        return EpisodeError(
            f"{self.path}: observations/images/{camera}, frame {index}",
            f"digest {expected}",
            found,
            "the picture was changed or lost after recording; restore it from a copy",
        )

    def observation(self, index: int) -> Observation:
        """One observation as the policy saw it; dropped frames are absent."""
        table = self.observations
        instructions = self._names("observations", "instructions")
        pictures = ((camera, self.image(camera, index)) for camera in self.cameras)
        state = RobotState(
            joint_position=frozen_array(table.joint_position[index]),
            joint_velocity=frozen_array(table.joint_velocity[index]),
            joint_effort=frozen_array(table.joint_effort[index]),
            ee_pose=_pose(table.ee_pose[index]),
            wrench=frozen_array(table.wrench[index]),
            gripper_opening=float(table.gripper_opening[index]),
            stamp_ns=int(table.stamp_ns[index]),
        )
        return Observation(
            images={camera: picture for camera, picture in pictures if picture is not None},
            state=state,
            commanded_pose=_pose(table.commanded_pose[index]),
            instruction=instructions[int(table.instruction[index])],
            stamp_ns=int(table.stamp_ns[index]),
            prefix=self._prefix(index),
        )

    def _prefix(self, index: int) -> TokenPrefix | None:
        """The committed rows that an observation carried."""
        prefixes = cast(dict[str, Any], self.attributes("observations").get("prefixes", {}))
        if str(index) not in prefixes:
            return None
        tokens = np.array(prefixes[str(index)], np.int64)
        tokens.flags.writeable = False
        return TokenPrefix(tokens)

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            raise EpisodeError(
                str(self.path), f"one of the cameras {list(self.cameras)}", repr(camera), "choose one of these"
            )


def _pose(values: npt.NDArray[np.float64]) -> Pose:
    return Pose(frozen_array(values[:3]), frozen_array(values[3:]))
