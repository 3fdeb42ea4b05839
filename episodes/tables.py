"""From the recording journal to the tables of the closed episode."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray
from episodes.chunks import CERTAINTY, DOUBT, NUMBERS, ChunkRecord, as_int64, decode_chunk
from episodes.errors import EpisodeError
from episodes.images import Frame, decode_frame
from episodes.integrity import chain_rows, genesis
from episodes.journal import Journal, Kind
from episodes.manifest import LogFault, Manifest, Outcome
from episodes.packing import EventRow, decode_events
from episodes.profile import camera_profile
from episodes.schema import (
    DIGEST_BYTES,
    UNKNOWN_STAMP,
    EventKind,
    EventTable,
    ObservationTable,
    RowArray,
    columns,
    enumeration_names,
    row_dtype,
    rows_from_table,
    table_from_rows,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ImageStack:
    """Compressed frames of one camera, by observation; missing ones were dropped. ``jpeg`` says how they are kept."""

    height: int
    width: int
    frames: Mapping[int, Frame]
    jpeg: bool = False

    @property
    def longest(self) -> int:
        """Bytes of the largest frame, as kept."""
        return max((len(frame.data) for frame in self.frames.values()), default=1)


@dataclass(frozen=True, slots=True)
class EpisodeTables:
    """A whole episode in memory.

    Attributes:
        manifest: Its manifest.
        arrays: Arrays by path in the store, without the images.
        images: Frames by camera.
        attributes: Attributes by group.
    """

    manifest: Manifest
    arrays: Mapping[str, Array]
    images: Mapping[str, ImageStack]
    attributes: Mapping[str, Mapping[str, object]]


@dataclass(slots=True)
class _Sorted:
    """A journal's records, sorted by kind."""

    manifest: Manifest | None = None
    model: bytes = b""
    initial: FloatArray = field(default_factory=lambda: np.zeros(0))
    rows: list[RowArray] = field(default_factory=list[RowArray])
    events: list[EventRow] = field(default_factory=list[EventRow])
    chunks: list[tuple[int, ChunkRecord]] = field(default_factory=list[tuple[int, ChunkRecord]])
    observations: dict[int, memoryview] = field(default_factory=dict[int, memoryview])
    frames: list[Frame] = field(default_factory=list[Frame])
    labels: list[tuple[int, Array]] = field(default_factory=list[tuple[int, Array]])
    keyframes: dict[int, FloatArray] = field(default_factory=dict[int, FloatArray])
    memories: dict[int, bytes] = field(default_factory=dict[int, bytes])
    faults: list[LogFault] = field(default_factory=list[LogFault])
    outcome: Outcome | None = None
    next_tick: int | None = None


def tables_from_journal(journal: Journal, where: str) -> EpisodeTables:
    """Build the tables.

    Raises:
        EpisodeError: The journal was cut before its manifest.
    """
    content = _Sorted()
    for kind, payload in journal.records:
        _sort_record(content, kind, payload)
    if content.manifest is None:
        raise EpisodeError(
            where,
            "a journal that begins with a manifest",
            f"{journal.valid_bytes} valid bytes, {journal.lost_bytes} damaged",
            "the recording died before its first record or the file was overwritten; nothing can be recovered",
        )
    manifest = content.manifest
    version = manifest.format_version
    empty = np.zeros(0, row_dtype(manifest.joints, version))
    rows: RowArray = np.concatenate(content.rows) if content.rows else empty
    arrays: dict[str, Array] = {}
    attributes: dict[str, Mapping[str, object]] = {}
    first, last = (int(rows["tick"][0]), int(rows["tick"][-1])) if len(rows) else (0, -1)
    events = [event for event in content.events if event.tick <= last]
    chunks = [(tick, chunk) for tick, chunk in content.chunks if first <= tick <= last]
    frames_seen = [event.name for event in events if event.kind is EventKind.TARGET_FRAME]
    attributes["ticks"] = {"enumerations": enumeration_names(), "target_frames": frames_seen}
    table = table_from_rows(rows)
    for name in columns(type(table)):
        arrays[f"ticks/{name}"] = np.ascontiguousarray(getattr(table, name))
    _event_table(arrays, attributes, events)
    _chunk_table(arrays, attributes, manifest, chunks, events)
    images = _observation_table(arrays, attributes, manifest, content)
    _label_table(arrays, manifest, content.labels)
    _physics_table(arrays, content)
    _loop_table(arrays, content)
    arrays["model_xml"] = np.frombuffer(content.model, np.uint8)
    chain = chain_rows(
        genesis(manifest, content.model, content.initial),
        rows_from_table(table, manifest.joints, version),
        events,
        chunks,
    )
    arrays["ticks/chain"] = np.frombuffer(b"".join(chain), np.uint8).reshape(len(rows), DIGEST_BYTES)
    closed = _close_manifest(manifest, content, len(rows), images, arrays["observations/stamp_ns"].shape[0])
    return EpisodeTables(closed, arrays, images, attributes)


