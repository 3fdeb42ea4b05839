"""Sequence locks: one writer, any number of readers, nobody waits.

A slot is ``[sequence][checksum][payload]``. The sequence is odd while the writer is inside. A writer that dies in there
leaves it odd, or leaves a checksum that does not fit: the reader sees a torn message and goes on. There is no lock
that a dead process could hold.
"""

from __future__ import annotations

import hashlib

from safety.process.memory import Segment

_HEAD = 16
_MASK = (1 << 64) - 1
_ATTEMPTS = 3


def slot_size(payload: int) -> int:
    """Bytes of a slot for ``payload`` bytes, aligned to a cache line."""
    return -(-(payload + _HEAD) // 64) * 64


class Slot:
    """One message in shared memory.

    Attributes:
        torn: Distinct torn messages seen by this reader.
    """

    def __init__(self, segment: Segment, offset: int, payload: int, key: bytes) -> None:
        """Bind to a place.

        Args:
            segment: Where.
            offset: Of the slot, bytes; a multiple of 64.
            payload: Size of the message, bytes.
            key: Of the checksum: the contract's.
        """
        self._words, self._view = segment.words, segment.view
        self._word = offset // 8
        self._checksum = slice(offset + 8, offset + _HEAD)
        self._payload = slice(offset + _HEAD, offset + _HEAD + payload)
        self._hash = hashlib.blake2b(digest_size=8, key=key)
        self.torn = 0
        self._torn_mark: tuple[int, bytes] | None = None

    def _digest(self, payload: bytes) -> bytes:
        digest = self._hash.copy()
        digest.update(payload)
        return digest.digest()

    def write(self, payload: bytes) -> None:
        """Replace the message. Only one process may do this at a time."""
        inside = self._words[self._word] | 1  # odd, whatever a predecessor left behind
        self._words[self._word] = inside
        self._view[self._payload] = payload
        self._view[self._checksum] = self._digest(payload)
        self._words[self._word] = (inside + 1) & _MASK

    def read(self) -> bytes | None:
        """The message, or None: never written, being written, or torn. Never waits."""
        before = 0
        checksum = b""
        for _ in range(_ATTEMPTS):
            before = self._words[self._word]
            payload = bytes(self._view[self._payload])
            checksum = bytes(self._view[self._checksum])
            if before & 1 == 0 and self._words[self._word] == before:
                if before == 0 and checksum == bytes(8):
                    return None
                if checksum == self._digest(payload):
                    self._torn_mark = None
                    return payload
        if (before, checksum) != self._torn_mark:  # the same wreck is counted once
            self._torn_mark = (before, checksum)
            self.torn += 1
        return None


class Ring:
    """The newest ``capacity`` messages of one writer; readers that fall behind lose the oldest, and can count them."""

    def __init__(self, segment: Segment, head: int, offset: int, payload: int, capacity: int, key: bytes) -> None:
        """Bind to a place.

        Args:
            segment: Where.
            head: Index of the 64-bit word that counts messages.
            offset: Of the first slot, bytes; a multiple of 64.
            payload: Size of a message, bytes.
            capacity: Messages kept.
            key: Of the checksums.
        """
        stride = slot_size(payload)
        self._words, self._head = segment.words, head
        self.capacity = capacity
        self._slots = [Slot(segment, offset + index * stride, payload, key) for index in range(capacity)]

    @staticmethod
    def size(payload: int, capacity: int) -> int:
        """Bytes that the slots take."""
        return slot_size(payload) * capacity

    @property
    def count(self) -> int:
        """Messages written so far."""
        return self._words[self._head]

    def append(self, payload: bytes) -> None:
        """Add a message."""
        count = self.count
        self._slots[count % self.capacity].write(payload)
        self._words[self._head] = count + 1

    def get(self, index: int) -> bytes | None:
        """Message number ``index``; None if it is overwritten, or just being so. The message carries its number."""
        return self._slots[index % self.capacity].read()
