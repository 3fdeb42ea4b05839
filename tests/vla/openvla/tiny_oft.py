"""Small random files of OpenVLA-OFT in the published layout, and the network computed from them in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vla.openvla import tiny
from tests.vla.openvla.tiny import DEPTH, DINO_WIDTH, SIGLIP_WIDTH, TEXT_WIDTH, Tensors
from vla.openvla.oft.declared import LIBERO_STATE, ActionHead, OFTDeclaration

DIMS, HORIZON, VALUES, RANK, HIDDEN = 7, 8, 8, 32, 40
STATISTICS = {
    tiny.KEY: {
        **tiny.STATISTICS[tiny.KEY],
        "proprio": {
            "q01": [-0.5, -0.5, 0.0, -3.2, -3.2, -3.2, 0.0, -0.04],
            "q99": [0.7, 0.5, 1.0, 3.2, 3.2, 3.2, 0.04, 0.0],
            "mask": [True] * 8,
        },
    }
}


@dataclass(frozen=True)
class Files:
    """Tensors of the ``.pt`` files, without the prefixes of training; None for no such file."""

    head: Tensors | None = None
    projector: Tensors | None = None
    vision: Tensors | None = None


def make_head(seed: int = 1) -> Tensors:
    """The regression head; its outputs lie around the middle of the gripper's range and well within the arm's."""
    make = torch.Generator().manual_seed(seed)
    inputs = DIMS * TEXT_WIDTH
    tensors = {
        "layer_norm1.weight": 1.0 + 0.2 * torch.randn(inputs, generator=make),
        "layer_norm1.bias": 0.2 * torch.randn(inputs, generator=make),
        "layer_norm2.weight": 1.0 + 0.2 * torch.randn(HIDDEN, generator=make),
        "layer_norm2.bias": 0.2 * torch.randn(HIDDEN, generator=make),
    }
    for name, rows, columns, scale in (
        ("fc1", HIDDEN, inputs, 0.05),
        ("fc2", DIMS, HIDDEN, 0.02),
        ("mlp_resnet_blocks.0.ffn.1", HIDDEN, HIDDEN, 0.2),
        ("mlp_resnet_blocks.1.ffn.1", HIDDEN, HIDDEN, 0.2),
    ):
        tensors[f"{name}.weight"] = scale * torch.randn((rows, columns), generator=make)
        tensors[f"{name}.bias"] = 0.05 * torch.randn(rows, generator=make)
    tensors["fc2.bias"][-1] = 0.5
    for block in range(2):
        tensors[f"mlp_resnet_blocks.{block}.ffn.0.weight"] = 1.0 + 0.2 * torch.randn(HIDDEN, generator=make)
        tensors[f"mlp_resnet_blocks.{block}.ffn.0.bias"] = 0.2 * torch.randn(HIDDEN, generator=make)
    return tensors


def make_projector(seed: int = 2) -> Tensors:
    """The projector of the state."""
    make = torch.Generator().manual_seed(seed)
    shapes = {"fc1.weight": (TEXT_WIDTH, VALUES), "fc2.weight": (TEXT_WIDTH, TEXT_WIDTH)}
    shapes |= {"fc1.bias": (TEXT_WIDTH,), "fc2.bias": (TEXT_WIDTH,)}
    return {name: 0.3 * torch.randn(shape, generator=make) for name, shape in shapes.items()}


def make_vision(tensors: Tensors, seed: int = 3) -> Tensors:
    """Both towers with scales and shifts, and with layers that differ from the safetensors' by their LoRA matrices."""
    make = torch.Generator().manual_seed(seed)
    made = {name: tensor for name, tensor in tensors.items() if name.startswith("vision_backbone.")}
    for prefix, width in (("featurizer", DINO_WIDTH), ("fused_featurizer", SIGLIP_WIDTH)):
        for block in range(DEPTH):
            start = f"vision_backbone.{prefix}.blocks.{block}"
            for name in ("scale", "shift"):
                made[f"{start}.{name}.weight"] = 0.1 * torch.randn((width, TEXT_WIDTH), generator=make)
                made[f"{start}.{name}.bias"] = 0.1 * torch.randn(width, generator=make)
            for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                rows, columns = made[f"{start}.{name}.weight"].shape
                made[f"{start}.{name}.lora_A"] = 0.1 * torch.randn((RANK, columns), generator=make)
                made[f"{start}.{name}.lora_B"] = 0.1 * torch.randn((rows, RANK), generator=make)
    return made