def written_ticks(journal: Journal) -> int:
    """How many ticks a journal holds."""
    content = _Sorted()
    for kind, payload in journal.records:
        if kind in (Kind.MANIFEST, Kind.BLOCK):
            _sort_record(content, kind, payload)
    return sum(len(rows) for rows in content.rows)


def _sort_record(content: _Sorted, kind: Kind, payload: memoryview) -> None:
    match kind:
        case Kind.MANIFEST:
            content.manifest = Manifest.from_json(json.loads(bytes(payload)))
        case Kind.MODEL:
            content.model = bytes(payload)
        case Kind.INITIAL_STATE:
            content.initial = np.frombuffer(payload, np.float64)
        case Kind.BLOCK:
            _sort_block(content, payload)
        case Kind.CHUNK:
            tick = int.from_bytes(payload[:8], "little", signed=True)
            content.chunks.append((tick, decode_chunk(payload[8:])))
        case Kind.OBSERVATION:
            content.observations[int.from_bytes(payload[:8], "little")] = payload[8:]
        case Kind.IMAGE:
            content.frames.append(decode_frame(payload))
        case Kind.LABEL:
            stamp = int.from_bytes(payload[:8], "little", signed=True)
            shape = np.frombuffer(payload[8:16], np.uint32)
            content.labels.append((stamp, np.frombuffer(payload[16:], np.int64).reshape(shape)))
        case Kind.KEYFRAME:
            tick = int.from_bytes(payload[:8], "little", signed=True)
            content.keyframes[tick] = np.frombuffer(payload[8:], np.float64)
        case Kind.MEMORY:
            tick = int.from_bytes(payload[:8], "little", signed=True)
            content.memories[tick] = bytes(payload[8:])
        case Kind.FAULT:
            content.faults.append(LogFault(**json.loads(bytes(payload))))
        case Kind.END:
            content.outcome = Outcome.from_json(json.loads(bytes(payload)))


def _sort_block(content: _Sorted, payload: memoryview) -> None:
    if content.manifest is None:
        return
    size = int.from_bytes(payload[:4], "little")
    layout = row_dtype(content.manifest.joints, content.manifest.format_version)
    rows: RowArray = np.frombuffer(payload[4 + size :], layout)
    first = int(rows["tick"][0])
    if content.next_tick is not None and first != content.next_tick:
        return  # written twice by an interrupted flush
    content.next_tick = first + len(rows)
    content.rows.append(rows)
    content.events.extend(decode_events(payload[4 : 4 + size]))


