"""The fail-closed door between tokens and motion."""

from __future__ import annotations

import numpy as np

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason
from vla.tokenizers.uniform import UniformBinTokenizer


class TokenActionDecoder:
    """Decodes whole chunks of one tokenizer under one action spec; an ``ActionDecoder``.

    A token decodes to its bin's centre, so a legal action at a bound may decode up to half a bin outside it;
    the bounds are checked with that tolerance and nothing is ever clipped.
    """

    def __init__(self, tokenizer: UniformBinTokenizer, spec: ActionSpec) -> None:
        """Precompute the value of every token.

        Raises:
            ValueError: The spec's arrays disagree in length, or its statistics cannot be used.
        """
        _check_spec(spec)
        self._tokenizer = tokenizer
        self._spec = spec
        self._shape = (spec.horizon, spec.dims)
        table = tokenizer.action_table(spec)
        tolerance = tokenizer.half_bin(spec)[:, None]
        inside = (table >= spec.lower[:, None] - tolerance) & (table <= spec.upper[:, None] + tolerance)
        # A NaN marks a bin that the bounds forbid, so one reduction over the decoded chunk checks them all.
        self._table = np.where(inside, table, np.nan).ravel()
        self._offsets = np.broadcast_to(np.arange(spec.dims) * tokenizer.bins, self._shape)

    @property
    def tokenizer_id(self) -> str:
        """The only tokenizer id it accepts."""
        return self._tokenizer.tokenizer_id

    @property
    def tokenizer(self) -> UniformBinTokenizer:
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
        action = self._table[bins + self._offsets]
        if action.sum() != action.sum():  # NaN, and ten times faster than isnan().any()
            raise self._bounds_error(bins)
        return action

    def _bounds_error(self, bins: IntArray) -> ActionDecodeError:
        spec = self._spec
        row, dim = np.argwhere(np.isnan(self._table[bins + self._offsets]))[0]
        value = self._tokenizer.action_table(spec)[dim, bins[row, dim]]
        return ActionDecodeError(
            RejectionReason.OUT_OF_BOUNDS,
            f"row {row}, {spec.names[dim]}: {value:.6g} {spec.units[dim]} is outside "
            f"[{spec.lower[dim]:.6g}, {spec.upper[dim]:.6g}] {spec.units[dim]}",
        )


def _check_spec(spec: ActionSpec) -> None:
    statistics = spec.statistics
    shapes = {
        "units": len(spec.units),
        "lower": spec.lower.size,
        "upper": spec.upper.size,
        "q01": statistics.q01.size,
        "q99": statistics.q99.size,
        "mask": len(statistics.mask),
    }
    for name, size in shapes.items():
        if size != spec.dims:
            raise ValueError(f"the action spec has {spec.dims} names but {size} values in {name!r}")
    if spec.horizon < 1:
        raise ValueError(f"the action spec's horizon must be at least 1, found {spec.horizon}")
    for index, name in enumerate(spec.names):
        low, high = float(statistics.q01[index]), float(statistics.q99[index])
        if statistics.mask[index] and not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"statistics of {name!r} are unusable: q01 = {low}, q99 = {high}")
        if not spec.lower[index] <= spec.upper[index]:
            raise ValueError(
                f"bounds of {name!r} are unusable: lower = {spec.lower[index]}, upper = {spec.upper[index]}"
            )
