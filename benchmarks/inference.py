"""Speed of the compact VLA on one thread, from pictures to tokens, for one observation with two 128 px cameras.

The reference is the same network in float32; its chunks are compared with those of the default precision.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.machine import Machine
from controllers.types import Observation
from sim.assembly import assemble_sim, default_config
from sim.tasks.catalog import task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench inference``."""

    repeats: int = 20
    """Inferences for each of the suite's tasks."""
    policy: str = ""
    """Policy folder; empty for the shipped weights."""
    device: str = "cpu"
    """cpu or cuda."""


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds from observation to chunk; ``token_agreement`` with the float32 reference."""

    parameters: int
    p50_ms: float
    p99_ms: float
    chunks_per_second: float
    reference: str
    reference_p50_ms: float
    token_agreement: float
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from vla.catalog import DEFAULT_COMPACT_WEIGHTS
    from vla.compact.policy import CompactPolicy

    machine = Machine.here()
    folder = options.policy or DEFAULT_COMPACT_WEIGHTS
    fast = CompactPolicy.load(folder, options.device, "bf16", threads=1)
    exact = CompactPolicy.load(folder, options.device, "fp32", threads=1)
    observations = [_first_observation(task) for task in task_names()]
    milliseconds, reference, equal = [], [], []
    for repeat in range(options.repeats + 1):
        for observation in observations:
            took, tokens = _timed(fast, observation)
            reference_took, reference_tokens = _timed(exact, observation)
            if repeat == 0:  # warm-up, and the comparison of tokens
                equal.append(tokens == reference_tokens)
                continue
            milliseconds.append(took)
            reference.append(reference_took)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Result(
        parameters=fast.parameters,
        p50_ms=float(p50),
        p99_ms=float(p99),
        chunks_per_second=1000.0 / float(p50),
        reference="the same network in float32",
        reference_p50_ms=float(np.median(reference)),
        token_agreement=float(np.mean(equal)),
        machine=machine,
    )


def _first_observation(task: str) -> Observation:
    config = default_config()
    with assemble_sim(config, task, 2_000_000) as cell:
        state = cell.robot.read()
        return cell.source.observe(state, state.ee_pose)


def _timed(policy, observation: Observation) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    chunk = policy.infer(observation)
    return (time.perf_counter() - started) * 1e3, chunk.tokens
