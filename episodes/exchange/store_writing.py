"""Writes the tables that an importer made as a sealed episode store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controllers.types import ImageArray
from episodes.errors import EpisodeError
from episodes.exchange.files import new_folder
from episodes.images import Frame, raw_frame
from episodes.integrity import array_checksum, json_checksum
from episodes.jsontypes import JsonDict, as_mapping
from episodes.reader import open_episode
from episodes.store import SEALED_MANIFEST, write_tables
from episodes.tables import EpisodeTables, ImageStack
from episodes.verification import verify

Array = npt.NDArray[Any]


def compressed_frame(observation: int, camera: str, picture: ImageArray) -> Frame:
    """A picture (H, W, 3) uint8 as the store keeps it."""
    return raw_frame(observation, camera, np.ascontiguousarray(picture)).compressed()


def image_stack(frames: Mapping[int, Frame], height: int = 1, width: int = 1) -> ImageStack:
    """Frames of one camera; the size is that of any frame, or the given one when all were dropped."""
    first = next(iter(frames.values()), None)
    if first is not None:
        height, width = first.height, first.width
    return ImageStack(height, width, dict(frames))


@dataclass(frozen=True, slots=True)
class Seals:
    """Checksums that the original episode had, for an import that must equal it bit for bit."""

    integrity: JsonDict

    def check(self, tables: EpisodeTables, where: str) -> None:
        """Compare.

        Raises:
            EpisodeError: An array or the attributes of a group differ from the original's.
        """
        for name, expected in as_mapping(self.integrity.get("arrays")).items():
            if name == SEALED_MANIFEST:
                continue
            array = tables.arrays.get(name)
            found = "nothing" if array is None else array_checksum(array)
            if found != expected:
                raise EpisodeError(f"{where}: {name}", f"checksum {expected}", found, "the file was changed or cut")
        for group, expected in as_mapping(self.integrity.get("attributes")).items():
            found = json_checksum(tables.attributes.get(group, {}))
            if found != expected:
                raise EpisodeError(
                    f"{where}: attributes of {group}", f"checksum {expected}", found, "the file was changed or cut"
                )


def write_store(path: Path, tables: EpisodeTables, where: str, seals: Seals | None = None) -> Path:
    """Write a new episode store and check it.

    Args:
        path: The store, ``NAME.zarr``, which must not exist.
        tables: Its content.
        where: The source, for error messages.
        seals: Checksums that it must have.

    Raises:
        EpisodeError: The target exists, or what was written is not intact.
    """
    if seals is not None:
        seals.check(tables, where)
    with new_folder(path) as scratch:
        write_tables(scratch, replace(tables))
        damage = verify(open_episode(scratch))
        if damage:
            first = damage[0]
            raise EpisodeError(
                f"{where}: {first.field}", first.recorded, first.found, "the source was changed after recording"
            )
    return path
