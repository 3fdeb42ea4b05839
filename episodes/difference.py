"""What differs between two episodes: manifests, length, the first tick and field, and how far values drift apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from episodes.comparison import Divergence, stage_of
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.integrity import json_differences
from episodes.packing import encode_event
from episodes.schema import TickTable, columns

_INCIDENTAL = ("created", "episode_id", "outcome", "closed", "dropped_frames", "log_faults", "format_version")


@dataclass(frozen=True, slots=True)
class ManifestDifference:
    """An entry of the manifest with its value in either episode."""

    entry: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class ColumnDifference:
    """A column that differs.

    Attributes:
        field: Column.
        stage: Part of the tick.
        ticks: Ticks in which it differs.
        first_tick: The first of them.
        largest: Largest absolute difference of its numbers, NaN for codes and digests.
        unit: Its unit.
    """

    field: str
    stage: str
    ticks: int
    first_tick: int
    largest: float
    unit: str


@dataclass(frozen=True, slots=True)
class EpisodeDifference:
    """What differs between two episodes.

    Attributes:
        identical: Every compared tick, event and chunk is equal, and so is their number.
        ticks: Ticks of either.
        compared: Ticks that both have.
        manifest: Entries that differ, but for names and dates.
        first: First difference in causal order, None without one.
        columns: Columns that differ.
        chunks_equal: All arrivals are equal, tokens and all.
        events_equal: All events are equal.
    """

    identical: bool
    ticks: tuple[int, int]
    compared: int
    manifest: tuple[ManifestDifference, ...]
    first: Divergence | None
    columns: tuple[ColumnDifference, ...]
    chunks_equal: bool
    events_equal: bool


def difference(first: Episode, second: Episode) -> EpisodeDifference:
    """Compare two episodes tick by tick.

    Raises:
        EpisodeError: They are of arms with different numbers of joints.
    """
    if first.manifest.joints != second.manifest.joints:
        raise EpisodeError(
            f"{first.path} and {second.path}",
            f"arms of {first.manifest.joints} joints in both",
            f"{second.manifest.joints} in the second",
            "compare episodes of the same robot",
        )
    compared = min(len(first), len(second))
    found = [item for name in columns(TickTable) if (item := _column(first, second, name, compared)) is not None]
    begin = min((item.first_tick for item in found), default=-1)
    earliest = next((item for item in found if item.first_tick == begin), None)
    chunks_equal = [(tick, record.encode()) for tick, record in first.chunk_records] == [
        (tick, record.encode()) for tick, record in second.chunk_records
    ]
    events_equal = [encode_event(event) for event in first.events] == [encode_event(event) for event in second.events]
    return EpisodeDifference(
        identical=not found and chunks_equal and events_equal and len(first) == len(second),
        ticks=(len(first), len(second)),
        compared=compared,
        manifest=_manifests(first, second),
        first=None if earliest is None else _first(first, second, earliest),
        columns=tuple(found),
        chunks_equal=chunks_equal,
        events_equal=events_equal,
    )


def _manifests(first: Episode, second: Episode) -> tuple[ManifestDifference, ...]:
    pairs = json_differences(first.manifest.to_json(), second.manifest.to_json())
    return tuple(
        ManifestDifference(entry, repr(before), repr(now))
        for entry, before, now in pairs
        if entry.split(".")[0] not in _INCIDENTAL
    )


def _column(first: Episode, second: Episode, name: str, count: int) -> ColumnDifference | None:
    before, now = getattr(first.ticks, name)[:count], getattr(second.ticks, name)[:count]
    if not count:
        return None
    bytes_before, bytes_now = (np.ascontiguousarray(array).view(np.uint8).reshape(count, -1) for array in (before, now))
    unequal = (bytes_before != bytes_now).any(axis=1)
    if not unequal.any():
        return None
    column = columns(TickTable)[name]
    largest = float("nan")
    if column.dtype != "|u1":
        distance = np.abs(before.astype(np.float64) - now.astype(np.float64))
        largest = float(np.nanmax(distance)) if np.isfinite(distance).any() else float("nan")
    index = int(np.argmax(unequal))
    tick = int(first.ticks.tick[index])
    return ColumnDifference(name, stage_of(name), int(unequal.sum()), tick, largest, column.unit)


def _first(first: Episode, second: Episode, item: ColumnDifference) -> Divergence:
    index = int(np.flatnonzero(first.ticks.tick == item.first_tick)[0])
    before = np.atleast_1d(getattr(first.ticks, item.field)[index])
    now = np.atleast_1d(getattr(second.ticks, item.field)[index])
    at = int(np.flatnonzero([a.tobytes() != b.tobytes() for a, b in zip(before, now, strict=True)])[0])
    label = f"{item.field}[{at}]" if len(before) > 1 else item.field
    return Divergence(item.first_tick, label, repr(before[at].item()), repr(now[at].item()), item.stage)
