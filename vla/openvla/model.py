"""The network: pictures and prompt ids in, action tokens out, greedily, over the action vocabulary only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM

from vla.openvla.checkpoint import Checkpoint, TensorSource
from vla.openvla.published import CheckpointError
from vla.openvla.towers import Dino, Heads, Placing, Siglip, load_language, load_tower
from vla.stopwatch import Clock, Stages, Stopwatch

# Llama's id of the empty piece that training put before the action; the model was never asked without it.
ACTION_PROMPT_ID = 29871
TOWERS = ("vision_backbone.featurizer", "vision_backbone.fused_featurizer")
# Loaded by the published code, used by nobody: last blocks, final norms and pooling heads of the towers.
_UNUSED = (".norm.", ".attn_pool.", "rotary_emb.inv_freq")


class Projector(nn.Module):
    """Patch features to the width of the Llama: three layers where two towers are fused, else two."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, patches, features) to (batch, patches, width)."""
        for layer in self.layers[:-1]:
            features = nn.functional.gelu(layer(features))
        return self.layers[-1](features)


@dataclass(frozen=True)
class Decoded:
    """Greedy tokens.

    Attributes:
        tokens: (batch, count) int64.
        log_probability: (batch, count) of each token among the action ids.
        action_mass: (batch, count) probability that the model gave to action ids at all; low means that it wanted to
            write something else. NaN where only the action ids' scores were computed.
        stages: Where the time went.
    """

    tokens: Tensor
    log_probability: Tensor
    action_mass: Tensor
    stages: Stages


