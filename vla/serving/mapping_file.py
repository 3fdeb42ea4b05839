"""Mapping files: YAML, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import yaml

from controllers.names import unknown_name
from vla.serving.entries import entries_of, listed, named, number, typed
from vla.serving.fields import MappingError, StateField
from vla.serving.mapping import ActionMapping, ImageKey, ObservationMapping, RemoteMapping

_FOLDER = Path(__file__).parent / "mappings"


def built_in_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_mapping(name: str | Path) -> RemoteMapping:
    """Read a mapping: a built-in name, or the path of a file; docs/serving.md explains the entries.

    Raises:
        MappingError: No such mapping, not YAML, or an unknown, missing or mistyped entry.
    """
    path = _FOLDER / f"{name}.yaml" if str(name) in built_in_mappings() else Path(name)
    if not path.is_file():
        raise MappingError(unknown_name("mapping", str(name), built_in_mappings()) + ", or the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MappingError(f"{path}: cannot read the mapping: {error}") from error
    try:
        return parse_mapping(data)
    except MappingError as error:
        raise MappingError(f"{path}: {error}") from None


def parse_mapping(data: object) -> RemoteMapping:
    """Build a mapping from what the YAML file holds.

    Raises:
        MappingError: An unknown, missing or mistyped entry.
    """
    top = entries_of("mapping", data, ("observation",), ("actions",))
    seen = entries_of("observation", top["observation"], ("images", "state"), ("prompt", "joints"))
    images = []
    for key, entry in named("observation.images", seen["images"]).items():
        place = f"observation.images.{key}"
        image = entries_of(place, entry, ("camera",), ("size", "rotate_180"))
        images.append(
            ImageKey(
                key,
                typed(f"{place}.camera", image["camera"], str),
                typed(f"{place}.size", image.get("size", 0), int),
                typed(f"{place}.rotate_180", image.get("rotate_180", False), bool),
            )
        )
    state = {
        key: tuple(_part(f"observation.state.{key}", item) for item in listed(f"observation.state.{key}", parts))
        for key, parts in named("observation.state", seen["state"]).items()
    }
    observation = ObservationMapping(
        tuple(images),
        state,
        typed("observation.prompt", seen.get("prompt", "prompt"), str),
        typed("observation.joints", seen.get("joints", 0), int),
    )
    return RemoteMapping(observation, _actions(top.get("actions", {})))


def _actions(data: object) -> ActionMapping:
    entry = entries_of("actions", data, (), ("key", "scale", "offset", "rows"))
    rows = entry.get("rows", "exact")
    if rows not in ("exact", "first"):
        raise MappingError(f"actions.rows: expected exact or first, found {rows!r}")
    return ActionMapping(
        typed("actions.key", entry.get("key", "actions"), str),
        tuple(number("actions.scale", item) for item in listed("actions.scale", entry.get("scale", []))),
        tuple(number("actions.offset", item) for item in listed("actions.offset", entry.get("offset", []))),
        cast(Literal["exact", "first"], rows),
    )


def _part(place: str, value: object) -> StateField:
    names = [part.value for part in StateField]
    if value not in names:
        raise MappingError(f"{place}: {unknown_name('part of the state', str(value), names)}")
    return StateField(value)
