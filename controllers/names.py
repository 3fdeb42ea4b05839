"""Error texts for names that do not exist: list the valid ones, propose the nearest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name_hint(name: str, valid: Iterable[str]) -> str:
    """Text that proposes the valid name closest to a mistyped one; empty when none is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """A whole message: what is unknown, the nearest valid name, and all valid names."""
    names = list(valid)
    return f"unknown {kind} {name!r}{nearest_name_hint(name, names)} (valid: {', '.join(names)})"
