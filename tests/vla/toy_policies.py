"""Policies that a child process builds in tests; no torch."""

from __future__ import annotations

import os
import time

import numpy as np

from controllers.types import ActionChunk, ActionSpec, Observation
from tests.vla.synthetic import toy_spec


class ToyPolicy:
    """Answers with the number of its call; does odd things when the instruction says so."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s, self._calls = delay_s, 0
        self.tokenizer_id = "uniform-255/rt2"
        self.spec: ActionSpec = toy_spec()

    def reset(self) -> None:
        self._calls = 0

    def infer(self, observation: Observation) -> ActionChunk:
        if observation.instruction == "fail":
            raise ValueError("camera 'wrist' is missing")
        if observation.instruction == "die":
            os._exit(7)
        if observation.instruction == "hang":
            time.sleep(600)
        time.sleep(self._delay_s)
        self._calls += 1
        tokens = np.full((8, 7), self._calls, dtype=np.int64)
        return ActionChunk(tokens, self.tokenizer_id, self.spec.hash, observation.stamp_ns, 0)


def build(delay_s: float = 0.0) -> ToyPolicy:
    return ToyPolicy(delay_s)


def build_broken() -> ToyPolicy:
    raise FileNotFoundError("no weights here")
