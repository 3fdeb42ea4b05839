"""Episodes as CSV: one table of the ticks and one of the events, for spreadsheets and plotting."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from episodes.episode import Episode
from episodes.exchange.files import new_folder
from episodes.exchange.losses import Loss, LossKind, merged, write_losses
from episodes.exchange.protocols import Exported
from episodes.packing import EventRow
from episodes.reader import open_episode
from episodes.schema import ENUMERATIONS, TickTable, columns

_COMPONENTS = {7: ("x", "y", "z", "qw", "qx", "qy", "qz"), 6: ("x", "y", "z", "rx", "ry", "rz")}
_MASK = "events"


@dataclass(frozen=True)
class CsvOptions:
    """How episodes become tables."""

    every: int = 1
    """Write every n-th tick; 1 for all."""

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: ``every`` is not positive.
        """
        if self.every < 1:
            raise ValueError(f"csv.every: expected a positive number of ticks, found {self.every}; use 1 for all")


class CsvExporter:
    """Writes OUT/NAME.csv, a row a tick, and OUT/NAME.events.csv."""

    def __init__(self, options: CsvOptions | None = None) -> None:
        """Choose how."""
        self._options = options or CsvOptions()

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write the tables of every episode."""
        losses: list[Loss] = []
        files: list[Path] = []
        with new_folder(out) as scratch:
            for path in episodes:
                episode = open_episode(path)
                _write_ticks(episode, scratch / f"{path.stem}.csv", self._options.every)
                _write_events(episode.events, scratch / f"{path.stem}.events.csv")
                files.append(out / f"{path.stem}.csv")
                losses += csv_losses(episode, self._options.every)
        write_losses(out, merged(losses))
        return Exported(out, tuple(files), len(episodes), merged(losses))


def csv_losses(episode: Episode, every: int) -> Iterator[Loss]:
    """What the tables leave out."""
    if every > 1:
        yield Loss("ticks", LossKind.RESAMPLED, f"every {every}th tick")
    yield Loss("ticks, NaN", LossKind.ROUNDED, "a NaN is the word nan: the bits of its payload are gone")
    for what in ("chunks", "observations", "labels", "physics", "model_xml", "manifest"):
        yield Loss(what, LossKind.ABSENT, "the table holds ticks and events")
    if episode.cameras:
        yield Loss("pictures", LossKind.ABSENT, "no pictures in a table")


def _write_ticks(episode: Episode, path: Path, every: int) -> None:
    names: list[str] = []
    cells: list[Sequence[object]] = []
    frames = cast(Sequence[str], episode.attributes("ticks").get("target_frames", ()))
    for name, column in columns(TickTable).items():
        values = cast(npt.NDArray[Any], getattr(episode.ticks, name))[::every]
        shape = column.entry_shape(episode.manifest.joints)
        if column.dtype == "|u1" and shape:
            names.append(name)
            cells.append([cast(bytes, row.tobytes()).hex() for row in values])
        elif name in ENUMERATIONS and name != _MASK:
            members = [str(member.value) for member in ENUMERATIONS[name]]
            names.append(name)
            cells.append([members[code] for code in _codes(values)])
        elif name == "target_frame":
            names.append(name)
            cells.append([frames[code] for code in _codes(values)])
        elif shape:
            parts = _COMPONENTS.get(shape[0]) if column.shape[0] != "n" else None
            for index in range(shape[0]):
                names.append(f"{name}_{parts[index] if parts else index + 1}")
                cells.append(_numbers(values[:, index]))
        else:
            names.append(name)
            cells.append(_numbers(values))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(zip(*cells, strict=True))


def _codes(values: npt.NDArray[Any]) -> list[int]:
    return cast(list[int], values.tolist())


def _numbers(values: npt.NDArray[Any]) -> list[object]:
    numbers = cast(list[object], values.tolist())
    if values.dtype != np.float64:
        return numbers
    return [repr(number) for number in numbers]  # the shortest text that reads back to the same float64


def _write_events(events: Sequence[EventRow], path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("tick", "kind", "name", "value", "chunk_id", "message"))
        writer.writerows(
            (event.tick, event.kind.value, event.name, repr(event.value), event.chunk_id, event.message)
            for event in events
        )
