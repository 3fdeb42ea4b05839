"""Where the time of one request to a model went; it travels with every answer. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True)
class RequestTiming:
    """One request, or one batch of them.

    Attributes:
        visual_tokens: Positions of pictures that the language model computed for each observation, in its first layer.
        vision_ms: Pictures to their embeddings.
        prefill_ms: The language model's pass over pictures and prompt; all of it where there is only one pass.
        decode_ms: The passes for one token each.
        total_ms: From observation to chunk, with what lies between and around.
    """

    visual_tokens: int
    vision_ms: float
    prefill_ms: float
    decode_ms: float
    total_ms: float

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RequestTiming:
        """Rebuild from ``dataclasses.asdict`` that went through JSON.

        Raises:
            TypeError: Other fields than these, or fields of other types.
        """
        timing = RequestTiming(**data)
        if not all(isinstance(value, (int, float)) for value in data.values()):
            raise TypeError(f"expected numbers, found {data!r:.200}")
        return timing


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one figure over requests."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Percentiles of each part over some requests; see :class:`RequestTiming`."""

    requests: int
    visual_tokens: Percentiles
    vision_ms: Percentiles
    prefill_ms: Percentiles
    decode_ms: Percentiles
    total_ms: Percentiles

    @staticmethod
    def of(timings: Sequence[RequestTiming]) -> LatencySummary:
        """Sum requests up.

        Raises:
            ValueError: There are none.
        """
        if not timings:
            raise ValueError("expected at least one request, found none")
        parts = {
            item.name: Percentiles(
                *(float(q) for q in np.percentile([getattr(t, item.name) for t in timings], (50, 95)))
            )
            for item in fields(RequestTiming)
        }
        return LatencySummary(len(timings), **parts)

    def line(self) -> str:
        """For people."""
        parts = {"vision": self.vision_ms, "prefill": self.prefill_ms, "decode": self.decode_ms, "total": self.total_ms}
        words = ", ".join(f"{name} {part.p50:.1f} and {part.p95:.1f}" for name, part in parts.items())
        tokens = f"{self.visual_tokens.p50:.0f} and {self.visual_tokens.p95:.0f} visual tokens"
        return f"{self.requests} requests, median and p95: {tokens}; {words} ms"


@runtime_checkable
class Timed(Protocol):
    """A policy that says where the time of a request went."""

    @property
    def timing(self) -> RequestTiming | None:
        """Of the last request; None before the first."""
        ...
