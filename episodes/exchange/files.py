"""Targets of exports and imports: never overwritten, and complete or not there."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from episodes.errors import EpisodeError


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A scratch folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises:
        EpisodeError: ``path`` exists and is not an empty folder.
    """
    check_free(path)
    scratch = path.with_name(f".{path.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if path.is_dir():
        path.rmdir()
    scratch.rename(path)


def check_free(path: Path) -> None:
    """Make sure that nothing would be overwritten.

    Raises:
        EpisodeError: ``path`` exists and is not an empty folder.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    found = "a folder that is not empty" if path.is_dir() else "a file"
    raise EpisodeError(str(path), "a path that does not exist", found, "delete it or choose another --out")


def folder_bytes(path: Path) -> int:
    """Bytes of all files below ``path``, or of the file itself."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
