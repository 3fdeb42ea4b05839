"""Which patches of a picture changed since the language model last computed them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SeenPatches:
    """Pictures that the cache was computed from, patch by patch, beside new ones.

    A patch is compared with the picture that it was last computed from, not with the one before: slow change adds up.

    Attributes:
        reference: (batch, channels, side, side) of each patch, the pixels that it was computed from.
        changed: (batch, changed) patches to compute again, in order; as many in each row, since rows are one batch.
        patches: Patches of a picture.
        levels: (channels,) 8-bit levels in one unit of each channel.
        threshold: Mean change of a patch in 8-bit levels from which on it is computed again.
    """

    reference: Tensor
    changed: Tensor
    patches: int
    levels: Tensor
    threshold: float

    @staticmethod
    def first(pixels: Tensor, patches: int, levels: Tensor, threshold: float) -> SeenPatches:
        """A first picture: all of it is new."""
        whole = torch.arange(patches, device=pixels.device).expand(len(pixels), -1)
        return SeenPatches(pixels, whole, patches, levels.to(pixels.device), threshold)

    @property
    def nothing_changed(self) -> bool:
        """Whether no patch of any row has to be computed again."""
        return self.changed.shape[1] == 0

    def compared(self, pixels: Tensor) -> SeenPatches:
        """The same with new pictures; the patches that are computed again take their pixels from them."""
        change = self.change(pixels)
        count = int((change >= self.threshold).sum(dim=1).max())
        # Rows with fewer changed patches compute those of their others again that changed most.
        chosen = change.topk(count, dim=1).indices.sort(dim=1).values
        fresh = torch.zeros_like(change, dtype=torch.bool).scatter_(1, chosen, True)
        across = round(self.patches**0.5)
        mask = fresh.view(len(pixels), 1, across, across).float()
        mask = F.interpolate(mask, size=pixels.shape[-2:], mode="nearest").bool()
        return replace(self, reference=torch.where(mask, pixels, self.reference), changed=chosen)

    def change(self, pixels: Tensor) -> Tensor:
        """(batch, patches) mean absolute change of each patch, in 8-bit levels."""
        difference = (pixels - self.reference).abs() * self.levels[:, None, None]
        across = round(self.patches**0.5)
        return F.adaptive_avg_pool2d(difference, across).mean(dim=1).flatten(1)
