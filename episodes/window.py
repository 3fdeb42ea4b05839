"""A stretch of a long episode, loaded without the rest: what a replay needs to begin at a key frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.integrity import broken_ticks, genesis
from episodes.schema import rows_from_table
from episodes.sources import Array, ArraySource

# Offsets into these stay valid, so they are kept whole.
_WHOLE = ("events/message_data", "chunks/malformed_data")
_TICK_OF = {"events": "events/tick", "chunks": "chunks/arrival_tick"}


class _WindowSource:
    """Arrays of a store, cut to the ticks ``first`` to ``last`` (its rows), events and chunks likewise."""

    def __init__(self, source: ArraySource, start: int, stop: int, first: int, last: int) -> None:
        self._source = source
        self._ticks = slice(start, stop)
        self._first, self._last = first, last
        self._cuts: dict[str, slice] = {}

    def array(self, name: str) -> Array:
        """The array, cut."""
        group = name.partition("/")[0]
        if group == "ticks":
            return self._source.rows(name, self._ticks.start, self._ticks.stop)
        if group in _TICK_OF and name not in _WHOLE:
            cut = self._cut(group)
            return self._source.rows(name, cut.start, cut.stop)
        return self._source.array(name)

    def _cut(self, group: str) -> slice:
        """Rows of a table that belong to these ticks; rows are in the order of their ticks."""
        if group not in self._cuts:
            ticks = self._source.array(_TICK_OF[group])
            ends = (np.searchsorted(ticks, self._first), np.searchsorted(ticks, self._last, side="right"))
            self._cuts[group] = slice(int(ends[0]), int(ends[1]))
        return self._cuts[group]

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
        """Attributes of a group; those that name rows of chunks name the cut table's."""
        found = self._source.attributes(group)
        if group != "chunks":
            return found
        cut = self._cut(group)
        malformed = [
            {**entry, "row": int(entry["row"]) - cut.start}
            for entry in cast(list[dict[str, Any]], found.get("malformed", []))
            if cut.start <= int(entry["row"]) < cut.stop
        ]
        forced = {
            str(int(row) - cut.start): count
            for row, count in cast(dict[str, int], found.get("forced_rows", {})).items()
            if cut.start <= int(row) < cut.stop
        }
        return {**found, "malformed": malformed, "forced_rows": forced}


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
    broken = broken_ticks(root, part.array("ticks/chain"), rows, part.events, part.chunk_records)
    return int(part.ticks.tick[broken[0]]) if broken else -1
