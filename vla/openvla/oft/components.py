"""OFT's own small networks, from the ``.pt`` files beside the weights: regression head, projector of the state."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vla.openvla.published import CheckpointError
from vla.openvla.towers import Placing, assign_state

_LAYER_NORM_EPS = 1e-5  # torch's default, unlike the towers'


def read_component(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.pt`` file, without the prefix that distributed training left; never unpickles code.

    Raises:
        CheckpointError: It is damaged, or holds something else than named tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: expected tensors only, found a file that does not load ({reason})") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected named tensors, found {type(state).__name__} of other things")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


class _Residual(nn.Module):
    """One block: normalization, layer and rectifier, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width, eps=_LAYER_NORM_EPS), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(x)


class L1Head(nn.Module):
    """Hidden states of one row's values, side by side, to the row (``L1RegressionActionHead``)."""

    def __init__(self, inputs: int, width: int, dims: int, blocks: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(inputs, eps=_LAYER_NORM_EPS)
        self.fc1 = nn.Linear(inputs, width)
        self.mlp_resnet_blocks = nn.ModuleList(_Residual(width) for _ in range(blocks))
        self.layer_norm2 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.fc2 = nn.Linear(width, dims)

    @property
    def dims(self) -> int:
        """Values of a row."""
        return self.fc2.out_features

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, rows * dims, width of the language model) to (batch, rows, dims), normalized, not clipped."""
        x = hidden.reshape(len(hidden), -1, self.fc1.in_features)
        x = torch.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class ProprioProjector(nn.Module):
    """The state to one embedding (``ProprioProjector``)."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(values, width), nn.Linear(width, width)

    @property
    def values(self) -> int:
        """Of the state."""
        return self.fc1.in_features

    def forward(self, state: Tensor) -> Tensor:
        """(batch, values) normalized to (batch, width)."""
        return self.fc2(nn.functional.gelu(self.fc1(state)))


def load_head(path: Path, width: int, placing: Placing) -> L1Head:
    """Build the regression head; its sizes are those of its tensors.

    Args:
        path: ``action_head--STEP_checkpoint.pt``.
        width: Of the language model.
        placing: Where to put it.

    Raises:
        CheckpointError: A head of another kind, or for another language model.
    """
    state = read_component(path)
    if any(name.startswith("noise_predictor.") for name in state):
        raise CheckpointError(
            f"{path}: expected an L1 regression head, found a diffusion head, which is not implemented; choose a "
            "checkpoint trained with L1 regression"
        )
    state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    hidden, inputs = _shape(path, state, "fc1.weight")
    dims = _shape(path, state, "fc2.weight")[0]
    if inputs != dims * width:
        raise CheckpointError(
            f"{path}: expected a head for {dims} hidden states of width {width}, {dims * width} together, found one "
            f"for {inputs}; it belongs to other weights"
        )
    blocks = {name.split(".")[1] for name in state if name.startswith("mlp_resnet_blocks.")}
    with torch.device("meta"):
        head = L1Head(inputs, hidden, dims, len(blocks))
    _fill(path, head, state, placing)
    return head


def load_projector(path: Path, width: int, placing: Placing) -> ProprioProjector:
    """Build the projector of the state.

    Args:
        path: ``proprio_projector--STEP_checkpoint.pt``.
        width: Of the language model.
        placing: Where to put it.

    Raises:
        CheckpointError: Damaged, or for another language model.
    """
    state = read_component(path)
    found, values = _shape(path, state, "fc1.weight")
    if found != width:
        raise CheckpointError(f"{path}: expected a projector to width {width}, found one to {found}")
    with torch.device("meta"):
        projector = ProprioProjector(values, width)
    _fill(path, projector, state, placing)
    return projector


def _shape(path: Path, state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 2:
        raise CheckpointError(
            f"{path}: expected a matrix {name!r}, found {', '.join(sorted(state)[:4]) or 'nothing'}, ..."
        )
    return tensor.shape[0], tensor.shape[1]


def _fill(path: Path, module: nn.Module, state: Mapping[str, Tensor], placing: Placing) -> None:
    try:
        assign_state(module, {name: t.to(device=placing.device, dtype=placing.dtype) for name, t in state.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
