"""Chunks as B-splines: a few control points for each dimension instead of every row.

After BEAST (B-spline Encoded Action Sequence Tokenizer, https://arxiv.org/abs/2506.06072), with clamped uniform knots.
A spline lies in the convex hull of its control points, so that what is decoded cannot leave the normalized range.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.interpolate import BSpline

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason
from vla.tokenizers.normalization import normalize, scale_of, unnormalize
from vla.tokenizers.protocol import check_chunk, check_tokens, vocabulary_error

_HIGHEST_DEGREE = 3


@dataclass(frozen=True)
class BSplineTokenizer:
    """Least-squares control points, each cut into equal bins on [-1, 1].

    Attributes:
        points: Control points in a chunk; no more than the chunk has rows.
        bins: Bins of each control point.
    """

    points: int = 5
    bins: int = 255

    def __post_init__(self) -> None:
        if self.points < 2 or self.bins < 2:
            raise ValueError(f"a spline needs at least 2 control points and 2 bins, found {self.points}, {self.bins}")

    @property
    def tokenizer_id(self) -> str:
        """Control points and bins, e.g. ``bspline-5/255``."""
        return f"bspline-{self.points}/{self.bins}"

    @property
    def definition(self) -> str:
        """Empty: the identity says everything."""
        return ""

    def encode(self, action: FloatArray, spec: ActionSpec) -> IntArray:
        """Write a chunk (horizon, dims) as control points (points, dims).

        Raises:
            ValueError: Non-finite actions, another shape, or fewer rows than control points.
        """
        lower, upper = (np.clip(normalize(bound, spec), -1.0, 1.0) for bound in (spec.lower, spec.upper))
        action = np.clip(normalize(check_chunk(action, spec), spec), lower, upper)
        points, *_ = np.linalg.lstsq(self._basis(spec), action, rcond=None)
        points = np.clip(points, lower, upper)  # and with them all that lies between
        return np.clip(np.floor((points + 1.0) * (0.5 * self.bins)), 0, self.bins - 1).astype(np.int64)

    def decode(self, tokens: IntArray, spec: ActionSpec) -> FloatArray:
        """Read control points (points, dims) as a chunk (horizon, dims), or refuse."""
        check_tokens(tokens, spec)
        if tokens.shape != (self.points, spec.dims):
            raise ActionDecodeError(
                RejectionReason.WRONG_SHAPE,
                f"expected tokens of shape {(self.points, spec.dims)}, found {tokens.shape}",
            )
        if tokens.min() < 0 or tokens.max() >= self.bins:
            raise vocabulary_error(tokens, spec, 0, self.bins - 1, self.tokenizer_id)
        points = (2.0 * tokens + 1.0) / self.bins - 1.0
        # Summed in one fixed order, not by a matrix product: replay compares bits.
        return unnormalize((self._basis(spec)[:, :, None] * points[None]).sum(axis=1), spec)

    def error_bound(self, spec: ActionSpec) -> FloatArray:
        """(dims,) half a bin; for chunks that are splines themselves."""
        return scale_of(spec) / self.bins

    def _basis(self, spec: ActionSpec) -> FloatArray:
        return _basis(self.points, spec.horizon)


@lru_cache(maxsize=16)
def _basis(points: int, rows: int) -> FloatArray:
    """(rows, points) weight of each control point in each row; rows are equally spaced from knot to knot."""
    if points > rows:
        raise ValueError(f"a spline of {points} control points needs chunks of at least {points} rows, found {rows}")
    degree = min(_HIGHEST_DEGREE, points - 1)
    inner = np.linspace(0.0, 1.0, points - degree + 1)
    knots = np.concatenate((np.zeros(degree), inner, np.ones(degree)))
    basis = BSpline.design_matrix(np.linspace(0.0, 1.0, rows), knots, degree).toarray()
    basis.flags.writeable = False
    return basis
