"""OpenVLA as a policy: one action a chunk, as the tokens that the model wrote."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from controllers.types import ActionChunk, ActionSpec, FloatArray, IntArray, Observation
from vla.doubt import chunk_doubt
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.fast import FastDecoder
from vla.openvla.images import ImageProcessor
from vla.openvla.model import OpenVLAModel, load_model, with_action_prompt
from vla.openvla.published import CheckpointError, action_spec
from vla.openvla.speed import InferenceOptions
from vla.openvla.towers import Heads
from vla.process.timing import RequestTiming
from vla.tokenizers import TokenConvention, UniformBinTokenizer

PROMPT = "In: What action should the robot take to {instruction}?\nOut:"
EncodeText = Callable[[str], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class OpenVLAOptions:
    """How a checkpoint is run; what it cannot know of itself must be said.

    Attributes:
        statistics_key: Data set whose statistics un-normalize (``unnorm_key``).
        rate_hz: Actions per second of that data set.
        camera: Which of the robot's cameras the model sees.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        center_crop: Share of the picture's area that is kept; see :class:`~vla.openvla.images.ImageProcessor`.
        heads: Numbers of attention heads, for checkpoints of unpublished sizes.
        inference: What is done for speed.
    """

    statistics_key: str
    rate_hz: int
    camera: str = "front"
    device: str = "cpu"
    dtype: str = "bf16"
    center_crop: float | None = None
    heads: Heads | None = None
    inference: InferenceOptions = InferenceOptions()


class OpenVLAPolicy:
    """Implements :class:`controllers.protocols.Policy`."""

    def __init__(
        self,
        model: OpenVLAModel,
        spec: ActionSpec,
        images: ImageProcessor,
        encode: EncodeText,
        camera: str,
        inference: InferenceOptions | None = None,
    ) -> None:
        """Join network, contract and preprocessing.

        Args:
            model: The network.
            spec: Contract of the actions, horizon 1.
            images: Makes pixels.
            encode: Prompt text to ids, with BOS.
            camera: Name of the camera that the model sees.
            inference: What is done for speed; None for nothing.

        Raises:
            CheckpointError: That does not fit the device or the network.
        """
        self._spec, self._images, self._encode, self._camera = spec, images, encode, camera
        self._decoder = FastDecoder(model, inference or InferenceOptions(), images.levels)
        self._timing: RequestTiming | None = None
        self._tokenizer = UniformBinTokenizer(
            bins=model.bins - 1, convention=TokenConvention.OPENVLA, vocabulary_size=model.vocabulary
        )

    @staticmethod
    def load(folder: Path | str, options: OpenVLAOptions, encode: EncodeText | None = None) -> OpenVLAPolicy:
        """Load a published folder.

        Args:
            folder: The checkpoint.
            options: How to run it.
            encode: Prompt text to ids with BOS; None reads the folder's tokenizer.

        Raises:
            CheckpointError: The folder is damaged, or the options do not fit it.
        """
        dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
        if options.dtype not in dtypes:
            raise CheckpointError(f"expected dtype {' or '.join(dtypes)}, found {options.dtype!r}")
        options.inference.check_device(options.device)
        checkpoint = Checkpoint(folder)
        statistics = checkpoint.config.statistics_of(options.statistics_key)
        model = load_model(checkpoint, device=options.device, dtype=dtypes[options.dtype], heads=options.heads)
        side, towers = checkpoint.config.image_size, len(checkpoint.config.vision_ids)
        images = ImageProcessor.load(checkpoint.folder, side, towers, options.center_crop)
        spec = action_spec(statistics, options.rate_hz)
        encode = encode or text_encoder(checkpoint.folder)
        return OpenVLAPolicy(model, spec, images, encode, options.camera, options.inference)

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._tokenizer.tokenizer_id

    @property
    def timing(self) -> RequestTiming | None:
        """Where the time of the last request went; None before the first."""
        return self._timing

    def reset(self) -> None:
        """Forget the episode: what was computed of its pictures and guessed from its actions."""
        self._decoder.reset()

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit one action."""
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Emit one action for each observation, in one batch.

        Where the options reuse what was computed before, the same place in the batch is the same stream of pictures.

        Raises:
            ValueError: An observation lacks the camera.
        """
        started = time.perf_counter()
        pictures = [self._picture(observation) for observation in observations]
        prompts = [
            with_action_prompt(self._encode(PROMPT.format(instruction=o.instruction.strip().lower())))
            for o in observations
        ]
        decoded = self._decoder.decode(self._images(pictures), prompts, self._spec.dims)
        tokens: IntArray = decoded.tokens.cpu().numpy().astype(np.int64)
        sure: FloatArray = decoded.log_probability.double().cpu().numpy()
        tokens.flags.writeable = sure.flags.writeable = False
        total_ms = (time.perf_counter() - started) * 1e3
        self._timing = RequestTiming(**asdict(decoded.stages), total_ms=total_ms)
        return [
            ActionChunk(
                row[None],
                self.tokenizer_id,
                self._spec.hash,
                o.stamp_ns,
                0,
                log_probability=certainty[None],
                doubt=chunk_doubt(certainty),
            )
            for row, certainty, o in zip(tokens, sure, observations, strict=True)
        ]

    def _picture(self, observation: Observation):
        if self._camera not in observation.images:
            raise ValueError(
                f"expected a camera {self._camera!r}, found {', '.join(observation.images) or 'none'}; name the camera "
                "that the model was trained with"
            )
        return observation.images[self._camera]


def text_encoder(folder: Path) -> EncodeText:
    """The encoder of a folder's Llama tokenizer.

    Raises:
        CheckpointError: Its files are missing.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: expected the Llama tokenizer's files, found none that load ({error})"
        ) from error
    return lambda text: tokenizer(text, add_special_tokens=True)["input_ids"]
