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
from vla.tokenizers.normalization import normalize, scale_of, unnormalize
from vla.tokenizers.protocol import check_actions, check_tokens, vocabulary_error

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

    @property
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
    def definition(self) -> str:
        """Empty: the identity says everything."""
        return ""

    @property
    def lowest_token(self) -> int:
        """Smallest id of the action vocabulary."""
        return self.vocabulary_size - self.bins - 1 if self.convention is TokenConvention.OPENVLA else 0

    @property
    def highest_token(self) -> int:
        """Largest id of the action vocabulary."""
        return self.vocabulary_size - 1 if self.convention is TokenConvention.OPENVLA else self.bins - 1

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
        action = check_actions(action, spec)
        number = np.digitize(np.clip(normalize(action, spec), -1.0, 1.0), self.edges)  # 1 .. bins + 1
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
        check_tokens(tokens, spec)
        if tokens.min() < self.lowest_token or tokens.max() > self.highest_token:
            raise vocabulary_error(tokens, spec, self.lowest_token, self.highest_token, self.tokenizer_id)
        if self.convention is TokenConvention.OPENVLA:
            return np.minimum(self.vocabulary_size - 1 - tokens, self.bins - 1)
        return tokens

    def action_table(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) physical value of every bin of every dimension."""
        normalized = np.broadcast_to(self.centers[:, None], (self.bins, spec.dims))
        return np.ascontiguousarray(unnormalize(normalized, spec).T)

    def error_bound(self, spec: ActionSpec) -> FloatArray:
        """(dims,) half a bin in the spec's units: the largest rounding error within the quantiles."""
        return scale_of(spec) / self.bins

    def bin_tolerance(self, spec: ActionSpec) -> FloatArray:
        """(dims, bins) half the width of every bin in the spec's units."""
        return np.broadcast_to(self.error_bound(spec)[:, None], (spec.dims, self.bins))


COMPACT_TOKENIZER = UniformBinTokenizer()
"""The tokenizer of our own compact model: plain bin indices 0..254."""
