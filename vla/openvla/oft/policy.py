"""OpenVLA-OFT as a policy: tokens of its own, or a continuous chunk that is discretized at the boundary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from controllers.types import ActionChunk, ActionSpec, FloatArray, IntArray, Observation
from vla.foreign.boundary import Boundary, OutOfRange
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.images import ImageProcessor
from vla.openvla.model import with_action_prompt
from vla.openvla.oft.declared import (
    L1_TOKENIZER,
    ActionHead,
    OFTDeclaration,
    action_scale,
    find_components,
    oft_spec,
)
from vla.openvla.oft.model import OFTInputs, OFTModel, load_oft_model
from vla.openvla.oft.state import ProprioStatistics, proprio_statistics, read_state
from vla.openvla.policy import PROMPT, EncodeText, text_encoder
from vla.openvla.published import ActionStatistics, CheckpointError
from vla.openvla.speed import InferenceOptions
from vla.openvla.towers import Heads
from vla.process.account import BoundaryAccount
from vla.process.refusal import refused_chunk
from vla.process.timing import RequestTiming
from vla.tokenizers import TokenConvention, UniformBinTokenizer

# Un-normalizing adds this to the range, as the published code does; OpenVLA's own does not.
_RANGE_EPS = 1e-8


@dataclass(frozen=True)
class Reader:
    """Makes the network's inputs of observations.

    Attributes:
        declaration: What the network sees.
        images: Makes pixels.
        encode: Prompt text to ids, with BOS.
        statistics: Of the state; None for a network that does not see it.
    """

    declaration: OFTDeclaration
    images: ImageProcessor
    encode: EncodeText
    statistics: ProprioStatistics | None

    def __call__(self, observations: Sequence[Observation]) -> OFTInputs:
        """Inputs for a batch.

        Raises:
            ValueError: A missing camera, or a state that is none of the data set's.
        """
        pixels = torch.stack([self._pixels(observation) for observation in observations])
        texts = [PROMPT.format(instruction=o.instruction.strip().lower()) for o in observations]
        prompts = [with_action_prompt(self.encode(text)) for text in texts]
        if self.statistics is None:
            return OFTInputs(pixels, prompts)
        parts, origin = self.declaration.state, self.declaration.origin
        states = np.stack([read_state(o, parts, origin, self.statistics) for o in observations])
        return OFTInputs(pixels, prompts, torch.from_numpy(states.astype(np.float32)))

    def _pixels(self, observation: Observation) -> torch.Tensor:
        missing = [name for name in self.declaration.cameras if name not in observation.images]
        if missing:
            raise ValueError(
                f"expected a camera {missing[0]!r}, found {', '.join(observation.images) or 'none'}; name the cameras "
                "that stand where the model's did"
            )
        return self.images([observation.images[name] for name in self.declaration.cameras])


class OFTTokenPolicy:
    """The token head. Implements :class:`controllers.protocols.Policy`."""

    def __init__(self, model: OFTModel, reader: Reader, spec: ActionSpec) -> None:
        """Join network, inputs and contract."""
        self._model, self._reader, self._spec = model, reader, spec
        self._timing: RequestTiming | None = None
        base = model.base
        tokenizer = UniformBinTokenizer(base.bins - 1, TokenConvention.OPENVLA, base.vocabulary)
        self._tokenizer_id = tokenizer.tokenizer_id

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._tokenizer_id

    @property
    def timing(self) -> RequestTiming | None:
        """Where the time of the last request went; None before the first."""
        return self._timing

    def reset(self) -> None:
        """Forget the episode: pictures that were seen, where they are reused."""
        self._model.reset()

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation, or a refusal with its reason."""
        try:
            return self.infer_batch([observation])[0]
        except ValueError as error:
            return refused_chunk(str(error), self._spec, observation.stamp_ns)

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Emit a chunk for each observation, in one batch.

        Raises:
            ValueError: An observation that the network cannot see.
        """
        started = time.perf_counter()
        horizon, dims = self._spec.horizon, self._spec.dims
        decoded = self._model.decode(self._reader(observations), horizon * dims)
        shape = (len(observations), horizon, dims)
        tokens: IntArray = decoded.tokens.reshape(shape).cpu().numpy().astype(np.int64)
        sure: FloatArray = decoded.log_probability.reshape(shape).double().cpu().numpy()
        tokens.flags.writeable = sure.flags.writeable = False
        self._timing = _timing(self._model, started)
        return [
            ActionChunk(rows, self._tokenizer_id, self._spec.hash, o.stamp_ns, 0, log_probability=certainty)
            for rows, certainty, o in zip(tokens, sure, observations, strict=True)
        ]


class OFTRegressionPolicy:
    """The L1 head. Implements :class:`controllers.protocols.Policy`; also ``Accounting``."""

    def __init__(self, model: OFTModel, reader: Reader, spec: ActionSpec, statistics: ActionStatistics) -> None:
        """Join network, inputs and contract.

        Args:
            model: The network.
            reader: Makes its inputs.
            spec: Contract of the actions, in m and rad.
            statistics: Of the actions, in the data set's units.

        Raises:
            CheckpointError: A head with another number of dimensions.
        """
        if model.head is None or model.head.dims != spec.dims:
            found = "none" if model.head is None else f"one of {model.head.dims}"
            raise CheckpointError(f"expected a regression head of {spec.dims} dimensions, found {found}")
        self._model, self._reader, self._statistics = model, reader, statistics
        self._timing: RequestTiming | None = None
        self._boundary = Boundary(spec, L1_TOKENIZER, OutOfRange.SATURATE)
        self._scale = action_scale(reader.declaration)
        slack = reader.declaration.overshoot * (spec.upper - spec.lower) + _RANGE_EPS
        self._lowest, self._highest = spec.lower - slack, spec.upper + slack

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._boundary.spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._boundary.tokenizer_id

    @property
    def account(self) -> BoundaryAccount:
        """What discretizing cost so far."""
        return self._boundary.account

    @property
    def timing(self) -> RequestTiming | None:
        """Where the time of the last request went; None before the first."""
        return self._timing

    def reset(self) -> None:
        """Forget the episode: pictures that were seen, where they are reused."""
        self._model.reset()

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation, or a refusal with its reason."""
        try:
            return self.infer_batch([observation])[0]
        except ValueError as error:
            return self._boundary.refuse(str(error), observation)

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Emit a chunk, or a refusal with its reason, for each observation, in one batch.

        Raises:
            ValueError: An observation that the network cannot see.
        """
        chunks = self.actions(observations)
        return [self._chunk(actions, o) for actions, o in zip(chunks, observations, strict=True)]

    def actions(self, observations: Sequence[Observation]) -> FloatArray:
        """Continuous chunks (batch, horizon, dims) in the spec's units, before the boundary.

        Raises:
            ValueError: An observation that the network cannot see.
        """
        started = time.perf_counter()
        normalized = self._model.actions(self._reader(observations), self.spec.horizon).double().cpu().numpy()
        self._timing = _timing(self._model, started)
        low, high = self._statistics.q01, self._statistics.q99
        scaled = 0.5 * (normalized + 1.0) * (high - low + _RANGE_EPS) + low
        return np.where(self._statistics.mask, scaled, normalized) * self._scale

    def _chunk(self, actions: FloatArray, observation: Observation) -> ActionChunk:
        astray = ~((actions >= self._lowest) & (actions <= self._highest))  # of NaN, too
        if astray.any():
            row, dim = np.argwhere(astray)[0]
            return self._boundary.refuse(
                f"row {row}, {self.spec.names[dim]}: expected a value in [{self._lowest[dim]:.6g}, "
                f"{self._highest[dim]:.6g}] {self.spec.units[dim]}, found {actions[row, dim]:.6g}; check unnorm_key, "
                "cameras and state",
                observation,
            )
        return self._boundary.chunk(actions, observation)


def _timing(model: OFTModel, started: float) -> RequestTiming | None:
    total_ms = (time.perf_counter() - started) * 1e3
    return None if model.stages is None else RequestTiming(**asdict(model.stages), total_ms=total_ms)


def load_oft_policy(
    folder: Path | str,
    declaration: OFTDeclaration,
    *,
    device: str = "cpu",
    dtype: str = "bf16",
    heads: Heads | None = None,
    encode: EncodeText | None = None,
    inference: InferenceOptions | None = None,
) -> OFTTokenPolicy | OFTRegressionPolicy:
    """Load a published folder.

    Args:
        folder: The checkpoint.
        declaration: How it was trained.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        heads: Numbers of attention heads, for checkpoints of unpublished sizes.
        encode: Prompt text to ids with BOS; None reads the folder's tokenizer.
        inference: What is done for speed; None for nothing.

    Raises:
        CheckpointError: The folder is damaged, or the declaration does not fit it.
    """
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if dtype not in dtypes:
        raise CheckpointError(f"expected dtype {' or '.join(dtypes)}, found {dtype!r}")
    checkpoint = Checkpoint(folder)
    components = find_components(checkpoint.folder, declaration)
    statistics = checkpoint.config.statistics_of(declaration.statistics_key)
    spec = oft_spec(statistics, declaration)
    state = proprio_statistics(checkpoint.folder, declaration.statistics_key) if declaration.state else None
    side, towers = checkpoint.config.image_size, len(checkpoint.config.vision_ids)
    images = ImageProcessor.load(checkpoint.folder, side, towers, declaration.center_crop)
    model = load_oft_model(
        checkpoint,
        components,
        device=device,
        dtype=dtypes[dtype],
        heads=heads,
        inference=inference,
        levels=images.levels,
    )
    if state is not None and model.projector is not None and model.projector.values != state.q01.size:
        raise CheckpointError(
            f"{components.proprio_projector}: expected a projector of {state.q01.size} values, as the statistics of "
            f"{declaration.statistics_key!r} have, found one of {model.projector.values}"
        )
    reader = Reader(declaration, images, encode or text_encoder(checkpoint.folder), state)
    if declaration.head is ActionHead.TOKENS:
        return OFTTokenPolicy(model, reader, spec)
    return OFTRegressionPolicy(model, reader, spec, statistics)
