"""pi0-FAST writes actions as tokens of its own; what is no well-formed chunk is refused.

LeRobot's decoder answers a malformed sequence with zero coefficients, and cuts or fills one of the wrong length.
Un-normalized that is the mean action: a motion that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.fft import idct
from torch import Tensor

from controllers.types import FloatArray
from vla.foreign.boundary import RefusedActionsError


def refuse_malformed(policy: Any) -> None:
    """Replace a pi0-FAST policy's decoding with one that raises :class:`RefusedActionsError`."""
    published = policy.detokenize_actions

    def decode(token_ids: Sequence[Tensor], time_horizon: int, action_dim: int, relaxed_decoding: bool = True):
        return np.stack([_coefficients(policy.action_tokenizer, ids, time_horizon, action_dim) for ids in token_ids])

    def detokenize(tokens: Tensor, action_horizon: int, action_dim: int) -> Tensor:
        try:
            return published(tokens, action_horizon, action_dim)
        except AssertionError as error:  # it does not begin with "Action:"
            raise RefusedActionsError(f"pi0-FAST wrote no action: {error}") from error

    policy.decode_actions_with_fast, policy.detokenize_actions = decode, detokenize


def _coefficients(tokenizer: Any, ids: Tensor, rows: int, dims: int) -> FloatArray:
    """(rows, dims) normalized actions of FAST token ids (n,)."""
    vocabulary = tokenizer.bpe_tokenizer.vocab_size
    if ids.numel() == 0 or int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise RefusedActionsError(f"pi0-FAST wrote tokens that are no actions: {ids.tolist()[:8]}")
    text = tokenizer.bpe_tokenizer.decode(ids)
    if len(text) != rows * dims:
        raise RefusedActionsError(f"pi0-FAST wrote {len(text)} coefficients, {rows} rows of {dims} were expected")
    values = np.array([ord(character) for character in text], np.float64) + tokenizer.min_token
    return idct(values.reshape(rows, dims) / tokenizer.scale, axis=0, norm="ortho")
