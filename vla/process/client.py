"""A policy in a process of its own: the control loop's process never loads a deep-learning framework.

Observations and chunks go through shared memory (:mod:`vla.process.mailbox`), so that neither side waits for the
other. The child takes the newest observation; one that waited meanwhile is dropped. It ends when its parent does,
however the parent ends.
"""

from __future__ import annotations

import multiprocessing
import select
import threading
import time
from collections import deque
from dataclasses import replace
from enum import Enum
from multiprocessing.process import BaseProcess

from controllers.realtime import check_cpus
from controllers.types import ActionSpec, ChunkArrival, Observation
from vla.process.account import BoundaryAccount
from vla.process.channel import REPLY_BYTES, Channel
from vla.process.child import serve
from vla.process.errors import (
    MalformedMessageError,
    PolicyDiedError,
    PolicyInferenceError,
    PolicySilentError,
    PolicyStartError,
    PolicyTimeoutError,
)
from vla.process.factory import PolicyFactory
from vla.process.mailbox import MessageTooLargeError
from vla.process.messages import Answer, Failure, Ready, Reply, decode_reply, encode_observation, unreadable_chunk
from vla.process.refusal import is_refusal
from vla.process.timing import RequestTiming

OBSERVATION_BYTES = 4 << 20
TIMINGS_KEPT = 100_000
_SHARE_OF_HEARTBEATS_NS = 50_000_000  # `heard` is true at most this often: each one is a row in the episode


class ProcessMode(Enum):
    """When ``request`` returns."""

    LOCK_STEP = "lock_step"  # when the answer is there; the next poll hands it out
    ASYNCHRONOUS = "asynchronous"  # at once; polls hand the answer out when it has come


