"""A small random checkpoint in the published layout, and the network computed from it in plain torch, step by step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from vla.openvla.towers import Heads

SIDE, PATCH, VOCABULARY = 42, 14, 32064
DINO_WIDTH, SIGLIP_WIDTH, TEXT_WIDTH = 32, 24, 48
DEPTH, LAYERS, REGISTERS = 3, 2, 4
HEADS = Heads(towers=(2, 3), language=4)
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
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a checkpoint: side of its pictures, widths, depths."""

    side: int = SIDE
    dino: int = DINO_WIDTH
    siglip: int = SIGLIP_WIDTH
    siglip_mlp: int = 40
    text: int = TEXT_WIDTH
    text_mlp: int = 80
    layers: int = LAYERS
    depth: int = DEPTH


TINY = Shape()


def make_tensors(seed: int = 0, shape: Shape = TINY) -> Tensors:
    """Every tensor of the published layout, the unused ones too."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}

    def put(name: str, *size: int, scale: float = 0.25, offset: float = 0.0) -> None:
        tensors[name] = torch.randn(size, generator=generator) * scale + offset

    patches = (shape.side // PATCH) ** 2
    for prefix, width, mlp, dino in (
        ("vision_backbone.featurizer", shape.dino, 4 * shape.dino, True),
        ("vision_backbone.fused_featurizer", shape.siglip, shape.siglip_mlp, False),
    ):
        put(f"{prefix}.patch_embed.proj.weight", width, 3, PATCH, PATCH, scale=0.05)
        put(f"{prefix}.patch_embed.proj.bias", width)
        put(f"{prefix}.pos_embed", 1, patches, width)
        if dino:
            put(f"{prefix}.cls_token", 1, 1, width)
            put(f"{prefix}.reg_token", 1, REGISTERS, width)
        else:
            put(f"{prefix}.attn_pool.latent", 1, 1, width)
        for block in range(shape.depth):
            start = f"{prefix}.blocks.{block}"
            for norm in ("norm1", "norm2"):
                put(f"{start}.{norm}.weight", width, offset=1.0)
                put(f"{start}.{norm}.bias", width)
            for name, rows, columns in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", mlp, width),
                ("mlp.fc2", width, mlp),
            ):
                put(f"{start}.{name}.weight", rows, columns)
                put(f"{start}.{name}.bias", rows)
            if dino:
                put(f"{start}.ls1.scale_factor", width, offset=0.5)
                put(f"{start}.ls2.scale_factor", width, offset=0.5)
        put(f"{prefix}.norm.weight", width, offset=1.0)
        put(f"{prefix}.norm.bias", width)
    fused, text, text_mlp = shape.dino + shape.siglip, shape.text, shape.text_mlp
    for number, (rows, columns) in enumerate(((4 * fused, fused), (text, 4 * fused), (text, text)), 1):
        put(f"projector.fc{number}.weight", rows, columns, scale=0.1)
        put(f"projector.fc{number}.bias", rows)
    put("language_model.model.embed_tokens.weight", VOCABULARY, text)
    put("language_model.lm_head.weight", VOCABULARY, text)
    put("language_model.model.norm.weight", text, offset=1.0)
    for layer in range(shape.layers):
        start = f"language_model.model.layers.{layer}"
        for name, rows, columns in (
            ("self_attn.q_proj", text, text),
            ("self_attn.k_proj", text, text),
            ("self_attn.v_proj", text, text),
            ("self_attn.o_proj", text, text),
            ("mlp.gate_proj", text_mlp, text),
            ("mlp.up_proj", text_mlp, text),
            ("mlp.down_proj", text, text_mlp),
        ):
            put(f"{start}.{name}.weight", rows, columns)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            put(f"{start}.{norm}.weight", text, offset=1.0)
        put(f"{start}.self_attn.rotary_emb.inv_freq", text // 8)
    return tensors


def write_checkpoint(folder: Path, tensors: Tensors, shape: Shape = TINY, language_heads: int = 0) -> Path:
    """The published files: two shards with an index, configuration, preprocessing.

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
        "image_sizes": [shape.side, shape.side],
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
    path.write_text(json.dumps(data), encoding="utf-8")


# ------------------------------------------------------------------------------------ the reference network


def reference_logits(tensors: Tensors, pixels: Tensor, prompt: list[int]) -> Tensor:
    """(BOS + patches + rest, vocabulary) logits for one picture (1, 6, side, side), written from the description."""
    dino = vit(tensors, "vision_backbone.featurizer", pixels[:, :3], 2)
    siglip = vit(tensors, "vision_backbone.fused_featurizer", pixels[:, 3:], 3)
    features = projected(tensors, torch.cat((dino, siglip), dim=-1))
    words = tensors["language_model.model.embed_tokens.weight"][torch.tensor(prompt)]
    hidden = llama(tensors, torch.cat((words[:1], features[0], words[1:])), causal=True)
    return F.linear(hidden, tensors["language_model.lm_head.weight"])


