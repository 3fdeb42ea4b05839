"""Where continuous actions become tokens: what that costs is counted, and nothing is clipped in silence."""

from __future__ import annotations

from enum import Enum

import numpy as np

from controllers.protocols import ActionDecodeError
from controllers.types import ActionChunk, ActionSpec, FloatArray, Observation
from vla.process.account import BoundaryAccount
from vla.process.refusal import refused_chunk
from vla.serving.discretize import DiscretizationError, Discretizer
from vla.serving.fields import MappingError
from vla.tokenizers import tokenizer_from_id
from vla.tokenizers.normalization import unnormalize


class OutOfRange(Enum):
    """What happens to a chunk with values that no token stands for. Either way they are counted."""

    REFUSE = "refuse"  # the chunk is refused and the arm comes to rest
    SATURATE = "saturate"  # they are brought to the nearest end of the range


class RefusedActionsError(ValueError):
    """Actions that are none: the arm is to come to rest. The message is logged with the episode."""


def check_tokenizer(place: str, tokenizer_id: str) -> None:
    """Refuse a tokenizer that a foreign policy's chunks cannot be written with.

    Raises:
        MappingError: An unknown one, or one that writes chunks as a whole.
    """
    try:
        tokenizer = tokenizer_from_id(tokenizer_id)
    except ActionDecodeError as error:
        raise MappingError(f"{place}: {error}") from None
    if not hasattr(tokenizer, "action_table"):
        raise MappingError(
            f"{place}: expected a tokenizer with one token for each row and dimension, found {tokenizer_id!r}, which "
            "writes whole chunks; choose uniform-255/rt2 or the same with more bins"
        )


class Boundary:
    """Writes a foreign policy's chunks as tokens of one tokenizer under one spec, and keeps account."""

    def __init__(self, spec: ActionSpec, tokenizer_id: str, out_of_range: OutOfRange = OutOfRange.REFUSE) -> None:
        """Bind to the stack's spec and tokenizer.

        Raises:
            MappingError: A tokenizer that will not do.
            ValueError: An unusable spec.
        """
        check_tokenizer("tokenizer", tokenizer_id)
        self.spec, self.tokenizer_id = spec, tokenizer_id
        self._discretizer = Discretizer(tokenizer_id, spec)
        self._saturate = out_of_range is OutOfRange.SATURATE
        ends = unnormalize(np.array([[-1.0], [1.0]]) * np.ones(spec.dims), spec)
        # What has a token and may be commanded: the quantiles are what bins cover, the bounds what the stack executes.
        self.lower: FloatArray = np.maximum(spec.lower, ends[0])
        self.upper: FloatArray = np.minimum(spec.upper, ends[1])
        self._chunks = self._refused = self._values = 0
        self._outside = np.zeros(spec.dims, np.int64)
        self._largest, self._sum, self._inside = np.zeros(spec.dims), np.zeros(spec.dims), np.zeros(spec.dims, np.int64)

    @property
    def account(self) -> BoundaryAccount:
        """What discretizing cost so far."""
        return BoundaryAccount(
            names=self.spec.names,
            units=self.spec.units,
            bound=tuple(self._discretizer.bound.tolist()),
            chunks=self._chunks,
            refused=self._refused,
            values=self._values,
            outside=tuple(self._outside.tolist()),
            saturated=self._saturate,
            largest_error=tuple(self._largest.tolist()),
            mean_error=tuple((self._sum / np.maximum(self._inside, 1)).tolist()),
        )

    def chunk(self, actions: FloatArray, observation: Observation) -> ActionChunk:
        """Write (horizon, dims) finite actions, in the spec's units, as the answer to an observation.

        A chunk that cannot be written comes back without tokens and with the reason, which every executor rejects.
        """
        spec = self.spec
        self._values += spec.horizon
        outside = (actions < self.lower) | (actions > self.upper)
        self._outside += outside.sum(axis=0)
        if outside.any() and not self._saturate:
            row, dim = np.argwhere(outside)[0]
            return self.refuse(
                f"row {row}, {spec.names[dim]}: expected a value in [{self.lower[dim]:.6g}, {self.upper[dim]:.6g}] "
                f"{spec.units[dim]}, found {actions[row, dim]:.6g}; check scale, offset and statistics",
                observation,
            )
        inside = np.clip(actions, self.lower, self.upper)
        try:
            written = self._discretizer.encode(inside)
            error = np.abs(self._discretizer.decode(written.tokens) - inside)
        except (DiscretizationError, ActionDecodeError) as problem:
            return self.refuse(str(problem), observation)
        self._chunks += 1
        # A value that was brought to an end of the range has no rounding error to speak of.
        error = np.where(outside, 0.0, error)
        self._largest = np.maximum(self._largest, error.max(axis=0))
        self._sum += error.sum(axis=0)
        self._inside += (~outside).sum(axis=0)
        return ActionChunk(written.tokens, self.tokenizer_id, spec.hash, observation.stamp_ns, 0)

    def refuse(self, reason: str, observation: Observation) -> ActionChunk:
        """Answer an observation with a refusal."""
        self._refused += 1
        return refused_chunk(reason, self.spec, observation.stamp_ns)
