"""Robot calls that may hang: made in a thread of their own, waited for only so long."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

ArgumentT = TypeVar("ArgumentT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Answer(Generic[AnswerT]):
    """The call returned in time."""

    value: AnswerT


@dataclass(frozen=True, slots=True)
class Failure:
    """The call raised, or has not returned yet."""

    message: str


class BoundedCall(Generic[ArgumentT, AnswerT]):
    """One function in one thread. While a call hangs, no other is made; an answer that comes late is dropped."""

    def __init__(self, name: str, function: Callable[[ArgumentT], AnswerT]) -> None:
        """Start the thread. It inherits the scheduling of the caller."""
        self._name, self._function = name, function
        self._jobs: queue.SimpleQueue[ArgumentT] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer[AnswerT] | Failure] = queue.SimpleQueue()
        self._busy = False
        threading.Thread(target=self._work, name=f"safety-{name}", daemon=True).start()

    def __call__(self, argument: ArgumentT, timeout_s: float) -> Answer[AnswerT] | Failure:
        """Call, and wait up to ``timeout_s``; return at once if an earlier call still hangs."""
        if self._busy:
            try:
                self._answers.get_nowait()
            except queue.Empty:
                return Failure(f"{self._name} still hangs")
        self._jobs.put(argument)
        self._busy = True
        try:
            answer = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            return Failure(f"{self._name}: expected an answer within {timeout_s * 1e3:g} ms, found none")
        self._busy = False
        return answer

    def _work(self) -> None:
        while True:
            argument = self._jobs.get()
            try:
                self._answers.put(Answer(self._function(argument)))
            except Exception as error:  # whatever a driver raises, the kernel must go on
                self._answers.put(Failure(f"{self._name}: {type(error).__name__}: {error}"))