def projected(tensors: Tensors, features: Tensor) -> Tensor:
    """Features of both towers as embeddings."""
    for number in (1, 2, 3):
        features = F.linear(features, tensors[f"projector.fc{number}.weight"], tensors[f"projector.fc{number}.bias"])
        if number < 3:
            features = 0.5 * features * (1.0 + torch.erf(features / 2.0**0.5))
    return features


def vit(tensors: Tensors, prefix: str, pixels: Tensor, heads: int, language: Tensor | None = None) -> Tensor:
    """Features of one tower; ``language`` modulates its blocks, where tensors have scales and shifts for that."""

    def get(name: str) -> Tensor:
        return tensors[f"{prefix}.{name}"]

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, get(f"{name}.weight"), get(f"{name}.bias"))

    x = F.conv2d(pixels, get("patch_embed.proj.weight"), get("patch_embed.proj.bias"), stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + get("pos_embed")
    extra = 0
    if f"{prefix}.cls_token" in tensors:
        x = torch.cat((get("cls_token"), get("reg_token"), x), dim=1)
        extra = 1 + REGISTERS
    width = x.shape[-1]
    for block in range(DEPTH - 1):
        start = f"blocks.{block}"
        y = F.layer_norm(x, (width,), get(f"{start}.norm1.weight"), get(f"{start}.norm1.bias"), 1e-6)
        qkv = linear(f"{start}.attn.qkv", y)
        query, key, value = qkv.reshape(1, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        y = (weights @ value).transpose(1, 2).reshape(1, -1, width)
        y = linear(f"{start}.attn.proj", y)
        x = x + (y * get(f"{start}.ls1.scale_factor") if extra else y)
        if language is not None:
            x = x * (1.0 + linear(f"{start}.scale", language)) + linear(f"{start}.shift", language)
        y = F.layer_norm(x, (width,), get(f"{start}.norm2.weight"), get(f"{start}.norm2.bias"), 1e-6)
        y = linear(f"{start}.mlp.fc1", y)
        y = 0.5 * y * (1.0 + torch.erf(y / 2.0**0.5))
        y = linear(f"{start}.mlp.fc2", y)
        x = x + (y * get(f"{start}.ls2.scale_factor") if extra else y)
    return x[:, extra:]


def llama(tensors: Tensors, x: Tensor, *, causal: bool) -> Tensor:
    """Last hidden states (length, width), after the final norm, for embeddings of the same shape."""

    def get(name: str) -> Tensor:
        return tensors[f"language_model.{name}"]

    def norm(value: Tensor, name: str) -> Tensor:
        return value * (value.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * get(name)

    length, size = len(x), TEXT_WIDTH // 4
    angles = torch.outer(torch.arange(length).float(), 10_000.0 ** (-torch.arange(0, size, 2).float() / size))
    angles = torch.cat((angles, angles), -1).to(x.dtype)
    cosine, sine = angles.cos(), angles.sin()

    def turned(value: Tensor) -> Tensor:
        half = size // 2
        return value * cosine + torch.cat((-value[..., half:], value[..., :half]), -1) * sine

    future = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1) if causal else 0.0
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        y = norm(x, f"{start}.input_layernorm.weight")
        query, key, value = (
            F.linear(y, get(f"{start}.self_attn.{name}_proj.weight")).view(length, 4, size).transpose(0, 1)
            for name in "qkv"
        )
        weights = (turned(query) @ turned(key).transpose(-1, -2) / size**0.5 + future).softmax(-1)
        y = (weights @ value).transpose(0, 1).reshape(length, TEXT_WIDTH)
        x = x + F.linear(y, get(f"{start}.self_attn.o_proj.weight"))
        y = norm(x, f"{start}.post_attention_layernorm.weight")
        gate, up = (F.linear(y, get(f"{start}.mlp.{name}_proj.weight")) for name in ("gate", "up"))
        x = x + F.linear(F.silu(gate) * up, get(f"{start}.mlp.down_proj.weight"))
    return norm(x, "model.norm.weight")


def reference_tokens(tensors: Tensors, pixels: Tensor, prompt: list[int], count: int) -> list[int]:
    """Greedy action tokens, the whole sequence computed anew for each."""
    ids = list(prompt)
    for _ in range(count):
        scores = reference_logits(tensors, pixels, ids)[-1, 31744:32000]
        ids.append(31744 + int(scores.argmax()))
    return ids[len(prompt) :]
