"""Which values of an episode survived a round trip through another format, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from episodes.chunks import DOUBT
from episodes.episode import Episode
from episodes.schema import ObservationTable, columns

# Numbers of ticks: a data set of observations has ticks of its own.
_RENUMBERED = frozenset({"tick", "instruction"})
_CHUNK_COLUMNS = (
    "tokens",
    "log_probability",
    "entropy",
    *(f"doubt_{name}" for name in DOUBT),
    "chunk_id",
    "observation_stamp_ns",
    "inference_ns",
    "inferred_ns",
    "accepted",
)


def observation_differences(before: Episode, after: Episode) -> Iterator[str]:
    """Names of what differs in the observations, pictures, chunks and labels of two episodes; none if all is equal.

    Codes are compared by what they stand for, ticks not at all.
    """
    for name in columns(ObservationTable):
        if name not in _RENUMBERED and not _same(getattr(before.observations, name), getattr(after.observations, name)):
            yield f"observations/{name}"
    count = len(before.observations.stamp_ns)
    if count != len(after.observations.stamp_ns):
        return
    if _instructions(before) != _instructions(after):
        yield "observations/instruction"
    if before.cameras != after.cameras:
        yield "observations/cameras"
        return
    for camera in before.cameras:
        if not _same(before.present(camera), after.present(camera)):
            yield f"observations/present/{camera}"
        if not _same(before.images(camera), after.images(camera)):
            yield f"observations/images/{camera}"
    for name in _CHUNK_COLUMNS:
        if not _same(getattr(before.chunks, name), getattr(after.chunks, name)):
            yield f"chunks/{name}"
    for name in ("stamp_ns", "tokens"):
        if not _same(getattr(before.labels, name), getattr(after.labels, name)):
            yield f"labels/{name}"


def _same(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()
    )


def _instructions(episode: Episode) -> list[str]:
    names = episode.attributes("observations")["instructions"]
    assert isinstance(names, list)
    return [str(names[code]) for code in episode.observations.instruction.tolist()]  # pyright: ignore[reportUnknownArgumentType]
