"""Uniform binning of normalized actions, as in RT-2 and OpenVLA.

Each action dimension is normalized to [-1, 1] by its 1% and 99% quantiles and cut into equal bins; a token
names a bin and decodes to the bin's centre (RT-2, https://arxiv.org/abs/2307.15818, section 3.2; OpenVLA,
https://arxiv.org/abs/2406.09246, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason

LLAMA_VOCABULARY = 32000


class TokenConvention(Enum):
    """How a bin is written as a token id."""

    RT2 = "rt2"  # the bin's index, from 0 at -1
    OPENVLA = "openvla"  # the last ids of a language model's vocabulary, counted down: 31999 is at -1


@dataclass(frozen=True)
class UniformBinTokenizer:
    """Equal bins on [-1, 1] after quantile normalization.

    OpenVLA takes 256 *edges*, so it has 255 bins but 256 ids: training writes +1 exactly as the lowest id
    (31744), which decodes to the same centre as 31745. Both are accepted here; nothing else is. OpenVLA's own
    code clips any other id into a near-maximal motion; this class refuses it.

    Attributes:
        bins: Number of bins; there are ``bins + 1`` edges.
        convention: How bins are written as ids.
        vocabulary_size: Size of the language model's text vocabulary; only used by OPENVLA.
    """

    bins: int = 255
    convention: TokenConvention = TokenConvention.RT2
    vocabulary_size: int = LLAMA_VOCABULARY

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"a tokenizer needs at least 2 bins, found {self.bins}")
        if self.convention is TokenConvention.OPENVLA and self.vocabulary_size <= self.bins + 1:
            raise ValueError(f"{self.bins + 1} action ids do not fit a vocabulary of {self.vocabulary_size}")

    @cached_property
    def tokenizer_id(self) -> str:
        """Scheme, bins and id convention, e.g. ``uniform-255/openvla-32000``."""
        suffix = f"-{self.vocabulary_size}" if self.convention is TokenConvention.OPENVLA else ""
        return f"uniform-{self.bins}/{self.convention.value}{suffix}"

    @cached_property
    def edges(self) -> FloatArray:
        """(bins + 1,) edges on [-1, 1]."""
        edges: FloatArray = np.linspace(-1.0, 1.0, self.bins + 1, dtype=np.float64)
        edges.flags.writeable = False
        return edges

    @cached_property
    def centers(self) -> FloatArray:
        """(bins,) normalized value of each bin."""
        centers: FloatArray = (self.edges[:-1] + self.edges[1:]) / 2.0
        centers.flags.writeable = False
        return centers

    @property
    def lowest_token(self) -> int:
        """Smallest id of the action vocabulary."""
        return self.vocabulary_size - self.bins - 1 if self.convention is TokenConvention.OPENVLA else 0

    @property
    def highest_token(self) -> int:
        """Largest id of the action vocabulary."""
        return self.vocabulary_size - 1 if self.convention is TokenConvention.OPENVLA else self.bins - 1

    def normalize(self, action: FloatArray, spec: ActionSpec) -> FloatArray:
        """Map physical actions (..., dims) to [-1, 1] by quantiles, without a clip.

        Masked-out dimensions pass through. A dimension whose quantiles coincide maps to 0.
        """
        q01, q99, mask = _statistics(spec)
        span = q99 - q01
        safe = np.where(span > 0.0, span, 1.0)
        scaled = np.where(span > 0.0, 2.0 * (action - q01) / safe - 1.0, 0.0)
        return np.where(mask, scaled, action)

    def unnormalize(self, normalized: FloatArray, spec: ActionSpec) -> FloatArray:
        """Map [-1, 1] (..., dims) to physical actions, ``(a + 1)/2 (q99 - q01) + q01`` where the mask is."""
        q01, q99, mask = _statistics(spec)
        return np.where(mask, 0.5 * (normalized + 1.0) * (q99 - q01) + q01, normalized)

    def encode(self, action: FloatArray, spec: ActionSpec) -> IntArray:
        """Write physical actions as tokens (training side: values beyond the quantiles go to the end bins).

        Args:
            action: (..., dims) in the spec's units.
            spec: Whose statistics normalize.

        Returns:
            (..., dims) int64 token ids.

        Raises:
            ValueError: Non-finite actions or a wrong last dimension.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.ndim == 0 or action.shape[-1] != spec.dims:
            raise ValueError(f"expected actions of shape (..., {spec.dims}), found {action.shape}")
        if not np.isfinite(action).all():
            raise ValueError("cannot encode a non-finite action")
        number = np.digitize(np.clip(self.normalize(action, spec), -1.0, 1.0), self.edges)  # 1 .. bins + 1
        if self.convention is TokenConvention.OPENVLA:
            return self.vocabulary_size - number.astype(np.int64)
        return np.minimum(number - 1, self.bins - 1).astype(np.int64)

    def decode(self, tokens: IntArray, spec: ActionSpec) -> FloatArray:
        """Read tokens as physical actions, or refuse.

        Args:
            tokens: (..., dims) int64 token ids.
            spec: Whose statistics un-normalize.

        Returns:
            (..., dims) float64 in the spec's units.

        Raises:
            ActionDecodeError: Wrong type or shape, a token outside the action vocabulary, non-finite result.
        """
        bins = self.token_bins(tokens, spec)
        action = self.action_table(spec)[np.arange(spec.dims), bins]
        if not np.isfinite(action).all():
            raise ActionDecodeError(
                RejectionReason.NON_FINITE,
                f"decoding gave a non-finite action; check the statistics of {spec.names}",
            )
        return action

    def token_bins(self, tokens: IntArray, spec: ActionSpec) -> IntArray:
        """Validate (..., dims) token ids and return their bin indices 0 .. bins - 1.

        Raises:
            ActionDecodeError: Wrong type or shape, or a token outside the action vocabulary.
        """
        if not isinstance(tokens, np.ndarray) or tokens.dtype != np.int64:
            found = tokens.dtype.name if isinstance(tokens, np.ndarray) else type(tokens).__name__
            raise ActionDecodeError(
                RejectionReason.WRONG_TYPE, f"expected a numpy array of int64 tokens, found {found}"
            )
        if tokens.ndim == 0 or tokens.shape[-1] != spec.dims or tokens.size == 0:
            raise ActionDecodeError(
                RejectionReason.WRONG_SHAPE,
                f"expected tokens of shape (..., {spec.dims}), found {tokens.shape}",
            )
        if tokens.min() < self.lowest_token or tokens.max() > self.highest_token:
            raise self._vocabulary_error(tokens, spec)
        if self.convention is TokenConvention.OPENVLA:
            return np.minimum(self.vocabulary_size - 1 - tokens, self.bins - 1)
        return tokens

    def action_table(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) physical value of every bin of every dimension."""
        normalized = np.broadcast_to(self.centers[:, None], (self.bins, spec.dims))
        return np.ascontiguousarray(self.unnormalize(normalized, spec).T)

    def half_bin(self, spec: ActionSpec) -> FloatArray:
        """(dims,) half a bin in the spec's units: the largest rounding error within the quantiles."""
        q01, q99, mask = _statistics(spec)
        return np.where(mask, 0.5 * (q99 - q01), 1.0) / self.bins

    def _vocabulary_error(self, tokens: IntArray, spec: ActionSpec) -> ActionDecodeError:
        outside = np.argwhere((tokens < self.lowest_token) | (tokens > self.highest_token))[0]
        place = ", ".join(f"row {index}" for index in outside[:-1])
        name = spec.names[int(outside[-1])]
        return ActionDecodeError(
            RejectionReason.TOKEN_OUT_OF_VOCABULARY,
            f"token {tokens[tuple(outside)]} ({place + ', ' if place else ''}{name}) is outside the action "
            f"vocabulary {self.lowest_token}..{self.highest_token} of {self.tokenizer_id}",
        )


COMPACT_TOKENIZER = UniformBinTokenizer()
"""The tokenizer of our own compact model: plain bin indices 0..254."""


def _statistics(spec: ActionSpec) -> tuple[FloatArray, FloatArray, np.ndarray]:
    return spec.statistics.q01, spec.statistics.q99, np.asarray(spec.statistics.mask, dtype=bool)
