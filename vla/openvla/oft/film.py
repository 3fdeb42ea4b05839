"""Vision towers that language modulates: FiLM between attention and MLP of each block.

The average of the prompt's embeddings gives each block a scale and a shift for every feature:
``x * (1 + scale) + shift`` (FiLM, https://arxiv.org/abs/1709.07871, section 7.2; OFT's ``film_vit_wrapper.py``).
"""

# transformers lets modules be replaced, so that their types are unions.
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from controllers.names import nearest_name_hint
from vla.openvla.checkpoint import TensorSource
from vla.openvla.oft.components import read_component
from vla.openvla.published import CheckpointError
from vla.openvla.towers import Dino, Placing, Siglip, assign_state

# The training script's LoRA configuration: alpha is the rank, at most this.
_LARGEST_ALPHA = 16
_WRAPPED = re.compile(r"(\.blocks\.\d+)\.block\.")


class FilmedTensors:
    """``vision_backbone--STEP_checkpoint.pt`` as a :class:`~vla.openvla.checkpoint.TensorSource`.

    The file holds the whole towers as they were in training: each block wrapped, each layer beside its LoRA matrices.
    Here they have the names of the published weights, and the matrices are merged: ``W + alpha / rank * B @ A``.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            CheckpointError: It is damaged, or LoRA matrices are missing.
        """
        self._path = path
        raw = {_WRAPPED.sub(r"\1.", name): tensor for name, tensor in read_component(path).items()}
        self._tensors = dict(self._merged(raw))
        self._taken: set[str] = set()

    @property
    def folder(self) -> Path:
        """The file, which messages name."""
        return self._path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor.

        Raises:
            CheckpointError: There is no such tensor.
        """
        return tuple(self._get(name).shape)

    def take(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """One tensor, counted as used.

        Raises:
            CheckpointError: There is no such tensor.
        """
        tensor = self._get(name)
        self._taken.add(name)
        return tensor.to(device=device, dtype=dtype)

    def untaken(self) -> Iterator[str]:
        """Tensors that nobody has used yet."""
        return (name for name in self._tensors if name not in self._taken)

    def _get(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise CheckpointError(
                f"{self._path}: expected a tensor {name!r}{nearest_name_hint(name, self._tensors)}; the file is "
                "incomplete, or not that of a model with FiLM"
            )
        return self._tensors[name]

    def _merged(self, raw: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in raw.items():
            if ".lora_" in name:
                continue
            layer, wrapped, kind = name.rpartition(".base_layer.")
            if not wrapped:
                yield name, tensor
                continue
            if kind == "weight":
                down, up = (raw.get(f"{layer}.lora_{letter}.default.weight") for letter in "AB")
                if down is None or up is None:
                    raise CheckpointError(f"{self._path}: expected LoRA matrices A and B of {layer!r}, found fewer")
                rank = down.shape[0]
                tensor = tensor.float() + min(rank, _LARGEST_ALPHA) / rank * (up.float() @ down.float())
            yield f"{layer}.{kind}", tensor


class Film(nn.Module):
    """Scale and shift of one block."""

    def __init__(self, language: int, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(language, width), nn.Linear(language, width)

    def forward(self, x: Tensor, language: Tensor) -> Tensor:
        """Modulate (batch, tokens, width) by the average embedding (batch, language width)."""
        return x * (1.0 + self.scale(language)[:, None]) + self.shift(language)[:, None]


class FilmedTower(nn.Module):
    """A tower whose blocks are modulated."""

    def __init__(self, tower: Dino | Siglip, films: Sequence[Film]) -> None:
        super().__init__()
        self.tower, self.films = tower, nn.ModuleList(films)

    def forward(self, pixels: Tensor, language: Tensor) -> Tensor:
        """The tower's features under modulation, which its class and register tokens undergo, too.

        Args:
            pixels: (batch, 3, side, side).
            language: (batch, language width), the average embedding.

        Returns:
            (batch, patches, width).
        """
        if isinstance(self.tower, Dino):
            x = self.tower.model.embeddings(pixels)
            for block, film in zip(blocks_of(self.tower), self.films, strict=True):
                x = film(x + block.layer_scale1(block.attention(block.norm1(x))), language)
                x = x + block.layer_scale2(block.mlp(block.norm2(x)))
            return x[:, self.tower.skipped :]
        x = self.tower.model.vision_model.embeddings(pixels)
        for block, film in zip(blocks_of(self.tower), self.films, strict=True):
            x = film(x + block.self_attn(hidden_states=block.layer_norm1(x))[0], language)
            x = x + block.mlp(block.layer_norm2(x))
        return x


def load_film(source: TensorSource, prefix: str, tower: Dino | Siglip, language: int, placing: Placing) -> FilmedTower:
    """Modulate a tower; the last block's scale and shift are known to be unused, as the block is.

    Args:
        source: Where scales and shifts lie.
        prefix: Of their names.
        tower: The tower.
        language: Width of the language model.
        placing: Where to put them.

    Raises:
        CheckpointError: Tensors are missing, or are for another language model.
    """
    films: list[Film] = []
    for block in range(len(blocks_of(tower))):
        start = f"{prefix}.blocks.{block}"
        width, found = source.shape(f"{start}.scale.weight")
        if found != language:
            raise CheckpointError(
                f"{source.folder}: expected modulation by embeddings of width {language}, found {found}; it belongs to "
                "other weights"
            )
        with torch.device("meta"):
            film = Film(language, width)
        names = ("scale.weight", "scale.bias", "shift.weight", "shift.bias")
        assign_state(film, {name: source.take(f"{start}.{name}", placing.dtype, placing.device) for name in names})
        films.append(film)
    return FilmedTower(tower, films)


def blocks_of(tower: Dino | Siglip) -> nn.ModuleList:
    """The transformer blocks of a tower, in order."""
    return tower.model.encoder.layer if isinstance(tower, Dino) else tower.model.vision_model.encoder.layers
