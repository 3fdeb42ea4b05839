"""OpenVLA on one thread with each option for speed, beside ``transformers``' own ``generate`` with the same weights.

A random checkpoint in the published layout, asked about the pictures of a recorded episode. Random weights say how fast
an option is and how far it moves what the network computes; what that does to a trained policy they cannot say.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList

from benchmarks.random_openvla import ACTION_IDS, VOCABULARY, Sizes, encode, make_tensors, write_checkpoint
from controllers.types import FloatArray, Observation
from episodes.reader import open_episode
from sim.assembly import default_config
from sim.rollout import ExpertSource, run_episode
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.fast import FastDecoder
from vla.openvla.images import ImageProcessor
from vla.openvla.model import Decoded, OpenVLAModel, load_model, with_action_prompt
from vla.openvla.policy import PROMPT
from vla.openvla.published import CheckpointError
from vla.openvla.speed import InferenceOptions, Layout, Weights
from vla.openvla.towers import Heads
from vla.process.timing import LatencySummary, RequestTiming

SIZES = Sizes(
    side=224,
    patch=14,
    dino=192,
    dino_mlp=768,
    siglip=192,
    siglip_mlp=768,
    depth=4,
    registers=4,
    text=512,
    text_mlp=1408,
    layers=8,
    heads=8,
    smooth=8.0,
)
HEADS = Heads(towers=(3, 3), language=8)
TOKENS = 7
BATCH = 4
_NO_CACHE_EVERY = 3  # pictures: without its cache, generate takes as long as all the rest
_EVERY = 2  # the stack takes ten observations a second
_EXACT = InferenceOptions(static_cache=True, action_head=True)
_PRUNED = replace(_EXACT, prune_layer=2, keep=0.5)
_TEXT_FIRST = replace(_EXACT, layout=Layout.TEXT_FIRST)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Row:
    """One option.

    Attributes:
        option: What is on, and the precision.
        speedup: Of the whole request, pictures to tokens, against fp32 without options.
        language_speedup: The same for the language model's part alone.
        vs_generate_nocache: That part against ``generate`` in the row's precision, the whole sequence for each token.
        vs_generate_cache: The same with its cache.
        p50_ms: Of the whole request.
        p95_ms: Likewise.
        action_error: Mean absolute difference of the normalized actions from fp32 without options.
        largest_error: The largest; the range is 2.
        token_agreement: Share of equal tokens.
        visual_tokens: Computed by the language model, on average.
        prefill_ms: Median.
        decode_ms: Median.
    """

    option: str
    speedup: float
    language_speedup: float
    vs_generate_nocache: float
    vs_generate_cache: float
    p50_ms: float
    p95_ms: float
    action_error: float
    largest_error: float
    token_agreement: float
    visual_tokens: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True, slots=True)
class OpenVLASummary:
    """``speedup_vs_generate_*`` compare seven tokens from the same embeddings, with the options that change no token
    and remember nothing (static_cache, action_head), in the policy's own precision, bf16, on both sides; ``fp32_*``
    the same in float32. ``latency`` is of whole requests in bf16, pictures included. ``action_change`` is how far the
    actions of float32 without options move from one picture to the next: what errors have to be seen beside. All times
    are the processor's.
    """

    parameters: int
    context: int
    frames: int
    speedup_vs_generate_nocache: float
    speedup_vs_generate_cache: float
    fp32_speedup_vs_generate_nocache: float
    fp32_speedup_vs_generate_cache: float
    generate_nocache_ms: float
    generate_cache_ms: float
    fp32_generate_nocache_ms: float
    fp32_generate_cache_ms: float
    tokens_equal_generate: float
    action_change: float
    latency: LatencySummary
    unavailable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """All of it."""

    summary: OpenVLASummary
    options: tuple[Row, ...]


@dataclass(frozen=True)
class Frames:
    """Pictures of an episode and the prompt."""

    pixels: tuple[Tensor, ...]
    prompt: tuple[int, ...]


@dataclass
class _Runner:
    """One decoder and what it did: milliseconds of the processor by repeat and frame, tokens by frame.

    With one thread, the processor's time is what the clock would show on a machine that nobody else uses.
    """

    name: str
    decoder: FastDecoder
    batch: int = 1
    forgetful: bool = False

    def __post_init__(self) -> None:
        self.timings: list[list[RequestTiming]] = []
        self.tokens: list[Tensor] = []

    def begin(self) -> None:
        """A new run through the episode."""
        self.decoder.reset()
        self.timings.append([])
        self.tokens = []

    def ask(self, frames: Frames, index: int) -> None:
        """One request; a batch asks about this picture and the next ones."""
        if self.forgetful:
            self.decoder.reset()
        count = len(frames.pixels)
        pixels = torch.cat([frames.pixels[(index + k) % count] for k in range(self.batch)])
        started = time.process_time()
        answer = self.decoder.decode(pixels, [frames.prompt] * self.batch, TOKENS)
        total = (time.process_time() - started) * 1e3
        self.timings[-1].append(_each(answer, total, self.batch))
        self.tokens.append(answer.tokens[0])

    def cheapest(self, part: str) -> FloatArray:
        """(frames,) the cheapest of the repeats."""
        values = [[_part(timing, part) for timing in repeat] for repeat in self.timings[1:]]
        return np.array(values).min(axis=0)


def _each(answer: Decoded, total_ms: float, batch: int) -> RequestTiming:
    stages = answer.stages
    parts = (stages.vision_ms, stages.prefill_ms, stages.decode_ms, total_ms)
    return RequestTiming(stages.visual_tokens, *(part / batch for part in parts))


def _part(timing: RequestTiming, part: str) -> float:
    match part:
        case "total":
            return timing.total_ms
        case "language":
            return timing.prefill_ms + timing.decode_ms
        case "prefill":
            return timing.prefill_ms
        case _:
            return timing.decode_ms


def measure(frames: int, repeats: int) -> Measured:
    """Measure on one thread of the processor.

    Args:
        frames: Pictures of the episode, one control step of the policy apart.
        repeats: Runs through them that count; the cheapest of each picture stands, since others use the machine too.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "checkpoint", make_tensors(SIZES), SIZES.side)
        seen, levels = _frames(Path(folder), checkpoint, frames)
        models = {name: _model(checkpoint, dtype) for name, dtype in _DTYPES.items()}
        runners = _runners(checkpoint, models, levels)
    with torch.inference_mode():
        references = {name: GenerateReference(model, seen) for name, model in models.items()}
        equal = _equal_tokens(references["fp32"], runners[0], seen)
        for _ in range(repeats + 1):  # the first is warm-up
            for each in (*references.values(), *runners):
                each.begin()
            for index in range(frames):
                for reference in references.values():
                    if index % _NO_CACHE_EVERY == 0:
                        reference.ask(index, cached=False)
                    reference.ask(index, cached=True)
                for runner in runners:
                    runner.ask(seen, index)
    base, exact = runners[0], _named(runners, f"fp32 {_EXACT.label}")
    fresh = _named(runners, f"fp32 {_TEXT_FIRST.label} from scratch")
    # Another layout is another network: it is compared with itself, computed from scratch.
    rows = [
        _row(runner, base, fresh if _TEXT_FIRST.label in runner.name else base, references[runner.name[:4]])
        for runner in runners
    ]
    language = np.median(exact.cheapest("language"))
    nocache, cache = (references["fp32"].cheapest(cached) for cached in (False, True))
    usual = _named(runners, f"bf16 {_EXACT.label}")
    bf16 = np.median(usual.cheapest("language"))
    bf16_nocache, bf16_cache = (references["bf16"].cheapest(cached) for cached in (False, True))
    summary = OpenVLASummary(
        parameters=sum(p.numel() for p in models["fp32"].parameters()),
        context=references["fp32"].ids.shape[1],
        frames=frames,
        speedup_vs_generate_nocache=float(bf16_nocache / bf16),
        speedup_vs_generate_cache=float(bf16_cache / bf16),
        fp32_speedup_vs_generate_nocache=float(nocache / language),
        fp32_speedup_vs_generate_cache=float(cache / language),
        generate_nocache_ms=bf16_nocache,
        generate_cache_ms=bf16_cache,
        fp32_generate_nocache_ms=nocache,
        fp32_generate_cache_ms=cache,
        tokens_equal_generate=equal,
        action_change=float(np.abs(np.diff(_actions(torch.stack(base.tokens)), axis=0)).mean()),
        latency=LatencySummary.of([timing for repeat in usual.timings[1:] for timing in repeat]),
        unavailable=_unavailable(),
    )
    return Measured(summary, tuple(rows))


