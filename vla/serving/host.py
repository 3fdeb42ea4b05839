"""A policy process driven from an event loop: inference never blocks the loop, a dead process is started again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from controllers.types import ActionChunk, ActionSpec, Observation
from vla.process import (
    PolicyDiedError,
    PolicyFactory,
    PolicyInferenceError,
    PolicyProcess,
    PolicyProcessError,
    PolicyTimeoutError,
    ProcessMode,
)
from vla.process.timing import LatencySummary
from vla.serving.mapping import ObservationMapping

_log = logging.getLogger("vla.serving")
_BACK_OFF_S = (0.2, 1.0, 5.0)
_REPLY_BYTES = 8 << 20  # memory is taken only where a long chunk is written


class HostUnavailableError(RuntimeError):
    """There is no policy to ask at the moment."""


@dataclass(frozen=True)
class ServedPolicy:
    """What a server serves.

    Attributes:
        name: For the metadata and the log.
        factory: Builds the policy in its process.
        mapping: How openpi clients name what they send.
        weights_sha256: Hash of the weights.
        stateless: Every chunk follows from one observation, so clients may share a process. Otherwise each client
            gets a process of its own.
        tokenizer_definition: What the tokenizer's identity names by a hash; empty if it says all.
    """

    name: str
    factory: PolicyFactory
    mapping: ObservationMapping
    weights_sha256: str = ""
    stateless: bool = False
    tokenizer_definition: str = ""


@dataclass(frozen=True, slots=True)
class Inference:
    """A chunk and how long it took, ms."""

    chunk: ActionChunk
    infer_ms: float


class PolicyHost:
    """One policy process and the one thread that waits for it."""

    def __init__(self, factory: PolicyFactory, timeout_s: float, start_timeout_s: float, threads: int) -> None:
        """Keep the settings; :meth:`start` spawns the process."""
        self._factory = factory
        self._timeout_s, self._start_timeout_s, self._threads = timeout_s, start_timeout_s, threads
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="policy-host")
        self._process: PolicyProcess | None = None
        self._restart: asyncio.Task[None] | None = None
        self._fault = "the policy was never started"
        self._closed = False
        self.restarts = 0

    async def start(self) -> tuple[ActionSpec, str]:
        """Spawn the process and wait until it is warm; gives its action spec and tokenizer.

        Raises:
            PolicyProcessError: It could not be built.
        """
        process = await self._in_thread(self._spawn)
        self._process = process
        return process.spec, process.tokenizer_id

    @property
    def ready(self) -> bool:
        """Whether there is a policy to ask."""
        return self._process is not None

    async def infer(self, observation: Observation) -> Inference:
        """Ask for one chunk; other coroutines run meanwhile.

        Raises:
            PolicyInferenceError: The policy refused or failed on this observation.
            HostUnavailableError: The process is gone; it is being started again.
        """
        process = self._available()
        try:
            return await self._in_thread(lambda: _infer(process, observation))
        except (PolicyDiedError, PolicyTimeoutError) as error:
            self._begin_restart(str(error))
            raise HostUnavailableError(f"{error}; it is being started again") from error

    async def reset(self) -> None:
        """Forget the episode.

        Raises:
            HostUnavailableError: The process is gone.
        """
        process = self._available()
        try:
            await self._in_thread(process.reset)
        except PolicyProcessError as error:
            self._begin_restart(str(error))
            raise HostUnavailableError(f"{error}; it is being started again") from error

    async def close(self) -> None:
        """End the process."""
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
        process, self._process = self._process, None
        if process is not None:
            timings = tuple(process.timings)
            await self._in_thread(process.close)
            if timings:
                _log.info("the policy, %s", LatencySummary.of(timings).line())
        self._executor.shutdown(wait=False)

    def _available(self) -> PolicyProcess:
        if self._process is None:
            raise HostUnavailableError(self._fault)
        return self._process

    def _spawn(self) -> PolicyProcess:
        return PolicyProcess(
            self._factory,
            ProcessMode.LOCK_STEP,
            timeout_s=self._timeout_s,
            start_timeout_s=self._start_timeout_s,
            threads=self._threads,
            reply_bytes=_REPLY_BYTES,
        ).start()

    def _begin_restart(self, fault: str) -> None:
        self._process, self._fault = None, f"{fault}; it is being started again"
        if not self._closed and (self._restart is None or self._restart.done()):
            _log.error("%s", self._fault)
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        attempt = 0
        while not self._closed:
            await asyncio.sleep(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
            attempt += 1
            try:
                process = await self._in_thread(self._spawn)
            except PolicyProcessError as error:
                self._fault = f"the policy cannot be started again: {error}"
                _log.exception("attempt %d to start the policy again failed", attempt)
                continue
            if self._closed:
                await asyncio.get_running_loop().run_in_executor(None, process.close)
                return
            self.restarts += 1
            self._process = process
            _log.warning("the policy runs again after %d attempts", attempt)
            return

    async def _in_thread[T](self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _infer(process: PolicyProcess, observation: Observation) -> Inference:
    started = time.perf_counter()
    process.request(observation)
    arrivals = process.poll()
    if not arrivals:
        raise PolicyInferenceError("the policy gave no chunk for this observation")
    return Inference(arrivals[-1].chunk, (time.perf_counter() - started) * 1e3)
