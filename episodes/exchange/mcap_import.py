"""Bags back to episodes: those that this stack exported come back bit for bit, others as what they hold."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controllers.types import ImageArray
from episodes.errors import EpisodeError
from episodes.exchange.bag_file import BagFile, BagMessage, bag_files, picture_of
from episodes.exchange.mcap_foreign import read_foreign
from episodes.exchange.mcap_layout import ARRAYS_NAME, CARRIED, DOCUMENT_NAME, LAYOUT_VERSION
from episodes.exchange.mcap_options import McapImportOptions
from episodes.exchange.protocols import Imported
from episodes.exchange.store_writing import Seals, compressed_frame, image_stack, write_store
from episodes.images import Frame
from episodes.jsontypes import JsonDict, as_list, as_mapping
from episodes.manifest import Manifest
from episodes.schema import TickTable, columns
from episodes.tables import EpisodeTables, ImageStack

Array = npt.NDArray[Any]


# ------------------------------------------------------------------------------------- our own bags, exactly


def document_of(attachments: dict[str, bytes], path: Path) -> JsonDict | None:
    """The attached description of an exported episode, None for a bag of other origin.

    Raises:
        EpisodeError: It was written by another release.
    """
    if DOCUMENT_NAME not in attachments:
        return None
    document = as_mapping(json.loads(attachments[DOCUMENT_NAME]))
    if document.get("layout_version") != LAYOUT_VERSION:
        raise EpisodeError(
            f"{path}: layout of the attachments",
            f"version {LAYOUT_VERSION}",
            repr(document.get("layout_version")),
            "use the release that exported it, or import it with --from mcap --mcap.foreign",
        )
    return document


def read_exported(path: Path, document: JsonDict, attachments: dict[str, bytes], out: Path) -> Path:
    """Rebuild the episode that was exported, bit for bit.

    Raises:
        EpisodeError: Something is missing or was changed; names it.
    """
    manifest = Manifest.from_json(as_mapping(document["manifest"]), f"{path}: manifest")
    with np.load(io.BytesIO(attachments[ARRAYS_NAME]), allow_pickle=False) as archive:
        arrays: dict[str, Array] = {name: archive[name] for name in archive.files}
    sizes = arrays.pop("cameras/sizes")
    content = _Content(path, len(arrays["ticks/tick"]), manifest.joints)
    for message in BagFile(path).messages():
        content.take(message)
    arrays.update(content.columns())
    attributes = {group: as_mapping(values) for group, values in as_mapping(document["attributes"]).items()}
    cameras = [str(name) for name in as_list(attributes["observations"].get("cameras")) or []]
    images = {
        camera: _stack(content, camera, (int(size[0]), int(size[1])), arrays[f"observations/present/{camera}"])
        for camera, size in zip(cameras, sizes, strict=True)
    }
    tables = EpisodeTables(manifest, arrays, images, attributes)
    integrity = as_mapping(document.get("integrity"))
    return write_store(out / str(document["name"]), tables, str(path), Seals(integrity) if integrity else None)


def _stack(content: _Content, camera: str, size: tuple[int, int], present: Array) -> ImageStack:
    frames = content.frames.get(camera, {})
    wanted = set(np.flatnonzero(present).tolist())
    if set(frames) != wanted:
        missing = sorted(wanted - set(frames))
        raise EpisodeError(
            f"{content.path}: camera {camera}",
            f"{len(wanted)} pictures",
            f"{len(frames)} (first missing: {missing[:3]})",
            "the bag was cut or filtered; export it again",
        )
    return image_stack(frames, *size)


@dataclass
class _Content:
    """What the messages of one bag carry."""

    path: Path
    ticks: int
    joints: int
    frames: dict[str, dict[int, Frame]] = field(default_factory=dict[str, dict[int, Frame]])
    _arrays: dict[str, Array] = field(default_factory=dict[str, Array])

    def __post_init__(self) -> None:
        layout = columns(TickTable)
        for readers in CARRIED.values():
            for column in readers:
                shape = (self.ticks, *layout[column].entry_shape(self.joints))
                self._arrays[column] = np.full(shape, np.nan)

    def take(self, message: BagMessage) -> None:
        readers = CARRIED.get(message.topic)
        if readers is not None:
            if message.sequence >= self.ticks:
                raise self._misplaced(message)
            decoded = message.decoded()
            for column, read in readers.items():
                self._arrays[column][message.sequence] = read(decoded)
        elif message.topic.startswith("/camera/"):
            camera = message.topic.split("/")[2]
            picture = self._picture(message)
            self.frames.setdefault(camera, {})[message.sequence] = compressed_frame(message.sequence, camera, picture)

    def _picture(self, message: BagMessage) -> ImageArray:
        return picture_of(message, message.decoded())

    def _misplaced(self, message: BagMessage) -> EpisodeError:
        return EpisodeError(
            f"{self.path}: {message.topic}",
            f"sequence numbers below {self.ticks}",
            str(message.sequence),
            "the bag was written again by a tool that renumbers messages; import it with --mcap.foreign",
        )

    def columns(self) -> dict[str, Array]:
        return {f"ticks/{name}": array for name, array in self._arrays.items()}


# ------------------------------------------------------------------------------------------- the importer


class McapImporter:
    """Reads MCAP files and bag folders."""

    def __init__(self, options: McapImportOptions | None = None) -> None:
        """Choose how."""
        self._options = options or McapImportOptions()

    def reads(self, source: Path) -> bool:
        """Whether there are MCAP files."""
        return bool(bag_files(source))

    def read(self, source: Path, out: Path) -> Imported:
        """One episode for each MCAP file."""
        files = bag_files(source)
        if not files:
            raise EpisodeError(str(source), "an MCAP file or a folder of bags", "none", "check the path")
        written: list[Path] = []
        lacks: dict[str, None] = {}
        exact = True
        for path in files:
            attachments = BagFile(path).attachments()
            document = None if self._options.foreign else document_of(attachments, path)
            if document is not None:
                written.append(read_exported(path, document, attachments, out))
            else:
                found = read_foreign(path, self._options, out)
                written.append(found.path)
                lacks.update(dict.fromkeys(found.lacks))
                exact = False
        return Imported(tuple(written), exact, tuple(lacks))
