"""Where an episode's arrays come from: the finished zarr store, or a journal held in memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import zarr

from controllers.types import ImageArray
from episodes.compression import decompress
from episodes.errors import EpisodeError
from episodes.images import decode_jpeg
from episodes.tables import EpisodeTables

Array = npt.NDArray[Any]


def decoded_jpegs(jpegs: Sequence[bytes], height: int, width: int) -> ImageArray:
    """Pictures (N, H, W, 3) uint8 of JPEGs; black for empty ones.

    Raises:
        ValueError: One is damaged.
    """
    pictures = np.zeros((len(jpegs), height, width, 3), np.uint8)
    for place, data in enumerate(jpegs):
        if data:
            pictures[place] = decode_jpeg(data, height, width)
    return pictures


class ArraySource(Protocol):
    """Arrays and attributes by path in the store."""

    def array(self, name: str) -> Array:
        """The whole array.

        Raises:
            EpisodeError: It is missing or cannot be decoded.
        """
        ...

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` of an array, without reading much more."""
        ...

    def frames(self, camera: str, start: int, stop: int) -> Array:
        """Pictures ``start`` to ``stop`` (N, H, W, 3) uint8; dropped ones are black."""
        ...

    def kept(self, camera: str, start: int, stop: int) -> list[bytes]:
        """The JPEGs of these pictures, empty for dropped ones; only where pictures are kept like that."""
        ...

    def attributes(self, group: str) -> Mapping[str, object]:
        """Attributes of a group."""
        ...


class JournalSource:
    """An episode that is being recorded or was left behind by a crash."""

    def __init__(self, tables: EpisodeTables) -> None:
        """Serve ``tables``."""
        self._tables = tables

    def array(self, name: str) -> Array:
        """The whole array."""
        prefix, _, camera = name.rpartition("/")
        if prefix == "observations/images":
            return self.frames(camera, 0, len(self._tables.arrays["observations/stamp_ns"]))
        return self._tables.arrays[name]

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows of an array."""
        return self.array(name)[start:stop]

    def frames(self, camera: str, start: int, stop: int) -> Array:
        """Pictures ``start`` to ``stop``."""
        stack = self._tables.images[camera]
        count = len(self._tables.arrays["observations/stamp_ns"])
        pictures = np.zeros((max(0, min(stop, count) - start), stack.height, stack.width, 3), np.uint8)
        for place, index in enumerate(range(start, min(stop, count))):
            frame = stack.frames.get(index)
            if frame is not None and stack.jpeg:
                pictures[place] = decode_jpeg(frame.data, frame.height, frame.width)
            elif frame is not None:
                pixels = np.frombuffer(decompress(frame.data), np.uint8)
                pictures[place] = pixels.reshape(frame.height, frame.width, 3)
        return pictures

    def kept(self, camera: str, start: int, stop: int) -> list[bytes]:
        """The JPEGs of these pictures."""
        frames = self._tables.images[camera].frames
        count = len(self._tables.arrays["observations/stamp_ns"])
        return [bytes(frames[index].data) if index in frames else b"" for index in range(start, min(stop, count))]

    def attributes(self, group: str) -> Mapping[str, object]:
        """Attributes of a group."""
        return self._tables.attributes.get(group, {})


class ZarrSource:
    """A finished episode."""

    def __init__(self, path: Path) -> None:
        """Open the store for reading."""
        self._path = path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # stray files beside ours are not our reader's business
            self._root = cast(Any, zarr).open_group(str(path), mode="r", zarr_format=3)

    def array(self, name: str) -> Array:
        """The whole array."""
        array = self._open(name)
        return self._read(name, lambda: array[...])

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows of an array."""
        array = self._open(name)
        return self._read(name, lambda: array[start:stop])

    def frames(self, camera: str, start: int, stop: int) -> Array:
        """Pictures ``start`` to ``stop``."""
        name = f"observations/images/{camera}"
        array = self._open(name)
        where = f"{name}, frames {start} to {stop}"
        if array.ndim != 2:
            return self._read(where, lambda: array[start:stop])
        jpegs = self.kept(camera, start, stop)
        return self._read(where, lambda: decoded_jpegs(jpegs, *self._size(camera)))

    def kept(self, camera: str, start: int, stop: int) -> list[bytes]:
        """The JPEGs of these pictures."""
        name = f"observations/images/{camera}"
        rows = self.rows(name, start, stop)
        lengths: list[int] = self.rows(f"observations/jpeg_bytes/{camera}", start, stop).tolist()
        return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]

    def _size(self, camera: str) -> tuple[int, int]:
        sizes = self.attributes("observations").get("jpeg_sizes")
        height, width = cast(Mapping[str, tuple[int, int]], sizes)[camera]
        return int(height), int(width)

    def attributes(self, group: str) -> Mapping[str, object]:
        """Attributes of a group."""
        try:
            node = self._root[group] if group else self._root
        except (KeyError, ValueError) as error:
            raise self._missing(group, "a group") from error
        return cast(Mapping[str, object], node.attrs.asdict())

    def _open(self, name: str) -> Any:
        try:
            node = self._root[name]
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise self._missing(name, "an array") from error
        if not isinstance(node, zarr.Array):
            raise self._missing(name, "an array")
        return cast(Any, node)

    def _read(self, name: str, read: Any) -> Array:
        try:
            return np.asarray(read())
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise EpisodeError(
                f"{self._path}: {name}",
                "chunks that decode",
                str(error).strip() or type(error).__name__,
                "the file is damaged or cut; restore it from a copy",
            ) from error

    def _missing(self, name: str, expected: str) -> EpisodeError:
        try:
            parent = self._root[name.rpartition("/")[0]] if "/" in name else self._root
            there = ", ".join(sorted(cast(zarr.Group, parent).keys())) or "nothing"
        except (KeyError, ValueError, OSError, AttributeError):
            there = "nothing"
        return EpisodeError(
            f"{self._path}: {name}",
            expected,
            f"only {there}" if there != "nothing" else there,
            "the store is incomplete; restore it from a copy",
        )
