"""The controller's segment: two slots, so that a controller killed inside one leaves the other whole."""

from __future__ import annotations

from typing import NamedTuple

from controllers.types import JointCommand, OperatorEvent
from safety.process.contract import EVENTS
from safety.process.memory import Segment
from safety.process.slots import Slot, slot_size
from safety.process.wire import MESSAGE_SIZE, CommandMessage, events_of

_OWNER = 0  # word: session of the controller that attached last
_SLOTS_AT = 64
_NO_EVENTS = (0,) * len(EVENTS)
INBOX_SIZE = _SLOTS_AT + 2 * slot_size(MESSAGE_SIZE)


def _slots(segment: Segment, key: bytes) -> tuple[Slot, Slot]:
    size = slot_size(MESSAGE_SIZE)
    return Slot(segment, _SLOTS_AT, MESSAGE_SIZE, key), Slot(segment, _SLOTS_AT + size, MESSAGE_SIZE, key)


class Taken(NamedTuple):
    """What the inbox gave on one tick.

    Attributes:
        command: The newest command that was not judged before; None if none came.
        events: Operator events since the last tick.
        attached: Another controller attached.
    """

    command: JointCommand | None
    events: tuple[OperatorEvent, ...]
    attached: bool


class InboxReader:
    """The kernel's side. Whatever is in the segment, it neither raises nor waits.

    Attributes:
        accepted: Messages handed out.
        foreign: Messages of a controller that was replaced.
        out_of_order: Messages stamped before one that was handed out already.
    """

    def __init__(self, segment: Segment, key: bytes, future_ns: int) -> None:
        """Read ``segment``; stamps more than ``future_ns`` ahead of the clock do not count as the newest."""
        self._segment = segment
        self._slots = _slots(segment, key)
        self._future_ns = future_ns
        self._owner = 0
        self._number = 0
        self._sent = _NO_EVENTS
        self._newest_ns = -1
        self._stranger = (0, 0)
        self.accepted = self.foreign = self.out_of_order = 0

    @property
    def torn(self) -> int:
        """Messages that were cut off or whose checksum did not fit."""
        return self._slots[0].torn + self._slots[1].torn

    def take(self, now_ns: int) -> Taken:
        """The newest message.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        owner = self._segment.words[_OWNER]
        attached = owner != self._owner
        if attached:
            self._owner, self._number, self._sent = owner, 0, _NO_EVENTS
        newest: CommandMessage | None = None
        for slot in self._slots:
            raw = slot.read()
            if raw is None:
                continue
            message = CommandMessage.unpack(raw)
            if message.session != owner:
                self._meet_stranger(message, attached)
            elif message.number > self._number and (newest is None or message.number > newest.number):
                newest = message
        if newest is None:
            return Taken(None, (), attached)
        self._number = newest.number
        events = events_of(self._sent, newest.events)
        self._sent = newest.events
        stamp = newest.command.stamp_ns
        if stamp < self._newest_ns:
            self.out_of_order += 1
            return Taken(None, events, attached)
        if stamp <= now_ns + self._future_ns:
            self._newest_ns = stamp
        self.accepted += 1
        return Taken(newest.command, events, attached)

    def _meet_stranger(self, message: CommandMessage, attached: bool) -> None:
        stranger = (message.session, message.number)
        if attached:  # what a replaced controller had sent before is not held against it
            self._stranger = max(self._stranger, stranger) if stranger[0] == self._stranger[0] else stranger
        elif stranger[0] != self._stranger[0] or stranger > self._stranger:
            self._stranger = stranger
            self.foreign += 1


class InboxWriter:
    """The controller's side."""

    def __init__(self, segment: Segment, key: bytes, session: int) -> None:
        """Attach: from now on the kernel listens to ``session`` only."""
        self._segment = segment
        self._slots = _slots(segment, key)
        self._session = session
        self._number = 0
        self._sent = [0] * len(EVENTS)
        segment.words[_OWNER] = session

    @property
    def replaced(self) -> bool:
        """Another controller attached since."""
        return self._segment.words[_OWNER] != self._session

    def send(self, command: JointCommand, events: tuple[OperatorEvent, ...]) -> None:
        """Hand in a candidate and operator events. Never waits."""
        for event in events:
            self._sent[EVENTS.index(event)] += 1
        self._number += 1
        message = CommandMessage(self._session, self._number, tuple(self._sent), command)
        self._slots[self._number % 2].write(message.pack())