def _model(checkpoint: Path, dtype: torch.dtype) -> OpenVLAModel:
    return load_model(Checkpoint(checkpoint), dtype=dtype, heads=HEADS)


def _frames(folder: Path, checkpoint: Path, count: int) -> tuple[Frames, Tensor]:
    """Record an episode of the expert, and take the pictures of a policy that sees five a second."""
    outcome = run_episode("pick_up", 2_000_000, ExpertSource(), default_config(), out_dir=folder / "episode")
    episode = open_episode(folder / "episode" / outcome.episode)
    available = len(episode.observations.stamp_ns) // _EVERY
    if available < count:
        raise ValueError(f"expected at most {available} pictures, as the episode has, found {count}; lower --frames")
    images = ImageProcessor.load(checkpoint, SIZES.side, 2)
    observations: list[Observation] = [episode.observation(_EVERY * index) for index in range(count)]
    pixels = tuple(images([observation.images["workspace"]]) for observation in observations)
    text = PROMPT.format(instruction=observations[0].instruction.strip().lower())
    return Frames(pixels, tuple(with_action_prompt(encode(text)))), images.levels


def _runners(checkpoint: Path, models: dict[str, OpenVLAModel], levels: Tensor) -> list[_Runner]:
    """Every option; models of fewer bits are loaded for themselves, since they give their own layers up."""

    def make(dtype: str, options: InferenceOptions, batch: int = 1, note: str = "", forgetful: bool = False) -> _Runner:
        own = options.weights is not Weights.FULL
        model = _model(checkpoint, _DTYPES[dtype]) if own else models[dtype]
        name = " ".join(part for part in (dtype, options.label, note) if part)
        return _Runner(name, FastDecoder(model, options, levels, time.process_time), batch, forgetful)

    return [
        make("fp32", InferenceOptions()),
        make("fp32", InferenceOptions(static_cache=True)),
        make("fp32", InferenceOptions(action_head=True)),
        make("fp32", _EXACT),
        make("fp32", replace(_EXACT, speculate=True)),
        make("fp32", _EXACT, BATCH, f"batch of {BATCH}"),
        make("fp32", _TEXT_FIRST, note="from scratch", forgetful=True),
        make("fp32", _TEXT_FIRST),
        make("fp32", _PRUNED),
        make("fp32", replace(_EXACT, reuse=1.0)),
        make("fp32", replace(_EXACT, reuse=4.0)),
        make("fp32", replace(_EXACT, weights=Weights.INT8)),
        make("fp32", replace(_PRUNED, weights=Weights.INT8)),
        make("bf16", InferenceOptions()),
        make("bf16", _EXACT),
        make("bf16", replace(_EXACT, speculate=True)),
        make("bf16", _PRUNED),
        make("bf16", replace(_EXACT, weights=Weights.INT8)),
        make("bf16", replace(_PRUNED, weights=Weights.INT8)),
        make("bf16", replace(_EXACT, weights=Weights.INT4)),
    ]


