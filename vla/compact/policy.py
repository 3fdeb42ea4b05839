"""The compact model as a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from controllers.doubt import ChunkDoubt
from controllers.names import unknown_name
from controllers.types import ActionChunk, ActionSpec, FloatArray, IntArray, Observation
from vla.compact.config import CompactConfig
from vla.compact.decoding import chosen_log_probability, mean_around_mode, mode, sampled_agreement
from vla.compact.files import PolicyFileError, PolicyFiles, load_policy
from vla.compact.forcing import force_prefix
from vla.compact.language import WordVocabulary
from vla.compact.model import CompactModel
from vla.compact.preprocess import PROPRIOCEPTION_DIMS, observation_image, observation_proprioception
from vla.doubt import chunk_doubt
from vla.process.timing import RequestTiming
from vla.stopwatch import Stopwatch
from vla.tokenizers import COMPACT_TOKENIZER

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


class Decoding(Enum):
    """How a token is chosen from the distribution over bins. Both are deterministic."""

    MODE = "mode"  # the most likely bin
    MEAN_AROUND_MODE = "mean_around_mode"  # the bin nearest to the mean within four bins of the mode


@dataclass(frozen=True, slots=True)
class _Decision:
    """What the model made of one observation; arrays are (horizon, dims) and read-only."""

    tokens: IntArray
    log_probability: FloatArray
    entropy: FloatArray
    doubt: ChunkDoubt


class CompactPolicy:
    """The compact model behind the ``Policy`` protocol."""

    def __init__(
        self,
        files: PolicyFiles,
        device: str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        decoding: Decoding = Decoding.MEAN_AROUND_MODE,
        doubt_samples: int = 0,
    ) -> None:
        """Build the model from verified files; :meth:`load` reads them from a folder."""
        if doubt_samples < 0:
            raise ValueError(f"expected 0 (none) or more sampled decodes for the agreement, found {doubt_samples}")
        self._files = files
        self._doubt_samples = doubt_samples
        self._decoding = decoding
        self._device = torch.device(device)
        model = CompactModel(files.config)
        try:
            model.load_state_dict({name: tensor.float() for name, tensor in files.weights.items()})
        except RuntimeError as error:
            raise PolicyFileError(f"the weights do not fit config.json: {error}") from error
        self._model = model.to(self._device, dtype).eval()
        self._model.requires_grad_(False)
        self._words: dict[str, Tensor] = {}
        self._graphs: dict[int, _CudaGraph] = {}  # by length of the instruction
        self._timing: RequestTiming | None = None

    @staticmethod
    def load(
        folder: Path | str,
        device: str = "cpu",
        dtype: str = "bf16",
        decoding: Decoding = Decoding.MEAN_AROUND_MODE,
        threads: int | None = None,
        doubt_samples: int = 0,
    ) -> CompactPolicy:
        """Load a policy folder.

        Args:
            folder: Written by training; see ``vla.compact.files``.
            device: ``cpu`` or ``cuda``.
            dtype: ``bf16``, ``fp16`` or ``fp32``; ``bfloat16``, ``float16`` and ``float32`` are the same.
            decoding: How tokens are chosen.
            threads: Torch threads of this whole process; None leaves them as they are.
            doubt_samples: Sampled decodes to compare each chunk with (``ChunkDoubt.agreement``); 0 for none. Their
                seed is the observation's stamp, so the same observation gives the same agreement.

        Raises:
            PolicyFileError: The folder is damaged or inconsistent.
            ValueError: Unknown dtype, or a negative number of samples.
        """
        if dtype not in DTYPES:
            raise ValueError(unknown_name("dtype", dtype, tuple(DTYPES)))
        if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"expected a CUDA device for {device!r}, found none that torch {torch.__version__} can use"
            )
        if threads is not None:
            torch.set_num_threads(threads)
        return CompactPolicy(load_policy(Path(folder)), device, DTYPES[dtype], decoding, doubt_samples)

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._files.spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._files.tokenizer_id

    @property
    def config(self) -> CompactConfig:
        """Architecture of the model."""
        return self._files.config

    @property
    def model(self) -> CompactModel:
        """The network."""
        return self._model

    @property
    def vocabulary(self) -> WordVocabulary:
        """Words that it knows."""
        return self._files.vocabulary

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(tensor.numel() for tensor in self._files.weights.values())

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights file."""
        return self._files.weights_hash

    @property
    def timing(self) -> RequestTiming | None:
        """Where the time of the last request went, None before the first; its one pass counts as prefill."""
        return self._timing

    def reset(self) -> None:
        """Forget the past episode: there is nothing to forget, every chunk follows from one observation."""

    def warm_up(self) -> None:
        """Run the model a few times on nothing, so that the first real chunk is not slow."""
        size = self.config.image_size
        images = tuple(torch.zeros((1, size, size, 3), dtype=torch.uint8) for _ in self.config.cameras)
        words = torch.ones((1, self.config.max_words), dtype=torch.int64)
        with torch.inference_mode():
            for _ in range(3):
                self._choose(self._logits(images, words, torch.zeros((1, PROPRIOCEPTION_DIMS))))

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation.

        Raises:
            ValueError: A camera is missing or of another size, or the instruction does not fit.
        """
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Emit a chunk for each observation, in one pass of the model."""
        if not observations:
            return []
        return [self._chunk(*answer) for answer in zip(self._decide(observations), observations, strict=True)]

    def _chunk(self, decision: _Decision, observation: Observation) -> ActionChunk:
        """The chunk of one observation, with its committed rows in place."""
        tokens, certainty, prefix = decision.tokens, decision.log_probability, observation.prefix
        if prefix is not None:
            vocabulary, own = COMPACT_TOKENIZER, tokens
            tokens = force_prefix(own, prefix, self.spec, vocabulary.lowest_token, vocabulary.highest_token)
            certainty = np.where(tokens == own, certainty, np.nan)  # known for the tokens that it chose itself
        return ActionChunk(
            tokens=tokens,
            tokenizer_id=self.tokenizer_id,
            spec_hash=self.spec.hash,
            observation_stamp_ns=observation.stamp_ns,
            chunk_id=0,
            log_probability=certainty,
            entropy=decision.entropy,
            doubt=decision.doubt,  # of what the model wanted itself: what is forced on it makes it no surer
            forced_rows=0 if prefix is None else prefix.rows,
        )

    def tokens(self, observations: Sequence[Observation]) -> list[IntArray]:
        """Read-only (horizon, dims) int64 tokens for each observation, as the model wants them: nothing is forced."""
        return [decision.tokens for decision in self._decide(observations)]

    def _decide(self, observations: Sequence[Observation]) -> list[_Decision]:
        """What the model makes of each observation, in one pass."""
        watch = Stopwatch(self._device)
        config = self.config
        images = tuple(
            torch.from_numpy(np.stack([observation_image(o, camera, config.image_size) for o in observations]))
            for camera in config.cameras
        )
        words = [self._instruction(o.instruction) for o in observations]
        words = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)
        state = torch.from_numpy(np.stack([observation_proprioception(o) for o in observations]))
        if not torch.isfinite(state).all():
            raise ValueError("the observation's robot state is not finite")
        prepare_ms = watch.lap()
        with torch.inference_mode():
            logits = self._logits(images, words, state)
            pass_ms = watch.lap()
            chosen = self._choose(logits)
            certainty, entropy = chosen_log_probability(logits, chosen)
        tokens = chosen.cpu().numpy()
        choose_ms = watch.lap()
        total_ms = prepare_ms + pass_ms + choose_ms
        self._timing = RequestTiming(config.visual_tokens, prepare_ms, pass_ms, choose_ms, total_ms)
        certainties, entropies = certainty.cpu().double().numpy(), entropy.cpu().double().numpy()
        for array in (tokens, certainties, entropies):
            array.flags.writeable = False
        agreements = [
            sampled_agreement(logits[i], chosen[i], self._doubt_samples, o.stamp_ns) if self._doubt_samples else None
            for i, o in enumerate(observations)
        ]
        return [
            _Decision(own, sure, spread, chunk_doubt(sure, spread, agreement))
            for own, sure, spread, agreement in zip(tokens, certainties, entropies, agreements, strict=True)
        ]

    def _logits(self, images: tuple[Tensor, ...], words: Tensor, state: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return self._model(images, words, state)[0]
        if len(words) == 1:
            length = words.shape[1]
            if length not in self._graphs:
                self._graphs[length] = _CudaGraph(self._model, images, words, state)
            return self._graphs[length](images, words, state)
        moved = tuple(image.to(self._device) for image in images)
        return self._model(moved, words.to(self._device), state.to(self._device))[0]

    def _choose(self, logits: Tensor) -> Tensor:
        return mode(logits) if self._decoding is Decoding.MODE else mean_around_mode(logits)

    def _instruction(self, instruction: str) -> Tensor:
        known = self._words.get(instruction)
        if known is None:
            ids = self.vocabulary.encode(instruction, self.config.max_words)
            known = torch.from_numpy(ids[ids != 0])
            if len(self._words) > 1000:
                self._words.clear()
            self._words[instruction] = known
        return known


class _CudaGraph:
    """One captured forward pass for a batch of one: replaying it launches all kernels at once."""

    def __init__(self, model: CompactModel, images: tuple[Tensor, ...], words: Tensor, state: Tensor) -> None:
        device = next(model.parameters()).device
        self._images = tuple(image.to(device) for image in images)
        self._words, self._state = words.to(device), state.to(device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(self._images, self._words, self._state)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = model(self._images, self._words, self._state)[0]

    def __call__(self, images: tuple[Tensor, ...], words: Tensor, state: Tensor) -> Tensor:
        for target, image in zip(self._images, images, strict=True):
            target.copy_(image)
        self._words.copy_(words)
        self._state.copy_(state)
        self._graph.replay()
        return self._logits
