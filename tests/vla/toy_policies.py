"""Policies that a child process builds in tests; no torch."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace

import numpy as np

from controllers.types import ActionChunk, ActionSpec, Observation
from sim.tabletop import TABLETOP_ACTION_SPEC
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


class EchoPolicy:
    """Answers with the number in the instruction, after the rows that are committed already."""

    def __init__(self, delay_s: float, horizon: int) -> None:
        self._delay_s = delay_s
        self.tokenizer_id = "uniform-255/rt2"
        self.spec: ActionSpec = replace(toy_spec(), horizon=horizon)

    def reset(self) -> None:
        """Nothing to forget."""

    def infer(self, observation: Observation) -> ActionChunk:
        if observation.instruction == "die":
            os._exit(7)
        if observation.instruction == "hang":
            time.sleep(600)
        time.sleep(self._delay_s)
        number = re.search(r"\d+", observation.instruction)
        tokens = np.full((self.spec.horizon, 7), 128 + int(number.group() if number else 0), dtype=np.int64)
        forced = 0
        if observation.prefix is not None:
            forced = observation.prefix.rows
            tokens[:forced] = observation.prefix.tokens
        return ActionChunk(tokens, self.tokenizer_id, self.spec.hash, observation.stamp_ns, 0, forced)


def build_echo(delay_s: float = 0.0, horizon: int = 8) -> EchoPolicy:
    return EchoPolicy(delay_s, horizon)


class StillPolicy:
    """Stays where it is with an open gripper, under the tabletop suite's spec."""

    def __init__(self) -> None:
        self.tokenizer_id = "uniform-255/rt2"
        self.spec: ActionSpec = TABLETOP_ACTION_SPEC

    def reset(self) -> None:
        """Nothing to forget."""

    def infer(self, observation: Observation) -> ActionChunk:
        tokens = np.full((8, 7), 127, dtype=np.int64)
        tokens[:, 6] = 254
        return ActionChunk(tokens, self.tokenizer_id, self.spec.hash, observation.stamp_ns, 0)


def build_tabletop() -> StillPolicy:
    return StillPolicy()
