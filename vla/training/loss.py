"""The training objective and the measures on held-out scenes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from controllers.types import ActionSpec
from vla.compact.decoding import mean_around_mode, mode
from vla.tokenizers import COMPACT_TOKENIZER
from vla.training.options import Measures


class SoftLabelLoss:
    """Cross-entropy with labels smeared over neighbouring bins, since bins are ordered; early rows weigh more."""

    def __init__(self, bins: int, horizon: int, sigma: float, row_decay: float) -> None:
        index = torch.arange(bins, dtype=torch.float32)
        table = torch.exp(-0.5 * ((index[:, None] - index[None, :]) / max(sigma, 1e-3)) ** 2)
        self._table = table / table.sum(1, keepdim=True)
        weights = row_decay ** torch.arange(horizon, dtype=torch.float32)
        self._weights = weights / weights.mean()

    def __call__(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Mean over (B, horizon, dims) of the weighted cross-entropy of (B, horizon, dims, bins) logits."""
        scores = torch.log_softmax(logits.float(), dim=-1)
        return -((self._table[tokens] * scores).sum(-1).mean((0, 2)) * self._weights).mean()


GOAL_SCALE_M = 0.1


def goal_loss(guess: Tensor, goal: Tensor) -> Tensor:
    """Smooth L1 of (B, 3) guesses in units of ``GOAL_SCALE_M``; rows with an unknown (NaN) goal do not count."""
    known = torch.isfinite(goal).all(-1)
    target = torch.nan_to_num(goal / GOAL_SCALE_M)
    each = torch.nn.functional.smooth_l1_loss(guess.float(), target, reduction="none").sum(-1)
    return (each * known).sum() / known.sum().clamp(min=1)


def measure(logits: Tensor, tokens: Tensor, loss: SoftLabelLoss, spec: ActionSpec, tasks: np.ndarray) -> Measures:
    """Compare logits (B, horizon, dims, bins) with expert tokens (B, horizon, dims) in physical units."""
    chosen, rough = mean_around_mode(logits.float()).numpy(), mode(logits.float()).numpy()
    truth, guess, rough_guess = (COMPACT_TOKENIZER.decode(x, spec) for x in (tokens.numpy(), chosen, rough))
    error = np.abs(guess - truth)[:, :2].mean((0, 1))

    def end_distance(actions: np.ndarray) -> np.ndarray:
        return 1e3 * np.linalg.norm((actions - truth)[:, :, :3].sum(1), axis=-1)

    ends = end_distance(guess)
    return Measures(
        loss=float(loss(logits, tokens)),
        accuracy=float((chosen == tokens.numpy()).mean()),
        translation_mm=float(1e3 * error[:3].mean()),
        rotation_mrad=float(1e3 * error[3:6].mean()),
        gripper=float(error[6]),
        chunk_mm=float(ends.mean()),
        chunk_mm_mode=float(end_distance(rough_guess).mean()),
        task_chunk_mm={str(task): float(ends[tasks == task].mean()) for task in np.unique(tasks)},
    )
