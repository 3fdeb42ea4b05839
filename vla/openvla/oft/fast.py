"""What OpenVLA-OFT does for speed: there is one bidirectional pass, so no prefix and no cache can be kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla.openvla.lean import LeanLlama
from vla.openvla.model import OpenVLAModel
from vla.openvla.speed import InferenceOptions


class SeenPictures:
    """Embeddings of the last pictures. A picture that hardly changed keeps its own: the towers do not run for it."""

    def __init__(self, threshold: float, levels: Tensor) -> None:
        """Start with none.

        Args:
            threshold: Mean absolute change in 8-bit levels from which on a picture is computed again.
            levels: (channels,) 8-bit levels in one unit of each channel.
        """
        self._threshold, self._levels = threshold, levels
        self._pixels: Tensor | None = None
        self._embedded: Tensor | None = None
        self._key: tuple[tuple[int, ...], ...] = ()

    def forget(self) -> None:
        """The next pictures are the first."""
        self._pixels = self._embedded = None

    def changed(self, pixels: Tensor, key: tuple[tuple[int, ...], ...]) -> Tensor:
        """(changed,) which of (pictures, channels, side, side) have to be computed again; all under another key."""
        if self._pixels is None or self._pixels.shape != pixels.shape or key != self._key:
            return torch.arange(len(pixels))
        change = ((pixels - self._pixels).abs() * self._levels[:, None, None]).mean(dim=(1, 2, 3))
        return (change >= self._threshold).nonzero()[:, 0]

    def joined(self, pixels: Tensor, key: tuple[tuple[int, ...], ...], changed: Tensor, fresh: Tensor | None) -> Tensor:
        """Embeddings (pictures, patches, width) of all, given those of the changed ones, which are remembered."""
        if fresh is not None and len(changed) == len(pixels):
            self._pixels, self._embedded = pixels, fresh
        elif self._pixels is not None and self._embedded is not None and fresh is not None:
            self._pixels = self._pixels.index_copy(0, changed, pixels[changed])
            self._embedded = self._embedded.index_copy(0, changed.to(fresh.device), fresh)
        self._key = key
        if self._embedded is None:
            raise RuntimeError("expected embeddings of the first pictures, found none")
        return self._embedded


@dataclass(frozen=True)
class FastParts:
    """What is on.

    Attributes:
        llama: Our own pass over the language model, None for that of ``transformers``.
        pictures: Remembers pictures, None where all are computed.
        action_head: Compute the action ids' scores only (token head).
    """

    llama: LeanLlama | None = None
    pictures: SeenPictures | None = None
    action_head: bool = False

    @staticmethod
    def of(base: OpenVLAModel, options: InferenceOptions, levels: Tensor | None) -> FastParts:
        """Prepare a network; with fewer bits a weight, it gives its own layers up.

        Raises:
            CheckpointError: The options do not fit the network.
            ValueError: Pictures are to be reused, and their levels were not given.
        """
        if options.reuse and levels is None:
            raise ValueError("expected the pictures' 8-bit levels to reuse them by, found none")
        pictures = None if levels is None or not options.reuse else SeenPictures(options.reuse, levels)
        return FastParts(LeanLlama(base.language, options) if options.lean else None, pictures, options.action_head)

    def forget(self) -> None:
        """Forget what was seen."""
        if self.pictures is not None:
            self.pictures.forget()
