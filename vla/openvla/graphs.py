"""The pass of one token, recorded as a CUDA graph: replaying it launches all kernels at once."""

from __future__ import annotations

import torch
from torch import Tensor

from vla.openvla.lean import LeanLlama, StaticCache, Where
from vla.openvla.published import CheckpointError

_WARM_UPS = 3  # before capture, as CUDA graphs ask for


class StepGraph:
    """One token for each row of a batch, against the whole of a static cache."""

    def __init__(self, llama: LeanLlama, cache: StaticCache, dropped: int) -> None:
        """Record.

        Args:
            llama: The layers.
            cache: Its buffers become part of the graph.
            dropped: By how many columns the layers after pruning are short.

        Raises:
            CheckpointError: There is no CUDA device.
        """
        device = cache.keys.device
        if device.type != "cuda":
            raise CheckpointError(
                f"expected a CUDA device, found {device.type}; drop --fast-cuda-graphs, or choose --device cuda"
            )
        self._cache, self._dropped = cache, dropped
        self._x = torch.zeros((cache.batch, 1, llama.width), dtype=cache.keys.dtype, device=device)
        # The last column: what warming up writes there is overwritten before anything sees it.
        self._positions = torch.full((cache.batch, 1), cache.length - 1, device=device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._pass(llama)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = self._pass(llama)

    def fits(self, cache: StaticCache, dropped: int) -> bool:
        """Whether it was recorded for this cache."""
        return cache is self._cache and dropped == self._dropped

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        """Normed hidden states (batch, 1, width) for (batch, 1, width) embeddings at (batch, 1) positions."""
        self._x.copy_(x)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._out.clone()

    def _pass(self, llama: LeanLlama) -> Tensor:
        length = self._cache.length
        where = Where.scattered(self._positions, length)
        later = Where.scattered(self._positions - self._dropped, length)
        return llama.step(self._x, self._positions, where, later, self._cache)
