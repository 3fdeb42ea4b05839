"""A stretch of a long episode, loaded without the rest: what a replay needs to begin at a key frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.integrity import broken_ticks, genesis
from episodes.schema import rows_from_table
from episodes.sources import Array, ArraySource

_EVENT_TEXT = "events/message_data"  # offsets stay valid, so the text is kept whole


class _WindowSource:
    """Arrays of a store, cut to the ticks ``first`` to ``last`` (its rows), events and chunks likewise."""

    def __init__(self, source: ArraySource, start: int, stop: int, first: int, last: int) -> None:
        self._source = source
        self._ticks = slice(start, stop)
        self._first, self._last = first, last
        self._events: slice | None = None

    def array(self, name: str) -> Array:
        """The array, cut."""
        group, _, column = name.partition("/")
        if group == "ticks":
            return self._source.rows(name, self._ticks.start, self._ticks.stop)
        if group == "events" and name != _EVENT_TEXT:
            if self._events is None:
                ticks = self._source.array("events/tick")
                ends = (np.searchsorted(ticks, self._first), np.searchsorted(ticks, self._last, side="right"))
                self._events = slice(int(ends[0]), int(ends[1]))
            return self._source.rows(name, self._events.start, self._events.stop)
        del column
        return self._source.array(name)

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows of the cut array."""
        return self.array(name)[start:stop]

    def frames(self, camera: str, start: int, stop: int) -> Array:
        """Pictures."""
        return self._source.frames(camera, start, stop)

    def kept(self, camera: str, start: int, stop: int) -> list[bytes]:
        """Pictures, as kept."""
        return self._source.kept(camera, start, stop)

    def attributes(self, group: str) -> Mapping[str, object]:
        """Attributes of a group."""
        return self._source.attributes(group)


def window(episode: Episode, start: int, stop: int) -> Episode:
    """The ticks ``start`` to ``stop`` (indices, the latter excluded) of an episode as an episode of its own.

    Its checksums are over whole arrays and are not checked; the hash chain over these ticks is.

    Raises:
        EpisodeError: No such ticks, or the chain over them is broken.
    """
    source = episode.source
    numbers = source.rows("ticks/tick", start, stop)
    if start < 0 or not len(numbers):
        raise EpisodeError(str(episode.path), f"ticks {start} to {stop}", "none there", "choose ticks of the episode")
    cut = _WindowSource(source, start, start + len(numbers), int(numbers[0]), int(numbers[-1]))
    part = Episode(episode.path, episode.manifest, cut, episode.integrity, live=episode.live, check=False)
    broken = broken_in(part, None if start == 0 else source.rows("ticks/chain", start - 1, start)[0].tobytes())
    if broken >= 0:
        raise EpisodeError(
            f"{episode.path}: tick {broken}",
            "a link of the hash chain over all that the tick logged",
            "another digest",
            "the tick was changed after recording; episodes.verification.verify tells which field",
        )
    return part


def broken_in(part: Episode, previous: bytes | None) -> int:
    """Number of the first tick of a window whose link is broken, -1 for none; ``previous`` is the link before."""
    manifest = part.manifest
    root = genesis(manifest, part.model_xml, part.physics.initial_state) if previous is None else previous
    rows = rows_from_table(part.ticks, manifest.joints, manifest.format_version)
    chunks = [(tick, record) for tick, record in part.chunk_records if rows["tick"][0] <= tick <= rows["tick"][-1]]
    broken = broken_ticks(root, part.array("ticks/chain"), rows, part.events, chunks)
    return int(part.ticks.tick[broken[0]]) if broken else -1
