"""Bins that hold equally many actions of a data set each: fine where actions are frequent, coarse where rare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controllers.types import ActionSpec, FloatArray, IntArray
from vla.tokenizers.identity import canonical, short_hash
from vla.tokenizers.normalization import normalize, scale_of, unnormalize
from vla.tokenizers.protocol import check_actions, check_tokens, vocabulary_error

# Share of uniform bins mixed in, so that no bin is empty of width where many actions are equal (a gripper's).
_UNIFORM_SHARE = 0.1


class QuantileBinTokenizer:
    """One token a dimension and row, like uniform bins, with edges of its own in each dimension."""

    def __init__(self, edges: FloatArray) -> None:
        """Take the edges.

        Args:
            edges: (dims, bins + 1) normalized, increasing from -1 to 1.

        Raises:
            ValueError: Edges that do not increase from -1 to 1.
        """
        edges = np.array(edges, dtype=np.float64)
        if edges.ndim != 2 or edges.shape[1] < 3:
            raise ValueError(f"expected bin edges of shape (dims, bins + 1) with at least 2 bins, found {edges.shape}")
        if not (np.diff(edges, axis=1) > 0.0).all() or (edges[:, 0] != -1.0).any() or (edges[:, -1] != 1.0).any():
            raise ValueError("expected the edges of every dimension to increase from -1 to 1")
        edges.flags.writeable = False
        self.edges = edges
        self._definition = canonical({"scheme": "quantile", "edges": edges.tolist()})
        self._tokenizer_id = f"quantile-{self.bins}/{short_hash(self._definition)}"

    @classmethod
    def fit(cls, actions: Sequence[FloatArray], spec: ActionSpec, bins: int = 255) -> QuantileBinTokenizer:
        """Edges at equal shares of the actions, mixed with a tenth of uniform edges.

        Args:
            actions: Chunks (rows, dims) in the spec's units.
            spec: Whose statistics normalize.
            bins: Number of bins.

        Raises:
            ValueError: No actions, or non-finite ones.
        """
        if not actions:
            raise ValueError("expected at least one chunk to fit quantile bins to, found none")
        values = np.concatenate([check_actions(chunk, spec) for chunk in actions])
        values = np.clip(normalize(values, spec), -1.0, 1.0)
        shares = np.linspace(0.0, 1.0, bins + 1)
        edges = np.quantile(values, shares, axis=0).T
        edges = (1.0 - _UNIFORM_SHARE) * edges + _UNIFORM_SHARE * np.linspace(-1.0, 1.0, bins + 1)
        edges[:, 0], edges[:, -1] = -1.0, 1.0
        return cls(edges)

    @property
    def dims(self) -> int:
        """Number of action dimensions."""
        return self.edges.shape[0]

    @property
    def bins(self) -> int:
        """Number of bins."""
        return self.edges.shape[1] - 1

    @property
    def definition(self) -> str:
        """Canonical JSON of the edges."""
        return self._definition

    @property
    def tokenizer_id(self) -> str:
        """Bins and the definition's hash, e.g. ``quantile-255/0123456789ab``."""
        return self._tokenizer_id

    def encode(self, action: FloatArray, spec: ActionSpec) -> IntArray:
        """Write actions (..., dims) as bin numbers; values beyond the quantiles go to the end bins."""
        self._check_dims(spec)
        action = np.clip(normalize(check_actions(action, spec), spec), -1.0, 1.0)
        tokens = np.empty(action.shape, np.int64)
        for dim, edges in enumerate(self.edges):
            tokens[..., dim] = np.searchsorted(edges[1:-1], action[..., dim], side="right")
        return tokens

    def decode(self, tokens: IntArray, spec: ActionSpec) -> FloatArray:
        """Read bin numbers (..., dims) as the middles of their bins, or refuse."""
        bins = self.token_bins(tokens, spec)
        return self.action_table(spec)[np.arange(spec.dims), bins]

    def token_bins(self, tokens: IntArray, spec: ActionSpec) -> IntArray:
        """Validate (..., dims) tokens; they are bin numbers as they stand.

        Raises:
            ActionDecodeError: Wrong type or shape, or a token outside 0 .. bins - 1.
        """
        check_tokens(tokens, spec)
        if tokens.min() < 0 or tokens.max() >= self.bins:
            raise vocabulary_error(tokens, spec, 0, self.bins - 1, self.tokenizer_id)
        return tokens

    def action_table(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) physical value of every bin of every dimension."""
        self._check_dims(spec)
        middles = 0.5 * (self.edges[:, :-1] + self.edges[:, 1:])
        return np.ascontiguousarray(unnormalize(middles.T, spec).T)

    def bin_tolerance(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) half the width of every bin in the spec's units."""
        return 0.5 * np.diff(self.edges, axis=1) * scale_of(spec)[:, None]

    def error_bound(self, spec: ActionSpec) -> FloatArray:
        """(dims,) half of the widest bin."""
        return self.bin_tolerance(spec).max(axis=1)

    def _check_dims(self, spec: ActionSpec) -> None:
        if spec.dims != self.dims:
            raise ValueError(
                f"the tokenizer {self.tokenizer_id} was fitted to {self.dims} action dimensions, the action spec has "
                f"{spec.dims}"
            )
