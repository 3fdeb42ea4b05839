"""OpenVLA as a policy: one action a chunk, as the tokens that the model wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from controllers.types import ActionChunk, ActionSpec, FloatArray, IntArray, Observation
from vla.doubt import chunk_doubt
from vla.openvla.checkpoint import Checkpoint
from vla.openvla.images import ImageProcessor
from vla.openvla.model import OpenVLAModel, load_model, with_action_prompt
from vla.openvla.published import CheckpointError, action_spec
from vla.openvla.towers import Heads
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
    """

    statistics_key: str
    rate_hz: int
    camera: str = "front"
    device: str = "cpu"
    dtype: str = "bf16"
    center_crop: float | None = None
    heads: Heads | None = None


class OpenVLAPolicy:
    """Implements :class:`controllers.protocols.Policy`."""

    def __init__(
        self, model: OpenVLAModel, spec: ActionSpec, images: ImageProcessor, encode: EncodeText, camera: str
    ) -> None:
        """Join network, contract and preprocessing.

        Args:
            model: The network.
            spec: Contract of the actions, horizon 1.
            images: Makes pixels.
            encode: Prompt text to ids, with BOS.
            camera: Name of the camera that the model sees.
        """
        self._model, self._spec, self._images, self._encode, self._camera = model, spec, images, encode, camera
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
        checkpoint = Checkpoint(folder)
        statistics = checkpoint.config.statistics_of(options.statistics_key)
        model = load_model(checkpoint, device=options.device, dtype=dtypes[options.dtype], heads=options.heads)
        side, towers = checkpoint.config.image_size, len(checkpoint.config.vision_ids)
        images = ImageProcessor.load(checkpoint.folder, side, towers, options.center_crop)
        spec = action_spec(statistics, options.rate_hz)
        return OpenVLAPolicy(model, spec, images, encode or text_encoder(checkpoint.folder), options.camera)

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._tokenizer.tokenizer_id

    def reset(self) -> None:
        """Nothing to forget: every action follows from one picture."""

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit one action."""
        return self.infer_batch([observation])[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """Emit one action for each observation, in one batch.

        Raises:
            ValueError: An observation lacks the camera.
        """
        pictures = [self._picture(observation) for observation in observations]
        prompts = [
            with_action_prompt(self._encode(PROMPT.format(instruction=o.instruction.strip().lower())))
            for o in observations
        ]
        decoded = self._model.decode(self._images(pictures), prompts, self._spec.dims)
        tokens: IntArray = decoded.tokens.cpu().numpy().astype(np.int64)
        sure: FloatArray = decoded.log_probability.double().cpu().numpy()
        tokens.flags.writeable = sure.flags.writeable = False
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
