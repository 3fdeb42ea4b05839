"""What the model is shown and what it shall write: robot frames as prompt and action tokens, mixed with general data.

The published layout: BOS, picture, ``In: What action should the robot take to {instruction}?\\nOut:``, the empty piece
29871, one token for each action dimension, and the end of sequence. Loss is taken on the action tokens (and on the end,
if so chosen), never on the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from controllers.types import ActionSpec, FloatArray, ImageArray, IntArray
from vla.openvla.images import ImageProcessor
from vla.openvla.model import with_action_prompt
from vla.openvla.policy import PROMPT, EncodeText
from vla.openvla.tuning.augment import augmented
from vla.openvla.tuning.general import STOP_ID, Pair
from vla.tokenizers import COMPACT_TOKENIZER, UniformBinTokenizer
from vla.training.dataset import PackedDataset
from vla.training.resampling import join_motions
from vla.training.split import Split


@dataclass(frozen=True)
class Batch:
    """Samples, ready for the model.

    Attributes:
        pixels: (batch, 3 towers, side, side).
        prompts: Ids of each prompt.
        targets: Ids that follow it.
        actions: For each sample the number of its leading targets that are action tokens; 0 for general data.
    """

    pixels: Tensor
    prompts: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    actions: tuple[int, ...]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.prompts)

    @property
    def target_count(self) -> int:
        """Ids that the loss is taken on."""
        return sum(len(target) for target in self.targets)

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into ``count`` of equal size."""
        size = len(self) // count
        return [
            Batch(self.pixels[cut], self.prompts[cut], self.targets[cut], self.actions[cut])
            for cut in (slice(start, start + size) for start in range(0, len(self), size))
        ]


def frame_actions(data: PackedDataset, rate_hz: int) -> FloatArray:
    """(frames, 7) what the expert did after each frame for ``1 / rate_hz``, in the units of the data's action spec.

    Raises:
        ValueError: The rate does not divide that of the labels, or a row takes longer than a label.
    """
    spec = data.spec
    if spec is None:
        raise ValueError("expected packed frames, found an empty cache")
    if rate_hz < 1 or spec.rate_hz % rate_hz or spec.rate_hz // rate_hz > spec.horizon:
        raise ValueError(
            f"expected a rate that divides the labels' {spec.rate_hz} Hz, at most {spec.horizon} times, found "
            f"{rate_hz}; change --policy-rate-hz"
        )
    rows = spec.rate_hz // rate_hz
    decoded = COMPACT_TOKENIZER.decode(data.frames["tokens"][:, :rows].astype(np.int64), spec)
    return decoded[:, 0] if rows == 1 else join_motions(decoded, rows)


class Samples:
    """Draws batches; each is a function of the seed and the step alone, so that a resumed run draws the same."""

    def __init__(
        self,
        data: PackedDataset,
        split: Split,
        actions: FloatArray,
        spec: ActionSpec,
        tokenizer: UniformBinTokenizer,
        images: ImageProcessor,
        encode: EncodeText,
        general: Sequence[tuple[Sequence[Pair], float]] = (),
        stop_token: bool = False,
    ) -> None:
        """Write every action as tokens once.

        Args:
            data: Packed frames of one camera.
            split: Which of them train, and how often.
            actions: (frames, 7) of :func:`frame_actions`.
            spec: Contract of the tuned model, whose statistics normalize.
            tokenizer: Of the model.
            images: Makes its pixels.
            encode: Text to ids, with BOS.
            general: Pairs, and their share of all samples.
            stop_token: Whether the end of sequence is a target, too.
        """
        self._data, self._split, self._images = data, split, images
        self.actions, self.spec, self.tokenizer = actions, spec, tokenizer
        self.tokens: IntArray = tokenizer.encode(actions, spec)
        self._general = tuple(general)
        self._stop = (STOP_ID,) if stop_token else ()
        self._prompts = [
            tuple(with_action_prompt(encode(PROMPT.format(instruction=entry.instruction.strip().lower()))))
            for entry in data.episodes
        ]

    @property
    def digest(self) -> str:
        """Of everything that is drawn from: frames, how often, targets, words, pairs."""
        digest = hashlib.sha256()
        for array in (self._split.train, self._split.cumulative, self.tokens, self._data.frames["image"]):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(repr((self._prompts, self._general, self._stop)).encode())
        return digest.hexdigest()[:16]

    def draw(self, seed: int, step: int, count: int, augment: bool) -> Batch:
        """The batch of one step.

        Args:
            seed: Of the run.
            step: Number of the step, from 0.
            count: Samples.
            augment: Change the pictures at random.
        """
        rng = np.random.default_rng((seed, step))
        kinds = np.searchsorted(np.cumsum([share for _, share in self._general]), rng.random(count), side="right")
        place = np.searchsorted(self._split.cumulative, rng.random(count), side="right")
        frames = self._split.train[np.minimum(place, len(self._split.train) - 1)]
        pictures, prompts, targets, actions = [], [], [], []
        for kind, frame in zip(kinds.tolist(), frames.tolist(), strict=True):
            if kind < len(self._general):
                pairs = self._general[kind][0]
                pair = pairs[int(rng.integers(len(pairs)))]
                picture, prompt, target, acted = pair.picture(), pair.prompt, pair.target, 0
            else:
                picture, prompt, target = self._robot(frame)
                acted = self.tokens.shape[1]
            resized = self._images.resized(picture)
            pictures.append(augmented(resized, rng) if augment else resized)
            prompts.append(prompt)
            targets.append(target)
            actions.append(acted)
        return Batch(self._images.normalized(np.stack(pictures)), tuple(prompts), tuple(targets), tuple(actions))

    def plain(self, frames: IntArray) -> Batch:
        """A batch of given robot frames (n,), without augmentation."""
        found = [self._robot(int(frame)) for frame in frames]
        return Batch(
            self._images([picture for picture, _, _ in found]),
            tuple(prompt for _, prompt, _ in found),
            tuple(target[: self.tokens.shape[1]] for _, _, target in found),
            tuple(self.tokens.shape[1] for _ in found),
        )

    def _robot(self, frame: int) -> tuple[ImageArray, tuple[int, ...], tuple[int, ...]]:
        row = self._data.frames[frame]
        picture = np.asarray(self._data.images[int(row["image"]), 0])
        return picture, self._prompts[int(row["episode"])], (*self.tokens[frame].tolist(), *self._stop)
