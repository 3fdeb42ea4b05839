"""One suite over every action tokenizer: round trips within the stated error, and a boundary that fails closed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpace, ActionSpec, NormalizationStatistics, RejectionReason, frozen_array
from vla.tokenizers import (
    ActionTokenizer,
    BSplineTokenizer,
    FastTokenizer,
    QuantileBinTokenizer,
    TokenConvention,
    UniformBinTokenizer,
    decoder_for,
    decoder_from_id,
    tokenizer_from_id,
)

HORIZON, DIMS = 8, 7
LOW = np.array([-0.02, -0.03, -0.02, -0.1, -0.1, -0.2, 0.0])
HIGH = np.array([0.03, 0.03, 0.025, 0.1, 0.12, 0.2, 1.0])
SPEC = ActionSpec(
    space=ActionSpace.EE_DELTA,
    frame="base",
    names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", ""),
    lower=frozen_array(LOW),
    upper=frozen_array(HIGH),
    rate_hz=20,
    horizon=HORIZON,
    statistics=NormalizationStatistics(frozen_array(LOW), frozen_array(HIGH), (True,) * 6 + (False,)),
)


def smooth_chunks(seed: int, count: int) -> list[np.ndarray]:
    """Chunks like a policy's: each dimension a slow wave within its bounds, the gripper open or shut."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0.0, 1.0, HORIZON)[:, None]
    chunks = []
    for _ in range(count):
        wave = np.sin(2.0 * np.pi * (rng.uniform(0.0, 1.0, DIMS) * time + rng.uniform(0.0, 1.0, DIMS)))
        chunk = LOW + (HIGH - LOW) * (0.5 + 0.45 * wave * rng.uniform(0.0, 1.0, DIMS))
        chunk[:, -1] = rng.integers(0, 2)
        chunks.append(chunk)
    return chunks


TRAINING = smooth_chunks(0, 400)
MAKERS: dict[str, Callable[[], ActionTokenizer]] = {
    "uniform": UniformBinTokenizer,
    "openvla": lambda: UniformBinTokenizer(convention=TokenConvention.OPENVLA),
    "quantile": lambda: QuantileBinTokenizer.fit(TRAINING, SPEC),
    "fast": lambda: FastTokenizer.fit(TRAINING, SPEC, scale=20.0, vocabulary_size=512),
    "bspline": BSplineTokenizer,
}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def representable(tokenizer: ActionTokenizer, seed: int) -> np.ndarray:
    """A chunk that the tokenizer can represent; for a spline that is one that it has written itself."""
    chunk = smooth_chunks(seed, 1)[0]
    if isinstance(tokenizer, BSplineTokenizer):
        return tokenizer.decode(tokenizer.encode(chunk, SPEC), SPEC)
    return chunk


@every_tokenizer
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_round_trip_stays_within_the_stated_error(tokenizer: ActionTokenizer, seed: int) -> None:
    chunk = representable(tokenizer, seed)
    decoded = decoder_for(tokenizer, SPEC).decode(tokenizer.encode(chunk, SPEC))
    assert decoded.shape == (HORIZON, DIMS)
    assert (np.abs(decoded - chunk) <= tokenizer.error_bound(SPEC) * (1.0 + 1e-9)).all()


@every_tokenizer
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_decoding_is_a_function_of_the_tokens(tokenizer: ActionTokenizer, seed: int) -> None:
    tokens = tokenizer.encode(smooth_chunks(seed, 1)[0], SPEC)
    assert tokens.dtype == np.int64
    first = decoder_for(tokenizer, SPEC).decode(tokens)
    assert decoder_for(tokenizer, SPEC).decode(tokens.copy()).tobytes() == first.tobytes()
    assert np.array_equal(tokenizer.encode(smooth_chunks(seed, 1)[0], SPEC), tokens)


@every_tokenizer
def test_identity_and_definition_rebuild_the_same_decoder(tokenizer: ActionTokenizer) -> None:
    rebuilt = decoder_from_id(tokenizer.tokenizer_id, SPEC, tokenizer.definition)
    assert rebuilt.tokenizer_id == tokenizer.tokenizer_id
    for chunk in smooth_chunks(7, 20):
        tokens = tokenizer.encode(chunk, SPEC)
        assert rebuilt.decode(tokens).tobytes() == decoder_for(tokenizer, SPEC).decode(tokens).tobytes()


@every_tokenizer
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_fuzzed_tokens_are_refused_or_decode_to_legal_actions(tokenizer: ActionTokenizer, data: st.DataObject) -> None:
    good = tokenizer.encode(smooth_chunks(data.draw(st.integers(0, 99)), 1)[0], SPEC)
    seed = data.draw(st.integers(0, 2**32 - 1))
    tokens = mutated(good, np.random.default_rng(seed))
    try:
        action = decoder_for(tokenizer, SPEC).decode(tokens)
    except ActionDecodeError:
        return
    assert action.shape == (HORIZON, DIMS)
    tolerance = tokenizer.error_bound(SPEC) * (1.0 + 1e-6)
    assert ((action >= LOW - tolerance) & (action <= HIGH + tolerance)).all()


