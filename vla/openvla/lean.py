"""The Llama's layers passed over by our own code, for speed: a static cache, joined matrices, fewer patches.

The same network as ``transformers`` computes (tests compare), with less between the matrix products. In every cache a
position has a column of its own, and a query sees the columns up to its own one; so what stands behind in the buffer
(padding of a shorter prompt, a guess that was wrong) is never seen, and is overwritten in its turn.
"""

# transformers makes its modules' types unions.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from vla.openvla.published import CheckpointError
from vla.openvla.quantized import linear
from vla.openvla.speed import InferenceOptions, Weights


@dataclass(frozen=True)
class Where:
    """Where some positions stand in the cache, and what they see.

    Attributes:
        columns: (batch, positions) in the cache.
        start: The first column, where all rows hold the same ones in a row; None otherwise.
        stop: Columns that may be seen at all.
        mask: (batch, 1, positions, stop) True where a position sees a column; None where ``start`` says it.
    """

    columns: Tensor
    start: int | None
    stop: int
    mask: Tensor | None

    @staticmethod
    def straight(batch: int, start: int, count: int, device: torch.device) -> Where:
        """The columns from ``start`` on, in every row."""
        columns = torch.arange(start, start + count, device=device).expand(batch, -1)
        stop = start + count
        whole = start == 0 or count == 1  # causal attention, or one that sees everything
        mask = None if whole else torch.arange(stop, device=device) <= columns[:, None, :, None]
        return Where(columns, start, stop, mask)

    @staticmethod
    def scattered(columns: Tensor, stop: int) -> Where:
        """Any columns."""
        seen = torch.arange(stop, device=columns.device) <= columns[:, None, :, None]
        return Where(columns, None, stop, seen)


class StaticCache:
    """Keys and values of all layers in one buffer."""

    def __init__(self, llama: LeanLlama, batch: int, length: int) -> None:
        """Allocate (layers, batch, key heads, length, head size) twice, in zeros: unwritten columns must be finite."""
        table = llama.embedding
        shape = (len(llama.layers), batch, llama.key_heads, length, llama.size)
        self.keys = torch.zeros(shape, dtype=table.dtype, device=table.device)
        self.values = torch.zeros_like(self.keys)
        self.batch, self.length = batch, length
        self._rows = torch.arange(batch, device=table.device)[:, None]

    def put(self, layer: int, keys: Tensor, values: Tensor, where: Where) -> tuple[Tensor, Tensor]:
        """Write (batch, key heads, positions, size) and give back what may be seen."""
        for buffer, new in ((self.keys[layer], keys), (self.values[layer], values)):
            if where.start is not None:
                buffer[:, :, where.start : where.stop] = new
            else:
                buffer[self._rows, :, where.columns] = new.transpose(1, 2)
        return self.keys[layer, :, :, : where.stop], self.values[layer, :, :, : where.stop]


class _Layer(nn.Module):
    """One layer's matrices, those with one input joined."""

    def __init__(self, layer: nn.Module, weights: Weights) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _joined((attention.q_proj, attention.k_proj, attention.v_proj), weights)
        self.out = linear(attention.o_proj.weight, weights)
        self.gate_up = _joined((mlp.gate_proj, mlp.up_proj), weights)
        self.down = linear(mlp.down_proj.weight, weights)
        self.before, self.between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight


def _joined(parts: tuple[nn.Linear, ...], weights: Weights) -> nn.Module:
    """One layer for several; their own weights become views of its, so that nothing is held twice."""
    whole = torch.cat([part.weight for part in parts])
    if weights is Weights.FULL:
        for part, piece in zip(parts, whole.split([len(part.weight) for part in parts]), strict=True):
            part.weight = nn.Parameter(piece, requires_grad=False)
    return linear(whole, weights)


