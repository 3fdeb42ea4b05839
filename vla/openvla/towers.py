"""Checkpoint tensors into native modules: DINOv2 with registers, SigLIP, Llama. Sizes come from the tensors' shapes.

The features of a tower are what its last block but one puts out, without the final norm, patches only; so the last
block and all that follows it are not even built.
"""

# transformers makes its configurations' constructors at run time, and lets modules be replaced.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from vla.openvla.checkpoint import Checkpoint, TensorSource
from vla.openvla.published import CheckpointError

# Attention heads of the towers that published checkpoints name (timm's model cards).
PUBLISHED_HEADS: Mapping[str, int] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": 16,
    "vit_large_patch14_dinov2.lvd142m": 16,
    "vit_so400m_patch14_siglip_224": 16,
    "vit_so400m_patch14_siglip_384": 16,
}
_LAYER_NORM_EPS = 1e-6
_RMS_NORM_EPS = 1e-6  # the checkpoints' text_config is a default LlamaConfig, not Llama 2's 1e-5


@dataclass(frozen=True)
class Heads:
    """Numbers of attention heads, which no tensor shows; None takes the published ones.

    Attributes:
        towers: Of each vision tower, in the order of ``timm_model_ids``.
        language: Of the Llama.
    """

    towers: tuple[int, ...] | None = None
    language: int | None = None


@dataclass(frozen=True)
class Placing:
    """Where and in what precision weights are put."""

    device: torch.device
    dtype: torch.dtype


