"""Shared memory between kernel and controllers.

Three segments, all made by the kernel:

* outbox: written by the kernel alone; sealed so that others can only map it for reading;
* inbox: written by the controller;
* button: written by whoever presses the emergency stop.

They are reached through ``/proc/<pid>/fd/<n>`` while the kernel lives, and vanish with their last user: nothing is left
behind by a process that was killed.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from controllers.shared_memory import Segment as SharedSegment
from safety.process.contract import KernelContract
from safety.process.errors import SafetyKernelError

_MAGIC = b"VLASAFE1"
# magic, version, joints, rate, robot, robot hash, profile, profile hash, mode, pid, inbox fd, button fd, capacities
_HEADER = struct.Struct("=8sqqq48s16s48s16s16sqqqqq")


class Segment(SharedSegment):
    """A mapped piece of the kernel's memory."""

    @staticmethod
    def open(path: str, *, writable: bool) -> Segment:
        """Map an existing segment.

        Raises:
            SafetyKernelError: There is none, or it may not be opened.
        """
        try:
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            return Segment.map(fd, writable=writable)
        except (OSError, ValueError) as error:
            raise SafetyKernelError(
                f"expected the memory of a running safety kernel at {path}, found none that can be opened ({error}); "
                "take the address from SafetyKernelProcess.address, as the same user"
            ) from error


@dataclass(frozen=True, slots=True)
class OutboxHeader:
    """What the outbox says about itself.

    Attributes:
        contract: What the kernel serves.
        pid: The kernel's process.
        inbox: Path of the controller's segment.
        button: Path of the emergency-stop segment.
        ring_ticks: Capacity of the ring of ticks.
        ring_events: Capacity of the ring of events.
    """

    contract: KernelContract
    pid: int
    inbox: str
    button: str
    ring_ticks: int
    ring_events: int


def write_header(
    outbox: Segment, contract: KernelContract, inbox: Segment, button: Segment, rings: tuple[int, int]
) -> None:
    """Fill in the outbox's header."""
    _HEADER.pack_into(
        outbox.view,
        0,
        _MAGIC,
        contract.version,
        contract.joints,
        contract.rate_hz,
        contract.robot.encode()[:48],
        contract.robot_hash.encode()[:16],
        contract.profile.encode()[:48],
        contract.profile_hash.encode()[:16],
        contract.mode.encode()[:16],
        os.getpid(),
        inbox.fd,
        button.fd,
        *rings,
    )


def read_header(outbox: Segment, address: str) -> OutboxHeader:
    """Read and check the outbox's header.

    Raises:
        SafetyKernelError: This is no safety kernel's memory.
    """
    raw = bytes(outbox.view[: _HEADER.size])
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        found = raw[: len(_MAGIC)]
        raise SafetyKernelError(f"{address}: expected the magic {_MAGIC!r}, found {found!r}: not a safety kernel")
    _, version, joints, rate, robot, robot_hash, profile, profile_hash, mode, pid, inbox, button, ticks, events = (
        _HEADER.unpack(raw)
    )
    contract = KernelContract(
        _text(robot), _text(robot_hash), _text(profile), _text(profile_hash), _text(mode), rate, joints, version
    )
    return OutboxHeader(contract, pid, f"/proc/{pid}/fd/{inbox}", f"/proc/{pid}/fd/{button}", ticks, events)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