class LeanLlama(nn.Module):
    """The layers and the final norm."""

    def __init__(self, language: LlamaForCausalLM, options: InferenceOptions) -> None:
        """Take a model's weights; with fewer bits, the model's own layers are emptied.

        Raises:
            CheckpointError: Sizes that cannot be packed, or no such layer to prune after.
        """
        super().__init__()
        config = language.config
        self.heads, self.key_heads = int(config.num_attention_heads), int(config.num_key_value_heads or 0)
        self.size, self.width = config.hidden_size // self.heads, config.hidden_size
        self.eps = float(config.rms_norm_eps)
        source = language.model.layers
        if options.prune_layer >= len(source):
            raise CheckpointError(
                f"expected pruning after fewer layers than the language model's {len(source)}, found "
                f"{options.prune_layer}; change --fast-prune-layer"
            )
        self.prune_layer, self.keep = options.prune_layer, options.keep
        layers: list[_Layer] = []
        for index in range(len(source)):
            layers.append(_Layer(source[index], options.weights))
            if options.weights is not Weights.FULL:
                source[index] = nn.Identity()  # freed one by one: both at once may not fit
        self.layers = nn.ModuleList(layers)
        if options.weights is not Weights.FULL:
            language.model.layers = nn.ModuleList()
        self.norm = language.model.norm.weight
        self.embedding = language.model.embed_tokens.weight
        self.longest = int(config.max_position_embeddings)
        self._turns = self._tables(language.model.rotary_emb)

    # ------------------------------------------------------------------------------------ causal, with a cache

    def forward(
        self, x: Tensor, positions: Tensor, where: Where, cache: StaticCache, asking: Tensor, first: int = 0
    ) -> Tensor:
        """Normed hidden states (batch, asking, width) after the layers from ``first`` on.

        Args:
            x: (batch, positions, width).
            positions: (batch, positions) in the sequence.
            where: Their columns.
            cache: Holds what they see besides themselves; takes what they add.
            asking: (batch, asking) places in ``x`` whose hidden states are wanted: the last layer computes only what
                they need.
            first: Layer to begin with.
        """
        turns = self.turns(positions)
        last = len(self.layers) - 1
        for index in range(first, last):
            x, _, _ = self._causal(index, x, turns, where, cache)
        queries, keys, values = self._project(last, x, turns)
        seen, told = cache.put(last, keys, values, where)
        asked = queries.gather(2, asking[:, None, :, None].expand(-1, self.heads, -1, self.size))
        mask = torch.arange(where.stop, device=x.device) <= where.columns.gather(1, asking)[:, None, :, None]
        out = self._attend(asked, seen, told, mask, causal=False)
        return self.normed(self._after(last, _at(x, asking), out))

    def step(self, x: Tensor, positions: Tensor, where: Where, later: Where, cache: StaticCache) -> Tensor:
        """Normed hidden states of a few positions behind a prompt, through all layers.

        Args:
            x: (batch, positions, width).
            positions: (batch, positions) in the sequence.
            where: Their columns.
            later: Their columns in the layers after pruning.
            cache: Holds the prompt.
        """
        turns = self.turns(positions)
        for index in range(len(self.layers)):
            x, _, _ = self._causal(index, x, turns, where if index < self.prune_layer else later, cache)
        return self.normed(x)

    def pruned(
        self, x: Tensor, lengths: Tensor, patches: Tensor, cache: StaticCache, asking: Tensor
    ) -> tuple[Tensor, int]:
        """All layers over a whole prompt, without the patches that its last word looks at least (FastV).

        "An Image is Worth 1/2 Tokens After Layer 2", https://arxiv.org/abs/2403.06764: ranked by attention, averaged
        over the heads, in the last layer before they are dropped.

        Args:
            x: (batch, positions, width) embeddings, from the first position on.
            lengths: (batch,) positions of each prompt; what stands behind is guessed or padding.
            patches: (batch, patches) positions of the patches.
            cache: Takes what they add; in later layers the columns close up.
            asking: (batch, asking) positions behind the patches whose hidden states are wanted.

        Returns:
            Normed hidden states (batch, asking, width), and how many patches were dropped.
        """
        batch, count, _ = x.shape
        where = Where.straight(batch, 0, count, x.device)
        turns = self.turns(where.columns)
        rows = torch.arange(batch, device=x.device)
        queries = keys = x  # of the last layer before the drop
        for index in range(self.prune_layer):
            x, queries, keys = self._causal(index, x, turns, where, cache)
        last = queries[rows, :, lengths - 1][:, :, None]
        seen = torch.arange(count, device=x.device) < lengths[:, None]
        score = self._looks(last, keys, seen)
        left, dropped = self._left(score, patches, count)
        where = Where.straight(batch, 0, left.shape[1], x.device)
        return self.forward(_at(x, left), left, where, cache, asking - dropped, self.prune_layer), dropped

    # ------------------------------------------------------------------------------------ all see all

    def whole(self, x: Tensor, lengths: Tensor, patches: Tensor, asking: Tensor) -> Tensor:
        """Normed hidden states (batch, asking, width) of a network in which every position sees every other.

        Args:
            x: (batch, positions, width) embeddings.
            lengths: (batch,) positions that are not padding.
            patches: (batch, patches) positions of the patches, of which some are dropped if the options say so: those
                that the asking positions look at least.
            asking: (batch, asking) positions whose hidden states are wanted.
        """
        batch, count, _ = x.shape
        positions = torch.arange(count, device=x.device).expand(batch, -1)
        real = positions < lengths[:, None]
        turns = self.turns(positions)
        for index in range(len(self.layers)):
            x, queries, keys = self._mutual(index, x, turns, real)
            if index + 1 == self.prune_layer:
                asked = queries.gather(2, asking[:, None, :, None].expand(-1, self.heads, -1, self.size))
                left, dropped = self._left(self._looks(asked, keys, real), patches, count)
                x = _at(x, left)
                turns, real = self.turns(left), real.gather(1, left)
                asking = asking - dropped  # they stand behind all patches
        return self.normed(_at(x, asking))

    # ------------------------------------------------------------------------------------ parts

    def normed(self, x: Tensor) -> Tensor:
        """The final norm."""
        return self._norm(x, self.norm)

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (batch, positions, 1, size) of the positions' angles."""
        cosine, sine = self._turns
        return cosine[positions], sine[positions]

    def _tables(self, rotary: nn.Module) -> tuple[Tensor, Tensor]:
        cosine, sine = rotary(self.embedding, torch.arange(self.longest, device=self.embedding.device)[None])
        half = self.size // 2
        signed = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
        return cosine[0, :, None], signed[0, :, None]

    def _causal(
        self, index: int, x: Tensor, turns: tuple[Tensor, Tensor], where: Where, cache: StaticCache
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self._project(index, x, turns)
        seen, told = cache.put(index, keys, values, where)
        causal = where.mask is None and where.start == 0 and x.shape[1] > 1
        out = self._attend(queries, seen, told, where.mask, causal)
        return self._after(index, x, out), queries, keys

    def _mutual(
        self, index: int, x: Tensor, turns: tuple[Tensor, Tensor], real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self._project(index, x, turns)
        out = self._attend(queries, keys, values, real[:, None, None], causal=False)
        return self._after(index, x, out), queries, keys

    def _project(self, index: int, x: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, positions, size), keys and values (batch, key heads, positions, size)."""
        layer = self.layers[index]
        joined = layer.qkv(self._norm(x, layer.before)).view(*x.shape[:2], -1, self.size)
        turned = joined[:, :, : self.heads + self.key_heads]
        half = self.size // 2
        swapped = torch.cat((turned[..., half:], turned[..., :half]), dim=-1)
        turned = (turned * turns[0] + swapped * turns[1]).transpose(1, 2)
        return turned[:, : self.heads], turned[:, self.heads :], joined[:, :, -self.key_heads :].transpose(1, 2)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        grouped = self.heads != self.key_heads
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped
        )

    def _after(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        layer = self.layers[index]
        x = x + layer.out(attended.transpose(1, 2).reshape(*x.shape[:2], -1))
        gate, up = layer.gate_up(self._norm(x, layer.between)).chunk(2, dim=-1)
        return x + layer.down(F.silu(gate) * up)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        # Normalized in float32, rounded, then weighted: the order of Llama.
        return F.rms_norm(x.float(), (self.width,), eps=self.eps).to(x.dtype) * weight

    def _looks(self, queries: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """Attention (batch, positions) of some queries (batch, heads, asking, size), averaged over them and heads."""
        repeated = keys.repeat_interleave(self.heads // self.key_heads, dim=1)
        scores = queries.float() @ repeated.float().transpose(-1, -2) / self.size**0.5
        return scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=(1, 2))

    def _left(self, score: Tensor, patches: Tensor, count: int) -> tuple[Tensor, int]:
        """Positions (batch, left) that stay, in order, and how many patches do not."""
        kept = max(1, round(self.keep * patches.shape[1]))
        best = score.gather(1, patches).topk(kept, dim=1).indices
        stays = torch.ones((len(score), count), dtype=torch.bool, device=score.device)
        stays.scatter_(1, patches, False)
        stays.scatter_(1, patches.gather(1, best), True)
        left = stays.nonzero()[:, 1].view(len(score), -1)
        return left, patches.shape[1] - kept


def _at(x: Tensor, places: Tensor) -> Tensor:
    """(batch, positions, width) at some places (batch, places) of each row."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