def _named(runners: Sequence[_Runner], name: str) -> _Runner:
    return next(runner for runner in runners if runner.name == name)


def _row(runner: _Runner, base: _Runner, exact: _Runner, reference: GenerateReference) -> Row:
    """A row: speed beside ``base`` and ``reference``, tokens beside ``exact``."""
    expected, found = torch.stack(exact.tokens), torch.stack(runner.tokens)
    error = np.abs(_actions(found) - _actions(expected))
    timings = [timing for repeat in runner.timings[1:] for timing in repeat]
    language = np.median(runner.cheapest("language"))
    p50, p95 = np.percentile([timing.total_ms for timing in timings], [50, 95])
    return Row(
        option=runner.name,
        speedup=float(np.median(base.cheapest("total")) / np.median(runner.cheapest("total"))),
        language_speedup=float(np.median(base.cheapest("language")) / language),
        vs_generate_nocache=float(reference.cheapest(False) / language),
        vs_generate_cache=float(reference.cheapest(True) / language),
        p50_ms=float(p50),
        p95_ms=float(p95),
        action_error=float(error.mean()),
        largest_error=float(error.max()),
        token_agreement=float((found == expected).float().mean()),
        visual_tokens=float(np.mean([timing.visual_tokens for timing in timings])),
        prefill_ms=float(np.median(runner.cheapest("prefill"))),
        decode_ms=float(np.median(runner.cheapest("decode"))),
    )


