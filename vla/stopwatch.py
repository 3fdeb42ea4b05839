"""A stopwatch for the stages of one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Clock = Callable[[], float]
"""Seconds since some moment."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where the time of one batch went, ms; ``visual_tokens`` were computed for each observation."""

    visual_tokens: int
    vision_ms: float
    prefill_ms: float
    decode_ms: float


class Stopwatch:
    """Reads the clock when everything that was asked of the device is done."""

    def __init__(self, device: torch.device, clock: Clock = time.perf_counter) -> None:
        """Start."""
        self._device, self._clock = device, clock
        self._last = self._now()

    def lap(self) -> float:
        """Milliseconds since the last lap, or since the start."""
        now = self._now()
        took, self._last = (now - self._last) * 1e3, now
        return took

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()
