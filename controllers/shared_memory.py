"""Shared memory: sealed anonymous files that no other process can shrink, and that vanish with their last user.

Nothing is left behind by a process that was killed: there are no names in ``/dev/shm``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Self

PAGE = 4096
_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; Python 3.12 does not name it


class Segment:
    """A mapped piece of shared memory.

    Attributes:
        view: All its bytes.
        words: The same bytes as aligned 64-bit words, whose loads and stores are not torn.
        fd: Its descriptor.
    """

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        """Map ``size`` bytes of ``fd``, which is closed with the segment."""
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.fd = fd
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, access)
        self.view = memoryview(self._map)
        self.words = self.view.cast("Q")

    @classmethod
    def create(cls, name: str, size: int, *, only_mine: bool) -> Self:
        """Make a segment of at least ``size`` bytes, zeroed.

        Args:
            name: For ``/proc`` listings.
            size: Bytes; rounded up to pages.
            only_mine: No other process may ever write it.
        """
        size = -(-size // PAGE) * PAGE
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        segment = cls(fd, size, writable=True)
        # A hostile process that shrank the file would end this one with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        if only_mine:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        return segment

    @classmethod
    def map(cls, fd: int, *, writable: bool) -> Self:
        """Map an existing segment's descriptor, which is closed with it.

        Raises:
            OSError: It may not be mapped like this.
            ValueError: It is empty.
        """
        return cls(fd, os.fstat(fd).st_size, writable=writable)

    def close(self) -> None:
        """Unmap. Safe to call twice."""
        if self.fd >= 0:
            self.words.release()
            self.view.release()
            self._map.close()
            os.close(self.fd)
            self.fd = -1
