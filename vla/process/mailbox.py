"""A ring of messages in shared memory: one writer, any number of readers, nobody waits.

Each slot is a sequence lock: ``[sequence][number][length][crc32]`` and the payload. The sequence is odd while the
writer is inside. A writer that was killed in there leaves it odd, or a checksum that does not fit: the message is then
missing, and nothing is stuck. A reader that falls behind by more than the slots loses the oldest messages.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from controllers.shared_memory import Segment

_LINE = 64  # bytes of a cache line
_SEQUENCE, _NUMBER, _LENGTH, _CHECKSUM = range(4)  # words of a slot's head
_MASK = (1 << 64) - 1
_ATTEMPTS = 2

Buffer = bytes | bytearray | memoryview


class MessageTooLargeError(ValueError):
    """A message does not fit into a slot."""


class Mailbox:
    """The newest messages of one writer. Messages are numbered from 1.

    Attributes:
        capacity: Largest message, bytes.
        slots: Messages kept.
        torn: Messages that this reader found cut off or damaged.
    """

    def __init__(self, segment: Segment, offset: int, capacity: int, slots: int) -> None:
        """Bind to a place.

        Args:
            segment: Where.
            offset: Of the mailbox, bytes; a multiple of 64.
            capacity: Largest message, bytes.
            slots: Messages kept.
        """
        self._words, self._view = segment.words, segment.view
        self._count = offset // 8
        self._first = offset + _LINE
        self._stride = _stride(capacity)
        self.capacity, self.slots = capacity, slots
        self.torn = 0

    @staticmethod
    def size(capacity: int, slots: int) -> int:
        """Bytes that a mailbox takes."""
        return _LINE + slots * _stride(capacity)

    @property
    def count(self) -> int:
        """Number of the newest message, 0 before the first."""
        return self._words[self._count]

    def write(self, parts: Sequence[Buffer]) -> int:
        """Add a message made of ``parts``, one after the other. Only one thread of one process may do this.

        Returns:
            Its number.

        Raises:
            MessageTooLargeError: It does not fit.
        """
        length = sum(len(part) for part in parts)
        if length > self.capacity:
            raise MessageTooLargeError(f"expected a message of at most {self.capacity} bytes, found {length} bytes")
        number = self.count + 1
        at = self._first + number % self.slots * self._stride
        head = at // 8
        words, view = self._words, self._view
        inside = words[head] | 1  # odd, whatever a predecessor left behind
        words[head + _SEQUENCE] = inside
        words[head + _NUMBER], words[head + _LENGTH] = number, length
        position, checksum = at + _LINE, _seed(number)
        for part in parts:
            view[position : position + len(part)] = part
            checksum = zlib.crc32(part, checksum)
            position += len(part)
        words[head + _CHECKSUM] = checksum
        words[head + _SEQUENCE] = (inside + 1) & _MASK
        words[self._count] = number
        return number

    def read(self, number: int) -> bytearray | None:
        """A copy of message ``number``; None if it is overwritten, or just being so, or torn. Never waits.

        Whatever bytes are in the segment, it raises nothing.
        """
        at = self._first + number % self.slots * self._stride
        head = at // 8
        words = self._words
        for _ in range(_ATTEMPTS):
            before, length = words[head + _SEQUENCE], words[head + _LENGTH]
            if before & 1 or words[head + _NUMBER] != number or length > self.capacity:
                continue
            payload = bytearray(self._view[at + _LINE : at + _LINE + length])
            checksum = words[head + _CHECKSUM]
            if words[head + _SEQUENCE] == before and zlib.crc32(payload, _seed(number)) == checksum:
                return payload
        self.torn += words[head + _NUMBER] == number
        return None

    def since(self, number: int) -> range:
        """Numbers of the messages after ``number`` that may still be there.

        Raises:
            ValueError: The count went backwards: this memory was scribbled over.
        """
        count = self.count
        if count < number:
            raise ValueError(f"expected at least {number} messages, found {count}: the memory was overwritten")
        return range(max(number, count - self.slots) + 1, count + 1)


def _seed(number: int) -> int:
    """Start of the checksum: it covers the number too, so that a message never passes for another one."""
    return zlib.crc32(number.to_bytes(8, "little"))


def _stride(capacity: int) -> int:
    return _LINE + -(-capacity // _LINE) * _LINE
