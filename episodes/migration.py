"""From format version 1 to 2 and back: what the newer one added, and what it says of an older episode.

Nothing is rewritten on disk. An old episode is read as if it had been recorded today by a recorder that did not know
the added things; its hash chain is checked in the form in which it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

# Manifest entries that version 2 added, with what they are in an episode of version 1.
ADDED: Mapping[str, object] = {
    "statistics_hash": "",
    "keyframe_ticks": 0,
    "camera_profile": "lossless",
    "log_failure": "continue",
    "faults": {},
    "log_faults": [],
}


def upgraded(data: Mapping[str, object], version: int) -> dict[str, object]:
    """A manifest's JSON of ``version`` with all entries of the present one."""
    if version >= 2:
        return dict(data)
    architecture, _, system = str(data["machine"]).partition(" ")
    machine = {"architecture": architecture, "system": system}
    return {**ADDED, **data, "machine": machine}


def downgraded(data: Mapping[str, object], version: int) -> dict[str, object]:
    """The exact opposite of :func:`upgraded`: the seals of an old episode are over its old form."""
    if version >= 2:
        return dict(data)
    machine = cast(Mapping[str, str], data["machine"])
    kept = {name: value for name, value in data.items() if name not in ADDED}
    return {**kept, "machine": f"{machine['architecture']} {machine['system']}".strip()}
