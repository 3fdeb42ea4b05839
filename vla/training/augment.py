"""Batches with cheap augmentation: random shifts while copying, colour as an affine map inside the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla.training.dataset import PackedDataset


@dataclass(frozen=True)
class Augmentation:
    """Strength of augmentation.

    Attributes:
        shift: Largest shift of each camera's image, pixels; edges are repeated. A pixel is 5 mm on the table in the
            workspace view and 1 to 3 mm in the wrist view, which is as much precision as is given up.
        brightness: Standard deviation of the offset, in units of half the pixel range.
        contrast: Standard deviation of the common gain.
        color: Standard deviation of each channel's own gain.
        state_noise: Standard deviation of noise on the normalized proprioception.
    """

    shift: tuple[int, ...] = (2, 2)
    brightness: float = 0.08
    contrast: float = 0.10
    color: float = 0.04
    state_noise: float = 0.02


@dataclass(frozen=True)
class Batch:
    """One batch, ready for the model."""

    images: tuple[Tensor, ...]
    tints: tuple[Tensor, ...]
    words: Tensor
    state: Tensor
    tokens: Tensor
    goal: Tensor


def plain_batch(data: PackedDataset, frames: np.ndarray, words: np.ndarray) -> Batch:
    """A batch without augmentation, e.g. for validation."""
    images = data.images[data.frames["image"][frames]]
    return _batch(data, frames, words, [np.ascontiguousarray(images[:, i]) for i in range(images.shape[1])])


def augmented_batch(
    data: PackedDataset,
    frames: np.ndarray,
    words: np.ndarray,
    options: Augmentation,
    state_std: np.ndarray,
    rng: np.random.Generator,
) -> Batch:
    """A training batch.

    Args:
        data: The packed episodes.
        frames: (B,) frame numbers, sorted or not.
        words: (episodes, max_words) word ids of every episode's instruction.
        options: Strength of augmentation.
        state_std: (16,) scale of proprioception.
        rng: Source of all randomness.
    """
    size = data.images.shape[2]
    cameras = []
    for camera, limit in enumerate(options.shift):
        shifts = rng.integers(-limit, limit + 1, (len(frames), 2))
        out = np.empty((len(frames), size, size, 3), np.uint8)
        for target, frame, (dy, dx) in zip(out, data.frames["image"][frames], shifts, strict=True):
            shift_image(data.images[frame, camera], int(dy), int(dx), target)
        cameras.append(out)
    batch = _batch(data, frames, words, cameras)
    noise = rng.standard_normal(batch.state.shape) * options.state_noise * state_std
    tints = tuple(_tint(len(frames), options, rng) for _ in cameras)
    return Batch(
        images=batch.images,
        tints=tints,
        words=batch.words,
        state=batch.state + torch.from_numpy(noise.astype(np.float32)),
        tokens=batch.tokens,
        goal=batch.goal,
    )


def trim_padding(words: Tensor) -> Tensor:
    """Cut columns that are padding for the whole batch."""
    return words[:, : int((words != 0).sum(1).max())]


def shift_image(image: np.ndarray, dy: int, dx: int, out: np.ndarray) -> None:
    """Write ``image`` (H, W, 3) moved down by ``dy`` and right by ``dx`` pixels to ``out``; edges repeat."""
    height, width = image.shape[:2]
    top, left = max(dy, 0), max(dx, 0)
    bottom, right = height + min(dy, 0), width + min(dx, 0)
    out[top:bottom, left:right] = image[top - dy : bottom - dy, left - dx : right - dx]
    out[top:bottom, :left] = out[top:bottom, left : left + 1]
    out[top:bottom, right:] = out[top:bottom, right - 1 : right]
    out[:top] = out[top]
    out[bottom:] = out[bottom - 1]


def _tint(count: int, options: Augmentation, rng: np.random.Generator) -> Tensor:
    """(B, 2, 3) gain and offset that the model applies to pixels on [-1, 1]."""
    common = 1.0 + options.contrast * rng.standard_normal((count, 1))
    gain = common * (1.0 + options.color * rng.standard_normal((count, 3)))
    offset = np.broadcast_to(options.brightness * rng.standard_normal((count, 1)), (count, 3))
    return torch.from_numpy(np.stack((gain, offset), axis=1).astype(np.float32))


def _batch(data: PackedDataset, frames: np.ndarray, words: np.ndarray, cameras: list[np.ndarray]) -> Batch:
    rows = data.frames[frames]
    return Batch(
        images=tuple(torch.from_numpy(camera) for camera in cameras),
        tints=(),
        words=trim_padding(torch.from_numpy(words[rows["episode"]])),
        state=torch.from_numpy(rows["state"].copy()),
        tokens=torch.from_numpy(rows["tokens"].astype(np.int64)),
        goal=torch.from_numpy(rows["goal"].copy()),
    )
