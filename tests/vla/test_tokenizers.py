"""Tokens are the boundary between model and motion, and the boundary fails closed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import timeit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from controllers.protocols import ActionDecodeError
from controllers.types import (
    ActionSpace,
    ActionSpec,
    NormalizationStatistics,
    RejectionReason,
    frozen_array,
)
from vla.tokenizers import (
    COMPACT_TOKENIZER,
    TokenActionDecoder,
    TokenConvention,
    UniformBinTokenizer,
    decoder_from_id,
    tokenizer_from_id,
    tokenizer_ids,
)

OPENVLA = UniformBinTokenizer(convention=TokenConvention.OPENVLA)
TOKENIZERS = [COMPACT_TOKENIZER, UniformBinTokenizer(bins=256), OPENVLA]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.tokenizer_id)


@st.composite
def specs(draw: st.DrawFn) -> ActionSpec:
    dims, horizon = draw(st.integers(1, 8)), draw(st.integers(1, 10))
    low = draw(hnp.arrays(float, dims, elements=st.floats(-3.0, 3.0)))
    span = draw(hnp.arrays(float, dims, elements=st.floats(1e-3, 5.0)))
    mask = tuple(draw(st.lists(st.booleans(), min_size=dims, max_size=dims)))
    lower, upper = np.where(mask, low, -1.0), np.where(mask, low + span, 1.0)
    return ActionSpec(
        space=ActionSpace.EE_DELTA,
        frame="base",
        names=tuple(f"a{i}" for i in range(dims)),
        units=("m",) * dims,
        lower=frozen_array(lower),
        upper=frozen_array(upper),
        rate_hz=20,
        horizon=horizon,
        statistics=NormalizationStatistics(q01=frozen_array(low), q99=frozen_array(low + span), mask=mask),
    )


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_round_trip_error_is_at_most_half_a_bin(tokenizer: UniformBinTokenizer, spec: ActionSpec, seed: int) -> None:
    action = np.random.default_rng(seed).uniform(spec.lower, spec.upper, (spec.horizon, spec.dims))
    decoded = TokenActionDecoder(tokenizer, spec).decode(tokenizer.encode(action, spec))
    assert (np.abs(decoded - action) <= tokenizer.error_bound(spec) * (1 + 1e-9)).all()


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(spec=specs(), seed=st.integers(0, 2**32 - 1))
def test_encode_inverts_decode(tokenizer: UniformBinTokenizer, spec: ActionSpec, seed: int) -> None:
    lowest = tokenizer.highest_token - tokenizer.bins + 1  # the alias of OpenVLA's last bin is below
    tokens = np.random.default_rng(seed).integers(lowest, tokenizer.highest_token + 1, (spec.horizon, spec.dims))
    decoder = TokenActionDecoder(tokenizer, spec)
    assert np.array_equal(tokenizer.encode(decoder.decode(tokens), spec), tokens)


@every_tokenizer
def test_decoder_equals_tokenizer_bit_for_bit(tokenizer: UniformBinTokenizer, spec: ActionSpec) -> None:
    action = np.random.default_rng(0).uniform(spec.lower, spec.upper, (8, 7))
    tokens = tokenizer.encode(action, spec)
    assert np.array_equal(TokenActionDecoder(tokenizer, spec).decode(tokens), tokenizer.decode(tokens, spec))


def _openvla_decode(ids: np.ndarray, q01: np.ndarray, q99: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What OpenVLA's predict_action does, written from its description."""
    centers = [(-1 + 2 * i / 255 + -1 + 2 * (i + 1) / 255) / 2 for i in range(255)]
    normalized = np.array([[centers[min(max(32000 - int(t) - 1, 0), 254)] for t in row] for row in ids])
    return np.where(mask, 0.5 * (normalized + 1) * (q99 - q01) + q01, normalized)


