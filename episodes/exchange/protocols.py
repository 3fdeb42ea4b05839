"""What an exporter and an importer are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from episodes.exchange.losses import Loss


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        out: Folder that holds it.
        files: What a reader of the format opens: bags, recordings, the data set's root.
        episodes: How many episodes went in.
        losses: What the format did not keep.
    """

    out: Path
    files: tuple[Path, ...]
    episodes: int
    losses: tuple[Loss, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote.

    Attributes:
        episodes: The new episode stores.
        exact: Each is bit for bit the episode that was exported.
        lacks: What the recordings do not hold, in words.
    """

    episodes: tuple[Path, ...]
    exact: bool
    lacks: tuple[str, ...]


class Exporter(Protocol):
    """Writes episodes in another format."""

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write all ``episodes`` into the new folder ``out``.

        Raises:
            EpisodeError: An episode cannot be read, ``out`` is taken, or the format cannot hold the episodes.
        """
        ...


class Importer(Protocol):
    """Makes episodes of recordings in another format."""

    def reads(self, source: Path) -> bool:
        """Whether ``source`` looks like this format; cheap, never raises."""
        ...

    def read(self, source: Path, out: Path) -> Imported:
        """Write one episode store for each recording in ``source`` into the folder ``out``.

        Raises:
            EpisodeError: ``source`` is not what it should be, or a target exists.
        """
        ...
