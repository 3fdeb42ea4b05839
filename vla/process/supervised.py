"""Restarts the policy process when it dies, hangs, is late or babbles. Meanwhile the arm holds.

Everything that takes time (ending the old child, waiting, starting and warming the new one) happens in a thread; the
tick only reads which child is current.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from queue import SimpleQueue

from controllers.types import ActionSpec, ChunkArrival, Observation
from vla.process.account import BoundaryAccount
from vla.process.client import PolicyProcess
from vla.process.errors import (
    PolicyDiedError,
    PolicyInferenceError,
    PolicyProcessError,
    PolicySilentError,
    PolicyStartError,
    PolicyTimeoutError,
)
from vla.process.mailbox import MessageTooLargeError
from vla.process.timing import RequestTiming

_FAULTS_KEPT = 1000


class FaultKind(Enum):
    """What was wrong with a policy process."""

    DIED = "died"  # its process ended
    SILENT = "silent"  # no sign of life: it hangs or was stopped
    LATE = "late"  # no answer in time
    FAILED = "failed"  # it raised on too many observations in a row
    GARBAGE = "garbage"  # too many replies in a row that are no chunk of its own contract
    START = "start"  # a new one could not be started


@dataclass(frozen=True, slots=True)
class PolicyFault:
    """One fault.

    Attributes:
        kind: What it was.
        at_ns: When it was found, CLOCK_MONOTONIC.
        message: In words.
    """

    kind: FaultKind
    at_ns: int
    message: str


@dataclass(frozen=True)
class RestartOptions:
    """When and how soon a policy process is restarted."""

    first_delay_s: float = 0.1
    """Before the first restart; doubled with each further one in a row."""
    longest_delay_s: float = 10.0
    """Limit of the doubling."""
    settled_after_s: float = 10.0
    """A process that lived for this long counts as well: the delay starts again at the first."""
    failures: int = 3
    """Restart after this many failed or malformed answers in a row."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: A negative time, or fewer than one failure.
        """
        if min(self.first_delay_s, self.longest_delay_s, self.settled_after_s) < 0.0:
            raise ValueError(f"expected delays of 0 s or more, found {self}")
        if self.failures < 1:
            raise ValueError(f"expected a restart after 1 failure or more, found {self.failures}")


class SupervisedPolicy:
    """A policy process that is started again when it fails; a ``PolicyClient`` and a ``PolicyHealth``.

    ``poll`` and ``request`` raise nothing that a policy process does: the fault is kept in :attr:`faults`.

    Attributes:
        faults: The newest faults, oldest first.
        restarts: Processes started after the first.
        account: What discretizing cost in the process that answered last, None where none does it.
        timings: Where the time of that process's newest requests went, empty where it does not say so.
    """

    def __init__(self, build: Callable[[int], PolicyProcess], options: RestartOptions | None = None) -> None:
        """Keep the settings; :meth:`start` starts the first process.

        Args:
            build: Makes an asynchronous process that has not been started, given the id of its first chunk.
            options: When to restart.
        """
        self._build = build
        self._options = options or RestartOptions()
        self._current: PolicyProcess | None = None
        self._spec: ActionSpec | None = None
        self._tokenizer_id = ""
        self._broken: SimpleQueue[PolicyProcess | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._started_at = 0.0
        self._in_a_row = 0  # failed answers
        self._garbage = (0, 0)
        self.faults: deque[PolicyFault] = deque(maxlen=_FAULTS_KEPT)
        self.account: BoundaryAccount | None = None
        self.timings: deque[RequestTiming] = deque()
        self.restarts = 0

    # -- life

    def start(self) -> SupervisedPolicy:
        """Start the first process and wait until its policy is warm.

        Raises:
            PolicyStartError: It could not build its policy.
            PolicyTimeoutError: It took too long.
        """
        if self._thread is not None:
            raise PolicyStartError("the supervised policy is already running")
        process = self._build(1).start()
        self._spec, self._tokenizer_id = process.spec, process.tokenizer_id
        self._take_over(process)
        self._thread = threading.Thread(target=self._restart_all, name="policy-restarts", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """End the process and the thread. Safe to call twice."""
        self._closing.set()
        if self._thread is not None:
            self._broken.put(None)
            self._thread.join()
            self._thread = None
        current, self._current = self._current, None
        if current is not None:
            current.close()

    def __enter__(self) -> SupervisedPolicy:
        return self if self._thread is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it serves

    @property
    def spec(self) -> ActionSpec:
        """Action spec of the policy.

        Raises:
            PolicyDiedError: It was never started.
        """
        if self._spec is None:
            raise PolicyDiedError("the policy process was never started")
        return self._spec

    @property
    def tokenizer_id(self) -> str:
        """Tokenizer of the policy."""
        return self._tokenizer_id

    @property
    def pid(self) -> int:
        """Process id of the present child.

        Raises:
            PolicyDiedError: There is none just now.
        """
        current = self._current
        if current is None:
            raise PolicyDiedError("the policy process is being restarted")
        return current.pid

    @property
    def alive(self) -> bool:
        """Whether a process is there and answers."""
        return self._current is not None

    def heard(self) -> bool:
        """Whether it gave a sign of life since the last call."""
        current = self._current
        return current is not None and current.heard()

    # -- the client protocol

    def request(self, observation: Observation) -> None:
        """Ask for a chunk; lost while there is no process.

        Raises:
            MessageTooLargeError: The observation is larger than the memory that was set aside for it.
        """
        current = self._current
        if current is None:
            return
        try:
            current.request(observation)
        except MessageTooLargeError:
            raise
        except PolicyProcessError:
            pass  # the next poll finds out what it is

    def poll(self, now_ns: int = 0) -> tuple[ChunkArrival, ...]:
        """Chunks that came since the last poll. Never waits and never raises."""
        current = self._current
        if current is None:
            return ()
        try:
            arrivals = current.poll(now_ns)
        except PolicyInferenceError as error:
            self._in_a_row += 1
            if self._in_a_row >= self._options.failures:
                self._give_up(current, FaultKind.FAILED, str(error))
        except PolicySilentError as error:
            self._give_up(current, FaultKind.SILENT, str(error))
        except PolicyTimeoutError as error:
            self._give_up(current, FaultKind.LATE, str(error))
        except PolicyProcessError as error:
            self._give_up(current, FaultKind.DIED, str(error))
        else:
            if arrivals:
                self._judge(current)
                self.account, self.timings = current.account, current.timings
            return arrivals
        return ()

    def reset(self) -> None:
        """Forget the episode."""
        current = self._current
        if current is not None:
            current.reset()

    # -- inside

    def _judge(self, current: PolicyProcess) -> None:
        """Count answers that are no chunk of the policy's own contract."""
        found = current.malformed, current.mismatched
        if found == self._garbage:
            self._in_a_row = 0
            return
        self._garbage = found
        self._in_a_row += 1
        if self._in_a_row >= self._options.failures:
            words = f"{self._in_a_row} answers in a row were no chunk of its own action spec and tokenizer"
            self._give_up(current, FaultKind.GARBAGE, words)

    def _give_up(self, process: PolicyProcess, kind: FaultKind, message: str) -> None:
        self._current = None
        self.faults.append(PolicyFault(kind, time.monotonic_ns(), message))
        self._broken.put(process)

    def _take_over(self, process: PolicyProcess) -> None:
        self._started_at = time.monotonic()
        self._in_a_row, self._garbage = 0, (0, 0)
        self._current = process

    def _restart_all(self) -> None:
        options = self._options
        delay = options.first_delay_s
        while (broken := self._broken.get()) is not None:
            if time.monotonic() - self._started_at >= options.settled_after_s:
                delay = options.first_delay_s
            chunk_id = broken.next_chunk_id
            broken.close()
            while not self._closing.wait(delay):
                delay = min(2.0 * delay, options.longest_delay_s)
                process = self._try(chunk_id)
                if process is not None:
                    self.restarts += 1
                    self._take_over(process)
                    break

    def _try(self, chunk_id: int) -> PolicyProcess | None:
        process = self._build(chunk_id)
        try:
            process.start()
            if process.spec.hash == self.spec.hash and process.tokenizer_id == self._tokenizer_id:
                return process
            message = (
                f"expected action spec {self.spec.hash} and tokenizer {self._tokenizer_id!r} as before, found "
                f"{process.spec.hash} and {process.tokenizer_id!r}"
            )
        except (PolicyProcessError, OSError) as error:
            message = str(error)
        process.close()
        self.faults.append(PolicyFault(FaultKind.START, time.monotonic_ns(), message))
        return None
