"""One client of the server: what it waits for, what it asked last, and nothing that another client could fill."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from controllers.types import Observation

_numbers = itertools.count(1)
_OUTSTANDING = 2  # requests of an openpi client: one in work, one that waits


class TooManyRequestsError(RuntimeError):
    """A client that does not wait for its answers."""


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do for a client: an observation to answer, or (without one) an episode to forget.

    Attributes:
        number: Of the request; 0 for openpi clients, which do not number.
        observation: What the policy is to see, None to reset it.
        tokens: Answer with tokens; otherwise with float actions.
        since: When it came, on ``time.monotonic``.
    """

    number: int
    observation: Observation | None
    tokens: bool
    since: float = field(default_factory=time.monotonic)


class Session:
    """A client's own queue: one request in work, one that waits, one answer on its way out.

    A newer observation of our own client replaces the one that waits. Openpi clients wait for each answer; one that
    does not is refused. A client whose last answer has not left yet is not served, so a slow reader keeps only itself
    waiting.
    """

    def __init__(self, peer: str, queue: asyncio.Queue[Session]) -> None:
        """Enter ``queue`` whenever there is work; the queue holds a session once, so that turns are fair."""
        self.peer = peer
        self.number = next(_numbers)
        self.closed = False
        self.served = self.superseded = 0
        self._queue = queue
        self._reset: Work | None = None
        self._waiting: deque[Work] = deque()
        self._busy = self._queued = False
        self._answered = asyncio.Event()
        self._outgoing: dict[str, Any] | str | None = None

    def offer(self, work: Work) -> None:
        """Take a request.

        Raises:
            TooManyRequestsError: An openpi client that has two requests outstanding already.
        """
        if work.tokens:
            self.superseded += len(self._waiting)
            self._waiting.clear()
        elif len(self._waiting) + self._busy >= _OUTSTANDING:
            raise TooManyRequestsError(
                "expected a client that waits for each answer, found a third request before the first answer"
            )
        if work.observation is None:
            self._reset = work
        else:
            self._waiting.append(work)
        self._enter()

    def take(self) -> Work | None:
        """The next thing to do; the session is busy until :meth:`answer` and :meth:`sent`."""
        self._queued = False
        if self.closed:
            return None
        work, self._reset = self._reset, None
        if work is None and self._waiting:
            work = self._waiting.popleft()
        self._busy = work is not None
        return work

    def answer(self, message: dict[str, Any] | str | None) -> None:
        """Hand the answer to the writer; None where there is nothing to say."""
        if message is None:
            self.sent()
            return
        self._outgoing = message
        self._answered.set()

    async def next_answer(self) -> dict[str, Any] | str:
        """Wait for an answer to send."""
        await self._answered.wait()
        self._answered.clear()
        message, self._outgoing = self._outgoing, None
        assert message is not None
        return message

    def sent(self) -> None:
        """The answer has left: the next request may be worked on."""
        self._busy = False
        self._enter()

    def close(self) -> None:
        """Drop everything."""
        self.closed = True
        self._reset = self._outgoing = None
        self._waiting.clear()

    def _enter(self) -> None:
        if not (self._busy or self._queued or self.closed) and (self._waiting or self._reset):
            self._queued = True
            self._queue.put_nowait(self)
