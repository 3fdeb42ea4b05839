"""Speed of the models on one thread.

The compact VLA from pictures to tokens, for one observation with two 128 px cameras, beside the same network in
float32, whose chunks are compared with those of the default precision. Then a random OpenVLA checkpoint with each
option for speed, beside ``transformers``' ``generate`` with the same weights (``benchmarks/openvla_inference.py``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.machine import Machine
from controllers.types import Observation
from sim.assembly import assemble_sim, default_config
from sim.tasks.catalog import task_names
from vla.process.timing import LatencySummary, RequestTiming

if TYPE_CHECKING:  # it imports torch, which must not be before the number of threads is set
    from benchmarks.openvla_inference import OpenVLASummary, Row


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench inference``."""

    repeats: int = 20
    """Inferences for each of the suite's tasks."""
    policy: str = ""
    """Policy folder; empty for the shipped weights."""
    device: str = "cpu"
    """cpu or cuda, for the compact VLA; OpenVLA is timed on the processor."""
    frames: int = 6
    """Pictures of a recorded episode that OpenVLA is asked about; 0 leaves it out."""
    openvla_repeats: int = 2
    """Runs through them; the cheapest of each picture stands."""


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds from observation to chunk; ``token_agreement`` with the float32 reference.

    ``speedup_vs_generate_*`` and ``options`` are OpenVLA's, None and empty where it was left out.
    """

    parameters: int
    p50_ms: float
    p99_ms: float
    chunks_per_second: float
    reference: str
    reference_p50_ms: float
    token_agreement: float
    latency: LatencySummary
    speedup_vs_generate_nocache: float | None
    speedup_vs_generate_cache: float | None
    openvla: OpenVLASummary | None
    options: tuple[Row, ...]
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.openvla_inference import measure
    from vla.catalog import DEFAULT_COMPACT_WEIGHTS
    from vla.compact.policy import CompactPolicy

    machine = Machine.here()
    folder = options.policy or DEFAULT_COMPACT_WEIGHTS
    fast = CompactPolicy.load(folder, options.device, "bf16", threads=1)
    exact = CompactPolicy.load(folder, options.device, "fp32", threads=1)
    observations = [_first_observation(task) for task in task_names()]
    milliseconds, reference, equal = [], [], []
    timings: list[RequestTiming] = []
    for repeat in range(options.repeats + 1):
        for observation in observations:
            reference_took, reference_tokens = _timed(exact, observation)
            took, tokens = _timed(fast, observation)
            if repeat == 0:  # warm-up, and the comparison of tokens
                equal.append(tokens == reference_tokens)
                continue
            milliseconds.append(took)
            timings += [] if fast.timing is None else [fast.timing]
            reference.append(reference_took)
    openvla = measure(options.frames, options.openvla_repeats) if options.frames else None
    summary = None if openvla is None else openvla.summary
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Result(
        parameters=fast.parameters,
        p50_ms=float(p50),
        p99_ms=float(p99),
        chunks_per_second=1000.0 / float(p50),
        reference="the same network in float32",
        reference_p50_ms=float(np.median(reference)),
        token_agreement=float(np.mean(equal)),
        latency=LatencySummary.of(timings),
        speedup_vs_generate_nocache=summary and summary.speedup_vs_generate_nocache,
        speedup_vs_generate_cache=summary and summary.speedup_vs_generate_cache,
        openvla=summary,
        options=() if openvla is None else openvla.options,
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