def _actions(tokens: Tensor) -> FloatArray:
    """Normalized actions of action ids: the centres of 255 bins over [-1, 1], highest id first."""
    index = np.clip(31_999 - tokens.numpy(), 0, 254)
    return (2.0 * index + 1.0) / 255.0 - 1.0


# ------------------------------------------------------------------------------------ the reference


class _ActionsOnly(LogitsProcessor):
    """Lets action ids through, so that ``generate`` chooses among what we choose among."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        masked = torch.full_like(scores, float("-inf"))
        masked[:, ACTION_IDS] = scores[:, ACTION_IDS]
        return masked


class GenerateReference:
    """``LlamaForCausalLM.generate`` with a model's weights: any id, as many tokens.

    Given embeddings, ``generate`` of this release caches whatever it is told (it passes over single positions with
    ``use_cache=False``, too). So it is given ids, from a table of embeddings in whose last rows the patches are put.
    """

    def __init__(self, model: OpenVLAModel, frames: Frames) -> None:
        """Share the weights; the pictures are embedded once."""
        language = model.language
        with torch.device("meta"):
            self._language = LlamaForCausalLM(language.config)
        self._language.load_state_dict(language.state_dict(), assign=True)
        self._language.model.rotary_emb = language.model.rotary_emb
        table = language.model.embed_tokens.weight
        self._table = torch.cat((table, table.new_zeros((model.patch_count, table.shape[1]))))
        self._language.model.embed_tokens = nn.Embedding.from_pretrained(self._table)
        self._patches = [model.patches(pixels)[0].to(table.dtype) for pixels in frames.pixels]
        prompt = frames.prompt
        self.ids = torch.tensor([[prompt[0], *range(len(table), len(self._table)), *prompt[1:]]])
        self._milliseconds: dict[bool, list[list[float]]] = {False: [], True: []}

    def begin(self) -> None:
        """A new run through the episode."""
        for runs in self._milliseconds.values():
            runs.append([])

    def ask(self, index: int, *, cached: bool) -> None:
        """Time one request."""
        self._table[VOCABULARY:] = self._patches[index]
        started = time.process_time()
        self._generate(cached)
        self._milliseconds[cached][-1].append((time.process_time() - started) * 1e3)

    def actions(self, index: int, *, cached: bool) -> Tensor:
        """(1, tokens) what it writes if it may write action ids only."""
        self._table[VOCABULARY:] = self._patches[index]
        return self._generate(cached, LogitsProcessorList([_ActionsOnly()]))

    def cheapest(self, cached: bool) -> float:
        """Median over the pictures of the cheapest of the repeats, without the first, ms."""
        return float(np.median(np.array(self._milliseconds[cached][1:]).min(axis=0)))

    def _generate(self, cached: bool, only: LogitsProcessorList | None = None) -> Tensor:
        config = GenerationConfig(
            max_new_tokens=TOKENS, do_sample=False, use_cache=cached, eos_token_id=None, pad_token_id=0, bos_token_id=1
        )
        mask = torch.ones_like(self.ids)
        written = self._language.generate(  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            self.ids, attention_mask=mask, generation_config=config, logits_processor=only
        )
        return written[:, self.ids.shape[1] :]  # pyright: ignore[reportArgumentType, reportCallIssue]


def _equal_tokens(reference: GenerateReference, runner: _Runner, frames: Frames) -> float:
    """Share of our tokens that ``generate`` writes, too, with and without its cache."""
    shares: list[float] = []
    for index, pixels in enumerate(frames.pixels):
        ours = runner.decoder.decode(pixels, [frames.prompt], TOKENS).tokens
        shares += [float((ours == reference.actions(index, cached=c)).float().mean()) for c in (False, True)]
    return float(np.mean(shares))


def _unavailable() -> tuple[str, ...]:
    """Options that this device cannot run, as they say it themselves."""
    refused: list[str] = []
    for options in (InferenceOptions(cuda_graphs=True), InferenceOptions(weights=Weights.FP8)):
        try:
            options.check_device("cpu")
        except CheckpointError as error:
            refused.append(str(error))
    return tuple(refused)
