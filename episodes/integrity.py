"""What makes damage visible: a digest chain over the ticks, checksums of the arrays, a sealed copy of the manifest.

Three independent answers to "which one?": the chain names the tick, the checksums name the field, the sealed copy
names the manifest entry and its former value.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray
from episodes.chunks import ChunkRecord
from episodes.manifest import Manifest, canonical_json
from episodes.packing import EventRow, encode_event
from episodes.schema import DIGEST_BYTES, ByteArray, RowArray

ALGORITHM = "blake2b-128"


def genesis(manifest: Manifest, model_xml: bytes, initial_state: FloatArray) -> bytes:
    """Root of the chain: everything that was known before tick 0."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in (
        canonical_json(manifest.opening().to_json()).encode(),
        model_xml,
        np.ascontiguousarray(initial_state).tobytes(),
    ):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def _records(
    rows: RowArray, events: Sequence[EventRow], chunks: Sequence[tuple[int, ChunkRecord]]
) -> Iterator[tuple[memoryview, bytes]]:
    """For each tick its row and the bytes of its events and chunks."""
    ragged: dict[int, bytes] = {
        tick: b"".join(encode_event(event) for event in group)
        for tick, group in groupby(events, key=lambda event: event.tick)
    }
    for tick, chunk in chunks:
        ragged[tick] = ragged.get(tick, b"") + chunk.encode()
    size = rows.dtype.itemsize
    data = memoryview(np.ascontiguousarray(rows).view(np.uint8)) if len(rows) else memoryview(b"")
    ticks = cast(list[int], rows["tick"].tolist())
    for index, tick in enumerate(ticks):
        yield data[index * size : (index + 1) * size], ragged.get(tick, b"")


def _link(previous: bytes, row: memoryview, ragged: bytes) -> bytes:
    state = hashlib.blake2b(previous, digest_size=DIGEST_BYTES)
    state.update(row)
    if ragged:
        state.update(ragged)
    return state.digest()


def chain_rows(
    root: bytes, rows: RowArray, events: Sequence[EventRow], chunks: Sequence[tuple[int, ChunkRecord]]
) -> list[bytes]:
    """The chain: one digest a tick, each over the one before and all that the tick logged."""
    digests: list[bytes] = []
    previous = root
    for row, ragged in _records(rows, events, chunks):
        previous = _link(previous, row, ragged)
        digests.append(previous)
    return digests


def broken_ticks(
    root: bytes,
    chain: ByteArray,
    rows: RowArray,
    events: Sequence[EventRow],
    chunks: Sequence[tuple[int, ChunkRecord]],
) -> list[int]:
    """Indices of ticks whose record does not match its link; each link is judged on its own."""
    broken: list[int] = []
    stored = [root, *(link.tobytes() for link in chain)]
    for index, (row, ragged) in enumerate(_records(rows, events, chunks)):
        if _link(stored[index], row, ragged) != stored[index + 1]:
            broken.append(index)
    return broken


def array_checksum(array: npt.NDArray[Any]) -> str:
    """Checksum of an array's type, shape and content."""
    state = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=DIGEST_BYTES)
    if array.size:
        state.update(np.ascontiguousarray(array).view(np.uint8).data)
    return state.hexdigest()


def json_checksum(data: object) -> str:
    """Checksum of JSON-ready data."""
    return hashlib.blake2b(canonical_json(data).encode(), digest_size=DIGEST_BYTES).hexdigest()


def json_differences(recorded: object, found: object, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Leaves in which two JSON values differ: path, recorded, found."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        left, right = cast(Mapping[str, object], recorded), cast(Mapping[str, object], found)
        for key in sorted({*left, *right}):
            deeper = f"{path}.{key}" if path else key
            yield from json_differences(left.get(key), right.get(key), deeper)
    elif isinstance(recorded, list) and isinstance(found, list):
        before, after = cast(list[object], recorded), cast(list[object], found)
        if len(before) != len(after):
            yield f"{path}.length", len(before), len(after)
        for index, (a, b) in enumerate(zip(before, after, strict=False)):
            yield from json_differences(a, b, f"{path}[{index}]")
    elif canonical_json(cast(object, recorded)) != canonical_json(found):
        yield path, recorded, found
