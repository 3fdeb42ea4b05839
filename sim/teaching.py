"""Teaching: clean expert labels for every observation, while a noisy expert or a student drives.

States that a learner will meet but a perfect expert never visits are brought about by short bursts of noise
(M. Laskey et al., "DART: noise injection for robust imitation learning", 2017) or by letting the student drive
(S. Ross et al., "A reduction of imitation learning and structured prediction to no-regret online learning", 2011).
Whoever drives, the label is what the expert would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from controllers.protocols import Policy, PolicyClient
from controllers.types import ActionChunk, ChunkArrival, IntArray, Observation
from vla.tokenizers import UniformBinTokenizer

RecordLabel = Callable[[int, IntArray], None]


@dataclass(frozen=True, slots=True)
class BurstNoise:
    """Short bursts of a constant push, added to motion tokens; the gripper is left alone.

    A constant push displaces the arm, where independent noise would average out.

    Attributes:
        probability: Chance that a burst starts with a chunk.
        min_chunks: Shortest burst.
        max_chunks: Longest burst.
        sigma_bins: Standard deviation of the push, in bins of the tokenizer.
    """

    probability: float = 0.08
    min_chunks: int = 2
    max_chunks: int = 5
    sigma_bins: float = 24.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"expected a burst probability in [0, 1], found {self.probability}")
        if not 1 <= self.min_chunks <= self.max_chunks:
            raise ValueError(f"expected 1 <= min_chunks <= max_chunks, found {self.min_chunks}, {self.max_chunks}")
        if self.sigma_bins < 0.0:
            raise ValueError(f"expected sigma_bins of 0 or more, found {self.sigma_bins}")


class NoiseBursts:
    """Draws the bursts of one episode."""

    def __init__(self, noise: BurstNoise, tokenizer: UniformBinTokenizer, rng: np.random.Generator) -> None:
        """Start between bursts."""
        self._noise = noise
        self._tokenizer = tokenizer
        self._rng = rng
        self._push: IntArray | None = None
        self._left = 0

    def apply(self, tokens: IntArray) -> IntArray:
        """The tokens (horizon, dims) that are played instead; the last dimension is the gripper."""
        noise, rng = self._noise, self._rng
        if self._left == 0 and rng.random() < noise.probability:
            self._left = int(rng.integers(noise.min_chunks, noise.max_chunks + 1))
            push = np.rint(rng.normal(0.0, noise.sigma_bins, tokens.shape[1])).astype(np.int64)
            push[-1] = 0
            self._push = push
        if self._left == 0 or self._push is None:
            return tokens
        self._left -= 1
        pushed = np.clip(tokens + self._push, self._tokenizer.lowest_token, self._tokenizer.highest_token)
        pushed[:, -1] = tokens[:, -1]
        pushed.flags.writeable = False
        return pushed


@dataclass(frozen=True, slots=True)
class Mixture:
    """Who drives when a student is taught: stretches of chunks, each driven by one of the two.

    Attributes:
        expert_fraction: Chance that the expert drives a stretch.
        stretch_chunks: Length of a stretch.
    """

    expert_fraction: float = 0.2
    stretch_chunks: int = 10

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0.0 <= self.expert_fraction <= 1.0 or self.stretch_chunks < 1:
            raise ValueError(
                f"expected expert_fraction in [0, 1] and stretch_chunks of 1 or more, found {self.expert_fraction}, "
                f"{self.stretch_chunks}"
            )


class TeachingClient:
    """A ``PolicyClient`` that records the expert's clean chunk for every observation, whoever drives."""

    def __init__(
        self,
        expert: Policy,
        record_label: RecordLabel,
        rng: np.random.Generator,
        *,
        student: PolicyClient | None = None,
        mixture: Mixture | None = None,
        noise: NoiseBursts | None = None,
        latency_ns: int = 0,
    ) -> None:
        """Bind to one episode.

        Args:
            expert: Labels, and drives where the student does not.
            record_label: Takes the observation's stamp and the clean tokens.
            rng: Decides who drives.
            student: Drives, except where the mixture says otherwise; None for the expert alone.
            mixture: How often the expert drives in the student's stead.
            noise: Disturbs the expert's chunks when it drives.
            latency_ns: Declared latency of the expert's chunks.
        """
        self._expert = expert
        self._record_label = record_label
        self._rng = rng
        self._student = student
        self._mixture = mixture or Mixture(expert_fraction=0.0)
        self._noise = noise
        self._latency_ns = latency_ns
        self._left = 0
        self._expert_drives = student is None
        self._pending: list[ActionChunk] = []
        self._next_id = 0

    def request(self, observation: Observation) -> None:
        """Label the observation, and ask whoever drives for a chunk."""
        clean = self._expert.infer(observation)
        self._record_label(observation.stamp_ns, clean.tokens)
        if self._choose_expert() or self._student is None:
            tokens = clean.tokens if self._noise is None else self._noise.apply(clean.tokens)
            self._pending.append(replace(clean, tokens=tokens))
        else:
            self._student.request(observation)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        """Chunks that are due, numbered in order of arrival."""
        due = [c for c in self._pending if now_ns - c.observation_stamp_ns >= self._latency_ns]
        self._pending = [c for c in self._pending if now_ns - c.observation_stamp_ns < self._latency_ns]
        arrivals = [ChunkArrival(chunk) for chunk in due]
        if self._student is not None:
            arrivals.extend(self._student.poll(now_ns))
        numbered = []
        for arrival in arrivals:
            numbered.append(replace(arrival, chunk=replace(arrival.chunk, chunk_id=self._next_id)))
            self._next_id += 1
        return tuple(numbered)

    def _choose_expert(self) -> bool:
        if self._student is None:
            return True
        if self._left == 0:
            self._left = self._mixture.stretch_chunks
            self._expert_drives = bool(self._rng.random() < self._mixture.expert_fraction)
        self._left -= 1
        return self._expert_drives
