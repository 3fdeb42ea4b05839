"""What every action tokenizer offers, and the checks that they share."""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, FloatArray, IntArray, RejectionReason


class ActionTokenizer(Protocol):
    """Writes chunks of actions as tokens and reads them back; decoding refuses and never clips."""

    @property
    def tokenizer_id(self) -> str:
        """Identity, which travels with every chunk."""
        ...

    @property
    def definition(self) -> str:
        """Canonical JSON of what the identity names only by a hash (bin edges, a vocabulary); else empty."""
        ...

    def encode(self, action: FloatArray, spec: ActionSpec) -> IntArray:
        """Write a chunk (horizon, dims) in the spec's units as int64 tokens.

        Raises:
            ValueError: Non-finite actions, a wrong shape, or an action that the tokenizer cannot write.
        """
        ...

    def decode(self, tokens: IntArray, spec: ActionSpec) -> FloatArray:
        """Read tokens as physical actions; :class:`~vla.tokenizers.TokenActionDecoder` also checks the bounds.

        Raises:
            ActionDecodeError: Wrong type or shape, a token outside the vocabulary, a malformed sequence.
        """
        ...

    def error_bound(self, spec: ActionSpec) -> FloatArray:
        """(dims,) in the spec's units: how far what is read may lie from what was written, at most.

        For actions that the tokenizer can represent: within the quantiles, for a spline on a spline.
        """
        ...


def check_actions(action: FloatArray, spec: ActionSpec) -> FloatArray:
    """Actions (..., dims) as float64.

    Raises:
        ValueError: Non-finite actions or a wrong last dimension.
    """
    action = np.asarray(action, dtype=np.float64)
    if action.ndim == 0 or action.shape[-1] != spec.dims:
        raise ValueError(f"expected actions of shape (..., {spec.dims}), found {action.shape}")
    if not np.isfinite(action).all():
        raise ValueError("cannot encode a non-finite action")
    return action


def check_chunk(action: FloatArray, spec: ActionSpec) -> FloatArray:
    """One whole chunk (horizon, dims) as float64.

    Raises:
        ValueError: Non-finite actions or another shape.
    """
    action = check_actions(action, spec)
    if action.shape != (spec.horizon, spec.dims):
        raise ValueError(f"expected one chunk of shape {(spec.horizon, spec.dims)}, found {action.shape}")
    return action


def check_token_type(tokens: IntArray) -> None:
    """Refuse whatever is no numpy array of int64.

    Raises:
        ActionDecodeError: WRONG_TYPE.
    """
    # An annotation binds nobody who sends chunks over a network.
    found = cast(object, tokens)
    if not isinstance(found, np.ndarray) or found.dtype != np.int64:
        name = found.dtype.name if isinstance(found, np.ndarray) else type(found).__name__
        raise ActionDecodeError(RejectionReason.WRONG_TYPE, f"expected a numpy array of int64 tokens, found {name}")


def check_tokens(tokens: IntArray, spec: ActionSpec) -> None:
    """Refuse tokens that are not (..., dims) int64.

    Raises:
        ActionDecodeError: WRONG_TYPE or WRONG_SHAPE.
    """
    check_token_type(tokens)
    if tokens.ndim == 0 or tokens.shape[-1] != spec.dims or tokens.size == 0:
        raise ActionDecodeError(
            RejectionReason.WRONG_SHAPE, f"expected tokens of shape (..., {spec.dims}), found {tokens.shape}"
        )


def vocabulary_error(
    tokens: IntArray, spec: ActionSpec, lowest: int, highest: int, tokenizer_id: str
) -> ActionDecodeError:
    """Names the first token (..., dims) that is outside ``lowest .. highest``."""
    outside = np.argwhere((tokens < lowest) | (tokens > highest))[0]
    place = ", ".join(f"row {index}" for index in outside[:-1])
    name = spec.names[int(outside[-1])]
    return ActionDecodeError(
        RejectionReason.TOKEN_OUT_OF_VOCABULARY,
        f"token {tokens[tuple(outside)]} ({place + ', ' if place else ''}{name}) is outside the action "
        f"vocabulary {lowest}..{highest} of {tokenizer_id}",
    )
