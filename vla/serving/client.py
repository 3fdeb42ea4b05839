"""The control loop's side of a policy that runs on another machine; a ``PolicyClient``.

A thread holds the connection, so that a request returns at once and a poll never waits. While the connection is lost
the arm gets no chunks and comes to rest; the thread connects again, with growing pauses, until it gives up.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace

from controllers.protocols import ActionDecodeError
from controllers.types import ActionChunk, ActionSpec, ChunkArrival, Observation
from vla.process import PolicyDiedError, PolicyInferenceError, PolicyStartError, PolicyTimeoutError, ProcessMode
from vla.process.refusal import refused_chunk
from vla.serving.connection import LostError, PolicyConnection, RefusedError, RemoteOptions
from vla.serving.discretize import DiscretizationError
from vla.serving.mapping import MappingError
from vla.serving.messages import ServerMetadata
from vla.serving.wire import WireError

_log = logging.getLogger("vla.serving")


@dataclass(frozen=True, slots=True)
class RemoteStatistics:
    """What a client has seen so far.

    Attributes:
        answers: Chunks received.
        refused: Answers that were errors or did not fit.
        dropped: Observations that a newer one replaced before they were sent.
        reconnects: Connections after the first.
        round_trip_ms: Of the last answer.
        infer_ms: Inference of the last answer, as the server says; NaN where it does not.
        quantization_error: (dims,) largest error of discretizing a foreign server's actions, in the spec's units.
    """

    answers: int = 0
    refused: int = 0
    dropped: int = 0
    reconnects: int = 0
    round_trip_ms: float = float("nan")
    infer_ms: float = float("nan")
    quantization_error: tuple[float, ...] = ()


class RemotePolicy:
    """Client of a policy server. Use it as a context manager, or start and close."""

    def __init__(self, options: RemoteOptions, spec: ActionSpec, tokenizer_id: str, definition: str = "") -> None:
        """Keep the settings; :meth:`start` connects.

        Args:
            options: Where the server is.
            spec: Contract that the stack executes; a server with another one is refused.
            tokenizer_id: Tokenizer that the stack decodes.
            definition: What that identity names by a hash; empty if it says all.

        Raises:
            MappingError: The mapping is for another number of dimensions.
            ActionDecodeError: No such tokenizer.
        """
        self._options, self.spec, self.tokenizer_id = options, spec, tokenizer_id
        self._connection = PolicyConnection(options, spec, tokenizer_id, definition)
        self.statistics = RemoteStatistics()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        # Shared with the thread, under the condition:
        self._waiting: Observation | None = None
        self._in_work = self._closing = self._forget = False
        self._era = 0  # of the episode; an answer from before a reset is dropped
        self._arrived: list[ChunkArrival] = []
        self._error: Exception | None = None  # raised once
        self._death: Exception | None = None  # raised always
        self._chunk_id = self._refusals_in_row = 0

    # -- life

    def start(self) -> RemotePolicy:
        """Connect, and check that the server fits.

        Raises:
            PolicyStartError: No server there, the wrong token, another protocol version, spec or tokenizer, or a
                foreign server without a mapping.
        """
        if self._thread is not None:
            raise PolicyStartError("the client is already connected")
        try:
            self._connection.open()
        except LostError as error:
            raise PolicyStartError(f"{self._options.url}: {error}") from error
        self._thread = threading.Thread(target=self._work, name="remote-policy", daemon=True)
        self._thread.start()
        return self

    @property
    def metadata(self) -> ServerMetadata | None:
        """What our own server said of itself; None for a foreign one."""
        return self._connection.metadata

    def close(self) -> None:
        """Disconnect. Safe to call twice."""
        with self._changed:
            self._closing = True
            self._death = self._death or PolicyDiedError("the client was closed")
            self._changed.notify_all()
        self._connection.close()
        if self._thread is not None:
            self._thread.join(self._options.connect_timeout_s)

    def __enter__(self) -> RemotePolicy:
        return self if self._thread is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the client protocol

    def request(self, observation: Observation) -> None:
        """Ask for a chunk; a newer observation replaces one that was not sent yet.

        Raises:
            PolicyDiedError: The server is gone.
            PolicyTimeoutError: In lock-step, no answer in time.
            PolicyInferenceError: Too many answers in a row were refused or did not fit.
        """
        with self._changed:
            self._check()
            if self._waiting is not None:
                self.statistics = replace(self.statistics, dropped=self.statistics.dropped + 1)
            self._waiting = observation
            self._changed.notify_all()
            if self._options.mode is ProcessMode.LOCK_STEP:
                self._changed.wait_for(lambda: self._idle() or self._death is not None or self._error is not None)
                self._check()

    def poll(self, now_ns: int = 0) -> tuple[ChunkArrival, ...]:
        """Chunks that came since the last poll. Never waits.

        Raises:
            PolicyDiedError: The server is gone.
            PolicyInferenceError: Too many answers in a row were refused or did not fit; raised once.
        """
        with self._changed:
            self._check()
            arrived, self._arrived = tuple(self._arrived), []
            return arrived

    def wait(self, timeout_s: float) -> tuple[ChunkArrival, ...]:
        """Poll, waiting up to ``timeout_s`` for the answer in flight."""
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._arrived) or self._idle() or self._death is not None or self._error is not None,
                timeout_s,
            )
        return self.poll()

    def reset(self) -> None:
        """Forget the episode: what waits, is in flight or arrived is dropped, and the server's memory of us too."""
        with self._changed:
            self._check()
            self._waiting, self._arrived, self._forget = None, [], True
            self._era += 1
            self._changed.notify_all()

    def _idle(self) -> bool:
        return self._waiting is None and not self._in_work

    def _check(self) -> None:
        if self._thread is None:
            raise PolicyDiedError("the client was never started")
        if self._death is not None:
            raise self._death
        error, self._error = self._error, None
        if error is not None:
            raise error

    # -- the thread

    def _work(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # whoever waits in lock-step must hear of it
            _log.exception("the client of %s failed", self._options.url)
            self._die(PolicyDiedError(f"the client of {self._options.url} failed: {error!r}"))
        finally:
            self._connection.close()

    def _turn(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._forget or self._closing)
            if self._closing:
                return False
            observation, self._waiting = self._waiting, None
            forget, self._forget = self._forget, False
            era = self._era
            self._in_work = observation is not None
        try:
            self._take_turn(observation, era, forget=forget)
        finally:
            with self._changed:
                self._in_work = False
                self._changed.notify_all()
        return self._death is None

    def _take_turn(self, observation: Observation | None, era: int, *, forget: bool) -> None:
        lock_step = self._options.mode is ProcessMode.LOCK_STEP
        try:
            self._ask(observation, era, forget=forget)
        except PolicyTimeoutError as error:
            if lock_step:
                self._die(error)
            else:
                self._recover(error)
        except LostError as error:
            # Openpi servers hang up after an error: one new connection is no reason to end an episode.
            self._recover(error)
            if not lock_step or observation is None or self._death is not None:
                return  # in real time the observation is old by now; the executor asks again
            try:
                self._ask(observation, era, forget=forget)
            except (LostError, PolicyTimeoutError) as again:
                self._die(PolicyDiedError(self._said(again)))

    def _ask(self, observation: Observation | None, era: int, *, forget: bool) -> None:
        if forget:
            self._connection.reset()
        if observation is None:
            return
        started = time.perf_counter_ns()
        try:
            answer = self._connection.ask(observation)
        except (RefusedError, MappingError, DiscretizationError, ActionDecodeError, WireError) as error:
            self._refuse(observation, era, str(error))
            return
        took = time.perf_counter_ns() - started
        with self._changed:
            self._refusals_in_row = 0
            seen, error = self.statistics, answer.error
            if error and seen.quantization_error:
                error = tuple(map(max, error, seen.quantization_error))
            self.statistics = replace(
                seen,
                answers=seen.answers + 1,
                round_trip_ms=took * 1e-6,
                infer_ms=answer.infer_ms,
                quantization_error=error,
            )
            self._arrive(answer.chunk, took, era)

    def _refuse(self, observation: Observation, era: int, reason: str) -> None:
        """Hand on an answer that no tokens stand for as a chunk that the executor rejects, so that the log has it."""
        _log.warning("%s: %s", self._options.url, reason)
        with self._changed:
            self.statistics = replace(self.statistics, refused=self.statistics.refused + 1)
            self._refusals_in_row += 1
            if self._refusals_in_row >= self._options.max_refusals:
                self._error = PolicyInferenceError(
                    f"{self._options.url}: {self._refusals_in_row} answers in a row were refused; the last: {reason}"
                )
                self._refusals_in_row = 0
                return
            self._arrive(refused_chunk(reason, self.spec, observation.stamp_ns), 0, era)

    def _arrive(self, chunk: ActionChunk, took_ns: int, era: int) -> None:
        if era == self._era:
            self._chunk_id += 1
            self._arrived.append(ChunkArrival(replace(chunk, chunk_id=self._chunk_id), took_ns))

    def _recover(self, error: Exception) -> None:
        """Connect again, with growing pauses, or die."""
        self._connection.close()
        if self._closing:
            return
        _log.warning("%s; connecting again", self._said(error))
        deadline, pause_s = time.monotonic() + self._options.give_up_s, 0.1
        while time.monotonic() < deadline:
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, pause_s):
                    return
            pause_s = min(2.0 * pause_s, 2.0)
            try:
                self._connection.open()
            except LostError as again:
                error = again
            except PolicyStartError as misfit:
                self._die(PolicyDiedError(f"the server came back another one: {misfit}"))
                return
            else:
                with self._changed:
                    self.statistics = replace(self.statistics, reconnects=self.statistics.reconnects + 1)
                _log.warning("%s: connected again", self._options.url)
                return
        self._die(PolicyDiedError(f"{self._said(error)}; gave up after {self._options.give_up_s:g} s"))

    def _die(self, death: Exception) -> None:
        with self._changed:
            self._death = self._death or death
            self._changed.notify_all()

    def _said(self, error: Exception) -> str:
        return f"the connection to {self._options.url} is lost: {error}"
