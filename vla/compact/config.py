"""Shape of the compact model. Everything that the weights depend on is in here."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vla.compact.preprocess import PROPRIOCEPTION_DIMS

FORMAT = "vla-compact/1"


@dataclass(frozen=True)
class CompactConfig:
    """Architecture of the compact vision-language-action model.

    Attributes:
        vocabulary_size: Words of the instruction vocabulary, ``<pad>`` and ``<unk>`` included.
        proprioception_mean: (16,) mean of the proprioception vector over the training data.
        proprioception_std: (16,) its standard deviation, floored.
        cameras: Camera names, in the order of the sequence.
        image_size: Side of the square camera images, pixels; a multiple of 32.
        max_words: Longest instruction, in words.
        horizon: Rows of an action chunk.
        dims: Dimensions of an action row.
        bins: Bins of each dimension.
        stem_width: Channels at a quarter of the image's resolution.
        feature_width: Channels at an eighth of the image's resolution.
        stem_blocks: Residual blocks at a quarter of the resolution.
        feature_blocks: Residual blocks at an eighth of the resolution.
        keypoints: Spatial-softmax keypoints of each camera.
        named_keypoints: How many of them search with a query made from the instruction.
        keypoint_group: Keypoints that share one token.
        patch_grid: Patch tokens along each side of an image.
        language_width: Width of word embeddings.
        width: Width of the transformer.
        depth: Transformer layers; the last one is computed for the action slots only.
        heads: Attention heads.
        mlp_ratio: Hidden width of the feed-forward part over ``width``.
    """

    vocabulary_size: int
    proprioception_mean: tuple[float, ...] = (0.0,) * PROPRIOCEPTION_DIMS
    proprioception_std: tuple[float, ...] = (1.0,) * PROPRIOCEPTION_DIMS
    cameras: tuple[str, ...] = ("workspace", "wrist")
    image_size: int = 128
    max_words: int = 16
    horizon: int = 8
    dims: int = 7
    bins: int = 255
    stem_width: int = 48
    feature_width: int = 96
    stem_blocks: int = 1
    feature_blocks: int = 2
    keypoints: int = 32
    named_keypoints: int = 16
    keypoint_group: int = 8
    patch_grid: int = 4
    language_width: int = 128
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 3

    def __post_init__(self) -> None:
        if self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, found {self.image_size}")
        if self.keypoints % self.keypoint_group:
            raise ValueError(f"keypoint_group must divide keypoints, found {self.keypoint_group} and {self.keypoints}")
        if (self.image_size // 8) % self.patch_grid:
            raise ValueError(f"patch_grid must divide {self.image_size // 8}, found {self.patch_grid}")
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, found {self.heads} and {self.width}")
        for name in ("proprioception_mean", "proprioception_std"):
            if len(getattr(self, name)) != PROPRIOCEPTION_DIMS:
                raise ValueError(f"{name} must have {PROPRIOCEPTION_DIMS} values, found {len(getattr(self, name))}")

    @property
    def visual_tokens(self) -> int:
        """Positions of pictures in the sequence."""
        return len(self.cameras) * (self.patch_grid**2 + self.keypoints // self.keypoint_group)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CompactConfig:
        """Rebuild a config from :meth:`to_json`.

        Raises:
            ValueError: Another format, unknown or missing fields.
        """
        fields = {field.name: field for field in dataclasses.fields(CompactConfig)}
        values = dict(data)
        found = values.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"expected a compact model of format {FORMAT!r}, found {found!r}")
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                raise ValueError(f"unknown field {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        missing = [name for name in fields if name not in values]
        if missing:
            raise ValueError(f"missing fields: {', '.join(missing)}")
        typed: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return CompactConfig(**typed)
