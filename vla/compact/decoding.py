"""From logits to tokens, and how sure that was. Both decoders are deterministic."""

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


def chosen_log_probability(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(..., bins), (...) -> (...) log-probability of the chosen bins, (...) entropy of the distributions; nat."""
    scores = torch.log_softmax(logits.float(), -1)
    entropy = -(scores.exp() * scores).nan_to_num(0.0).sum(-1)  # 0 log 0 = 0
    return scores.gather(-1, chosen.unsqueeze(-1)).squeeze(-1), entropy


def sampled_agreement(logits: Tensor, chosen: Tensor, samples: int, seed: int) -> float:
    """Share of the tokens of sampled decodes that agree with the chosen ones.

    Two bins agree within :data:`WINDOW`, the distance over which the mean around the mode is taken: with 255 bins,
    exact equality would say how fine the bins are. Sampling is at temperature 1.

    Args:
        logits: (..., bins) of one chunk.
        chosen: (...) bins.
        samples: Decodes to draw.
        seed: Equal seeds and logits draw equal samples.
    """
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    weights = torch.softmax(logits.float(), -1).reshape(-1, logits.shape[-1]).cpu()
    drawn = torch.multinomial(weights, samples, replacement=True, generator=generator)
    return float(((drawn - chosen.reshape(-1, 1).cpu()).abs() <= WINDOW).double().mean())
