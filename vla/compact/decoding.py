"""From logits to tokens. Both decoders are deterministic."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 4
"""Bins on either side of the mode that the mean is taken over."""


def mode(logits: Tensor) -> Tensor:
    """(..., bins) -> (...) the most likely bin; the lowest of equals."""
    return logits.argmax(-1)


def mean_around_mode(logits: Tensor, window: int = WINDOW) -> Tensor:
    """(..., bins) -> (...) the bin nearest to the mean of the distribution within ``window`` bins of its mode.

    Bins are ordered, so the neighbours of the mode say where within it the action lies; modes further away (go
    left or right of an obstacle) do not mix.
    """
    bins = logits.shape[-1]
    top = logits.argmax(-1, keepdim=True)
    near = top + torch.arange(-window, window + 1, device=logits.device)
    valid = (near >= 0) & (near < bins)
    scores = torch.gather(logits, -1, near.clamp(0, bins - 1)).float()
    weights = torch.softmax(scores.masked_fill(~valid, float("-inf")), dim=-1)
    return (weights * near).sum(-1).round().long().clamp(0, bins - 1)
