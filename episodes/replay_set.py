"""Many episodes over worker processes, each re-executed whole and apart from what recorded it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.replay import ReplayParts, ReplayResult, replay

Rebuild = Callable[[Episode], ReplayParts[Any]]


@dataclass(frozen=True, slots=True)
class EpisodeReplay:
    """One episode's verdict.

    Attributes:
        episode: The store.
        seconds: Length of the recording.
        result: What replay found, None if the store could not be opened.
        error: Why it could not, else empty.
    """

    episode: str
    seconds: float
    result: ReplayResult | None
    error: str = ""

    @property
    def identical(self) -> bool:
        """Whether every compared bit was equal."""
        return self.result is not None and self.result.identical


def replay_one(path: Path, rebuild: Rebuild, waive: Collection[str] = ()) -> EpisodeReplay:
    """Open and re-execute one episode; what cannot be opened is a verdict, too."""
    try:
        episode = open_episode(path)
        seconds = len(episode.source.array("ticks/tick")) / episode.manifest.control_rate_hz
        return EpisodeReplay(str(path), seconds, replay(episode, rebuild, waive=waive))
    except EpisodeError as error:
        return EpisodeReplay(str(path), 0.0, None, str(error))


def replay_all(
    paths: Sequence[Path], rebuild: Rebuild, workers: int = 1, waive: Collection[str] = ()
) -> Iterator[EpisodeReplay]:
    """Re-execute many episodes, in their order.

    Args:
        paths: The stores.
        rebuild: A module's function, so that workers can import it.
        workers: Processes; 1 runs here.
        waive: See :func:`episodes.replay.replay`.
    """
    task = partial(replay_one, rebuild=rebuild, waive=tuple(waive))
    if workers <= 1:
        yield from map(task, paths)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(paths)), context) as pool:
        yield from pool.map(task, paths)
