"""Linear layers of fewer bits: errors within what their rounding allows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.openvla.quantized import INT4_GROUP, Int4Linear, Int8Linear, linear
from vla.openvla.speed import Weights

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))


def draw(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(sizes=SIZES, seed=st.integers(0, 10_000), scale=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]))
@settings(max_examples=40, deadline=None)
def test_eight_bits_err_by_no_more_than_half_a_step_of_both_factors(
    sizes: tuple[int, int, int], seed: int, scale: float
) -> None:
    rows, outputs, inputs = sizes[0], 8 * sizes[1], 16 * sizes[2]
    weight, x = draw(seed, outputs, inputs, scale=scale), draw(seed + 1, rows, inputs)
    step_w = weight.abs().amax(dim=1) / 127.0
    step_x = x.abs().amax(dim=1, keepdim=True) / 127.0
    bound = (
        x.abs().sum(dim=1, keepdim=True) * step_w / 2.0
        + step_x / 2.0 * weight.abs().sum(dim=1)
        + inputs * step_x * step_w / 4.0
    )
    error = (Int8Linear(weight)(x).double() - x.double() @ weight.double().T).abs()
    assert (error <= 1.001 * bound + 1e-6 * scale).all()


@given(rows=st.integers(2, 40), seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_positions_result_does_not_depend_on_the_others(rows: int, seed: int) -> None:
    layer, x = Int8Linear(draw(seed, 32, 64)), draw(seed + 1, rows, 64)
    together = layer(x)
    assert torch.equal(together[:1], layer(x[:1]))
    assert torch.equal(together[1:], layer(x[1:]))


def test_eight_bits_of_rounded_bf16_activations_do_not_overflow() -> None:
    weight, x = draw(0, 64, 512, scale=0.05), draw(1, 300, 512).bfloat16()
    exact = x.float() @ weight.T
    assert (Int8Linear(weight)(x).float() - exact).abs().max() < 0.1


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_four_bits_keep_each_weight_within_half_a_level(seed: int) -> None:
    weight = draw(seed, 32, 2 * INT4_GROUP)
    kept = Int4Linear(weight)(torch.eye(2 * INT4_GROUP)).T
    groups = weight.reshape(32, 2, INT4_GROUP)
    level = (groups.amax(dim=-1) - groups.amin(dim=-1)) / 15.0
    # bfloat16 rounds scale, zero and result, each by up to 1/256.
    slack = 3.0 / 256.0 * groups.abs().amax(dim=-1)
    error = (kept.reshape(32, 2, INT4_GROUP) - groups).abs()
    assert (error <= (0.5 * level + slack)[..., None]).all()


@pytest.mark.parametrize("kind", [Weights.FULL, Weights.INT8, Weights.INT4])
def test_shapes_and_precision_of_the_input_are_kept(kind: Weights) -> None:
    layer, x = linear(draw(0, 32, 64), kind), draw(1, 2, 3, 64)
    out = layer(x)
    assert out.shape == (2, 3, 32)
    assert out.dtype == x.dtype