def merged(vision: Tensors) -> Tensors:
    """The towers' weights with their LoRA matrices in them: alpha is 16 for ranks from 16."""
    whole = {name: tensor for name, tensor in vision.items() if ".lora_" not in name}
    for name, up in vision.items():
        if name.endswith(".lora_B"):
            layer = name.removesuffix(".lora_B")
            whole[f"{layer}.weight"] = whole[f"{layer}.weight"] + 16.0 / RANK * up @ vision[f"{layer}.lora_A"]
    return whole


def published_vision(vision: Tensors) -> Tensors:
    """The names that training leaves: blocks are wrapped, layers stand beside their LoRA matrices."""
    layers = {name.removesuffix(".lora_A") for name in vision if name.endswith(".lora_A")}
    out: Tensors = {}
    for name, tensor in vision.items():
        layer, _, kind = name.rpartition(".")
        if layer in layers:
            name = f"{layer}.{kind}.default.weight" if kind.startswith("lora") else f"{layer}.base_layer.{kind}"
        start, blocks, rest = name.partition(".blocks.")
        number, _, inner = rest.partition(".")
        if blocks and not inner.startswith(("scale.", "shift.")):
            name = f"{start}.blocks.{number}.block.{inner}"
        out[name] = tensor
    return out


def write_files(folder: Path, files: Files) -> Path:
    """The ``.pt`` files of a training step, two of them with distributed training's prefix, and the statistics."""
    step = "150000_checkpoint.pt"
    if files.head is not None:
        torch.save({f"module.model.{k}": v for k, v in files.head.items()}, folder / f"action_head--{step}")
    if files.projector is not None:
        torch.save({f"module.{k}": v for k, v in files.projector.items()}, folder / f"proprio_projector--{step}")
    if files.vision is not None:
        torch.save(published_vision(files.vision), folder / f"vision_backbone--{step}")
    tiny.write_json(folder / "dataset_statistics.json", STATISTICS)
    return folder


def declaration(files: Files, images: int = 1) -> OFTDeclaration:
    """What such files have to be declared as."""
    return OFTDeclaration(
        statistics_key=tiny.KEY,
        rate_hz=5,
        cameras=("workspace", "wrist")[:images],
        head=ActionHead.TOKENS if files.head is None else ActionHead.L1,
        state=() if files.projector is None else LIBERO_STATE,
        film=files.vision is not None,
    )


# ------------------------------------------------------------------------------------ the reference network


def reference_hidden(
    tensors: Tensors, files: Files, pixels: Tensor, prompt: list[int], state: Tensor | None, *, causal: bool = False
) -> Tensor:
    """(56, width) hidden states that say the values, for pictures (images, 6, side, side) and a state (values,)."""
    table = tensors["language_model.model.embed_tokens.weight"]
    words, stop = table[torch.tensor(prompt)], table[2:3]
    film = None if files.vision is None else torch.cat((words, stop)).mean(dim=0)
    towers = tensors if files.vision is None else merged(files.vision)
    seen: list[Tensor] = []
    for picture in pixels:
        dino = tiny.vit(towers, "vision_backbone.featurizer", picture[None, :3], 2, film)
        siglip = tiny.vit(towers, "vision_backbone.fused_featurizer", picture[None, 3:], 3, film)
        seen.append(tiny.projected(tensors, torch.cat((dino, siglip), dim=-1))[0])
    if files.projector is not None and state is not None:
        y = F.linear(state, files.projector["fc1.weight"], files.projector["fc1.bias"])
        y = 0.5 * y * (1.0 + torch.erf(y / 2.0**0.5))
        seen.append(F.linear(y, files.projector["fc2.weight"], files.projector["fc2.bias"])[None])
    values = HORIZON * DIMS
    zeros = torch.zeros((values, TEXT_WIDTH), dtype=words.dtype)
    sequence = torch.cat((words[:1], *seen, words[1:], zeros, stop))
    start = len(sequence) - 1 - values - 1  # the last of the prompt
    return tiny.llama(tensors, sequence, causal=causal)[start : start + values]


def reference_actions(head: Tensors, hidden: Tensor) -> Tensor:
    """(8, 7) normalized actions."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * head[f"{name}.weight"] + head[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ head[f"{name}.weight"].T + head[f"{name}.bias"]

    x = linear(norm(hidden.reshape(HORIZON, DIMS * TEXT_WIDTH), "layer_norm1"), "fc1").clamp(min=0.0)
    for block in ("mlp_resnet_blocks.0.ffn", "mlp_resnet_blocks.1.ffn"):
        x = x + linear(norm(x, f"{block}.0"), f"{block}.1").clamp(min=0.0)
    return linear(norm(x, "layer_norm2"), "fc2")


def double(tensors: Tensors | None) -> Tensors | None:
    """The same in float64."""
    return None if tensors is None else {name: tensor.double() for name, tensor in tensors.items()}
