"""The fail-closed door between tokens and motion."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason
from vla.tokenizers.normalization import check_spec
from vla.tokenizers.protocol import ActionTokenizer


class BinTokenizer(ActionTokenizer, Protocol):
    """A tokenizer with one token for each row and dimension."""

    @property
    def bins(self) -> int:
        """Bins of each dimension."""
        ...

    def token_bins(self, tokens: IntArray, spec: ActionSpec) -> IntArray:
        """Validate tokens (..., dims) and return their bins."""
        ...

    def action_table(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) physical value of every bin."""
        ...

    def bin_tolerance(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) half the width of every bin in the spec's units."""
        ...


class TokenActionDecoder:
    """Decodes whole chunks of one bin tokenizer under one action spec; an ``ActionDecoder``.

    A token decodes to its bin's centre, so a legal action at a bound may decode up to half a bin outside it;
    the bounds are checked with that tolerance and nothing is ever clipped.
    """

    def __init__(self, tokenizer: BinTokenizer, spec: ActionSpec) -> None:
        """Precompute the value of every token.

        Raises:
            ValueError: The spec's arrays disagree in length, or its statistics cannot be used.
        """
        check_spec(spec)
        self._tokenizer = tokenizer
        self._spec = spec
        self._shape = (spec.horizon, spec.dims)
        table = tokenizer.action_table(spec)
        tolerance = tokenizer.bin_tolerance(spec)
        inside = (table >= spec.lower[:, None] - tolerance) & (table <= spec.upper[:, None] + tolerance)
        # A NaN marks a bin that the bounds forbid, so one reduction over the decoded chunk checks them all.
        self._table = np.where(inside, table, np.nan).ravel()
        self._offsets = np.broadcast_to(np.arange(spec.dims) * tokenizer.bins, self._shape)

    @property
    def tokenizer_id(self) -> str:
        """The only tokenizer id it accepts."""
        return self._tokenizer.tokenizer_id

    @property
    def tokenizer(self) -> BinTokenizer:
        """The tokenizer that it decodes with."""
        return self._tokenizer

    @property
    def spec(self) -> ActionSpec:
        """The only action spec it accepts."""
        return self._spec

    def decode(self, tokens: IntArray) -> FloatArray:
        """Decode (horizon, dims) int64 tokens to (horizon, dims) un-normalized float64 actions.

        Raises:
            ActionDecodeError: Wrong type or shape, a token outside the action vocabulary, or an action more
                than half a bin outside the spec's bounds.
        """
        if isinstance(tokens, np.ndarray) and tokens.shape != self._shape:
            raise ActionDecodeError(
                RejectionReason.WRONG_SHAPE, f"expected tokens of shape {self._shape}, found {tokens.shape}"
            )
        bins = self._tokenizer.token_bins(tokens, self._spec)
        action = self._table.take(bins + self._offsets)
        total = action.sum()
        if total != total:  # NaN, and ten times faster than isnan().any()
            row, dim = np.argwhere(np.isnan(action))[0]
            value = self._tokenizer.action_table(self._spec)[dim, bins[row, dim]]
            raise _bounds_error(self._spec, int(row), int(dim), float(value))
        return action


class SequenceActionDecoder:
    """Decodes chunks of a tokenizer that writes a chunk as a whole; an ``ActionDecoder``.

    The bounds are checked with the tokenizer's own error bound as tolerance, and nothing is ever clipped.
    """

    def __init__(self, tokenizer: ActionTokenizer, spec: ActionSpec) -> None:
        """Bind to one spec.

        Raises:
            ValueError: The spec's arrays disagree in length, or its statistics cannot be used.
        """
        check_spec(spec)
        self._tokenizer = tokenizer
        self._spec = spec
        tolerance = tokenizer.error_bound(spec) * (1.0 + 1e-9)
        self._lower, self._upper = spec.lower - tolerance, spec.upper + tolerance

    @property
    def tokenizer_id(self) -> str:
        """The only tokenizer id it accepts."""
        return self._tokenizer.tokenizer_id

    @property
    def spec(self) -> ActionSpec:
        """The only action spec it accepts."""
        return self._spec

    def decode(self, tokens: IntArray) -> FloatArray:
        """Decode int64 tokens to (horizon, dims) un-normalized float64 actions.

        Raises:
            ActionDecodeError: Wrong type or shape, a token outside the vocabulary, a malformed sequence, or an
                action outside the spec's bounds.
        """
        action = self._tokenizer.decode(tokens, self._spec)
        inside = (action >= self._lower) & (action <= self._upper)
        if not inside.all():  # also where it is NaN
            row, dim = np.argwhere(~inside)[0]
            raise _bounds_error(self._spec, int(row), int(dim), float(action[row, dim]))
        return action


def decoder_for(tokenizer: ActionTokenizer | BinTokenizer, spec: ActionSpec) -> ActionDecoder:
    """The decoder of a tokenizer under one action spec.

    Raises:
        ValueError: An unusable spec.
    """
    if hasattr(tokenizer, "action_table"):
        return TokenActionDecoder(tokenizer, spec)  # pyright: ignore[reportArgumentType]
    return SequenceActionDecoder(tokenizer, spec)


def _bounds_error(spec: ActionSpec, row: int, dim: int, value: float) -> ActionDecodeError:
    return ActionDecodeError(
        RejectionReason.OUT_OF_BOUNDS,
        f"row {row}, {spec.names[dim]}: {value:.6g} {spec.units[dim]} is outside "
        f"[{spec.lower[dim]:.6g}, {spec.upper[dim]:.6g}] {spec.units[dim]}",
    )
