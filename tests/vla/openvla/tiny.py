"""A small random checkpoint in the published layout, and the network computed from it in plain torch, step by step."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import random_openvla
from benchmarks.random_openvla import KEY, STATISTICS, VOCABULARY, Sizes, Tensors, write_json
from vla.openvla.towers import Heads

__all__ = ["KEY", "STATISTICS", "VOCABULARY", "Tensors", "write_json"]

SIDE, PATCH = 42, 14
DINO_WIDTH, SIGLIP_WIDTH, TEXT_WIDTH = 32, 24, 48
DEPTH, LAYERS, REGISTERS = 3, 2, 4
HEADS = Heads(towers=(2, 3), language=4)
SIZES = Sizes(
    side=SIDE,
    patch=PATCH,
    dino=DINO_WIDTH,
    dino_mlp=4 * DINO_WIDTH,
    siglip=SIGLIP_WIDTH,
    siglip_mlp=40,
    depth=DEPTH,
    registers=REGISTERS,
    text=TEXT_WIDTH,
    text_mlp=80,
    layers=LAYERS,
    heads=4,
    scale=0.25,
)


def make_tensors(seed: int = 0) -> Tensors:
    """Every tensor of the published layout, the unused ones too."""
    return random_openvla.make_tensors(SIZES, seed)


def write_checkpoint(folder: Path, tensors: Tensors) -> Path:
    """The published files."""
    return random_openvla.write_checkpoint(folder, tensors, SIDE)


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