class _Interner:
    """Gives strings codes in order of appearance."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))


def _event_table(
    arrays: dict[str, Array], attributes: dict[str, Mapping[str, object]], events: Sequence[EventRow]
) -> None:
    kinds = {kind: code for code, kind in enumerate(EventKind)}
    code = _Interner()
    messages = [event.message.encode("utf-8", "replace") for event in events]
    lengths = np.array([len(message) for message in messages], np.int64)
    table = EventTable(
        tick=np.array([event.tick for event in events], np.int64),
        kind=np.array([kinds[event.kind] for event in events], np.uint8),
        name=np.array([code(event.name) for event in events], np.int64),
        value=np.array([event.value for event in events], np.float64),
        chunk_id=np.array([event.chunk_id for event in events], np.int64),
        message_offset=np.cumsum(lengths) - lengths,
        message_length=lengths,
        message_data=np.frombuffer(b"".join(messages), np.uint8),
    )
    for name in columns(EventTable):
        arrays[f"events/{name}"] = getattr(table, name)
    attributes["events"] = {"names": list(code.names), "kinds": [kind.value for kind in EventKind]}


def _chunk_table(
    arrays: dict[str, Array],
    attributes: dict[str, Mapping[str, object]],
    manifest: Manifest,
    chunks: Sequence[tuple[int, ChunkRecord]],
    events: Sequence[EventRow],
) -> None:
    horizon, dims = token_shape(manifest)
    taken = {(event.tick, event.chunk_id) for event in events if event.kind is EventKind.ACCEPTED}
    tokenizers, specs = _Interner(), _Interner()
    count = len(chunks)
    columns_int = {name: np.zeros(count, np.int64) for name in ("arrival_tick", *NUMBERS, "tokenizer_id", "spec_hash")}
    columns_int["inferred_ns"] = np.full(count, UNKNOWN_STAMP, np.int64)
    certainty = {name: np.full((count, horizon, dims), np.nan) for name in CERTAINTY}
    doubt = {name: np.full(count, np.nan) for name in DOUBT}
    accepted, malformed = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    tokens = np.full((count, horizon, dims), -1, np.int64)
    details: list[dict[str, object]] = []
    forced: dict[str, object] = {}
    raw = bytearray()
    for index, (tick, chunk) in enumerate(chunks):
        header = chunk.header
        columns_int["arrival_tick"][index] = tick
        columns_int["tokenizer_id"][index] = tokenizers(str(header["tokenizer_id"]))
        columns_int["spec_hash"][index] = specs(str(header["spec_hash"]))
        for name in NUMBERS:
            columns_int[name][index] = as_int64(header[name])
        key = (tick, as_int64(header["chunk_id"]))
        accepted[index] = key in taken
        taken.discard(key)
        if "forced_rows" in header:
            forced[str(index)] = header["forced_rows"]
        columns_int["inferred_ns"][index] = header.get("inferred_ns", UNKNOWN_STAMP)
        if chunk.is_regular(horizon, dims):
            tokens[index] = np.frombuffer(chunk.tokens, np.int64).reshape(horizon, dims)
            for name, data in zip(CERTAINTY, (chunk.log_probability, chunk.entropy), strict=True):
                if data:
                    certainty[name][index] = np.frombuffer(data).reshape(horizon, dims)
            for name, number in zip(DOUBT, header.get("doubt", ()), strict=False):
                doubt[name][index] = np.nan if number is None else number
        else:
            malformed[index] = 1
            details.append({"row": index, "offset": len(raw), "bytes": len(chunk.data), **header})
            raw += chunk.data
    for name, values in columns_int.items():
        arrays[f"chunks/{name}"] = values
    arrays["chunks/accepted"], arrays["chunks/malformed"] = accepted, malformed
    arrays["chunks/tokens"] = tokens
    arrays |= {f"chunks/{name}": values for name, values in certainty.items()}
    arrays |= {f"chunks/doubt_{name}": values for name, values in doubt.items()}
    arrays["chunks/malformed_data"] = np.frombuffer(bytes(raw), np.uint8)
    attributes["chunks"] = {
        "tokenizer_ids": list(tokenizers.names),
        "spec_hashes": list(specs.names),
        "malformed": details,
        **({"forced_rows": forced} if forced else {}),
    }


def token_shape(manifest: Manifest) -> tuple[int, int]:
    """Declared (horizon, dims) of a chunk."""
    names = cast(Sequence[str], manifest.action_spec["names"])
    return int(cast(int, manifest.action_spec["horizon"])), len(names)


def observation_columns(joints: int) -> tuple[tuple[str, int], ...]:
    """Float columns of the observation table with their sizes, in the order of the journal record."""
    return tuple(
        (name, math.prod(column.entry_shape(joints)))
        for name, column in columns(ObservationTable).items()
        if column.dtype == "<f8"
    )


def _observation_table(
    arrays: dict[str, Array],
    attributes: dict[str, Mapping[str, object]],
    manifest: Manifest,
    content: _Sorted,
) -> dict[str, ImageStack]:
    count = 1 + max(content.observations, default=-1)
    layout = observation_columns(manifest.joints)
    width = sum(size for _, size in layout)
    floats = np.full((count, width), np.nan)
    stamps, instruction = np.zeros(count, np.int64), np.zeros(count, np.int64)
    code = _Interner()
    cameras: dict[str, None] = {}
    prefixes: dict[str, list[list[int]]] = {}
    for index, payload in content.observations.items():
        size = int.from_bytes(payload[:4], "little")
        header = json.loads(bytes(payload[4 : 4 + size]))
        stamps[index], instruction[index] = header["stamp_ns"], code(header["instruction"])
        cameras.update(dict.fromkeys(header["cameras"]))
        floats[index] = np.frombuffer(payload[4 + size :], np.float64)
        if "prefix" in header:
            prefixes[str(index)] = header["prefix"]
    arrays["observations/stamp_ns"], arrays["observations/instruction"] = stamps, instruction
    arrays["observations/tick"] = _ticks_of_stamps(stamps, arrays)
    position = 0
    for name, size in layout:
        values = floats[:, position : position + size]
        arrays[f"observations/{name}"] = np.ascontiguousarray(values if size > 1 else values[:, 0])
        position += size
    jpeg = camera_profile(manifest.camera_profile).lossy
    stacks = _image_stacks(arrays, content.frames, list(cameras), count, jpeg=jpeg)
    attributes["observations"] = {
        "instructions": list(code.names),
        "cameras": list(cameras),
        **({"prefixes": prefixes} if prefixes else {}),
        **({"jpeg_sizes": {name: [stack.height, stack.width] for name, stack in stacks.items()}} if jpeg else {}),
    }
    return stacks


def _ticks_of_stamps(stamps: Array, arrays: Mapping[str, Array]) -> Array:
    sensed, ticks = arrays["ticks/state_stamp_ns"], arrays["ticks/tick"]
    if not len(sensed):
        return np.full(len(stamps), -1, np.int64)
    order = np.argsort(sensed, kind="stable")
    place = np.minimum(np.searchsorted(sensed[order], stamps), len(sensed) - 1)
    found = order[place]
    return np.where(sensed[found] == stamps, ticks[found], -1)


def _image_stacks(
    arrays: dict[str, Array], frames: Sequence[Frame], cameras: Sequence[str], count: int, *, jpeg: bool
) -> dict[str, ImageStack]:
    stacks: dict[str, ImageStack] = {}
    for camera in cameras:
        mine = {frame.observation: frame for frame in frames if frame.camera == camera and frame.observation < count}
        present = np.zeros(count, np.bool_)
        digests = np.zeros((count, DIGEST_BYTES), np.uint8)
        for index, frame in mine.items():
            present[index] = True
            digests[index] = np.frombuffer(frame.digest, np.uint8)
        arrays[f"observations/present/{camera}"] = present
        arrays[f"observations/image_digest/{camera}"] = digests
        any_frame = next(iter(mine.values()), None)
        height, width = (any_frame.height, any_frame.width) if any_frame is not None else (1, 1)
        stacks[camera] = ImageStack(height, width, mine, jpeg)
        if jpeg:
            lengths = np.zeros(count, np.int64)
            lengths[list(mine)] = [len(frame.data) for frame in mine.values()]
            arrays[f"observations/jpeg_bytes/{camera}"] = lengths
    return stacks


def _label_table(arrays: dict[str, Array], manifest: Manifest, labels: Sequence[tuple[int, Array]]) -> None:
    shape = labels[0][1].shape if labels else token_shape(manifest)
    arrays["labels/stamp_ns"] = np.array([stamp for stamp, _ in labels], np.int64)
    arrays["labels/tokens"] = np.array([tokens for _, tokens in labels], np.int64).reshape(len(labels), *shape)


def _physics_table(arrays: dict[str, Array], content: _Sorted) -> None:
    size = len(content.initial)
    states = [state for state in content.keyframes.values() if len(state) == size]
    arrays["physics/initial_state"] = content.initial
    arrays["physics/keyframe_tick"] = np.array(list(content.keyframes), np.int64)
    arrays["physics/keyframe_state"] = np.array(states, np.float64).reshape(len(states), size)


def _loop_table(arrays: dict[str, Array], content: _Sorted) -> None:
    lengths = np.array([len(text) for text in content.memories.values()], np.int64)
    arrays["loop/keyframe_tick"] = np.array(list(content.memories), np.int64)
    arrays["loop/offset"], arrays["loop/length"] = np.cumsum(lengths) - lengths, lengths
    arrays["loop/data"] = np.frombuffer(b"".join(content.memories.values()), np.uint8)


def _close_manifest(
    manifest: Manifest, content: _Sorted, ticks: int, images: Mapping[str, ImageStack], observations: int
) -> Manifest:
    dropped = {camera: observations - len(stack.frames) for camera, stack in images.items()}
    outcome = content.outcome
    if outcome is not None:
        outcome = replace(outcome, ticks=ticks)
    return replace(
        manifest,
        closed=outcome is not None,
        outcome=outcome,
        dropped_frames=dropped,
        log_faults=tuple(content.faults),
    )
