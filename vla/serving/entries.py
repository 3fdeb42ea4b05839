"""Reading what YAML holds, strictly: every error names the place, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from controllers.names import unknown_name
from vla.serving.fields import MappingError
from vla.serving.mapping import described


def entries_of(place: str, data: object, required: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    """The entries of a map that may have these and must have those.

    Raises:
        MappingError: An unknown or missing entry.
    """
    found = named(place, data)
    for key in found:
        if key not in required + optional:
            raise MappingError(f"{place}: {unknown_name('entry', key, required + optional)}")
    missing = [key for key in required if key not in found]
    if missing:
        raise MappingError(f"{place}: missing {', '.join(missing)}")
    return found


def named(place: str, data: object) -> Mapping[str, Any]:
    """A map of text to anything.

    Raises:
        MappingError: Something else.
    """
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise MappingError(f"{place}: expected entries by name, found {described(data)}")
    return data


def listed(place: str, data: object) -> list[Any]:
    """A list.

    Raises:
        MappingError: Something else.
    """
    if not isinstance(data, list):
        raise MappingError(f"{place}: expected a list, found {described(data)}")
    return data


def typed[T](place: str, value: object, kind: type[T]) -> T:
    """A value of one type; a boolean is no number.

    Raises:
        MappingError: A value of another type.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise MappingError(f"{place}: expected {kind.__name__}, found {value!r}")
    return value


def number(place: str, value: object) -> float:
    """A finite number.

    Raises:
        MappingError: Something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
        raise MappingError(f"{place}: expected finite numbers, found {value!r}")
    return float(value)