class OpenVLAModel(nn.Module):
    """Towers, projector and Llama."""

    def __init__(
        self,
        towers: Sequence[Dino | Siglip],
        projector: Projector,
        language: LlamaForCausalLM,
        vocabulary: int,
        bins: int,
    ) -> None:
        """Join the parts.

        Args:
            towers: In the order of their channels.
            projector: To the Llama's width.
            language: The Llama.
            vocabulary: Size of the text vocabulary, without padding.
            bins: Action ids; the last ``bins`` of the text vocabulary.
        """
        super().__init__()
        self.towers = nn.ModuleList(towers)
        self.projector, self.language = projector, language
        self.vocabulary, self.bins = vocabulary, bins

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.language.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Their precision."""
        return self.language.model.embed_tokens.weight.dtype

    @property
    def patch_count(self) -> int:
        """Patches of a picture."""
        return cast("Dino | Siglip", self.towers[0]).patches

    def patches(self, pixels: Tensor) -> Tensor:
        """(batch, 3 towers, side, side) to embeddings (batch, patches, width)."""
        groups = pixels.to(self.device, self.dtype).split(3, dim=1)
        if len(groups) != len(self.towers):
            raise ValueError(f"expected {3 * len(self.towers)} channels, found {pixels.shape[1]}")
        features = [tower(group) for tower, group in zip(self.towers, groups, strict=True)]
        return self.projector(torch.cat(features, dim=-1))

    def logits(self, pixels: Tensor, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Float32 logits (batch, BOS + patches + longest rest of a prompt, vocabulary), causal.

        Args:
            pixels: (batch, 3 towers, side, side).
            prompts: Ids of each prompt, with BOS first; shorter ones are padded at the end.
        """
        self.check_inputs(pixels, prompts)
        embeddings, mask, positions = self._inputs(self.patches(pixels), prompts)
        out = self.language(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False, return_dict=True
        )
        return out.logits.float()

    def target_logits(
        self, pixels: Tensor, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Tensor:
        """Float32 logits (all target ids, vocabulary) of each target id after what stands before it (teacher forcing).

        Those of the first sample come first. The head is computed at these places only, which saves most of the
        memory of a batch.

        Args:
            pixels: (batch, 3 towers, side, side).
            prompts: Ids of each prompt, with BOS first.
            targets: Ids that follow each prompt, one or more.
        """
        if not all(targets):
            raise ValueError("expected one target id or more for each prompt, found none")
        read = [[*prompt, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
        embeddings, mask, positions = self._inputs(self.patches(pixels), read)
        hidden = self.language.model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        patches = embeddings.shape[1] - max(len(ids) for ids in read)
        rows = [row for row, target in enumerate(targets) for _ in target]
        # What a place says is the id that follows it.
        places = [
            patches + len(prompt) - 1 + number
            for prompt, target in zip(prompts, targets, strict=True)
            for number in range(len(target))
        ]
        return self.language.lm_head(hidden[rows, places]).float()

    @torch.inference_mode()
    def decode(
        self,
        pixels: Tensor,
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        action_head: bool = False,
        clock: Clock = time.perf_counter,
    ) -> Decoded:
        """Write ``count`` action tokens for each prompt.

        The choice is among the action ids: the published code takes any id and clips it into a motion. The cache is
        kept from token to token, so each costs one pass of one position.

        Args:
            pixels: (batch, 3 towers, side, side).
            prompts: Ids of each prompt, with BOS first.
            count: Tokens for each.
            action_head: Compute the action ids' scores only.
            clock: Times the stages.

        Raises:
            ValueError: Prompts that do not belong to the pictures.
        """
        self.check_inputs(pixels, prompts)
        watch = Stopwatch(self.device, clock)
        patches = self.patches(pixels)
        vision_ms = watch.lap()
        embeddings, mask, positions = self._inputs(patches, prompts)
        lengths = mask.sum(dim=1)
        cache = DynamicCache(config=self.language.config)
        model = self.language.model
        hidden = model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=self.device), lengths - 1]
        prefill_ms = watch.lap()
        chosen: list[Tensor] = []
        sure: list[Tensor] = []
        mass: list[Tensor] = []
        for step in range(count):
            token, certainty, share = self.choose_hidden(last, action_head=action_head)
            chosen.append(token)
            sure.append(certainty)
            mass.append(share)
            if step == count - 1:
                break
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
            last = model(
                input_ids=token[:, None],
                attention_mask=mask,
                position_ids=(lengths + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
        answers = torch.stack(chosen, 1), torch.stack(sure, 1), torch.stack(mass, 1)
        return Decoded(*answers, Stages(patches.shape[1], vision_ms, prefill_ms, watch.lap()))

    def choose_hidden(self, hidden: Tensor, *, action_head: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`choose` for last hidden states (..., width).

        Args:
            hidden: After the final norm.
            action_head: Multiply with the action ids' rows of the head only; their share of all probability is then
                not known, NaN.
        """
        head = self.language.lm_head
        if not action_head:
            return self.choose(head(hidden))
        lowest = self.vocabulary - self.bins
        scores = nn.functional.linear(hidden, head.weight[lowest : self.vocabulary]).float().log_softmax(dim=-1)
        certainty, best = scores.max(dim=-1)
        return best + lowest, certainty, torch.full_like(certainty, torch.nan)

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest action ids for logits (..., vocabulary).

        Returns:
            Ids, log probability among the action ids, and the action ids' share of all probability; (...) each.
        """
        scores = torch.log_softmax(logits.float(), dim=-1)
        lowest = self.vocabulary - self.bins
        action = scores[..., lowest : self.vocabulary]
        total = action.logsumexp(dim=-1)
        best = action.argmax(dim=-1)
        certainty = action.gather(-1, best.unsqueeze(-1)).squeeze(-1) - total
        return best + lowest, certainty, total.exp()

    def check_inputs(self, pixels: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse prompts that do not belong to the pictures.

        Raises:
            ValueError: Says what was expected.
        """
        if len(prompts) != len(pixels) or not all(len(prompt) > 1 for prompt in prompts):
            raise ValueError(f"expected a prompt of two ids or more for each of {len(pixels)} pictures")

    def _inputs(self, patches: Tensor, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [BOS, patches, rest of the prompt], their mask and positions."""
        if not len(self.language.model.layers):
            raise RuntimeError("expected the language model's own layers, found them emptied for layers of fewer bits")
        ids = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        words = self.language.model.embed_tokens(padded)
        patches = patches.to(words.dtype)
        embeddings = torch.cat((words[:, :1], patches, words[:, 1:]), dim=1)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device) + patches.shape[1]
        positions = torch.arange(embeddings.shape[1], device=self.device).expand(len(ids), -1)
        mask = (positions < lengths[:, None]).long()
        return embeddings, mask, positions


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    heads: Heads | None = None,
    vision: TensorSource | None = None,
) -> OpenVLAModel:
    """Build the network of a checkpoint; every tensor is used or known to be unused.

    Args:
        checkpoint: The opened folder.
        device: Of torch.
        dtype: Of the weights.
        heads: Numbers of attention heads, where the published ones do not hold.
        vision: Where the towers' tensors lie, if not in the checkpoint; the checkpoint's own are then unused.

    Raises:
        CheckpointError: Tensors are missing, unknown or of the wrong shape.
    """
    heads = heads or Heads()
    placing = Placing(torch.device(device), dtype)
    config = checkpoint.config
    counts = heads.towers or (None,) * len(config.vision_ids)
    if len(config.vision_ids) != (2 if config.fused else 1) or len(counts) != len(config.vision_ids):
        raise CheckpointError(
            f"{checkpoint.folder}: expected {2 if config.fused else 1} vision towers with a number of heads each, "
            f"found {len(config.vision_ids)} towers and {len(counts)} numbers"
        )
    parts = zip(TOWERS, config.vision_ids, counts, strict=False)
    towers = [load_tower(vision or checkpoint, prefix, name, count, placing) for prefix, name, count in parts]
    projector = Projector(
        [_linear(checkpoint, f"projector.fc{n + 1}", placing) for n in range(3 if config.fused else 2)]
    )
    language = load_language(checkpoint, heads.language, placing)
    refuse_strangers(checkpoint, replaced="vision_backbone." if vision is not None else "")
    vocabulary = language.config.vocab_size - config.pad_to_multiple_of
    return OpenVLAModel(towers, projector, language, vocabulary, config.action_bins).eval()


def refuse_strangers(source: TensorSource, replaced: str = "") -> None:
    """Refuse tensors that were not used and are not known to be unused.

    Args:
        source: Whose tensors have been taken.
        replaced: Start of the names of tensors that others stand in for; empty for none.

    Raises:
        CheckpointError: Names one of them.
    """
    unused = tuple(_last_block(source, prefix) for prefix in TOWERS if any(n.startswith(prefix) for n in source.names))
    if replaced:
        unused = (*unused, replaced)
    strange = [name for name in source.untaken() if not any(m in name for m in _UNUSED) and not name.startswith(unused)]
    if strange:
        raise CheckpointError(
            f"{source.folder}: expected no other tensors than OpenVLA's, found {strange[0]!r} and "
            f"{len(strange) - 1} more; is this a variant with more parts?"
        )


def _last_block(source: TensorSource, prefix: str) -> str:
    start = f"{prefix}.blocks."
    numbers = [int(name.removeprefix(start).split(".")[0]) for name in source.names if name.startswith(start)]
    return f"{start}{max(numbers, default=0)}."


def _linear(checkpoint: Checkpoint, name: str, placing: Placing) -> nn.Linear:
    weight = checkpoint.take(f"{name}.weight", placing.dtype, placing.device)
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(checkpoint.take(f"{name}.bias", placing.dtype, placing.device), requires_grad=False)
    return layer


def with_action_prompt(ids: Sequence[int]) -> list[int]:
    """Prompt ids that end in :data:`ACTION_PROMPT_ID`, which is added where it is missing and never doubled."""
    return list(ids) if ids and ids[-1] == ACTION_PROMPT_ID else [*ids, ACTION_PROMPT_ID]
