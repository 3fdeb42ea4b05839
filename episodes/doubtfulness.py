"""The doubt of recorded episodes: what each chunk's was, when it came, and how the episode ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from controllers.doubt import DoubtMeasure
from controllers.types import FloatArray, frozen_array
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.report.doubt import doubt_column


class Summary(Enum):
    """How the doubts of an episode's chunks become one number."""

    MEAN = "mean"
    MAX = "max"

    def of(self, values: FloatArray) -> float:
        """The number; ``values`` (N,) holds at least one."""
        return float(values.mean() if self is Summary.MEAN else values.max())


@dataclass(frozen=True, slots=True)
class EpisodeDoubt:
    """One episode.

    Attributes:
        task: Its task.
        seed: Its seed.
        success: Whether it succeeded.
        duration_s: How long it lasted, s.
        time_s: (N,) when each chunk arrived, s from the start.
        values: (N,) doubt by chunk for each measure that all chunks tell.
    """

    task: str
    seed: int
    success: bool
    duration_s: float
    time_s: FloatArray
    values: dict[DoubtMeasure, FloatArray]

    def until(self, end_s: float) -> EpisodeDoubt:
        """Only what had arrived ``end_s`` s after the start; the first chunk in any case."""
        count = max(1, int(np.searchsorted(self.time_s, end_s, side="right")))
        values = {measure: column[:count] for measure, column in self.values.items()}
        return EpisodeDoubt(self.task, self.seed, self.success, self.duration_s, self.time_s[:count], values)


def episode_doubt(episode: Episode) -> EpisodeDoubt | None:
    """The doubt of an episode; None where it has no outcome or its policy told no doubt."""
    manifest, chunks = episode.manifest, episode.chunks
    outcome = manifest.outcome
    known = np.isfinite(chunks.doubt_mean_probability)
    if outcome is None or outcome.success is None or not known.any():
        return None
    period_s = 1.0 / manifest.control_rate_hz
    first = int(episode.ticks.tick[0])
    columns = {measure: doubt_column(chunks, measure)[known] for measure in DoubtMeasure}
    return EpisodeDoubt(
        manifest.task,
        manifest.seed,
        outcome.success,
        len(episode) * period_s,
        frozen_array((chunks.arrival_tick[known] - first) * period_s),
        {measure: frozen_array(column) for measure, column in columns.items() if np.isfinite(column).all()},
    )


def read_doubts(folders: Sequence[Path]) -> list[EpisodeDoubt]:
    """The doubts of all episodes in some folders, by task and seed.

    Raises:
        EpisodeError: No episode tells its doubt; or one cannot be read.
    """
    paths = sorted(path for folder in folders for path in folder.rglob("*.zarr"))
    found = [doubt for path in paths if (doubt := episode_doubt(open_episode(path))) is not None]
    if not found:
        raise EpisodeError(
            ", ".join(map(str, folders)),
            "episodes with an outcome whose policy told its doubt (format version 3)",
            f"{len(paths)} episodes, none of them like that",
            "record some with `vla eval --policy compact --record all`",
        )
    return sorted(found, key=lambda item: (item.task, item.seed))


def halves(episodes: Sequence[EpisodeDoubt]) -> tuple[list[EpisodeDoubt], list[EpisodeDoubt]]:
    """Every other seed of each task to fit, the rest held out; in the order of the seeds."""
    fitting: list[EpisodeDoubt] = []
    held_out: list[EpisodeDoubt] = []
    for task in sorted({item.task for item in episodes}):
        mine = sorted((item for item in episodes if item.task == task), key=lambda item: item.seed)
        fitting += mine[::2]
        held_out += mine[1::2]
    return fitting, held_out
