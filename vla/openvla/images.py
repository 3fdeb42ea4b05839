"""Pictures as the published processor makes them: Pillow's bicubic resize in 8 bits, then each tower's constants."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from controllers.types import FloatArray, ImageArray, frozen_array
from vla.openvla.published import CheckpointError


@dataclass(frozen=True)
class TowerConstants:
    """``(pixel / 255 - mean) / std`` of one tower; both (3,)."""

    mean: FloatArray
    std: FloatArray


# As the published preprocessor_config.json has them: the script that wrote it worked in bfloat16, so they are rounded.
PUBLISHED_CONSTANTS = (
    TowerConstants(
        frozen_array([0.484375, 0.455078125, 0.40625]), frozen_array([0.228515625, 0.2236328125, 0.224609375])
    ),
    TowerConstants(frozen_array([0.5, 0.5, 0.5]), frozen_array([0.5, 0.5, 0.5])),
)


class ImageProcessor:
    """Turns camera pictures into the towers' channels."""

    def __init__(self, side: int, constants: Sequence[TowerConstants], center_crop: float | None = None) -> None:
        """Take the constants.

        Args:
            side: Of the square that the towers see, px.
            constants: Of each tower, in the order of the channels.
            center_crop: Share of the area that is kept around the middle, as evaluation scripts of models trained with
                random crops do (0.9); None keeps all. It is not part of the published processor.
        """
        if center_crop is not None and not 0.0 < center_crop <= 1.0:
            raise ValueError(f"expected a share of the area in (0, 1] for center_crop, found {center_crop}")
        self.side, self._constants, self._center_crop = side, tuple(constants), center_crop

    @property
    def levels(self) -> Tensor:
        """(3 towers,) 8-bit levels in one unit of each channel."""
        return torch.from_numpy(np.concatenate([tower.std for tower in self._constants]) * 255.0).float()

    @staticmethod
    def load(folder: Path, side: int, towers: int, center_crop: float | None = None) -> ImageProcessor:
        """Read ``preprocessor_config.json``; its ``tvf_normalize_params`` are what the published code uses.

        Raises:
            CheckpointError: The file says something that this loader does not do.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return ImageProcessor(side, PUBLISHED_CONSTANTS[:towers], center_crop)
        data = json.loads(path.read_text(encoding="utf-8"))
        strategy = data.get("image_resize_strategy", "resize-naive")
        if strategy != "resize-naive":
            raise CheckpointError(
                f"{path}: expected image_resize_strategy 'resize-naive' (both sides to {side} px, whatever the aspect "
                f"ratio), found {strategy!r}, which is not implemented"
            )
        entries = data.get("tvf_normalize_params") or [
            {"mean": mean, "std": std} for mean, std in zip(data.get("means", ()), data.get("stds", ()), strict=True)
        ]
        if len(entries) != towers:
            raise CheckpointError(f"{path}: expected normalization constants of {towers} towers, found {len(entries)}")
        constants = [TowerConstants(frozen_array(e["mean"], (3,)), frozen_array(e["std"], (3,))) for e in entries]
        return ImageProcessor(side, constants, center_crop)

    def __call__(self, images: Sequence[ImageArray]) -> Tensor:
        """Pictures (H, W, 3) uint8 RGB to (batch, 3 towers, side, side) float32."""
        return self.normalized(np.stack([self.resized(image) for image in images]))

    def normalized(self, pictures: ImageArray) -> Tensor:
        """Resized pictures (batch, side, side, 3) uint8 to (batch, 3 towers, side, side) float32."""
        scaled = pictures.astype(np.float32) / np.float32(255.0)
        channels = [
            (scaled - tower.mean.astype(np.float32)) / tower.std.astype(np.float32) for tower in self._constants
        ]
        return torch.from_numpy(np.concatenate(channels, axis=-1)).permute(0, 3, 1, 2).contiguous()

    def resized(self, image: ImageArray) -> ImageArray:
        """One picture (H, W, 3) uint8 RGB to (side, side, 3), cropped if so chosen.

        Raises:
            ValueError: Another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected pictures of shape (H, W, 3) uint8, found {image.shape} {image.dtype}")
        size = (self.side, self.side)
        picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        if self._center_crop is not None:
            edge = 0.5 * self.side * (1.0 - self._center_crop**0.5)
            picture = picture.resize(size, Image.Resampling.BILINEAR, (edge, edge, self.side - edge, self.side - edge))
        return np.asarray(picture)
