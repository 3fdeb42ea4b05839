"""A ring of packets in shared memory: one process puts, another takes, and neither makes a system call for it.

A packet is in the ring as soon as the writer's count says so, and its place is free again as soon as the reader's
does: aligned 64-bit words, which are never torn. Not every processor shows one process's stores to another in order, so
a packet carries a checksum, and one that does not fit it yet is not there yet. A writer that is killed at any moment
leaves whole packets and nothing else, and those stay in memory until the reader has ended, too. The reader frees a
packet when it is done with it, so that another one, in place of one that was killed, finds it again.
"""

from __future__ import annotations

import struct
import zlib
from typing import Self

from controllers.shared_memory import PAGE, Segment

_WRITTEN, _READ = 0, 8  # words, on cache lines of their own
_DATA = PAGE
_HEAD = struct.Struct("<II")  # length, checksum
_WRAP = 0xFFFFFFFF  # in place of a length: the next packet is at the start


class PacketRing:
    """One end of the ring."""

    def __init__(self, segment: Segment) -> None:
        """Wrap a segment: a page of counts, and whole pages for packets."""
        self._segment = segment
        self._words = segment.words
        self._data = segment.view[_DATA:]
        self._size = len(self._data)
        self.cursor = self._words[_READ]
        """Where the reader is: everything before it has been taken."""

    @classmethod
    def create(cls, name: str, size: int) -> Self:
        """A new ring with room for ``size`` bytes, a multiple of the page; every page is in memory already."""
        segment = Segment.create(name, _DATA + size, only_mine=False)
        for offset in range(0, _DATA + size, PAGE):
            segment.view[offset] = 0
        return cls(segment)

    @classmethod
    def of(cls, fd: int) -> Self:
        """The other end, from the descriptor that was passed on."""
        return cls(Segment.map(fd, writable=True))

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return self._segment.fd

    def put(self, header: bytes, data: memoryview) -> bool:
        """Put a packet, the header first; False where there is no room for it now.

        Raises:
            ValueError: It is larger than half the ring, and might never find room.
        """
        length = len(header) + len(data)
        span = _span(length)
        if span > self._size // 2:
            raise ValueError(f"expected a packet of at most {self._size // 2 - _HEAD.size} bytes, found {length}")
        written = self._words[_WRITTEN]
        place = written % self._size
        left = self._size - place
        skipped = left if span > left else 0
        if written + skipped + span - self._words[_READ] > self._size:
            return False
        target = self._data
        if skipped:
            _HEAD.pack_into(target, place, _WRAP, 0)
            place = 0
        _HEAD.pack_into(target, place, length, zlib.crc32(data, zlib.crc32(header)))
        start = place + _HEAD.size
        middle = start + len(header)
        target[start:middle] = header
        target[middle : start + length] = data
        self._words[_WRITTEN] = written + skipped + span
        return True

    @property
    def freed(self) -> int:
        """Up to where the reader is done with packets: where another reader would begin."""
        return self._words[_READ]

    def free(self, cursor: int) -> None:
        """Done with all packets before ``cursor``; their room is the writer's again."""
        self.cursor = max(self.cursor, cursor)
        self._words[_READ] = cursor

    def take(self) -> bytes | None:
        """The next packet, header and data; None while there is none that can be seen whole.

        Its room stays taken until :meth:`free`, unless half the ring waits for that: a long record has to get through.
        """
        read = self.cursor
        if read == self._words[_WRITTEN]:
            return None
        place = read % self._size
        length, checksum = _HEAD.unpack_from(self._data, place)
        if length == _WRAP:
            read += self._size - place
            place = 0
            length, checksum = _HEAD.unpack_from(self._data)
        start = place + _HEAD.size
        packet = bytes(self._data[start : start + length])
        if len(packet) != length or zlib.crc32(packet) != checksum:
            return None
        self.cursor = read + _span(length)
        if self.cursor - self._words[_READ] > self._size // 2:
            self.free(self.cursor)
        return packet

    def close(self) -> None:
        """Unmap."""
        self._data.release()
        self._segment.close()


def _span(length: int) -> int:
    """Bytes that a packet takes up: its head before it, and aligned, so that a head never wraps."""
    return -(-(_HEAD.size + length) // 8) * 8
