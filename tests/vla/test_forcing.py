"""A forced prefix is kept to the token, and the rows after it come back to where the model wanted to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import TokenPrefix
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from vla.compact.forcing import force_prefix


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, SPEC.horizon - 1))
def test_the_prefix_is_kept_to_the_token_and_the_rest_stays_in_the_vocabulary(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, prefix = rng.integers(0, 255, (SPEC.horizon, SPEC.dims)), rng.integers(0, 255, (rows, SPEC.dims))
    forced = force_prefix(tokens, TokenPrefix(prefix), SPEC, 0, 254)
    np.testing.assert_array_equal(forced[:rows], prefix)
    np.testing.assert_array_equal(forced[rows:, -1], tokens[rows:, -1])  # the gripper is absolute
    assert forced.dtype == np.int64
    assert not forced.flags.writeable
    assert 0 <= forced.min() <= forced.max() <= 254


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4))
def test_the_rows_after_it_make_up_for_what_the_prefix_did_otherwise(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(100, 155, (SPEC.horizon, SPEC.dims))
    prefix = tokens[:rows] + rng.integers(-8, 9, (rows, SPEC.dims))
    forced = force_prefix(tokens, TokenPrefix(prefix), SPEC, 0, 254, gain=0.5)
    missed = np.abs((tokens[:rows] - prefix)[:, :6].sum(0))
    left = np.abs((tokens - forced)[:, :6].sum(0))
    assert (left <= missed).all()
    assert (left <= 0.5 ** (SPEC.horizon - rows) * missed + 1.0).all()  # halved by every row, to within rounding


def test_a_prefix_that_agrees_changes_nothing() -> None:
    tokens = np.random.default_rng(3).integers(0, 255, (SPEC.horizon, SPEC.dims))
    np.testing.assert_array_equal(force_prefix(tokens, TokenPrefix(tokens[:3]), SPEC, 0, 254), tokens)


@pytest.mark.parametrize("shape", [(0, 7), (8, 7), (2, 6), (7,)])
def test_a_prefix_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    tokens = np.zeros((SPEC.horizon, SPEC.dims), np.int64)
    with pytest.raises(ValueError, match=r"expected a prefix of 1 to 7 rows of 7 tokens for chunks of 8 rows"):
        force_prefix(tokens, TokenPrefix(np.zeros(shape, np.int64)), SPEC, 0, 254)
