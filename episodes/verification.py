"""Finds damage in an episode and names it: which tick, which field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.integrity import array_checksum, broken_ticks, genesis, json_checksum, json_differences
from episodes.jsontypes import as_mapping
from episodes.manifest import Manifest
from episodes.schema import rows_from_table
from episodes.store import SEALED_MANIFEST

_FRAMES = 64  # pictures in memory at a time


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was recorded.

    Attributes:
        tick: Tick that it belongs to, -1 for what holds for the whole episode.
        field: Path of the array, or of the manifest entry.
        recorded: What was recorded (a checksum where the value itself is lost).
        found: What is there now.
    """

    tick: int
    field: str
    recorded: str
    found: str


def verify(episode: Episode, *, frames: bool = True) -> tuple[Damage, ...]:
    """Check the whole episode against its seals; empty when it is intact.

    Args:
        episode: The episode.
        frames: Decode and check every picture as well.

    A recording that was never closed has no seals besides the journal's own, which opening it has checked already.
    """
    if episode.integrity is None:
        return ()
    raw = episode.unchecked()
    pictures = _frame_damage(raw) if frames else ()
    return (*_manifest_damage(raw), *_array_damage(raw), *pictures)


def _seals(episode: Episode, key: str) -> Mapping[str, str]:
    seals = episode.integrity
    return cast(Mapping[str, str], seals.get(key, {})) if seals is not None else {}


def _sealed_manifest(episode: Episode) -> Manifest | Damage:
    """The manifest as it was sealed, or what is wrong with the seal."""
    expected = _seals(episode, "arrays").get(SEALED_MANIFEST, "")
    try:
        sealed = episode.array(SEALED_MANIFEST)
    except EpisodeError as error:
        return Damage(-1, SEALED_MANIFEST, expected, error.found)
    found = array_checksum(sealed)
    if found != expected:
        return Damage(-1, SEALED_MANIFEST, expected, found)
    return Manifest.from_json(as_mapping(json.loads(sealed.tobytes())), f"{episode.path}: {SEALED_MANIFEST}")


def _manifest_damage(episode: Episode) -> Iterator[Damage]:
    sealed = _sealed_manifest(episode)
    if isinstance(sealed, Damage):
        yield sealed
        return
    for path, before, now in json_differences(sealed.to_json(), episode.manifest.to_json(), "manifest"):
        yield Damage(-1, path, json.dumps(before), json.dumps(now))


def _array_damage(episode: Episode) -> Iterator[Damage]:
    wrong: list[Damage] = []
    unreadable = False
    for name, expected in _seals(episode, "arrays").items():
        if name == SEALED_MANIFEST:
            continue
        try:
            found = array_checksum(episode.array(name))
        except EpisodeError as error:
            found, unreadable = error.found, True
        if found != expected:
            wrong.append(Damage(-1, name, expected, found))
    for group, expected in _seals(episode, "attributes").items():
        found = json_checksum(episode.attributes(group))
        if found != expected:
            wrong.append(Damage(-1, f"{group} attributes", expected, found))
    if unreadable:
        yield from wrong
        return
    tick = _first_broken_tick(episode)
    for damage in wrong:
        chained = damage.field.startswith(("ticks", "events", "chunks"))
        yield Damage(tick if chained else -1, damage.field, damage.recorded, damage.found)
    if not wrong and tick >= 0:
        # The checksums were renewed along with the array: only the chain remembers.
        yield Damage(tick, "ticks/chain", "a link over all that the tick logged", "another digest")


def _first_broken_tick(episode: Episode) -> int:
    """Number of the first tick whose link is broken, -1 for none."""
    try:
        sealed = _sealed_manifest(episode)
        manifest = episode.manifest if isinstance(sealed, Damage) else sealed
        root = genesis(manifest, episode.model_xml, episode.physics.initial_state)
        chain = episode.array("ticks/chain")
        rows = rows_from_table(episode.ticks, manifest.joints, manifest.format_version)
        broken = broken_ticks(root, chain, rows, episode.events, episode.chunk_records)
    except (EpisodeError, ValueError, IndexError, UnicodeDecodeError):
        return -1
    # A changed model or initial state breaks the root and thereby the first link only.
    return int(episode.ticks.tick[broken[0]]) if broken else -1


def _frame_damage(episode: Episode) -> Iterator[Damage]:
    count = len(episode.array("observations/stamp_ns"))
    for camera in episode.cameras:
        for start in range(0, count, _FRAMES):
            try:
                frames = episode.frames(camera, start, min(start + _FRAMES, count))
                changed = [(index, f"digest {found}") for index, found in episode.changed_frames(camera, start, frames)]
            except EpisodeError as error:
                changed = [(start, error.found)]
            for index, found in changed:
                tick = int(episode.observations.tick[index])
                yield Damage(tick, f"observations/images/{camera}[{index}]", "the recorded picture", found)
