"""Policy clients that live in the loop's own process."""

from __future__ import annotations

import time
from dataclasses import replace

from controllers.protocols import Policy
from controllers.types import ChunkArrival, Observation


class InlinePolicyClient:
    """Runs a light policy (no deep-learning framework) at the request, on a virtual clock.

    The answer becomes visible ``latency_ns`` after the observation, so that results do not depend on how fast the
    machine is.
    """

    def __init__(self, policy: Policy, latency_ns: int = 0) -> None:
        """Wrap ``policy``; ``latency_ns`` is the declared time from observation to arrival."""
        if latency_ns < 0:
            raise ValueError(f"expected a latency of 0 ns or more, found {latency_ns} ns")
        self._policy = policy
        self._latency_ns = latency_ns
        self._pending: list[ChunkArrival] = []
        self._next_id = 0

    def request(self, observation: Observation) -> None:
        """Infer now; the chunk arrives at the declared latency."""
        started = time.monotonic_ns()
        chunk = replace(self._policy.infer(observation), chunk_id=self._next_id)
        self._next_id += 1
        took = time.monotonic_ns() - started
        self._pending.append(ChunkArrival(chunk, took, chunk.observation_stamp_ns + self._latency_ns))

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        """Chunks whose latency has passed."""
        due: list[ChunkArrival] = []
        later: list[ChunkArrival] = []
        for arrival in self._pending:
            waited_ns = now_ns - arrival.chunk.observation_stamp_ns
            (due if waited_ns >= self._latency_ns else later).append(arrival)
        self._pending = later
        return tuple(due)
