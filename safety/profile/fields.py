"""The kinds of entry that a profile section may have, checked by their metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from enum import Enum
from typing import Any, TypeVar, cast

from controllers.names import nearest_name_hint
from safety.profile.errors import SafetyProfileError

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]

_KIND = "kind"
_TIGHTER = "tighter"
_LARGEST_COORDINATE_M = 5.0  # farther from the base, a coordinate was written in another unit
_SHORTEST_DIRECTION = 1e-6

SectionT = TypeVar("SectionT")


class _Kind(Enum):
    NUMBER = "number"
    POSITION = "position"
    DIRECTION = "direction"
    QUATERNION = "quaternion"


class Tighter(Enum):
    """Which way a number makes a profile stricter."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


def number(lowest: float, highest: float, tighter: Tighter = Tighter.LOWER) -> Any:
    """A float field in a plausible range, stricter the lower it is unless said otherwise."""
    return field(metadata={_KIND: _Kind.NUMBER, "range": (lowest, highest), _TIGHTER: tighter})


def position() -> Any:
    """A field of three metres."""
    return field(metadata={_KIND: _Kind.POSITION})


def direction() -> Any:
    """A field that is a unit vector; written in any length."""
    return field(metadata={_KIND: _Kind.DIRECTION})


def quaternion() -> Any:
    """A field that is a unit quaternion (w, x, y, z); written in any length."""
    return field(metadata={_KIND: _Kind.QUATERNION}, default=(1.0, 0.0, 0.0, 0.0))


def ranges(kind: type[object]) -> dict[str, tuple[float, float]]:
    """The number fields of a section, and their plausible ranges."""
    entries = cast("tuple[Field[object], ...]", fields(cast(Any, kind)))
    return {entry.name: entry.metadata["range"] for entry in entries if entry.metadata.get(_KIND) is _Kind.NUMBER}


def looser_numbers(where: str, old: object, new: object) -> list[str]:
    """The number fields of a section, both of one dataclass, that are less strict in ``new`` than in ``old``."""
    found: list[str] = []
    for entry in cast("tuple[Field[object], ...]", fields(cast(Any, old))):
        tighter = entry.metadata.get(_TIGHTER, Tighter.NEITHER)
        before, after = getattr(old, entry.name), getattr(new, entry.name)
        if (tighter is Tighter.LOWER and after > before) or (tighter is Tighter.HIGHER and after < before):
            found.append(f"{where}.{entry.name}: {before:g} to {after:g}")
    return found


def parse_section(where: str, data: object, kind: type[SectionT], **given: object) -> SectionT:
    """Parse a mapping into a dataclass whose fields carry the kinds above.

    Args:
        where: Place, for messages.
        data: What the YAML holds.
        kind: The dataclass.
        given: Fields that are parsed already.

    Raises:
        SafetyProfileError: Unknown, missing or implausible entries.
    """
    section = mapping(where, data)
    entries = [entry for entry in cast("tuple[Field[object], ...]", fields(cast(Any, kind))) if entry.name not in given]
    required = tuple(entry.name for entry in entries if entry.default is MISSING)
    check_keys(where, section, tuple(entry.name for entry in entries), required)
    values = dict(given)
    for entry in entries:
        if entry.name in section:
            values[entry.name] = _value(where, entry, section[entry.name])
    return kind(**values)


def _value(where: str, entry: Field[object], value: object) -> object:
    kind = entry.metadata.get(_KIND)
    if kind is _Kind.NUMBER:
        lowest, highest = entry.metadata["range"]
        found = finite(where, entry.name, value)
        if not lowest <= found <= highest:
            raise SafetyProfileError(
                f"{where}: {entry.name}: expected {lowest:g} to {highest:g}, found {found:g}; mind the unit"
            )
        return found
    if kind is _Kind.POSITION:
        return coordinates(where, entry.name, value)
    if kind is _Kind.DIRECTION:
        return _unit(where, entry.name, vector(where, entry.name, value, "[x, y, z]"))
    if kind is _Kind.QUATERNION:
        return _unit(where, entry.name, vector(where, entry.name, value, "[w, x, y, z]"))
    return string(where, entry.name, value)


def json_of(value: object) -> object:
    """A JSON-ready copy: dataclasses become mappings, tuples lists, enums their values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [json_of(item) for item in cast("tuple[object, ...]", value)]
    if hasattr(value, "__dataclass_fields__"):
        return {entry.name: json_of(getattr(value, entry.name)) for entry in fields(cast(Any, value))}
    return value


# ------------------------------------------------------------------------------------------ single values


def check_keys(where: str, data: Mapping[str, object], keys: Sequence[str], required: Sequence[str]) -> None:
    """Refuse unknown and missing keys."""
    for key in data:
        if key not in keys:
            hint = nearest_name_hint(key, keys)
            raise SafetyProfileError(f"{where}: unknown key {key!r}{hint}; valid keys: {', '.join(keys)}")
    missing = [key for key in required if key not in data]
    if missing:
        raise SafetyProfileError(f"{where}: missing {', '.join(missing)}")


def mapping(where: str, value: object) -> Mapping[str, object]:
    """The value as a mapping."""
    if not isinstance(value, dict):
        raise SafetyProfileError(f"{where}: expected a mapping, found {type(value).__name__}")
    entries = cast("dict[object, object]", value)
    return {str(key): entry for key, entry in entries.items()}


def sequence(where: str, key: str, value: object) -> Sequence[object]:
    """The value as a list."""
    if not isinstance(value, list):
        raise SafetyProfileError(f"{where}: {key}: expected a list, found {type(value).__name__}")
    return cast("list[object]", value)


def string(where: str, key: str, value: object) -> str:
    """The value as a name."""
    if not isinstance(value, str) or not value:
        raise SafetyProfileError(f"{where}: {key}: expected a non-empty string, found {value!r}")
    return value


def finite(where: str, key: str, value: object) -> float:
    """The value as a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SafetyProfileError(f"{where}: {key}: expected a finite number, found {value!r}")
    return float(value)


def vector(where: str, key: str, value: object, expected: str) -> tuple[float, ...]:
    """The value as as many numbers as ``expected`` shows."""
    items = cast("list[object]", value) if isinstance(value, list) else None
    if items is None or len(items) != expected.count(",") + 1:
        raise SafetyProfileError(f"{where}: {key}: expected {expected}, found {value!r}")
    return tuple(finite(where, key, item) for item in items)


def coordinates(where: str, key: str, value: object) -> tuple[float, ...]:
    """The value as metres in the base frame."""
    found = vector(where, key, value, "[x, y, z]")
    for coordinate in found:
        if abs(coordinate) > _LARGEST_COORDINATE_M:
            raise SafetyProfileError(
                f"{where}: {key}: expected metres within {_LARGEST_COORDINATE_M:g} of the base, found {coordinate:g}: "
                "millimetres?"
            )
    return found


def _unit(where: str, key: str, found: tuple[float, ...]) -> tuple[float, ...]:
    length = math.hypot(*found)
    if length < _SHORTEST_DIRECTION:
        raise SafetyProfileError(f"{where}: {key}: expected a direction, found zero")
    if abs(length - 1.0) < 1e-12:  # a unit vector stays what it is, so that a hash survives a round trip
        return found
    return tuple(item / length for item in found)
