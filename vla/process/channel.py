"""The memory and the wake-up calls that the loop shares with a process that answers it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

from controllers.shared_memory import Segment
from vla.process.mailbox import Mailbox

OBSERVATION_SLOTS = 3  # one being read, one being written, one between
REPLY_SLOTS = 8
REPLY_BYTES = 128 * 1024
_HEARTBEAT = 0  # word: CLOCK_MONOTONIC at the child's last sign of life, ns
_MAIL_AT = 64


class PassedFd:
    """A descriptor that is duplicated into the child when it is pickled for a new process; there it is an ``int``."""

    def __init__(self, fd: int) -> None:
        """Wrap ``fd``, which stays ours."""
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a duplicate."""
        return _detach, (reduction.DupFd(self._fd),)


def _detach(duplicate: Any) -> int:
    return duplicate.detach()


@dataclass(frozen=True, slots=True)
class ChildEnds:
    """What the child is given; the fields are plain descriptors once they have arrived there.

    Attributes:
        observations: Segment of observations.
        replies: Segment of replies.
        wake: Read end: a byte for every observation.
        notify: Write end: a byte for every reply.
        observation_bytes: Largest observation.
        reply_bytes: Largest reply.
    """

    observations: Any
    replies: Any
    wake: Any
    notify: Any
    observation_bytes: int
    reply_bytes: int


class Channel:
    """The loop's ends. Observations are written by the loop alone, replies by the child.

    Attributes:
        observations: Mailbox to the child; the newest message counts.
        replies: Mailbox from the child.
    """

    def __init__(self, observation_bytes: int, reply_bytes: int = REPLY_BYTES) -> None:
        """Make it.

        Args:
            observation_bytes: Largest observation, pictures included.
            reply_bytes: Largest reply.
        """
        self._observation_bytes, self._reply_bytes = observation_bytes, reply_bytes
        size = Mailbox.size(observation_bytes, OBSERVATION_SLOTS)
        self._out = Segment.create("policy-observations", size, only_mine=False)
        size = _MAIL_AT + Mailbox.size(reply_bytes, REPLY_SLOTS)
        self._in = Segment.create("policy-replies", size, only_mine=False)
        self.observations = Mailbox(self._out, 0, observation_bytes, OBSERVATION_SLOTS)
        self.replies = Mailbox(self._in, _MAIL_AT, reply_bytes, REPLY_SLOTS)
        self._wake_read, self._wake = os.pipe()
        self.notified, self._notify_write = os.pipe()
        for fd in (self._wake, self.notified, self._notify_write):
            os.set_blocking(fd, False)

    def child_ends(self) -> ChildEnds:
        """What to hand to the child's process object."""
        return ChildEnds(
            PassedFd(self._out.fd),
            PassedFd(self._in.fd),
            PassedFd(self._wake_read),
            PassedFd(self._notify_write),
            self._observation_bytes,
            self._reply_bytes,
        )

    def release_child_ends(self) -> None:
        """Close our copies of the child's ends, so that its end is seen."""
        for name in ("_wake_read", "_notify_write"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    @property
    def heartbeat_ns(self) -> int:
        """CLOCK_MONOTONIC at the child's last sign of life, 0 before the first."""
        return self._in.words[_HEARTBEAT]

    def wake(self) -> None:
        """Tell the child that an observation is there.

        Raises:
            BrokenPipeError: The child is gone.
        """
        with contextlib.suppress(BlockingIOError):  # else it has been told often enough
            os.write(self._wake, b"o")

    def clear_notices(self) -> None:
        """Take in what :meth:`ChildChannel.notify` sent."""
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self.notified, 4096)) == 4096:
                pass

    def hang_up(self) -> None:
        """Let the child see that nobody will ask any more."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def close(self) -> None:
        """Free everything. Safe to call twice."""
        self.release_child_ends()
        self.hang_up()
        if self.notified >= 0:
            os.close(self.notified)
            self.notified = -1
        self._out.close()
        self._in.close()


class ChildChannel:
    """The child's ends."""

    def __init__(self, ends: ChildEnds) -> None:
        """Map what has arrived."""
        self._out = Segment.map(ends.observations, writable=False)
        self._in = Segment.map(ends.replies, writable=True)
        self.observations = Mailbox(self._out, 0, ends.observation_bytes, OBSERVATION_SLOTS)
        self.replies = Mailbox(self._in, _MAIL_AT, ends.reply_bytes, REPLY_SLOTS)
        self._wake, self._notify = ends.wake, ends.notify

    def beat(self, now_ns: int) -> None:
        """Give a sign of life."""
        self._in.words[_HEARTBEAT] = now_ns

    def wait(self) -> bool:
        """Wait for observations; False when there will be no more."""
        return len(os.read(self._wake, 4096)) > 0

    def notify(self) -> None:
        """Tell the loop's process, if it waits, that a reply is there."""
        with contextlib.suppress(OSError):  # nobody reads notices, or nobody is there: the reply is in the mailbox
            os.write(self._notify, b"r")
