"""A policy in a process of its own: the control loop's process never loads a deep-learning framework.

The child is spawned, builds the policy from a picklable :class:`PolicyFactory` and answers observations over a
pipe. At most one observation is in flight; a newer one replaces the one that waits. The child ends when its parent
does, however the parent ends.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

from controllers.protocols import Policy
from controllers.types import ActionChunk, ActionSpec, ChunkArrival, Observation


class PolicyProcessError(RuntimeError):
    """The policy process cannot answer."""


class PolicyStartError(PolicyProcessError):
    """The child could not build its policy."""


class PolicyDiedError(PolicyProcessError):
    """The child is gone; every later call says so too."""


class PolicyTimeoutError(PolicyProcessError):
    """The child did not answer in time and was ended."""


class PolicyInferenceError(PolicyProcessError):
    """The policy refused or failed on one observation; the child lives on."""


@dataclass(frozen=True)
class PolicyFactory:
    """How the child builds its policy: a function named as ``module:function`` and its arguments."""

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Policy:
        """Import the function and call it."""
        module, _, function = self.target.partition(":")
        if not function:
            raise ValueError(f"a policy factory is named 'module:function', found {self.target!r}")
        return getattr(importlib.import_module(module), function)(**self.arguments)


class ProcessMode(Enum):
    """When ``request`` returns."""

    LOCK_STEP = "lock_step"  # when the answer is there; the next poll hands it out
    ASYNCHRONOUS = "asynchronous"  # at once; polls hand the answer out when it has come


class _Call(NamedTuple):
    """Parent to child."""

    kind: Literal["infer", "reset"]
    number: int = 0
    observation: Observation | None = None


class _Reply(NamedTuple):
    """Child to parent."""

    kind: Literal["ready", "chunk", "error"]
    number: int = 0
    chunk: ActionChunk | None = None
    inference_ns: int = 0
    message: str = ""
    spec: ActionSpec | None = None
    tokenizer_id: str = ""


class PolicyProcess:
    """Client of a policy in a child process; a ``PolicyClient``. Use it as a context manager, or start and close."""

    def __init__(
        self,
        factory: PolicyFactory,
        mode: ProcessMode = ProcessMode.ASYNCHRONOUS,
        timeout_s: float = 10.0,
        start_timeout_s: float = 120.0,
        threads: int = 1,
        niceness: int = 0,
    ) -> None:
        """Keep the settings; :meth:`start` spawns the child.

        Args:
            factory: Builds the policy in the child.
            mode: When ``request`` returns.
            timeout_s: Longest inference; a child that takes longer is ended.
            start_timeout_s: Longest time to import, load and warm up.
            threads: Compute threads of the child.
            niceness: Added to the child's niceness, so that it yields to the control loop.
        """
        self._factory = factory
        self._mode = mode
        self._timeout_s, self._start_timeout_s = timeout_s, start_timeout_s
        self._threads, self._niceness = threads, niceness
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready: _Reply | None = None
        self._number, self._chunk_id, self._dropped = 0, 0, 0
        self._in_flight: tuple[int, float] | None = None  # request number, deadline
        self._waiting: Observation | None = None
        self._arrived: list[ChunkArrival] = []
        self._death = "the policy process was never started"

    # -- life

    def start(self) -> PolicyProcess:
        """Spawn the child and wait until its policy is built and warm.

        Raises:
            PolicyStartError: The child could not build it; carries the child's traceback.
            PolicyTimeoutError: It took longer than ``start_timeout_s``.
        """
        if self._process is not None:
            raise PolicyStartError("the policy process is already running")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self._factory, self._threads, self._niceness), name="policy", daemon=True
        )
        process.start()
        self._process = process
        theirs.close()
        try:
            reply = self._receive(time.monotonic() + self._start_timeout_s, "start")
        except PolicyDiedError as error:
            raise PolicyStartError(f"the policy process ended while starting: {error}") from error
        if reply.kind == "error":
            self._end("it could not build its policy")
            raise PolicyStartError(f"{self._factory.target} failed in the policy process:\n{reply.message}")
        self._ready = reply
        return self

    def close(self) -> None:
        """End the child. Safe to call twice."""
        if self._process is not None:
            self._end("it was closed")

    def __enter__(self) -> PolicyProcess:
        return self if self._process is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it serves

    @property
    def spec(self) -> ActionSpec:
        """Action spec of the policy in the child."""
        return self._identity().spec  # pyright: ignore[reportReturnType]

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
        return self._in_flight is not None

    # -- the client protocol

    def request(self, observation: Observation) -> None:
        """Ask for a chunk.

        Raises:
            PolicyDiedError: The child is gone.
            PolicyTimeoutError: In lock-step, no answer in time.
            PolicyInferenceError: In lock-step, the policy failed on this observation.
        """
        if self._in_flight is not None:
            self._dropped += self._waiting is not None
            self._waiting = observation
            return
        self._send(observation)
        if self._mode is ProcessMode.LOCK_STEP:
            while self._in_flight is not None:
                self._take(self._receive(self._in_flight[1], "answer"))

    def poll(self, now_ns: int = 0) -> tuple[ChunkArrival, ...]:
        """Chunks that came since the last poll. Never waits.

        Raises:
            PolicyDiedError: The child is gone.
            PolicyTimeoutError: It did not answer in time.
            PolicyInferenceError: The policy failed on an observation; raised once, the next poll goes on.
        """
        try:
            while self._connection().poll(0):
                self._take(self._receive(time.monotonic(), "answer"))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died() from None
        if self._in_flight is not None and time.monotonic() > self._in_flight[1]:
            raise self._late("answer", self._timeout_s)
        arrived, self._arrived = tuple(self._arrived), []
        return arrived

    def wait(self, timeout_s: float) -> tuple[ChunkArrival, ...]:
        """Poll, waiting up to ``timeout_s`` for the answer in flight."""
        if self._in_flight is not None and not self._arrived:
            self._connection().poll(timeout_s)
        return self.poll()

    def reset(self) -> None:
        """Forget the episode: what is in flight or arrived is dropped, and the policy is reset."""
        self._waiting, self._arrived = None, []
        if self._in_flight is not None:
            self._in_flight = None
            self._number += 1  # answers to older numbers are ignored
        self._write(_Call("reset"))

    # -- inside

    def _identity(self) -> _Reply:
        if self._ready is None:
            raise PolicyDiedError(self._death)
        return self._ready

    def _connection(self) -> Connection:
        if self._pipe is None:
            raise PolicyDiedError(self._death)
        return self._pipe

    def _send(self, observation: Observation) -> None:
        self._number += 1
        wire = dataclasses.replace(observation, images=dict(observation.images))
        self._write(_Call("infer", self._number, wire))
        self._in_flight = (self._number, time.monotonic() + self._timeout_s)

    def _write(self, call: _Call) -> None:
        try:
            self._connection().send(call)
        except OSError:
            raise self._died() from None

    def _receive(self, deadline: float, what: str) -> _Reply:
        pipe = self._connection()
        try:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise self._late(what, self._timeout_s if what == "answer" else self._start_timeout_s)
            return pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None

    def _take(self, reply: _Reply) -> None:
        if self._in_flight is None or reply.number != self._in_flight[0]:
            return  # an answer from before a reset
        self._in_flight = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._send(waiting)
        if reply.kind == "error" or reply.chunk is None:
            raise PolicyInferenceError(f"the policy failed on an observation:\n{reply.message}")
        self._chunk_id += 1
        chunk = dataclasses.replace(reply.chunk, chunk_id=self._chunk_id)
        chunk.tokens.flags.writeable = False
        self._arrived.append(ChunkArrival(chunk, reply.inference_ns))

    def _died(self) -> PolicyDiedError:
        if self._process is not None:
            self._process.join(1.0)
            self._end(f"the policy process died (exit code {self._process.exitcode})")
        return PolicyDiedError(self._death)

    def _late(self, what: str, limit_s: float) -> PolicyTimeoutError:
        self._end(f"the policy process was ended: no {what} within {limit_s:g} s")
        return PolicyTimeoutError(self._death)

    def _end(self, why: str) -> None:
        self._death = why
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(0.2)  # an idle child sees the closed pipe and leaves by itself
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = self._pipe = None
        self._in_flight = self._waiting = None


def _serve(pipe: Connection, factory: PolicyFactory, threads: int, niceness: int) -> None:
    """The child."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if niceness:
        os.nice(niceness)
    try:
        policy = factory.build()
        warm_up = getattr(policy, "warm_up", None)
        if warm_up is not None:
            warm_up()
        pipe.send(_Reply("ready", spec=policy.spec, tokenizer_id=policy.tokenizer_id))
    except Exception:
        pipe.send(_Reply("error", message=traceback.format_exc()))
        return
    while True:
        try:
            call: _Call = pipe.recv()
            if call.kind == "reset":
                policy.reset()
            else:
                pipe.send(_answer(policy, call))
        except (EOFError, OSError):
            return


def _answer(policy: Policy, call: _Call) -> _Reply:
    assert call.observation is not None
    started = time.perf_counter_ns()
    try:
        chunk = policy.infer(call.observation)
    except Exception:
        return _Reply("error", call.number, message=traceback.format_exc())
    return _Reply("chunk", call.number, chunk=chunk, inference_ns=time.perf_counter_ns() - started)


def _leave_with_parent() -> None:
    """End at once when the parent is gone, even in the middle of an inference."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
