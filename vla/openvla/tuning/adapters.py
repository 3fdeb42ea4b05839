"""LoRA on the network: which layers have adapters, what they are called in the published layout, what they change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla.openvla.model import TOWERS, OpenVLAModel
from vla.openvla.tuning.options import AdaptedPart, LoraOptions

_PREFIXES: Mapping[AdaptedPart, str] = {
    AdaptedPart.LANGUAGE: "language.model.",  # not its head, as peft's "all-linear" leaves it out
    AdaptedPart.PROJECTOR: "projector.",
    AdaptedPart.VISION: "towers.",
}
_ADAPTER = "default"


class MissingPackageError(ValueError):
    """peft is not installed."""


def adapted_layers(model: OpenVLAModel, parts: tuple[AdaptedPart, ...]) -> list[str]:
    """Names of the linear layers that get adapters, in order."""
    starts = tuple(_PREFIXES[part] for part in parts)
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name.startswith(starts)]


class AdaptedModel:
    """A frozen network with adapters beside its linear layers.

    The network itself keeps its methods: peft replaces layers in place.
    """

    def __init__(self, model: OpenVLAModel, options: LoraOptions, seed: int) -> None:
        """Put adapters that change nothing yet; their random half follows from ``seed``.

        Raises:
            MissingPackageError: peft is not installed.
        """
        try:
            import peft
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                "expected the package peft, found none; pip install 'vla-stack[train]'"
            ) from error
        self.model = model
        self._peft: Any = peft
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=options.rank,
            lora_alpha=options.scale_alpha,
            lora_dropout=options.dropout,
            target_modules=adapted_layers(model, options.parts),
            init_lora_weights="gaussian",  # as the published script does
        )
        # peft wants a transformers' model, but reads nothing of one that a plain module has not.
        self.wrapped: Any = peft.get_peft_model(model, config)  # pyright: ignore[reportArgumentType]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The adapters' weights, float32."""
        return [parameter for parameter in self.wrapped.parameters() if parameter.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """The adapters' weights by name."""
        return self._peft.get_peft_model_state_dict(self.wrapped)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up :meth:`state`.

        Raises:
            ValueError: Weights of other adapters.
        """
        own = self.state()
        different = [name for name in {*own, *state} if name not in own or name not in state]
        different += [name for name in own if name in state and own[name].shape != state[name].shape]
        if different:
            raise ValueError(
                f"expected the weights of these adapters, found others ({sorted(different)[0]!r} and "
                f"{len(different) - 1} more differ); use the rank and the parts that the checkpoint was made with"
            )
        self._peft.set_peft_model_state_dict(self.wrapped, dict(state))

    def save(self, folder: str) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors`` as peft does."""
        self.wrapped.save_pretrained(folder)

    def changes(self) -> Iterator[Change]:
        """What the adapters add to each published tensor."""
        for name, module in self.model.named_modules():
            layer: Any = module  # peft's layers take the place of torch's
            if hasattr(layer, "lora_A") and _ADAPTER in layer.lora_A:
                published, part = published_name(name)
                down, up = (matrix[_ADAPTER].weight.detach().float() for matrix in (layer.lora_A, layer.lora_B))
                yield Change(published, part, up, down, float(layer.scaling[_ADAPTER]))


@dataclass(frozen=True)
class Change:
    """What is added to one published weight: ``scale * up @ down``, multiplied out when it is applied.

    Attributes:
        name: Of the published tensor.
        third: Which third of its rows, for the query, key or value of a fused layer; None for all.
        up: (rows, rank) float32.
        down: (rank, columns) float32.
        scale: alpha / rank.
    """

    name: str
    third: int | None
    up: Tensor
    down: Tensor
    scale: float

    def apply(self, tensor: Tensor) -> None:
        """Add it to the whole published tensor (all rows, columns), float32, in place.

        Raises:
            ValueError: A tensor of another shape.
        """
        rows = tensor if self.third is None else tensor.chunk(3)[self.third]
        delta = (self.scale * (self.up @ self.down)).to(tensor.device)
        if rows.shape != delta.shape:
            raise ValueError(f"{self.name}: expected a weight {tuple(delta.shape)}, found {tuple(rows.shape)}")
        rows += delta


_THIRDS = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}
_DINO = re.compile(r"towers\.(\d)\.model\.encoder\.layer\.(\d+)\.(.+)")
_SIGLIP = re.compile(r"towers\.(\d)\.model\.vision_model\.encoder\.layers\.(\d+)\.(.+)")
_PROJECTOR = re.compile(r"projector\.layers\.(\d+)")


def published_name(layer: str) -> tuple[str, int | None]:
    """The published tensor that holds the weight of a linear layer, and which third of its rows.

    Raises:
        ValueError: A layer that the published layout does not know.
    """
    if layer.startswith("language."):
        return f"language_model.{layer.removeprefix('language.')}.weight", None
    if match := _PROJECTOR.fullmatch(layer):
        return f"projector.fc{int(match[1]) + 1}.weight", None
    if match := _DINO.fullmatch(layer) or _SIGLIP.fullmatch(layer):
        block = f"{TOWERS[int(match[1])]}.blocks.{match[2]}"
        own = match[3]
        kind = own.rpartition(".")[2]
        if kind in _THIRDS:
            return f"{block}.attn.qkv.weight", _THIRDS[kind]
        if own in ("attention.output.dense", "self_attn.out_proj"):
            return f"{block}.attn.proj.weight", None
        if own in ("mlp.fc1", "mlp.fc2"):
            return f"{block}.{own}.weight", None
    raise ValueError(f"expected a layer of the published network, found {layer!r}")
