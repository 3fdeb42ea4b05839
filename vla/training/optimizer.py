"""AdamW on float32 master weights of a bfloat16 model, with an exponential moving average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vla.compact.model import CompactModel

if TYPE_CHECKING:
    from vla.training.options import TrainOptions


class MasterWeights:
    """Owns the model that computes, its float32 weights and their running average."""

    def __init__(self, model: CompactModel, options: TrainOptions) -> None:
        self._options = options
        self._names = [name for name, _ in model.named_parameters()]
        self._master = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
        self._average = [p.detach().clone() for p in self._master]
        self.model = model.to(torch.bfloat16) if options.bf16 else model
        self._working = list(self.model.parameters())
        self._gradients = [torch.zeros_like(master) for master in self._master]
        for master, gradient in zip(self._master, self._gradients, strict=True):
            master.grad = gradient
        matrices = [p for p in self._master if p.ndim >= 2]
        vectors = [p for p in self._master if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)
        self._updates = 0

    def step(self, rate: float) -> None:
        """Apply the gradients that lie on the working model, and clear them."""
        _copy(self._gradients, [p.grad for p in self._working if p.grad is not None])
        for parameter in self._working:
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._master, self._options.clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        with torch.no_grad():
            _copy(self._working, self._master)
            self._updates += 1
            # The average follows fast at first, or the random start would stay in it for long.
            decay = min(self._options.ema_decay, (1 + self._updates) / (10 + self._updates))
            for average, master in zip(self._average, self._master, strict=True):
                average.lerp_(master, 1.0 - decay)

    def averaged_weights(self) -> dict[str, Tensor]:
        """The averaged weights by name."""
        return dict(zip(self._names, self._average, strict=True))

    def averaged(self) -> CompactModel:
        """A model for evaluation with the averaged weights."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            _copy(list(model.parameters()), self._average)
        return model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "master": dict(zip(self._names, self._master, strict=True)),
            "average": self.averaged_weights(),
            "optimizer": self._optimizer.state_dict(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up :meth:`state_dict`."""
        with torch.no_grad():
            for name, master, average in zip(self._names, self._master, self._average, strict=True):
                master.copy_(state["master"][name])
                average.copy_(state["average"][name])
            _copy(self._working, self._master)
        self._optimizer.load_state_dict(state["optimizer"])
        self._updates = state["updates"]


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    if len(targets) != len(sources):
        raise RuntimeError(f"{len(targets)} tensors but {len(sources)} sources: a parameter got no gradient")
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