class Dino(nn.Module):
    """DINOv2 (with or without registers) up to its last block but one."""

    def __init__(self, model: Dinov2WithRegistersModel, skipped: int) -> None:
        super().__init__()
        self.model, self.skipped = model, skipped

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.model.embeddings.position_embeddings.shape[1] - 1

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, patches, width): class and register tokens are dropped."""
        return self.model(pixel_values=pixels).last_hidden_state[:, self.skipped :]


class Siglip(nn.Module):
    """SigLIP's picture half up to its last block but one."""

    def __init__(self, model: SiglipVisionModel) -> None:
        super().__init__()
        self.model = model

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return self.model.vision_model.embeddings.num_positions

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 3, side, side) to (batch, patches, width)."""
        return self.model(pixel_values=pixels).last_hidden_state


def load_tower(
    checkpoint: TensorSource, prefix: str, timm_id: str, heads: int | None, placing: Placing
) -> Dino | Siglip:
    """Build one vision tower.

    Args:
        checkpoint: Where its tensors lie.
        prefix: Of their names.
        timm_id: Name of the tower in timm's catalogue.
        heads: Attention heads; None takes the published number.
        placing: Where to put it.

    Raises:
        CheckpointError: Tensors are missing, or the number of heads is unknown.
    """
    heads = heads or PUBLISHED_HEADS.get(timm_id)
    if heads is None:
        raise CheckpointError(
            f"{checkpoint.folder}: the number of attention heads of {timm_id!r} is not known; name it "
            f"(known: {', '.join(PUBLISHED_HEADS)})"
        )
    is_dino = f"{prefix}.cls_token" in checkpoint.names
    return (_load_dino if is_dino else _load_siglip)(checkpoint, prefix, heads, placing)


def _load_dino(checkpoint: TensorSource, prefix: str, heads: int, placing: Placing) -> Dino:
    width, side, patch, mlp, depth = _vit_sizes(checkpoint, prefix)
    has_registers = f"{prefix}.reg_token" in checkpoint.names
    registers = checkpoint.shape(f"{prefix}.reg_token")[1] if has_registers else 0
    config = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=mlp // width,
        image_size=side,
        patch_size=patch,
        num_register_tokens=registers,
        layer_norm_eps=_LAYER_NORM_EPS,
        qkv_bias=True,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(config)
    model.layernorm = nn.Identity()

    def take(name: str) -> Tensor:
        return checkpoint.take(f"{prefix}.{name}", placing.dtype, placing.device)

    zero = torch.zeros(1, 1, width, dtype=placing.dtype, device=placing.device)
    state: dict[str, Tensor] = {
        "embeddings.cls_token": take("cls_token"),
        "embeddings.mask_token": zero[0],
        "embeddings.register_tokens": take("reg_token") if has_registers else zero[:, :0],
        # The published position embedding is for patches alone; the class token has none.
        "embeddings.position_embeddings": torch.cat((zero, take("pos_embed")), dim=1),
        "embeddings.patch_embeddings.projection.weight": take("patch_embed.proj.weight"),
        "embeddings.patch_embeddings.projection.bias": take("patch_embed.proj.bias"),
    }
    for block in range(depth):
        ours, theirs = f"encoder.layer.{block}", f"blocks.{block}"
        for kind in ("weight", "bias"):
            parts = take(f"{theirs}.attn.qkv.{kind}").chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                state[f"{ours}.attention.attention.{name}.{kind}"] = part
            state[f"{ours}.attention.output.dense.{kind}"] = take(f"{theirs}.attn.proj.{kind}")
            for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{ours}.{layer}.{kind}"] = take(f"{theirs}.{layer}.{kind}")
        for number in (1, 2):
            state[f"{ours}.layer_scale{number}.lambda1"] = take(f"{theirs}.ls{number}.scale_factor")
    assign_state(model, state)
    return Dino(model, 1 + registers)


def _load_siglip(checkpoint: TensorSource, prefix: str, heads: int, placing: Placing) -> Siglip:
    width, side, patch, mlp, depth = _vit_sizes(checkpoint, prefix)
    config = SiglipVisionConfig(
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=side,
        patch_size=patch,
        layer_norm_eps=_LAYER_NORM_EPS,
        hidden_act="gelu",  # timm's is exact, the tanh form is SigLIP's own
        vision_use_head=False,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = SiglipVisionModel(config)
    model.vision_model.post_layernorm = nn.Identity()
    embeddings = model.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=placing.device).expand((1, -1))

    def take(name: str) -> Tensor:
        return checkpoint.take(f"{prefix}.{name}", placing.dtype, placing.device)

    state: dict[str, Tensor] = {
        "vision_model.embeddings.patch_embedding.weight": take("patch_embed.proj.weight"),
        "vision_model.embeddings.patch_embedding.bias": take("patch_embed.proj.bias"),
        "vision_model.embeddings.position_embedding.weight": take("pos_embed")[0],
    }
    renamed = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for block in range(depth):
        ours, theirs = f"vision_model.encoder.layers.{block}", f"blocks.{block}"
        for kind in ("weight", "bias"):
            parts = take(f"{theirs}.attn.qkv.{kind}").chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                state[f"{ours}.self_attn.{name}.{kind}"] = part
            state[f"{ours}.self_attn.out_proj.{kind}"] = take(f"{theirs}.attn.proj.{kind}")
            for name, layer in renamed.items():
                state[f"{ours}.{layer}.{kind}"] = take(f"{theirs}.{name}.{kind}")
    assign_state(model, state)
    return Siglip(model)


def _vit_sizes(checkpoint: TensorSource, prefix: str) -> tuple[int, int, int, int, int]:
    """Width, picture side, patch side, hidden width of the MLP, and how many blocks are used (all but the last)."""
    width, _, patch, _ = checkpoint.shape(f"{prefix}.patch_embed.proj.weight")
    patches = checkpoint.shape(f"{prefix}.pos_embed")[1]
    across = round(patches**0.5)
    if across * across != patches:
        raise CheckpointError(
            f"{checkpoint.folder}: expected a square number of patch positions in {prefix}.pos_embed, found {patches}"
        )
    pattern = re.compile(re.escape(prefix) + r"\.blocks\.(\d+)\.")
    numbers = {int(match[1]) for name in checkpoint.names if (match := pattern.match(name))}
    if len(numbers) < 2 or numbers != set(range(len(numbers))):
        raise CheckpointError(f"{checkpoint.folder}: expected blocks 0, 1, ... in {prefix}, found {sorted(numbers)}")
    mlp = checkpoint.shape(f"{prefix}.blocks.0.mlp.fc1.weight")[0]
    return width, across * patch, patch, mlp, len(numbers) - 1


def load_language(checkpoint: Checkpoint, heads: int | None, placing: Placing) -> LlamaForCausalLM:
    """Build the Llama.

    Raises:
        CheckpointError: Tensors are missing, or the heads do not divide the width.
    """
    prefix = "language_model."
    names = [name for name in checkpoint.names if name.startswith(prefix)]
    vocabulary, width = checkpoint.shape(f"{prefix}model.embed_tokens.weight")
    layers = {int(m[1]) for name in names if (m := re.match(r"language_model\.model\.layers\.(\d+)\.", name))}
    text = checkpoint.config.text
    heads = heads or int(text.get("num_attention_heads", LlamaConfig().num_attention_heads))
    if width % heads:
        raise CheckpointError(
            f"{checkpoint.folder}: expected a number of attention heads that divides the width {width}, found {heads}"
        )
    keys = checkpoint.shape(f"{prefix}model.layers.0.self_attn.k_proj.weight")[0]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=checkpoint.shape(f"{prefix}model.layers.0.mlp.gate_proj.weight")[0],
        num_hidden_layers=len(layers),
        num_attention_heads=heads,
        num_key_value_heads=keys // (width // heads),
        rms_norm_eps=float(text.get("rms_norm_eps", _RMS_NORM_EPS)),
        rope_parameters={"rope_type": "default", "rope_theta": float(text.get("rope_theta", 10_000.0))},
        max_position_embeddings=int(text.get("max_position_embeddings", 2048)),
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    state = {
        name.removeprefix(prefix): checkpoint.take(name, placing.dtype, placing.device)
        for name in names
        if not name.endswith("rotary_emb.inv_freq")
    }
    assign_state(model, state)
    # Rotation frequencies stay in float32: rounding them to the weights' precision moves the logits.
    model.model.rotary_emb = LlamaRotaryEmbedding(config, device=placing.device)
    return model


def assign_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the tensors in the place of the modules' own.

    Raises:
        CheckpointError: A tensor is missing, left over, or of another shape.
    """
    try:
        model.load_state_dict(dict(state), assign=True, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's tensors do not fit {type(model).__name__}: {error}") from error
    model.eval().requires_grad_(False)