class PolicyProcess:
    """Client of a policy in a child process; a ``PolicyClient``. Use it as a context manager, or start and close.

    ``request`` may be called from one thread and everything else from another. ``poll`` takes no lock and never waits.

    Attributes:
        malformed: Replies that could not be read; each is handed out as a chunk that the executor refuses.
        mismatched: Chunks of another action spec, tokenizer, type or shape than the policy declared at its start.
        account: What discretizing cost, of a policy that does it; None before its first answer and for others.
        timings: Where the time of its newest requests went, of a policy that says so.
    """

    def __init__(
        self,
        factory: PolicyFactory,
        mode: ProcessMode = ProcessMode.ASYNCHRONOUS,
        timeout_s: float = 10.0,
        start_timeout_s: float = 120.0,
        threads: int = 1,
        niceness: int = 0,
        cpus: tuple[int, ...] = (),
        heartbeat_timeout_s: float = 1.0,
        observation_bytes: int = OBSERVATION_BYTES,
        reply_bytes: int = REPLY_BYTES,
        first_chunk_id: int = 1,
    ) -> None:
        """Keep the settings; :meth:`start` makes the child.

        Args:
            factory: Builds the policy in the child.
            mode: When ``request`` returns.
            timeout_s: Longest inference; a child that takes longer is ended.
            start_timeout_s: Longest time to import, load and warm up.
            threads: Compute threads of the child.
            niceness: Added to the child's niceness, so that it yields to the control loop.
            cpus: Processors the child may run on; none given: any.
            heartbeat_timeout_s: Longest time without a sign of life; a child that is silent for longer is ended. Only
                when asynchronous: in lock-step nobody minds a machine that stood still.
            observation_bytes: Largest observation, pictures included.
            reply_bytes: Largest reply.
            first_chunk_id: Id of the first chunk; they increase from there.

        Raises:
            ValueError: A processor that this process may not use.
        """
        check_cpus(cpus)
        self._factory, self._mode = factory, mode
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._heartbeat_timeout_ns = round(heartbeat_timeout_s * 1e9)
        self._child_settings = (threads, niceness, cpus)
        self._observation_bytes, self._reply_bytes = observation_bytes, reply_bytes
        self._process: BaseProcess | None = None
        self._channel: Channel | None = None
        self._sentinel = select.poll()
        self._ready: Ready | None = None
        self._chunk_id = first_chunk_id
        self._read = self._answered = self._ignored = self._dropped = 0
        self._episode = 0
        self._last_stamp_ns = 0
        self._arrivals: tuple[ChunkArrival, ...] = ()  # read, but not handed out yet
        self._requested_at = 0.0
        self._waiting_since: float | None = None  # start of the wait for the answer in flight
        self._heard_ns = 0
        self._death = "the policy process was never started"
        self._lock = threading.Lock()  # between a request and the end; poll never takes it
        self.malformed = self.mismatched = 0
        self.account: BoundaryAccount | None = None
        self.timings: deque[RequestTiming] = deque(maxlen=TIMINGS_KEPT)

    # -- life

    def start(self) -> PolicyProcess:
        """Make the child and wait until its policy is built and warm.

        Raises:
            PolicyStartError: The child could not build it; carries the child's traceback.
            PolicyTimeoutError: It took longer than ``start_timeout_s``.
        """
        if self._process is not None:
            raise PolicyStartError("the policy process is already running")
        context = multiprocessing.get_context("forkserver")
        # Only what is listed before the first start counts: the fork server lives as long as this process.
        context.set_forkserver_preload(["vla.process.child", *self._factory.preload])
        channel = Channel(self._observation_bytes, self._reply_bytes)
        process = context.Process(
            target=serve, args=(channel.child_ends(), self._factory, *self._child_settings), name="policy", daemon=True
        )
        try:
            process.start()
        except BaseException:
            channel.close()
            raise
        channel.release_child_ends()
        self._sentinel = select.poll()
        self._sentinel.register(process.sentinel, select.POLLIN)
        self._process, self._channel, self._death = process, channel, ""
        try:
            self._await_ready()
        except PolicyDiedError as error:
            raise PolicyStartError(f"the policy process ended while starting: {error}") from error
        except BaseException:
            self.close()
            raise
        return self

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            for reply in self._replies():
                if isinstance(reply, Ready):
                    self._ready = reply
                    return
                if isinstance(reply, Failure):
                    self._kill("it could not build its policy")
                    raise PolicyStartError(f"{self._factory.target} failed in the policy process:\n{reply.message}")
            if self._sentinel.poll(0):
                raise self._died()
            if time.monotonic() > deadline:
                raise PolicyTimeoutError(self._kill(f"no start within {self._start_timeout_s:g} s"))
            self._sleep(deadline)

    def close(self) -> None:
        """End the child and free its memory. Safe to call twice."""
        with self._lock:
            process, channel = self._process, self._channel
            self._process = self._channel = None
            self._death = self._death or "the policy process was closed"
            if process is not None and channel is not None:
                channel.hang_up()
                if process.exitcode is None:
                    process.join(0.2)  # an idle child sees that nobody will ask, and leaves by itself
                if process.exitcode is None:
                    process.kill()
                process.join()
                process.close()
            if channel is not None:
                channel.close()

    def __enter__(self) -> PolicyProcess:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it serves

    @property
    def spec(self) -> ActionSpec:
        """Action spec of the policy in the child."""
        return self._identity().spec

    @property
    def tokenizer_id(self) -> str:
        """Tokenizer of the policy in the child."""
        return self._identity().tokenizer_id

    @property
    def pid(self) -> int:
        """Process id of the child.

        Raises:
            PolicyDiedError: There is none.
        """
        if self._process is None or self._process.pid is None:
            raise PolicyDiedError(self._death)
        return self._process.pid

    @property
    def dropped(self) -> int:
        """Observations that were replaced by a newer one before the child was free."""
        return self._dropped

    @property
    def busy(self) -> bool:
        """Whether an observation is in flight."""
        return self._channel is not None and self._channel.observations.count > self._answered

    @property
    def next_chunk_id(self) -> int:
        """Id that the next chunk would get."""
        return self._chunk_id

    @property
    def alive(self) -> bool:
        """Whether it is there and answers in time; a ``PolicyHealth``."""
        return not self._death

    def heard(self) -> bool:
        """Whether it gave a sign of life since the last call, at most twenty times a second."""
        heartbeat_ns = self._channel.heartbeat_ns if self._channel is not None else 0
        if heartbeat_ns - self._heard_ns < _SHARE_OF_HEARTBEATS_NS:
            return False
        self._heard_ns = heartbeat_ns
        return True

    # -- the client protocol

    def request(self, observation: Observation) -> None:
        """Ask for a chunk.

        Raises:
            PolicyDiedError: The child is gone.
            PolicyTimeoutError: In lock-step, no answer in time.
            PolicyInferenceError: In lock-step, the policy failed on this observation.
            MessageTooLargeError: The observation is larger than ``observation_bytes``.
        """
        with self._lock:
            channel = self._channel
            if channel is None or self._death:
                raise PolicyDiedError(self._death)
            self._requested_at = time.monotonic()
            try:
                channel.observations.write(encode_observation(observation, self._episode))
            except MessageTooLargeError as error:
                raise MessageTooLargeError(f"{error}; raise observation_bytes of the PolicyProcess") from None
            self._last_stamp_ns = observation.stamp_ns
            try:
                channel.wake()
            except BrokenPipeError:
                raise self._died() from None
        if self._mode is ProcessMode.LOCK_STEP:
            self._arrivals = self._lock_step_answer()

    def poll(self, now_ns: int = 0) -> tuple[ChunkArrival, ...]:
        """Chunks that came since the last poll. Never waits.

        Raises:
            PolicyDiedError: The child is gone.
            PolicyTimeoutError: It did not answer in time, or gave no sign of life, and is being ended.
            PolicyInferenceError: The policy failed on an observation; raised once, the next poll goes on.
        """
        if self._arrivals:
            arrivals, self._arrivals = self._arrivals, ()
        else:
            arrivals = self._take()
            if not arrivals:
                self._check()
                return ()
        if self._mode is ProcessMode.LOCK_STEP:
            return tuple(replace(arrival, inferred_ns=-1) for arrival in arrivals)  # its clock is virtual
        offset_ns = now_ns - time.monotonic_ns()  # the loop's clock may start anywhere
        return tuple(replace(arrival, inferred_ns=arrival.inferred_ns + offset_ns) for arrival in arrivals)

    def wait(self, timeout_s: float) -> tuple[ChunkArrival, ...]:
        """Poll, waiting up to ``timeout_s`` for the answer in flight."""
        deadline = time.monotonic() + timeout_s
        while not (arrivals := self.poll()) and self.busy and time.monotonic() < deadline:
            self._sleep(deadline)
        return arrivals

    def reset(self) -> None:
        """Forget the episode: what is in flight or arrived is dropped, and the policy is reset before the next."""
        if self._channel is None:
            raise PolicyDiedError(self._death)
        self._episode += 1
        self._ignored = self._channel.observations.count
        self._arrivals = ()

    # -- inside

    def _identity(self) -> Ready:
        if self._ready is None:
            raise PolicyDiedError(self._death)
        return self._ready

    def _lock_step_answer(self) -> tuple[ChunkArrival, ...]:
        deadline = time.monotonic() + self._timeout_s
        while True:
            arrivals = self._take()
            if arrivals or not self.busy:
                return arrivals
            self._check()
            self._sleep(deadline)

    def _take(self) -> tuple[ChunkArrival, ...]:
        """Read what is in the mailbox."""
        arrivals: list[ChunkArrival] = []
        failure = ""
        for reply in self._replies():
            if isinstance(reply, Ready) or reply.number <= self._ignored:
                if not isinstance(reply, Ready):
                    self._answered = max(self._answered, reply.number)
                continue
            self._dropped += max(0, reply.number - self._answered - 1)
            self._answered = max(self._answered, reply.number)
            if isinstance(reply, Failure):
                failure = reply.message
            else:
                arrivals.append(ChunkArrival(reply.chunk, reply.inference_ns, reply.ended_ns))
        self._watch_the_wait(bool(arrivals) or bool(failure))
        if failure:
            self._arrivals = tuple(arrivals)
            raise PolicyInferenceError(f"the policy failed on an observation:\n{failure}")
        return tuple(arrivals)

    def _replies(self) -> list[Reply]:
        """Replies that came since the last call; what cannot be read becomes a chunk that will be refused."""
        channel = self._channel
        if channel is None:
            raise PolicyDiedError(self._death)
        mailbox = channel.replies
        if mailbox.count == self._read:
            return []
        replies: list[Reply] = []
        try:
            numbers = mailbox.since(self._read)
        except ValueError:
            numbers = range(0)
            replies.append(self._garbage(b""))
        for number in numbers:
            payload = mailbox.read(number)
            try:
                if payload is None:
                    raise MalformedMessageError("torn")
                reply = decode_reply(payload, self._chunk_id)
            except MalformedMessageError:
                reply = self._garbage(payload or b"")
            if isinstance(reply, Answer):
                self._chunk_id += 1
                self.mismatched += not self._as_declared(reply)
                self.account = reply.account or self.account
                if reply.timing is not None:
                    self.timings.append(reply.timing)
            replies.append(reply)
        self._read = mailbox.count
        return replies

    def _garbage(self, payload: bytes | bytearray) -> Answer:
        self.malformed += 1
        count = self._channel.observations.count if self._channel is not None else 0
        return Answer(count, unreadable_chunk(payload, self._last_stamp_ns, self._chunk_id), 0, time.monotonic_ns())

    def _as_declared(self, answer: Answer) -> bool:
        chunk, ready = answer.chunk, self._ready
        if ready is None:
            return False
        spec = ready.spec
        # A refusal is an answer, too: a new process would give the same.
        return is_refusal(chunk) or (
            chunk.spec_hash == spec.hash
            and chunk.tokenizer_id == ready.tokenizer_id
            and chunk.tokens.dtype.kind == "i"
            and chunk.tokens.shape == (spec.horizon, spec.dims)
        )

    def _watch_the_wait(self, answered: bool) -> None:
        if not self.busy:
            self._waiting_since = None
        elif answered:
            self._waiting_since = time.monotonic()
        elif self._waiting_since is None:
            self._waiting_since = self._requested_at

    def _check(self) -> None:
        """Raise what is wrong with the child."""
        if self._death:
            raise PolicyDiedError(self._death)
        if self._sentinel.poll(0):
            raise self._died()
        since = self._waiting_since
        if since is not None and time.monotonic() - since > self._timeout_s:
            raise PolicyTimeoutError(self._kill(f"no answer within {self._timeout_s:g} s"))
        if self._mode is ProcessMode.ASYNCHRONOUS and self._channel is not None:
            silent_ns = time.monotonic_ns() - self._channel.heartbeat_ns
            if silent_ns > self._heartbeat_timeout_ns:
                raise PolicySilentError(self._kill(f"no sign of life for {silent_ns * 1e-9:.2f} s"))

    def _sleep(self, deadline: float) -> None:
        """Wait for a reply, the child's end, or a tenth of a second."""
        channel, process = self._channel, self._process
        if channel is None or process is None:
            return
        remaining = max(0.0, min(0.1, deadline - time.monotonic()))
        ready, _, _ = select.select((channel.notified, process.sentinel), (), (), remaining)
        if channel.notified in ready:
            channel.clear_notices()

    def _died(self) -> PolicyDiedError:
        process = self._process
        if process is not None and not self._death:
            process.join(1.0)  # it is gone: this only collects its exit code
            self._death = f"the policy process died (exit code {process.exitcode})"
        return PolicyDiedError(self._death)

    def _kill(self, why: str) -> str:
        """End the child without waiting for its end."""
        self._death = f"the policy process was ended: {why}"
        if self._process is not None:
            self._process.kill()
        return self._death
