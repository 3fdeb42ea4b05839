"""Narrowing of parsed JSON, which may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

JsonDict = Mapping[str, object]


def as_mapping(value: object) -> JsonDict:
    """``value`` if it is a JSON object, else an empty one."""
    return cast(JsonDict, value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[object] | None:
    """``value`` if it is a JSON list, else None."""
    return cast(list[object], value) if isinstance(value, list) else None
