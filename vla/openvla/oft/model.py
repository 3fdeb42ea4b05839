"""The network in one pass: all values of a chunk at once, every position attending to every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from vla.openvla.checkpoint import Checkpoint
from vla.openvla.model import TOWERS, Decoded, OpenVLAModel, load_model, refuse_strangers
from vla.openvla.oft.components import L1Head, ProprioProjector, load_head, load_projector
from vla.openvla.oft.declared import Components
from vla.openvla.oft.fast import FastParts
from vla.openvla.oft.film import FilmedTensors, FilmedTower, load_film
from vla.openvla.speed import InferenceOptions
from vla.openvla.towers import Dino, Heads, Placing, Siglip
from vla.stopwatch import Stages, Stopwatch

# Llama's end of sequence: it stood behind the actions in training, and without a causal mask they all see it.
STOP_ID = 2


@dataclass(frozen=True)
class OFTInputs:
    """What the network sees.

    Attributes:
        pixels: (batch, images, 3 towers, side, side).
        prompts: Ids of each prompt, from BOS to :data:`~vla.openvla.model.ACTION_PROMPT_ID`.
        state: (batch, values) normalized, None for a network without proprioception.
    """

    pixels: Tensor
    prompts: Sequence[Sequence[int]]
    state: Tensor | None = None


class OFTModel(nn.Module):
    """OpenVLA's network with OFT's parts."""

    def __init__(
        self,
        base: OpenVLAModel,
        head: L1Head | None = None,
        projector: ProprioProjector | None = None,
        filmed: Sequence[FilmedTower] = (),
        fast: FastParts | None = None,
    ) -> None:
        """Join the parts.

        Args:
            base: Towers, projector, and language model.
            head: Makes rows of hidden states; None for a network that writes tokens.
            projector: Of the state; None for a network that does not see it.
            filmed: The towers with their modulation; empty for none.
            fast: What is done for speed; None for nothing.
        """
        super().__init__()
        self.base, self.head, self.projector = base, head, projector
        self.filmed = nn.ModuleList(filmed)
        self._fast = fast or FastParts()
        self._stages: Stages | None = None

    @property
    def stages(self) -> Stages | None:
        """Where the time of the last pass went; None before the first."""
        return self._stages

    def reset(self) -> None:
        """Forget the pictures that were seen."""
        self._fast.forget()

    @torch.inference_mode()
    def hidden(self, inputs: OFTInputs, count: int) -> Tensor:
        """Last hidden states (batch, count, width) that say the next ``count`` values.

        The sequence is BOS, the patches of each picture, the state, the rest of the prompt, ``count`` zeros, and the
        stop token. What says a value stands one position ahead of it, as in training: the first is the prompt's last.

        Raises:
            ValueError: Inputs that do not fit the network.
        """
        self._check(inputs)
        watch = Stopwatch(self.base.device)
        embed, device = self.base.language.model.embed_tokens, self.base.device
        texts = [embed(torch.tensor(prompt, device=device)) for prompt in inputs.prompts]
        stop = embed(torch.tensor([STOP_ID], device=device))
        averages = torch.stack([torch.cat((text, stop)).mean(dim=0) for text in texts])
        seen, computed = self._patches(inputs.pixels, averages, inputs.prompts)
        seen = seen.to(stop.dtype)
        patches, vision_ms = seen.shape[1], watch.lap()
        if self.projector is not None and inputs.state is not None:
            state = self.projector(inputs.state.to(device, self.base.dtype))
            seen = torch.cat((seen, state[:, None].to(stop.dtype)), dim=1)
        zeros = stop.new_zeros((count, stop.shape[1]))
        rows = [torch.cat((t[:1], s, t[1:], zeros, stop)) for t, s in zip(texts, seen, strict=True)]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        first = lengths - count - 2
        places = first[:, None] + torch.arange(count, device=device)
        if self._fast.llama is not None:
            columns = torch.arange(1, patches + 1, device=device).expand(len(rows), -1)
            out = self._fast.llama.whole(embeddings, lengths, columns, places)
        else:
            out = self._published(embeddings, lengths, places)
        self._stages = Stages(computed, vision_ms, watch.lap(), 0.0)
        return out

    def _published(self, embeddings: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        """Last hidden states (batch, places, width), as ``transformers`` computes them."""
        batch, size = embeddings.shape[:2]
        device = embeddings.device
        positions = torch.arange(size, device=device).expand(batch, -1)
        # A mask of four dimensions stands as it is: without it the language model would add its causal one.
        mask = (positions < lengths[:, None])[:, None, None].expand(-1, 1, size, -1)
        out = self.base.language.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return out[torch.arange(batch, device=device)[:, None], places]

    @torch.inference_mode()
    def actions(self, inputs: OFTInputs, horizon: int) -> Tensor:
        """Float32 chunks (batch, horizon, dims) of the regression head, normalized; beyond [-1, 1], too.

        Raises:
            ValueError: Inputs that do not fit the network, or no such head.
        """
        if self.head is None:
            raise ValueError("expected a network with a regression head, found one that writes tokens")
        return self.head(self.hidden(inputs, horizon * self.head.dims)).float()

    @torch.inference_mode()
    def decode(self, inputs: OFTInputs, count: int) -> Decoded:
        """The likeliest action token for each of ``count`` values, all at once and over the action ids only.

        Raises:
            ValueError: Inputs that do not fit the network.
        """
        hidden = self.hidden(inputs, count)
        assert self._stages is not None
        watch = Stopwatch(self.base.device)
        chosen = self.base.choose_hidden(hidden, action_head=self._fast.action_head)
        self._stages = replace(self._stages, decode_ms=watch.lap())
        return Decoded(*chosen, self._stages)

    def _patches(self, pixels: Tensor, averages: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
        """Embeddings (batch, images * patches, width), image after image, and how many of each row are new."""
        flat = pixels.flatten(0, 1)
        pictures = self._fast.pictures
        if pictures is None:
            embedded, computed = self._embedded(flat, averages), len(flat)
        else:
            # With FiLM, other words see another picture.
            key = tuple(tuple(prompt) for prompt in prompts) if len(self.filmed) else ()
            changed = pictures.changed(flat, key)
            images = pixels.shape[1]
            fresh = self._embedded(flat[changed], averages[changed // images]) if len(changed) else None
            embedded, computed = pictures.joined(flat, key, changed, fresh), len(changed)
        width = embedded.shape[-1]
        each = embedded.shape[1] * computed // len(pixels)
        return embedded.reshape(len(pixels), -1, width), each

    def _embedded(self, pixels: Tensor, averages: Tensor) -> Tensor:
        """Embeddings (pictures, patches, width) of (pictures, channels, side, side), whose rows' words are averaged."""
        flat = pixels.to(self.base.device, self.base.dtype)
        if len(self.filmed):
            language = averages.repeat_interleave(len(flat) // len(averages), dim=0)
            groups = flat.split(3, dim=1)
            features = [tower(group, language) for tower, group in zip(self.filmed, groups, strict=True)]
            return self.base.projector(torch.cat(features, dim=-1))
        return self.base.patches(flat)

    def _check(self, inputs: OFTInputs) -> None:
        pixels, batch = inputs.pixels, len(inputs.prompts)
        channels = 3 * len(self.base.towers)
        if pixels.ndim != 5 or len(pixels) != batch or pixels.shape[2] != channels:
            raise ValueError(
                f"expected pixels of shape ({batch}, images, {channels}, side, side), found {tuple(pixels.shape)}"
            )
        if not all(len(prompt) > 1 for prompt in inputs.prompts):
            raise ValueError("expected prompts of two ids or more")
        values = None if self.projector is None else (batch, self.projector.values)
        found = None if inputs.state is None else tuple(inputs.state.shape)
        if values != found:
            raise ValueError(f"expected a state of shape {values}, found {found}")


def load_oft_model(
    checkpoint: Checkpoint,
    components: Components,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    heads: Heads | None = None,
    inference: InferenceOptions | None = None,
    levels: Tensor | None = None,
) -> OFTModel:
    """Build the network of a checkpoint; every tensor is used or known to be unused.

    Args:
        checkpoint: The opened folder.
        components: The files beside its weights.
        device: Of torch.
        dtype: Of the weights.
        heads: Numbers of attention heads, where the published ones do not hold.
        inference: What is done for speed; None for nothing.
        levels: (channels,) 8-bit levels in one unit of each channel; needed where pictures are to be reused.

    Raises:
        CheckpointError: Tensors are missing, unknown or of the wrong shape, or the options do not fit.
    """
    inference = inference or InferenceOptions()
    inference.check_device(device)
    inference.check_one_pass()
    placing = Placing(torch.device(device), dtype)
    filmed = None if components.vision_backbone is None else FilmedTensors(components.vision_backbone)
    base = load_model(checkpoint, device=device, dtype=dtype, heads=heads, vision=filmed)
    width = base.language.config.hidden_size
    towers: list[FilmedTower] = []
    if filmed is not None:
        for prefix, tower in zip(TOWERS, base.towers, strict=False):
            towers.append(load_film(filmed, prefix, cast("Dino | Siglip", tower), width, placing))
        refuse_strangers(filmed)
    head = components.action_head and load_head(components.action_head, width, placing)
    projector = components.proprio_projector and load_projector(components.proprio_projector, width, placing)
    return OFTModel(base, head, projector, towers, FastParts.of(base, inference, levels)).eval()
