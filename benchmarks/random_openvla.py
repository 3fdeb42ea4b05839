"""Random checkpoints in OpenVLA's published layout, of any size: for timing, and for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

VOCABULARY = 32064
ACTION_IDS = slice(31_744, 32_000)
KEY = "bridge_orig"
STATISTICS = {
    KEY: {
        "action": {
            "q01": [-0.03, -0.04, -0.03, -0.08, -0.09, -0.2, 0.0],
            "q99": [0.03, 0.04, 0.04, 0.08, 0.08, 0.2, 1.0],
            "mask": [True] * 6 + [False],
        }
    }
}
_TOWERS = ("vision_backbone.featurizer", "vision_backbone.fused_featurizer")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """Shape of a checkpoint.

    Attributes:
        side: Of the pictures, px; a multiple of ``patch``.
        patch: Side of a patch, px.
        dino: Width of the first tower.
        dino_mlp: Hidden width of its MLPs.
        siglip: Width of the second tower.
        siglip_mlp: Hidden width of its MLPs.
        depth: Blocks of each tower; the last one is not used.
        registers: Register tokens of the first tower.
        text: Width of the language model.
        text_mlp: Hidden width of its MLPs.
        layers: Its layers.
        heads: Its attention heads.
        scale: Standard deviation of the matrices; None for that which keeps the size of what they are multiplied with.
        smooth: Bins over which rows of action ids are alike, as training makes them; 0 draws each for itself.
    """

    side: int
    patch: int
    dino: int
    dino_mlp: int
    siglip: int
    siglip_mlp: int
    depth: int
    registers: int
    text: int
    text_mlp: int
    layers: int
    heads: int
    scale: float | None = None
    smooth: float = 0.0


def make_tensors(sizes: Sizes, seed: int = 0) -> Tensors:
    """Every tensor of the published layout, the unused ones too."""
    make = _Maker(sizes, seed)
    make.tower(_TOWERS[0], sizes.dino, sizes.dino_mlp, dino=True)
    make.tower(_TOWERS[1], sizes.siglip, sizes.siglip_mlp, dino=False)
    fused = sizes.dino + sizes.siglip
    for number, (rows, columns) in enumerate(
        ((4 * fused, fused), (sizes.text, 4 * fused), (sizes.text, sizes.text)), 1
    ):
        make.put(f"projector.fc{number}.weight", rows, columns, scale=None if sizes.scale is None else 0.1)
        make.put(f"projector.fc{number}.bias", rows, scale=0.25)
    make.language()
    if sizes.smooth:
        for name in ("model.embed_tokens", "lm_head"):
            _smooth(make.tensors[f"language_model.{name}.weight"][ACTION_IDS], sizes.smooth)
    return make.tensors


def _smooth(rows: Tensor, bins: float) -> None:
    """Mix each row with its neighbours, in place, and keep the size of its numbers."""
    place = torch.arange(len(rows), dtype=rows.dtype)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / bins) ** 2)
    rows.copy_(weights / weights.square().sum(dim=1, keepdim=True).sqrt() @ rows)


class _Maker:
    """Draws tensors one after the other."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes, self.tensors = sizes, Tensors()
        self._generator = torch.Generator().manual_seed(seed)

    def put(self, name: str, *shape: int, scale: float | None, offset: float = 0.0) -> None:
        """One tensor; without a scale, the one that keeps the size of what it is multiplied with."""
        size = float(shape[-1]) ** -0.5 if scale is None else scale
        self.tensors[name] = torch.randn(shape, generator=self._generator) * size + offset

    def tower(self, prefix: str, width: int, mlp: int, *, dino: bool) -> None:
        """A vision tower."""
        sizes, small, matrix = self.sizes, 0.25, self.sizes.scale
        self.put(f"{prefix}.patch_embed.proj.weight", width, 3, sizes.patch, sizes.patch, scale=0.05)
        self.put(f"{prefix}.patch_embed.proj.bias", width, scale=small)
        self.put(f"{prefix}.pos_embed", 1, (sizes.side // sizes.patch) ** 2, width, scale=small)
        if dino:
            self.put(f"{prefix}.cls_token", 1, 1, width, scale=small)
            self.put(f"{prefix}.reg_token", 1, sizes.registers, width, scale=small)
        else:
            self.put(f"{prefix}.attn_pool.latent", 1, 1, width, scale=small)
        for block in range(sizes.depth):
            start = f"{prefix}.blocks.{block}"
            for norm in ("norm1", "norm2"):
                self.put(f"{start}.{norm}.weight", width, scale=small, offset=1.0)
                self.put(f"{start}.{norm}.bias", width, scale=small)
            for name, rows, columns in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", mlp, width),
                ("mlp.fc2", width, mlp),
            ):
                self.put(f"{start}.{name}.weight", rows, columns, scale=matrix)
                self.put(f"{start}.{name}.bias", rows, scale=small)
            if dino:
                for number in (1, 2):
                    self.put(f"{start}.ls{number}.scale_factor", width, scale=small, offset=0.5)
        self.put(f"{prefix}.norm.weight", width, scale=small, offset=1.0)
        self.put(f"{prefix}.norm.bias", width, scale=small)

    def language(self) -> None:
        """The Llama."""
        sizes, small, matrix = self.sizes, 0.25, self.sizes.scale
        width, start = sizes.text, "language_model"
        self.put(f"{start}.model.embed_tokens.weight", VOCABULARY, width, scale=small)
        self.put(f"{start}.lm_head.weight", VOCABULARY, width, scale=small)
        self.put(f"{start}.model.norm.weight", width, scale=small, offset=1.0)
        for layer in range(sizes.layers):
            prefix = f"{start}.model.layers.{layer}"
            for name in "qkvo":
                self.put(f"{prefix}.self_attn.{name}_proj.weight", width, width, scale=matrix)
            for name, rows, columns in (
                ("gate", sizes.text_mlp, width),
                ("up", sizes.text_mlp, width),
                ("down", width, sizes.text_mlp),
            ):
                self.put(f"{prefix}.mlp.{name}_proj.weight", rows, columns, scale=matrix)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.put(f"{prefix}.{norm}.weight", width, scale=small, offset=1.0)
            self.put(f"{prefix}.self_attn.rotary_emb.inv_freq", width // sizes.heads // 2, scale=small)


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], side: int, language_heads: int = 0) -> Path:
    """The published files: two shards with an index, configuration, preprocessing for pictures of ``side`` px.

    Without ``language_heads`` the configuration says nothing of them, as the published one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name].contiguous() for name in members}, folder / file)
    weight_map = {name: file for file, members in shards.items() for name in members}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    text_config = {"model_type": "llama", "pad_token_id": 32000, "vocab_size": VOCABULARY}
    config = {
        "model_type": "openvla",
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "use_fused_vision_backbone": True,
        "image_sizes": [side, side],
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "text_config": text_config | ({"num_attention_heads": language_heads} if language_heads else {}),
        "norm_stats": STATISTICS,
    }
    write_json(folder / "config.json", config)
    constants = [
        {"mean": [0.484375, 0.455078125, 0.40625], "std": [0.228515625, 0.2236328125, 0.224609375]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ]
    preprocessor = {
        "image_resize_strategy": "resize-naive",
        "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
        "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
        "tvf_normalize_params": constants,
    }
    write_json(folder / "preprocessor_config.json", preprocessor)
    return folder


def write_json(path: Path, data: object) -> None:
    """One JSON file."""
    path.write_text(json.dumps(data), encoding="utf-8")


def encode(text: str) -> Sequence[int]:
    """A stand-in for the Llama tokenizer's files: an id for each character, BOS first."""
    return [1, *(3 + ord(letter) % 90 for letter in text)]
