"""Writes a closed episode as a plain zarr v3 store.

The files of the zarr v3 specification (zarr-specs.readthedocs.io, core 3.0, codecs bytes, blosc and zstd) are written
here directly: an episode has about seventy small arrays, and zarr-python spends milliseconds on each. Everything is
read back with plain ``zarr.open_group``, and the tests do.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from episodes.compression import blosc_metadata, compress, compress_numbers, decompress, zstd_metadata
from episodes.integrity import ALGORITHM, array_checksum, json_checksum
from episodes.journal import JOURNAL_NAME, RESERVE_NAME, Journal, read_journal
from episodes.manifest import Manifest, canonical_json
from episodes.tables import EpisodeTables, ImageStack, tables_from_journal

_FRAMES_PER_CHUNK = 8
_IMAGE_CHUNK_BYTES = 512 * 1024
_CHUNK_ROWS = 32_768  # 160 s at 200 Hz: an episode of a few minutes is one or two chunks an array
SEALED_MANIFEST = "sealed_manifest"

Array = npt.NDArray[Any]


def write_group(path: Path, attributes: Mapping[str, object]) -> None:
    """Write the metadata of a zarr group, replacing it atomically."""
    path.mkdir(parents=True, exist_ok=True)
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    scratch = path / ".zarr.json.new"
    scratch.write_text(json.dumps(metadata, indent=1))
    os.replace(scratch, path / "zarr.json")


def write_array(path: Path, array: Array) -> None:
    """Write ``array`` at ``path``, in chunks of many rows, compressed."""
    size = array.dtype.itemsize
    # Shuffled bytes: the exponents of a slow signal hardly change, the low bits of its mantissa always do.
    codec = blosc_metadata(size) if size > 1 else zstd_metadata()
    rows = min(max(array.shape[0], 1), _CHUNK_ROWS)
    _write_metadata(path, array.shape, (rows, *array.shape[1:]), array.dtype, codec)
    for index in range(math.ceil(array.shape[0] / rows)):
        block = np.ascontiguousarray(array[index * rows : (index + 1) * rows])
        if len(block) < rows:  # the format stores whole chunks
            padded = np.zeros((rows, *array.shape[1:]), array.dtype)
            padded[: len(block)] = block
            block = padded
        if block.size:
            data = memoryview(block).cast("B")
            packed = compress_numbers(data, size) if size > 1 else compress(data)
            _write_chunk(path, index, array.ndim, packed)


def write_images(path: Path, stack: ImageStack, count: int) -> None:
    """Write frames a few to a chunk: what does not move between them is stored once. Dropped frames are black.

    JPEGs are rows of bytes, filled up with zeros, which cost nothing.
    """
    frame_shape = (stack.longest,) if stack.jpeg else (stack.height, stack.width, 3)
    size = math.prod(frame_shape)
    group = min(max(1, _IMAGE_CHUNK_BYTES // max(1, size)), _FRAMES_PER_CHUNK)
    _write_metadata(path, (count, *frame_shape), (group, *frame_shape), np.dtype(np.uint8), zstd_metadata())
    for index in range(math.ceil(count / group)):
        frames = {place: stack.frames.get(index * group + place) for place in range(group)}
        if group == 1 and frames[0] is not None and not stack.jpeg:
            _write_chunk(path, index, 4, frames[0].data)
        elif any(frame is not None for frame in frames.values()):
            block = np.zeros((group, size), np.uint8)
            for place, frame in frames.items():
                if frame is not None:
                    kept = np.frombuffer(frame.data if stack.jpeg else decompress(frame.data), np.uint8)
                    block[place, : len(kept)] = kept
            _write_chunk(path, index, 1 + len(frame_shape), compress(memoryview(block).cast("B")))


def _write_metadata(
    path: Path,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    codec: Mapping[str, object],
) -> None:
    endian = {"name": "bytes", "configuration": {"endian": "little"}} if dtype.itemsize > 1 else {"name": "bytes"}
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(size, 1) for size in chunk_shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": False if dtype == np.bool_ else 0.0 if dtype.kind == "f" else 0,
        "codecs": [endian, codec],
        "attributes": {},
        "storage_transformers": [],
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "zarr.json").write_text(json.dumps(metadata))


def _write_chunk(path: Path, index: int, ndim: int, data: bytes | bytearray | memoryview) -> None:
    (path / ".".join(("c", str(index), *("0" for _ in range(ndim - 1))))).write_bytes(data)


def write_opening(path: Path, manifest: Manifest) -> None:
    """Write the root group of an episode whose recording begins."""
    write_group(path, {"manifest": manifest.to_json()})


def finalize(path: Path) -> Manifest:
    """Turn the journal of ``path`` into plain zarr and remove it.

    The journal stays the truth until the root metadata of the finished store have replaced the opening ones, so
    being killed in here loses nothing. A recording whose disk was full when it ended is finished by calling this again.

    Returns:
        The manifest of the finished store.

    Raises:
        OSError: The disk does not take it; the journal stays, and what was written beside it is removed.
    """
    source = path / JOURNAL_NAME
    (path / RESERVE_NAME).unlink(missing_ok=True)
    journal: Journal = read_journal(source)
    tables = tables_from_journal(journal, str(path))
    try:
        write_tables(path, tables)
    except OSError:
        for folder in path.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
        raise
    source.unlink()
    return tables.manifest


def write_tables(path: Path, tables: EpisodeTables) -> None:
    """Write all tables, then the root metadata that declare them finished."""
    manifest = tables.manifest.to_json()
    arrays = dict(tables.arrays)
    arrays[SEALED_MANIFEST] = np.frombuffer(canonical_json(manifest).encode(), np.uint8)
    groups = {name.rpartition("/")[0] for name in arrays} | {"observations/images"}
    for group in sorted(groups - {""}):
        write_group(path / group, tables.attributes.get(group, {}))
    for name, array in arrays.items():
        write_array(path / name, array)
    for camera, stack in tables.images.items():
        write_images(path / "observations" / "images" / camera, stack, len(arrays["observations/stamp_ns"]))
    chain = arrays["ticks/chain"]
    integrity = {
        "algorithm": ALGORITHM,
        "chain_head": chain[-1].tobytes().hex() if len(chain) else "",
        "arrays": {name: array_checksum(array) for name, array in arrays.items()},
        "attributes": {name: json_checksum(values) for name, values in tables.attributes.items()},
    }
    write_group(path, {"manifest": manifest, "integrity": integrity})
