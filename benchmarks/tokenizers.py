"""Action tokenizers on the expert's chunks: length, error, time; and fuzzed tokens at the boundary.

The reference is the FAST processor that LeRobot ships, with the same vocabulary on the same chunks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import Machine
from controllers.clients import InlinePolicyClient
from controllers.drivers import run_lockstep
from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.types import ActionChunk, ActionSpec, FloatArray, IntArray, Observation
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.experts.policy import ExpertPolicy
from sim.rollout import Tally, expert_policy, success_condition
from sim.tasks.catalog import task_names
from vla.tokenizers import (
    ActionTokenizer,
    BSplineTokenizer,
    FastTokenizer,
    QuantileBinTokenizer,
    TokenConvention,
    UniformBinTokenizer,
    decoder_for,
)
from vla.tokenizers.normalization import normalize


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench tokenizers``."""

    episodes: int = 2
    """Expert episodes for each task; the first half of the chunks fits, the second half measures."""
    seed: int = 3_000_000
    """First seed."""
    fuzz: int = 100_000
    """Fuzzed token sequences over all tokenizers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenizer; ``rms_error`` in normalized units, times are medians; ``fuzz_admitted`` were well formed."""

    tokenizer: str
    tokens_per_chunk: float
    rms_error: float
    encode_us: float
    decode_us: float
    fuzzed: int = 0
    fuzz_admitted: int = 0
    fuzz_malformed_admitted: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """``same_tokens``: share of chunks for which FAST and its reference write the same tokens."""

    chunks: int
    tokenizers: tuple[Row, ...]
    reference: Row
    same_tokens: float
    fuzzed: int
    fuzz_malformed_admitted: int
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    spec = default_config().action_spec
    chunks = _expert_chunks(options)
    fitting, measured = chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :]
    fast = FastTokenizer.fit(fitting, spec, scale=20.0, vocabulary_size=1024)
    measured = [chunk for chunk in measured if _writable(fast, chunk, spec)]
    tokenizers: tuple[ActionTokenizer, ...] = (
        UniformBinTokenizer(),
        UniformBinTokenizer(convention=TokenConvention.OPENVLA),
        QuantileBinTokenizer.fit(fitting, spec),
        fast,
        BSplineTokenizer(),
    )
    share = options.fuzz // len(tokenizers)
    rows = tuple(_row(tokenizer, measured, spec, share, seed) for seed, tokenizer in enumerate(tokenizers))
    reference, same = _reference(fast, measured, spec)
    return Result(
        chunks=len(measured),
        tokenizers=rows,
        reference=reference,
        same_tokens=same,
        fuzzed=sum(row.fuzzed for row in rows),
        fuzz_malformed_admitted=sum(row.fuzz_malformed_admitted for row in rows),
        machine=machine,
    )


class _Listening:
    """The expert, with an ear on its chunks before they are tokens."""

    def __init__(self, expert: ExpertPolicy, heard: list[FloatArray]) -> None:
        self._expert, self._heard = expert, heard
        self.spec, self.tokenizer_id, self.reset = expert.spec, expert.tokenizer_id, expert.reset

    def infer(self, observation: Observation) -> ActionChunk:
        self._heard.append(self._expert.actions(observation))
        return self._expert.infer(observation)


def _expert_chunks(options: Options) -> list[FloatArray]:
    config = default_config()
    loop = assemble_loop(config)
    episodes: list[list[FloatArray]] = []
    for seed in range(options.seed, options.seed + options.episodes):
        for task in task_names():
            heard: list[FloatArray] = []
            with assemble_sim(config, task, seed) as cell:
                run_lockstep(
                    loop,
                    cell.robot,
                    InlinePolicyClient(_Listening(expert_policy(cell, config), heard), 0),
                    cell.source,
                    Tally(cell, None, 1_000_000),
                    max_ticks=round(cell.instance.time_limit_s * config.control_rate_hz),
                    stop=success_condition(cell, config),
                )
            episodes.append(heard)
    return [chunk for heard in episodes for chunk in heard]


def _writable(fast: FastTokenizer, chunk: FloatArray, spec: ActionSpec) -> bool:
    try:
        fast.encode(chunk, spec)
    except ValueError:
        return False
    return True


def _row(tokenizer: ActionTokenizer, chunks: list[FloatArray], spec: ActionSpec, fuzz: int, seed: int) -> Row:
    decoder = decoder_for(tokenizer, spec)
    encode_us, tokens = _timed(lambda chunk: tokenizer.encode(chunk, spec), chunks)
    decode_us, decoded = _timed(decoder.decode, tokens)
    errors = [normalize(d, spec) - normalize(c, spec) for d, c in zip(decoded, chunks, strict=True)]
    admitted, malformed = _fuzz(tokenizer, decoder, tokens, fuzz, np.random.default_rng(seed))
    return Row(
        tokenizer.tokenizer_id,
        float(np.mean([t.size for t in tokens])),
        float(np.sqrt(np.mean(np.square(errors)))),
        encode_us,
        decode_us,
        fuzz,
        admitted,
        malformed,
    )