def _openvla_encode(action: np.ndarray, q01: np.ndarray, q99: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What OpenVLA's training pipeline does: normalize, clip, digitize, count down from 32000."""
    normalized = np.where(mask, 2 * (action - q01) / (q99 - q01) - 1, action).clip(-1, 1)
    return 32000 - np.digitize(normalized, np.linspace(-1, 1, 256))


def test_openvla_ids_match_an_independent_reference(spec: ActionSpec) -> None:
    q01, q99 = spec.statistics.q01, spec.statistics.q99
    mask = np.array(spec.statistics.mask)
    action = np.random.default_rng(1).uniform(spec.lower * 1.2, spec.upper * 1.2, (4000, 7))
    ids = OPENVLA.encode(action, spec)
    assert np.array_equal(ids, _openvla_encode(action, q01, q99, mask))
    assert np.abs(OPENVLA.decode(ids, spec) - _openvla_decode(ids, q01, q99, mask)).max() < 1e-15


def test_openvla_extremes(spec: ActionSpec) -> None:
    last = spec.dims - 1
    row = np.full((1, 7), 31872, dtype=np.int64)
    for token, value in [(31999, -254 / 255), (31745, 254 / 255), (31744, 254 / 255)]:
        row[0, last] = token
        assert OPENVLA.decode(row, spec)[0, last] == pytest.approx(value, abs=1e-15)
    ends = np.array([[-1.0] * 7, [1.0] * 7])
    assert OPENVLA.encode(ends, spec)[:, last].tolist() == [31999, 31744]


@pytest.mark.parametrize("token", [31743, 32000, 2, 29871, -1, 2**62])
def test_a_text_token_is_refused_where_openvla_would_clip_it_into_motion(token: int, spec: ActionSpec) -> None:
    tokens = np.full((8, 7), 31872, dtype=np.int64)
    tokens[3, 2] = token
    with pytest.raises(ActionDecodeError) as caught:
        TokenActionDecoder(OPENVLA, spec).decode(tokens)
    assert caught.value.reason is RejectionReason.TOKEN_OUT_OF_VOCABULARY


def test_encoding_clips_to_the_end_bins(spec: ActionSpec) -> None:
    action = np.array([[9.0] * 7, [-9.0] * 7])
    assert COMPACT_TOKENIZER.encode(action, spec).tolist() == [[254] * 7, [0] * 7]


def test_encoding_refuses_non_finite_actions(spec: ActionSpec) -> None:
    with pytest.raises(ValueError, match="non-finite"):
        COMPACT_TOKENIZER.encode(np.full((8, 7), np.nan), spec)


def test_non_finite_statistics_are_refused(spec: ActionSpec) -> None:
    statistics = NormalizationStatistics(q01=frozen_array([np.nan] * 7), q99=spec.statistics.q99, mask=(True,) * 7)
    broken = dataclasses.replace(spec, statistics=statistics)
    with pytest.raises(ActionDecodeError) as caught:
        COMPACT_TOKENIZER.decode(np.full((8, 7), 100, dtype=np.int64), broken)
    assert caught.value.reason is RejectionReason.NON_FINITE
    with pytest.raises(ValueError, match="statistics of 'dx' are unusable"):
        TokenActionDecoder(COMPACT_TOKENIZER, broken)


GOLDEN = {
    "float": "expected a numpy array of int64 tokens, found float64",
    "list": "expected a numpy array of int64 tokens, found list",
    "rows": "expected tokens of shape (8, 7), found (4, 7)",
    "token": "token 255 (row 2, drx) is outside the action vocabulary 0..254 of uniform-255/rt2",
    "bounds": "row 5, gripper: -0.996078 fraction is outside [0, 1] fraction",
}


@pytest.mark.parametrize("case", GOLDEN)
def test_messages_say_what_was_expected_and_found(case: str, spec: ActionSpec) -> None:
    tokens = np.full((8, 7), 200, dtype=np.int64)
    if case == "float":
        tokens = tokens.astype(float)
    elif case == "list":
        tokens = tokens.tolist()
    elif case == "rows":
        tokens = tokens[:4]
    elif case == "token":
        tokens[2, 3] = 255
    else:
        tokens[5, 6] = 0
    with pytest.raises(ActionDecodeError) as caught:
        TokenActionDecoder(COMPACT_TOKENIZER, spec).decode(tokens)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == GOLDEN[case]


@every_tokenizer
def test_none_of_100000_malformed_chunks_decodes(tokenizer: UniformBinTokenizer, spec: ActionSpec) -> None:
    rng = np.random.default_rng(2026)
    decoder = TokenActionDecoder(tokenizer, spec)
    good = np.full((8, 7), tokenizer.highest_token - tokenizer.bins // 2, dtype=np.int64)
    assert decoder.decode(good).shape == (8, 7)
    refused = dict.fromkeys(RejectionReason, 0)
    count = 100_000 // len(TOKENIZERS) + 1
    kinds, rows, dims = (rng.integers(0, n, count) for n in (4, 8, 7))
    below = tokenizer.lowest_token - 1 - rng.integers(0, 2**40, count)
    above = tokenizer.highest_token + 1 + rng.integers(0, 2**40, count)
    dtypes = (np.float64, np.float32, np.int32, np.uint64, np.bool_, np.object_, np.dtype(">i8"))
    shapes = ((7, 8), (8, 6), (9, 7), (56,), (1, 8, 7), (0, 7), ())
    for kind, row, dim, low, high in zip(kinds, rows, dims, below, above, strict=True):
        chunk = good.copy()
        if kind == 0:
            chunk[row, dim] = low
        elif kind == 1:
            chunk[row, dim] = high
        elif kind == 2:
            chunk = chunk.astype(dtypes[dim])
        else:
            chunk = np.full(shapes[dim], good[0, 0])
        with pytest.raises(ActionDecodeError) as caught:
            decoder.decode(chunk)
        refused[caught.value.reason] += 1
    assert sum(refused.values()) == count


@every_tokenizer
def test_catalog_rebuilds_a_tokenizer_from_its_identity(tokenizer: UniformBinTokenizer) -> None:
    assert tokenizer_from_id(tokenizer.tokenizer_id) == tokenizer
    assert tokenizer.tokenizer_id in tokenizer_ids()


def test_decoder_from_id_carries_identity_and_spec(spec: ActionSpec) -> None:
    decoder = decoder_from_id("uniform-255/rt2", spec)
    assert decoder.tokenizer_id == "uniform-255/rt2"
    assert decoder.spec is spec


def test_unknown_identity_names_the_nearest() -> None:
    with pytest.raises(ActionDecodeError) as caught:
        tokenizer_from_id("uniform255/rt2")
    assert caught.value.reason is RejectionReason.UNKNOWN_TOKENIZER
    assert str(caught.value) == (
        "unknown tokenizer 'uniform255/rt2'; did you mean 'uniform-255/rt2'? "
        "(known: uniform-255/rt2, uniform-256/rt2, uniform-255/openvla-32000, bspline-5/255, and fast-N/HASH and "
        "quantile-N/HASH with their definition)"
    )


def test_decoding_a_chunk_is_fast(spec: ActionSpec) -> None:
    decoder = TokenActionDecoder(COMPACT_TOKENIZER, spec)
    tokens = np.full((8, 7), 200, dtype=np.int64)
    best = min(timeit.repeat(lambda: decoder.decode(tokens), number=500, repeat=9)) / 500
    assert best < 50e-6  # 5 us on an idle core; the margin is for shared machines


def test_tokenizers_never_import_torch() -> None:
    code = "import sys, vla.tokenizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
