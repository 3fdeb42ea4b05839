"""How records get from the loop to the recording process: in packets, each sent whole or not at all.

A packet carries a number, so that one whose sending was interrupted is simply sent again.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from episodes.journal import Kind, Payload

_PACKET = struct.Struct("<QBQQ")  # number, kind, offset of this part, length of the record
_PART_BYTES = 64 * 1024
_SOCKET_BYTES = 1 << 20
POLL_S = 0.01
"""How often either end looks again."""
PACKET_BYTES = _PACKET.size + _PART_BYTES
"""Longest packet."""


@dataclass(frozen=True, slots=True)
class _Part:
    header: bytes
    data: memoryview
    kind: Kind
    first: bool


class Way(Protocol):
    """What packets go through."""

    def put(self, header: bytes, data: memoryview) -> bool:
        """Put a packet; False where there is no room for it now.

        Raises:
            OSError: Nobody is at the other end.
        """
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class SocketWay:
    """A sequenced-packet socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)

    def put(self, header: bytes, data: memoryview) -> bool:
        """As of :class:`Way`."""
        try:
            self._socket.sendmsg((header, data))
        except BlockingIOError:
            return False
        return True

    def gone(self) -> bool:
        """Whether nobody is at the other end any more; nothing is ever sent from there."""
        try:
            return self._socket.recv(1) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Nothing more will come."""
        self._socket.close()


class Sender:
    """The loop's end of one way to the recorder."""

    def __init__(self, way: Way) -> None:
        """Send through ``way``."""
        self._way = way
        self._queue: deque[_Part] = deque()
        self._next = 0
        self.waiting_bytes = 0
        self.records = 0

    def put(self, kind: Kind, payload: Payload) -> None:
        """Queue a record. ``payload`` must not change any more."""
        view = memoryview(payload)
        total = len(view)
        self.records += 1
        for offset in range(0, max(total, 1), _PART_BYTES):
            part = view[offset : offset + _PART_BYTES]
            self._queue.append(_Part(_PACKET.pack(self._next, kind, offset, total), part, kind, offset == 0))
            self._next += 1
            self.waiting_bytes += len(part)

    def pump(self, budget: int = sys.maxsize) -> None:
        """Send what finds room, up to ``budget`` bytes."""
        queue = self._queue
        while queue and budget > 0:
            part = queue[0]
            if not self._way.put(part.header, part.data):
                return
            # Interrupted before the next line, the packet goes out twice; its number tells the recorder.
            queue.popleft()
            self.waiting_bytes -= len(part.data)
            budget -= len(part.data)

    def drain(self, recorder: SocketWay, deadline: float) -> None:
        """Send everything, waiting for the recorder."""
        while self._queue:
            self.pump()
            if self._queue:
                if recorder.gone():
                    raise BrokenPipeError("nobody reads any more")
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(POLL_S)

    def waiting(self, kind: Kind) -> int:
        """Records of a kind of which nothing has been sent yet."""
        return sum(part.kind is kind and part.first for part in self._queue)

    def close(self) -> None:
        """Nothing more will be sent."""
        self._way.close()


class Receiver:
    """The recorder's end of one way: puts parts together and skips repeated ones."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._next = 0
        self._record = bytearray()

    def receive(self, packet: memoryview) -> tuple[Kind, bytearray] | None:
        """Take one packet; a record when it is the last part of one."""
        number, kind, offset, total = _PACKET.unpack_from(packet)
        if number < self._next:
            return None
        self._next = number + 1
        if offset == 0:
            self._record = bytearray()
        elif offset != len(self._record):
            return None  # the parts before it went to a recorder that was killed
        self._record += packet[_PACKET.size :]
        return (Kind(kind), self._record) if len(self._record) == total else None