def _timed[In, Out](function: Callable[[In], Out], inputs: list[In]) -> tuple[float, list[Out]]:
    """Median time of a call, us, and all answers; warm after the first call."""
    function(inputs[0])
    outputs, times = [], []
    for value in inputs:
        started = time.perf_counter_ns()
        outputs.append(function(value))
        times.append(time.perf_counter_ns() - started)
    return float(np.median(times)) * 1e-3, outputs


def _reference(fast: FastTokenizer, chunks: list[FloatArray], spec: ActionSpec) -> tuple[Row, float]:
    from lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer import UniversalActionProcessor

    with tempfile.TemporaryDirectory() as folder:
        fast.save(folder)
        processor = UniversalActionProcessor.from_pretrained_local(folder)
    normalized = [normalize(chunk, spec) for chunk in chunks]
    encode_us, tokens = _timed(lambda chunk: processor(chunk)[0], normalized)
    decode_us, decoded = _timed(
        lambda ids: processor.decode([ids], time_horizon=spec.horizon, action_dim=spec.dims)[0], tokens
    )
    same = np.mean([fast.encode(c, spec).tolist() == t for c, t in zip(chunks, tokens, strict=True)])
    error = float(np.sqrt(np.mean(np.square(np.array(decoded) - np.array(normalized)))))
    name = "lerobot UniversalActionProcessor"
    return Row(name, float(np.mean([len(t) for t in tokens])), error, encode_us, decode_us), float(same)


# ------------------------------------------------------------------------------------------------ fuzzing


def _fuzz(
    tokenizer: ActionTokenizer, decoder: ActionDecoder, seeds: list[IntArray], count: int, rng: np.random.Generator
) -> tuple[int, int]:
    """How many of ``count`` faulty sequences were admitted, and how many of those were malformed after all."""
    admitted = malformed = 0
    for _ in range(count):
        tokens = _faulty(seeds[int(rng.integers(len(seeds)))], rng)
        try:
            decoder.decode(tokens)
        except ActionDecodeError:
            continue
        admitted += 1
        malformed += not _well_formed(tokenizer, tokens, decoder.spec)
    return admitted, malformed


def _faulty(tokens: IntArray, rng: np.random.Generator) -> Any:
    """One fault: random values, a few wrong values, a cut, a repetition, a shuffle, another shape or type."""
    kind = int(rng.integers(0, 7))
    if kind == 0:
        return rng.integers(-10, 32_100, tokens.shape)
    if kind == 1:
        return tokens[: int(rng.integers(0, len(tokens)))]
    if kind == 2:
        return np.concatenate((tokens, tokens[: int(rng.integers(1, len(tokens) + 1))]))
    if kind == 3:
        return rng.permutation(tokens.ravel()).reshape(tokens.shape)
    if kind == 4:
        return tokens.astype((np.int32, np.float64, np.uint64)[int(rng.integers(3))])
    if kind == 5:
        return tokens.ravel()[None] if tokens.ndim == 1 else tokens.ravel()
    changed = tokens.copy()
    flat = changed.reshape(-1)
    flat[rng.integers(0, flat.size, 2)] += rng.integers(-40_000, 40_000, 2)
    return changed


def _well_formed(tokenizer: ActionTokenizer, tokens: IntArray, spec: ActionSpec) -> bool:
    """Judged by the rules as published, without the decoder."""
    if tokens.dtype != np.int64:
        return False
    ids = tokens.ravel().tolist()
    if isinstance(tokenizer, FastTokenizer):
        pieces = tokenizer.pieces
        if tokens.ndim != 1 or not all(0 <= i < len(pieces) for i in ids):
            return False
        return len(b"".join(pieces[i] for i in ids).decode(errors="replace")) == spec.horizon * spec.dims
    if isinstance(tokenizer, BSplineTokenizer):
        return tokens.shape == (tokenizer.points, spec.dims) and all(0 <= i < tokenizer.bins for i in ids)
    openvla = isinstance(tokenizer, UniformBinTokenizer) and tokenizer.convention is TokenConvention.OPENVLA
    low, high = (31_744, 31_999) if openvla else (0, 254)
    return tokens.shape == (spec.horizon, spec.dims) and all(low <= i <= high for i in ids)