def mutated(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tokens with one fault: other values, another type, another shape, cut, repeated."""
    kind = rng.integers(0, 8)
    if kind == 0:
        return rng.integers(-5, 33_000, tokens.shape)
    if kind == 1:
        return tokens.astype(rng.choice(np.array(["f8", "i4", "u8", "?"])))
    if kind == 2:
        return tokens[:-1]
    if kind == 3:
        return np.concatenate((tokens, tokens[-1:]))
    if kind == 4:
        return tokens[None]
    if kind == 5:
        return np.empty((0, *tokens.shape[1:]), np.int64)
    changed = tokens.copy().ravel()
    places = rng.integers(0, changed.size, rng.integers(1, 4))
    changed[places] = rng.choice(np.array([-1, 2, 300, 511, 512, 31743, 32000, 2**62]), places.size)
    return changed.reshape(tokens.shape) if kind == 6 else rng.permutation(tokens.ravel()).reshape(tokens.shape)


@every_tokenizer
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_action_is_not_written(tokenizer: ActionTokenizer, bad: float) -> None:
    chunk = smooth_chunks(1, 1)[0]
    chunk[2, 3] = bad
    with pytest.raises(ValueError, match="non-finite"):
        tokenizer.encode(chunk, SPEC)


def test_another_definition_than_the_identity_names_is_refused() -> None:
    fast, quantile = TOKENIZERS["fast"], TOKENIZERS["quantile"]
    with pytest.raises(ActionDecodeError, match="the definition beside it is that of 'quantile-255/"):
        tokenizer_from_id(fast.tokenizer_id, quantile.definition)
    with pytest.raises(ActionDecodeError, match="expected its definition beside it"):
        tokenizer_from_id(fast.tokenizer_id)


# ------------------------------------------------------------------------------------------------- FAST


def test_fast_reports_what_is_wrong_with_a_sequence() -> None:
    fast = TOKENIZERS["fast"]
    decoder = decoder_for(fast, SPEC)
    tokens = fast.encode(TRAINING[0], SPEC)
    with pytest.raises(ActionDecodeError, match=r"expected 56 coefficients \(8 rows of 7\), found") as caught:
        decoder.decode(tokens[:-1])
    assert caught.value.reason is RejectionReason.MALFORMED_SEQUENCE
    tokens[0] = 512
    with pytest.raises(ActionDecodeError, match=r"token 512 \(position 0\) is outside the vocabulary 0\.\.511"):
        decoder.decode(tokens)


def test_fast_refuses_actions_that_its_vocabulary_cannot_write() -> None:
    fast = TOKENIZERS["fast"]
    with pytest.raises(ValueError, match="fit it to such actions"):
        fast.encode(TRAINING[0] * 1000.0, SPEC)


def test_a_missing_file_of_a_fast_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no processor_config\.json"):
        FastTokenizer.load(tmp_path)


@pytest.mark.slow
def test_fast_equals_the_processor_that_lerobot_ships(tmp_path: Path) -> None:
    """Same files, same chunks: the same tokens, the same actions; the fitted vocabularies are the same size."""
    from lerobot.policies.molmoact2.molmoact2_hf_model.action_tokenizer import UniversalActionProcessor

    normalized = normalized_spec()
    chunks = [np.clip(chunk, -1.0, 1.0) for chunk in np.random.default_rng(3).normal(0.0, 0.4, (300, HORIZON, DIMS))]
    chunks = [np.cumsum(chunk, axis=0) / 4.0 for chunk in chunks]
    theirs = UniversalActionProcessor.fit(chunks, scale=10, vocab_size=512)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = FastTokenizer.load(tmp_path / "theirs")
    for chunk in chunks[:100]:
        tokens = ours.encode(chunk, normalized)
        assert tokens.tolist() == theirs(chunk)[0]
        expected = theirs.decode([tokens.tolist()], time_horizon=HORIZON, action_dim=DIMS)[0]
        assert np.abs(ours.decode(tokens, normalized) - expected).max() < 1e-12
    ours.save(tmp_path / "ours")
    assert FastTokenizer.load(tmp_path / "ours").tokenizer_id == ours.tokenizer_id
    fitted = FastTokenizer.fit(chunks, normalized, vocabulary_size=512)
    assert fitted.vocabulary_size == ours.vocabulary_size


def normalized_spec() -> ActionSpec:
    """A spec whose actions are normalized already."""
    ones = np.full(DIMS, 4.0)
    return ActionSpec(
        space=ActionSpace.EE_DELTA,
        frame="base",
        names=SPEC.names,
        units=SPEC.units,
        lower=frozen_array(-ones),
        upper=frozen_array(ones),
        rate_hz=20,
        horizon=HORIZON,
        statistics=NormalizationStatistics(frozen_array(-ones), frozen_array(ones), (False,) * DIMS),
    )


def test_decoding_needs_no_tokenizer_library() -> None:
    code = (
        "import sys; from vla.tokenizers import decoder_from_id; "
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
