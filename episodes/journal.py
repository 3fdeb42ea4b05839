"""The recording journal: one append-only file of framed records, each linked to the one before by a digest.

An episode is recorded here and turned into plain zarr when it is closed. A process that is killed leaves a journal
whose valid prefix is the episode.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from episodes.errors import EpisodeError
from episodes.schema import DIGEST_BYTES

JOURNAL_NAME = "journal.bin"
RESERVE_NAME = "reserve.bin"
RESERVE_BYTES = 64 * 1024  # room on a full disk to say that it was full, and how the episode ended
_MAGIC = b"VEJ1"
_HEADER = struct.Struct(f"<4sB3xQ{DIGEST_BYTES}s")  # magic, kind, length of payload, digest


class Kind(IntEnum):
    """Kinds of records."""

    MANIFEST = 1  # opening manifest, JSON
    MODEL = 2  # model XML
    INITIAL_STATE = 3  # float64
    BLOCK = 4  # <I length of events> events rows
    CHUNK = 5  # <q tick> chunk
    OBSERVATION = 6  # <q index> <I length of JSON> JSON, float64
    IMAGE = 7  # see images.py; on the wire the pixels are raw, in the journal compressed
    LABEL = 8  # <q stamp> <I rows> <I dims> int64
    KEYFRAME = 9  # <q tick> float64
    END = 10  # outcome, JSON
    MEMORY = 11  # <q tick> the loop's memory, JSON
    FAULT = 12  # a time in which nothing could be written, JSON


Payload = bytes | bytearray | memoryview


def _digest(previous: bytes, kind: int, payload: Payload) -> bytes:
    state = hashlib.blake2b(previous, digest_size=DIGEST_BYTES)
    state.update(struct.pack("<BQ", kind, len(payload)))
    state.update(payload)
    return state.digest()


class JournalFile:
    """Appends records. Every write goes to an explicit offset, so an interrupted one is simply written again."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal at ``path`` and continue after its last valid record."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._lock()
        journal = read_journal(path)
        self._end: tuple[int, bytes] = (journal.valid_bytes, journal.digest)
        os.ftruncate(self._fd, journal.valid_bytes)

    def _lock(self) -> None:
        # On a file system without locks readers cannot tell that the recording is live.
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(self, kind: Kind, payload: Payload) -> None:
        """Append one record, or nothing.

        Raises:
            OSError: The disk does not take it; the journal is as it was, and the next record may be tried.
        """
        offset, previous = self._end
        digest = _digest(previous, kind, payload)
        header = _HEADER.pack(_MAGIC, kind, len(payload), digest)
        total = _HEADER.size + len(payload)
        try:
            written = os.pwritev(self._fd, [header, payload], offset)
            while written < total:
                rest = (header + bytes(payload))[written:]
                written += os.pwrite(self._fd, rest, offset + written)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, offset)  # half a record takes the room that the next one may fit into
            raise
        self._end = (offset + total, digest)

    @property
    def length(self) -> int:
        """Bytes of whole records."""
        return self._end[0]

    def sync(self) -> None:
        """Push everything to the disk (needed against power loss, not against a killed process)."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Release the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Reserve:
    """Room set aside beside a journal, given back when the disk is full."""

    def __init__(self, folder: Path) -> None:
        """Take the room; a disk that has none to spare, or cannot promise any, is no error."""
        self._path = folder / RESERVE_NAME
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                if sys.platform == "linux":
                    os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Journal:
    """The valid prefix of a journal.

    Attributes:
        records: Kind and payload of each record, in order.
        digest: Digest of the last record.
        valid_bytes: Length of the valid prefix.
        lost_bytes: What follows it: a record that was cut off, or damage.
    """

    records: tuple[tuple[Kind, memoryview], ...]
    digest: bytes
    valid_bytes: int
    lost_bytes: int


def read_journal(path: Path) -> Journal:
    """Read every record up to the first that is cut off or damaged."""
    try:
        data = _map(path)
    except OSError as error:
        raise EpisodeError(str(path), "a readable journal", str(error), "check the path and its permissions") from error
    records: list[tuple[Kind, memoryview]] = []
    offset, digest = 0, bytes(DIGEST_BYTES)
    while offset + _HEADER.size <= len(data):
        magic, kind, length, expected = _HEADER.unpack_from(data, offset)
        end = offset + _HEADER.size + length
        if magic != _MAGIC or end > len(data):
            break
        payload = data[offset + _HEADER.size : end]
        if _digest(digest, kind, payload) != expected:
            break
        records.append((Kind(kind), payload))
        offset, digest = end, expected
    return Journal(tuple(records), digest, offset, len(data) - offset)


def _map(path: Path) -> memoryview:
    """The file's content, paged in as needed: the journal of a long episode does not fit the memory."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def is_live(path: Path) -> bool:
    """Whether some process is still recording into this journal."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)
