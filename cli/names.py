"""Error texts for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def unknown_name(kind: str, found: str, valid: Sequence[str]) -> str:
    """A text that lists the valid names and the nearest one."""
    near = difflib.get_close_matches(found, valid, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {found!r}{hint} Valid: {', '.join(valid)}"
