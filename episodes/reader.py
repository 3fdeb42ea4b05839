"""Opens an episode: finished, still being recorded, or left behind by a process that was killed."""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Mapping
from pathlib import Path

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.journal import JOURNAL_NAME, is_live, read_journal
from episodes.jsontypes import as_mapping
from episodes.manifest import Manifest
from episodes.sources import JournalSource, ZarrSource
from episodes.tables import tables_from_journal

__all__ = ["Episode", "EpisodeError", "episode_names", "find_episodes", "open_episode"]

_LISTED_NAMES = 20


def open_episode(path: Path | str, *, check: bool = True) -> Episode:
    """Open an episode for reading; nothing on disk changes.

    Args:
        path: The store, a folder ``NAME.zarr``.
        check: Compare every array with its checksum when it is loaded.

    Raises:
        EpisodeError: No episode there, or one that cannot be read; says what was expected and found.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise _no_episode(path)
    journal_path = path / JOURNAL_NAME
    if journal_path.is_file():
        try:
            return _open_journal(path, journal_path)
        except EpisodeError:
            if journal_path.is_file():
                raise  # otherwise the recorder finished the store at this very moment
    attributes = _root_attributes(path)
    manifest = Manifest.from_json(as_mapping(attributes["manifest"]), f"{path}: manifest")
    integrity = as_mapping(attributes.get("integrity"))
    if not as_mapping(integrity.get("arrays")):
        raise EpisodeError(
            str(path),
            f"a finished store or a {JOURNAL_NAME}",
            "neither",
            f"the recording was cut off and its {JOURNAL_NAME} is gone; restore it from a copy",
        )
    return Episode(path, manifest, ZarrSource(path), integrity, live=False, check=check)


def _open_journal(path: Path, journal_path: Path) -> Episode:
    live = is_live(journal_path)
    tables = tables_from_journal(read_journal(journal_path), str(journal_path))
    return Episode(path, tables.manifest, JournalSource(tables), None, live=live, check=False)


def _root_attributes(path: Path) -> Mapping[str, object]:
    text = (path / "zarr.json").read_text(errors="replace")
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise EpisodeError(
            f"{path}/zarr.json", "JSON", f"{len(text)} characters that are not ({error})", "restore it from a copy"
        ) from error
    attributes = as_mapping(as_mapping(metadata).get("attributes"))
    if not as_mapping(attributes.get("manifest")):
        raise EpisodeError(
            str(path), "a manifest in the root attributes", "none", "this zarr store is not an episode of this stack"
        )
    return attributes


def _no_episode(path: Path) -> EpisodeError:
    found = "a folder without zarr.json" if path.is_dir() else "a file" if path.exists() else "nothing"
    names = episode_names(path if path.is_dir() else path.parent)
    if not names:
        return EpisodeError(
            str(path), "an episode store", found, f"there are no episodes in {path.parent} either; check the path"
        )
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.0)
    shown = ", ".join(names[:_LISTED_NAMES])
    if len(names) > _LISTED_NAMES:
        shown += f" and {len(names) - _LISTED_NAMES} more"
    advice = f"did you mean {close[0]}? Valid names: {shown}" if close else f"valid names: {shown}"
    return EpisodeError(str(path), "an episode store", found, advice)


def episode_names(folder: Path) -> list[str]:
    """Names of the episodes in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(item.name for item in folder.glob("*.zarr") if (item / "zarr.json").is_file())


def find_episodes(pattern: Path | str) -> list[Path]:
    """Episodes by path, folder or glob, sorted.

    Args:
        pattern: One store, a folder of stores, or a glob such as ``runs/eval/*seed3*.zarr``.

    Raises:
        EpisodeError: Nothing matches; lists the names that exist and the nearest one.
    """
    path = Path(pattern)
    if (path / "zarr.json").is_file():
        return [path]
    if path.is_dir():
        found = [path / name for name in episode_names(path)]
    else:
        found = [Path(item) for item in sorted(glob.glob(str(path))) if (Path(item) / "zarr.json").is_file()]
    if not found:
        raise _no_episode(path)
    return found
