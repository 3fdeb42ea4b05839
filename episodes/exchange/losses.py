"""What a target format does not keep: a typed list that every exporter returns, prints and writes beside its output."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path


class LossKind(Enum):
    """How a value changes on the way."""

    ABSENT = "absent"  # not in the target at all
    ROUNDED = "rounded"  # there, with fewer bits
    COMPRESSED = "compressed"  # there, after a lossy codec
    RESAMPLED = "resampled"  # there at other times or a lower rate
    TEXT = "text"  # there as words for people, not as the value


@dataclass(frozen=True, slots=True)
class Loss:
    """One thing that does not survive.

    Attributes:
        what: Array, table or property of the episode, e.g. ``"ticks/state_wrench"`` or ``"ticks"``.
        kind: How it changes.
        why: The reason, in words, with numbers where there are any.
    """

    what: str
    kind: LossKind
    why: str


def merged(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    """Each loss once, in order of appearance."""
    return tuple(dict.fromkeys(losses))


def losses_path(target: Path) -> Path:
    """Where the list for ``target`` goes: beside it."""
    return target.with_name(target.name + ".losses.json")


def write_losses(target: Path, losses: Iterable[Loss]) -> Path:
    """Write the list beside ``target`` as JSON; an empty list says that everything survived."""
    path = losses_path(target)
    rows = [{**asdict(loss), "kind": loss.kind.value} for loss in losses]
    path.write_text(json.dumps({"losses": rows}, indent=1) + "\n")
    return path
