"""Linear layers with fewer bits a weight. The arithmetic is stated; what it costs is measured, not assumed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla.openvla.published import CheckpointError
from vla.openvla.speed import Weights

INT4_GROUP = 32
_INT4_ROWS = 16  # the 4-bit kernel packs outputs by so many
_CUDA_ROWS = 32  # cuBLAS multiplies int8 for more than 16 rows only
_FP8_LARGEST = 448.0  # of e4m3


class PlainLinear(nn.Module):
    """A matrix without bias, as it was published; the form that the others take the place of."""

    def __init__(self, weight: Tensor) -> None:
        """Take (outputs, inputs)."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.linear(x, self.weight)


class Int8Linear(nn.Module):
    """8-bit weights, symmetric, a scale for each output; activations rounded to 8 bits, a scale for each position.

    Products are summed exactly in int32, so a position's result does not depend on the others beside it. The scheme
    is torchao's ``Int8DynamicActivationInt8WeightConfig``.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Round (outputs, inputs)."""
        super().__init__()
        exact = weight.float()
        scale = exact.abs().amax(dim=1).clamp_min(1e-12) / 127.0
        rounded = (exact / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        rows = x.reshape(-1, x.shape[-1]).float()
        step = rows.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127.0
        small = (rows / step).round_().to(torch.int8)
        count = len(small)
        if small.is_cuda and count < _CUDA_ROWS:
            small = F.pad(small, (0, 0, 0, _CUDA_ROWS - count))
        sums = torch._int_mm(small, self.weight.t())[:count]  # pyright: ignore[reportPrivateImportUsage]
        out = sums.float().mul_(step).mul_(self.scale)
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)


class Int4Linear(nn.Module):
    """4-bit weights, a scale and a zero for each group of :data:`INT4_GROUP` inputs; activations in bfloat16."""

    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Round (outputs, inputs).

        Raises:
            CheckpointError: Sizes that cannot be packed.
        """
        super().__init__()
        rows, columns = weight.shape
        if columns % INT4_GROUP or rows % _INT4_ROWS:
            raise CheckpointError(
                f"expected matrices whose inputs divide by {INT4_GROUP} and outputs by {_INT4_ROWS} for 4-bit weights, "
                f"found {columns} and {rows}; choose --fast-weights int8"
            )
        groups = weight.float().reshape(rows, -1, INT4_GROUP)
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        scale = ((high - low) / 15.0).clamp_min(1e-12)
        zero = low + 8.0 * scale  # the kernel's value of level 8
        levels = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15)
        levels = levels.to(torch.int32).reshape(rows, columns)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self.register_buffer("weight", packed)
        pairs = torch.stack((scale, zero), dim=-1).transpose(0, 1).contiguous()
        self.register_buffer("scales", pairs.to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16).contiguous()
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, INT4_GROUP, self.scales)
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)


class Fp8Linear(nn.Module):
    """e4m3 weights with a scale for each output, e4m3 activations with a scale for each position."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Round (outputs, inputs)."""
        super().__init__()
        scale, small = _to_fp8(weight)
        self.register_buffer("weight", small)
        self.register_buffer("scale", scale.t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        rows = x.reshape(-1, x.shape[-1])
        step, small = _to_fp8(rows)
        out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            small, self.weight.t(), scale_a=step, scale_b=self.scale, out_dtype=torch.bfloat16
        )
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)


def _to_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """A scale for each row (rows, 1), and the rows divided by it."""
    scale = rows.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / _FP8_LARGEST
    return scale, (rows.float() / scale).to(torch.float8_e4m3fn)


_KINDS = {Weights.FULL: PlainLinear, Weights.INT8: Int8Linear, Weights.INT4: Int4Linear, Weights.FP8: Fp8Linear}


def linear(weight: Tensor, kind: Weights) -> nn.Module:
    """A layer without bias for (outputs, inputs).

    Raises:
        CheckpointError: Sizes that cannot be packed.
    """
    return _KINDS[kind](weight)
