"""Compares re-executed ticks with recorded ones, a block at a time, and names the first difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from episodes.episode import Episode
from episodes.packing import EventRow, TickPacker, decode_events, encode_event
from episodes.schema import ENUMERATIONS, EventKind, RowArray, TickTable, columns

_STAGES = (
    (("executor_", "target_", "request_", "commanded_"), "executor"),
    (("command_",), "controller"),
    (("safety_", "applied_", "event_rows"), "safety"),
)
_EVENT_FIELDS = frozenset({"event_rows"})


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first difference between recording and replay.

    Attributes:
        tick: Tick, -1 for what holds for the whole episode.
        field: Field, with an index in brackets.
        recorded: The recorded value.
        replayed: The value found now.
        stage: Where in the tick it is: what was sensed or came in (``"input"``), what the ``"executor"``, the
            ``"controller"`` or the ``"safety"`` filter made of it; empty for what is no tick's.
        inputs: Inputs of the same tick that differ, too. With none, the tick got what it had got and did otherwise.
    """

    tick: int
    field: str
    recorded: str
    replayed: str
    stage: str = ""
    inputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for people."""
        place = "whole episode" if self.tick < 0 else f"tick {self.tick}"
        return f"{place}, {self.field}: recorded {self.recorded}, replayed {self.replayed}"


class BlockComparison:
    """Compares blocks of packed ticks with an episode's rows and events."""

    def __init__(self, episode: Episode) -> None:
        """Prepare the recorded side."""
        self._rows = episode.rows
        self._events = [encode_event(event) for event in episode.events]
        self._event_ticks = [event.tick for event in episode.events]
        self._position = 0
        self._itemsize = self._rows.dtype.itemsize
        self._bytes = self._rows.view(np.uint8)

    def compare(self, packer: TickPacker, start: int) -> Divergence | None:
        """Compare the packed block with the rows from ``start`` on; call it for consecutive blocks.

        Returns:
            The first difference in causal order, None when every bit is equal.
        """
        count = packer.count
        if not count:
            return None
        recorded = self._bytes[start * self._itemsize : (start + count) * self._itemsize]
        replayed = np.frombuffer(packer.block(), np.uint8)
        last_tick = int(self._rows["tick"][start + count - 1])
        begin = self._position
        while self._position < len(self._events) and self._event_ticks[self._position] <= last_tick:
            self._position += 1
        events = self._events[begin : self._position]
        if events == packer.events and np.array_equal(recorded, replayed):
            return None
        return self._locate(packer, start, events)

    def _locate(self, packer: TickPacker, start: int, events: list[bytes]) -> Divergence:
        event = _event_difference(events, packer.events)
        recorded, replayed = self._rows[start : start + packer.count], packer.rows
        width = self._itemsize
        unequal = (_bytes(recorded).reshape(-1, width) != _bytes(replayed).reshape(-1, width)).any(axis=1)
        if not unequal.any():
            assert event is not None
            return event
        index = int(np.argmax(unequal))
        tick = int(recorded["tick"][index])
        names = [name for name in columns(TickTable) if _differs(recorded[name][index], replayed[name][index])]
        if event is not None and (event.tick < tick or (event.tick == tick and _EVENT_FIELDS.issuperset(names))):
            return event
        found = _field_difference(tick, names[0], recorded[index], replayed[index])
        inputs = tuple(name for name in names if stage_of(name) == "input")
        return replace(found, stage=stage_of(names[0]), inputs=inputs)


def stage_of(name: str) -> str:
    """Which part of the tick a column belongs to."""
    for prefixes, stage in _STAGES:
        if name.startswith(prefixes):
            return stage
    return "input"


def _bytes(rows: RowArray) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(rows).view(np.uint8)


def _differs(recorded: Any, replayed: Any) -> bool:
    return np.asarray(recorded).tobytes() != np.asarray(replayed).tobytes()


def _field_difference(tick: int, name: str, recorded: Any, replayed: Any) -> Divergence:
    before, after = np.atleast_1d(recorded[name]), np.atleast_1d(replayed[name])
    if name == "physics_digest":
        return Divergence(tick, name, before.tobytes().hex(), after.tobytes().hex())
    index = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if _differs(a, b))
    label = f"{name}[{index}]" if columns(TickTable)[name].shape else name
    return Divergence(tick, label, _show(name, before[index]), _show(name, after[index]))


def _show(name: str, value: Any) -> str:
    members = ENUMERATIONS.get(name)
    if members is not None and name != "events" and int(value) < len(members):
        return str(tuple(members)[int(value)].value)
    return repr(value.item())


def _event_difference(recorded: list[bytes], replayed: list[bytes]) -> Divergence | None:
    """The first event that is not the same on both sides."""
    for before, after in zip(recorded, replayed, strict=False):
        if before != after:
            return _describe(_decode(before), _decode(after))
    if len(recorded) > len(replayed):
        return _describe(_decode(recorded[len(replayed)]), None)
    if len(replayed) > len(recorded):
        return _describe(None, _decode(replayed[len(recorded)]))
    return None


def _decode(data: bytes) -> EventRow:
    return next(decode_events(data))


def _describe(recorded: EventRow | None, replayed: EventRow | None) -> Divergence:
    sides = [side for side in (recorded, replayed) if side is not None]
    first = min(sides, key=lambda side: side.tick)
    if recorded is not None and replayed is not None and recorded.tick == replayed.tick:
        for name in ("kind", "name", "chunk_id", "value", "message"):
            before, after = getattr(recorded, name), getattr(replayed, name)
            if repr(before) != repr(after):
                field = f"events/{recorded.kind.value}.{name}"
                return Divergence(first.tick, field, _event_value(before), _event_value(after))
    before, after = (_summary(side, first.tick) for side in (recorded, replayed))
    return Divergence(first.tick, f"events/{first.kind.value}", before, after)


def _event_value(value: object) -> str:
    return str(value.value) if isinstance(value, EventKind) else repr(value)


def _summary(event: EventRow | None, tick: int) -> str:
    if event is None or event.tick != tick:
        return "none"
    return " ".join(filter(None, (event.kind.value, event.name, event.message)))
