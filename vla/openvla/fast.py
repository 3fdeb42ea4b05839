"""Greedy decoding with the options of :mod:`vla.openvla.speed`. What they remember is of one stream of pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla.openvla.graphs import StepGraph
from vla.openvla.lean import LeanLlama, StaticCache, Where
from vla.openvla.model import Decoded, OpenVLAModel
from vla.openvla.seen import SeenPatches
from vla.openvla.speed import InferenceOptions, Layout
from vla.stopwatch import Clock, Stages, Stopwatch

_ROOM = 64  # caches are allocated in steps of so many columns


@dataclass(frozen=True)
class _Prompts:
    """The fixed part of a batch: ids before and after the patches, row by row."""

    leads: tuple[tuple[int, ...], ...]
    tails: tuple[tuple[int, ...], ...]
    patches: int

    @staticmethod
    def of(prompts: Sequence[Sequence[int]], patches: int, layout: Layout) -> _Prompts:
        cuts = [1 if layout is Layout.IMAGE_FIRST else len(prompt) - 1 for prompt in prompts]
        pairs = list(zip(prompts, cuts, strict=True))
        leads = tuple(tuple(prompt[:cut]) for prompt, cut in pairs)
        return _Prompts(leads, tuple(tuple(prompt[cut:]) for prompt, cut in pairs), patches)

    def lengths(self, device: torch.device) -> Tensor:
        """(batch,) positions of each prompt, patches included."""
        sizes = [len(a) + len(b) + self.patches for a, b in zip(self.leads, self.tails, strict=True)]
        return torch.tensor(sizes, device=device)

    def patch_columns(self, device: torch.device) -> Tensor:
        """(batch, patches)."""
        starts = torch.tensor([len(lead) for lead in self.leads], device=device)
        return starts[:, None] + torch.arange(self.patches, device=device)


@dataclass
class _Memory:
    """What the last request left behind."""

    prompts: _Prompts
    cache: StaticCache
    tokens: Tensor
    seen: SeenPatches | None


class FastDecoder:
    """Decodes like :meth:`OpenVLAModel.decode`, faster. Each row of a batch is a stream of pictures of its own."""

    def __init__(
        self, model: OpenVLAModel, options: InferenceOptions, levels: Tensor, clock: Clock = time.perf_counter
    ) -> None:
        """Prepare the network; with fewer bits a weight, it gives its own layers up.

        Args:
            model: The network.
            options: What is done for speed.
            levels: (channels,) 8-bit levels in one unit of each channel of the pixels.
            clock: Times the stages.

        Raises:
            CheckpointError: The options do not fit the device or the network.
        """
        options.check_device(str(model.device))
        self._model, self._options, self._levels, self._clock = model, options, levels, clock
        self.llama = LeanLlama(model.language, options) if options.lean else None
        self._memory: _Memory | None = None
        self._cache: StaticCache | None = None
        self._graph: StepGraph | None = None

    def reset(self) -> None:
        """Forget the stream: the next picture is a first one."""
        self._memory = None

    @torch.inference_mode()
    def decode(self, pixels: Tensor, prompts: Sequence[Sequence[int]], count: int) -> Decoded:
        """Write ``count`` action tokens for each prompt.

        Args:
            pixels: (batch, 3 towers, side, side).
            prompts: Ids of each prompt, with BOS first.
            count: Tokens for each.

        Raises:
            ValueError: Prompts that do not belong to the pictures, or longer ones than the network has places for.
        """
        model, llama = self._model, self.llama
        if llama is None:
            return model.decode(pixels, prompts, count, action_head=self._options.action_head, clock=self._clock)
        model.check_inputs(pixels, prompts)
        watch = Stopwatch(model.device, self._clock)
        request = _Prompts.of(prompts, model.patch_count, self._options.layout)
        cache = self._room(len(prompts), request, count)
        memory = self._memory
        known = memory if memory is not None and memory.cache is cache else None
        seen = self._compared(pixels, request, known)
        embedded = None if seen is not None and seen.nothing_changed else model.patches(pixels)
        vision_ms = watch.lap()
        draft = self._draft(memory, len(prompts), count)
        hidden, computed, dropped = self._prefill(llama, embedded, request, seen, known, draft, cache)
        done = self._chosen(hidden)
        agreed = 0 if draft is None else _agreed(done[0], draft)
        answers = [[part[:, : agreed + 1] for part in done]]
        prefill_ms = watch.lap()
        last = done[0][:, agreed]
        lengths = request.lengths(model.device)
        for step in range(agreed, count - 1):
            states = self._step(llama, last, lengths + step, cache, dropped)
            answer = self._chosen(states)
            answers.append(answer)
            last = answer[0][:, 0]
        tokens, sure, mass = (torch.cat(parts, dim=1) for parts in zip(*answers, strict=True))
        self._memory = _Memory(request, cache, tokens, seen or self._first(pixels))
        return Decoded(tokens, sure, mass, Stages(computed, vision_ms, prefill_ms, watch.lap()))

    # ------------------------------------------------------------------------------------ the prompt

    def _prefill(
        self,
        llama: LeanLlama,
        embedded: Tensor | None,
        request: _Prompts,
        seen: SeenPatches | None,
        known: _Memory | None,
        draft: Tensor | None,
        cache: StaticCache,
    ) -> tuple[Tensor, int, int]:
        """Hidden states that say the first token and those after the guessed ones, and what it took.

        Returns:
            (batch, 1 + guessed, width) normed, the patches computed, and by how many columns later layers are short.
        """
        device, batch = self._model.device, len(request.leads)
        lengths, patch_columns = request.lengths(device), request.patch_columns(device)
        guessed = 0 if draft is None else draft.shape[1]
        ends = lengths[:, None] - 1 + torch.arange(guessed + 1, device=device)
        words = self._words(request.tails, draft)
        if seen is not None and seen.nothing_changed:
            # Even the words were computed before; the last one is asked again for what follows from it.
            again = [row[len(tail) - 1 : len(tail) + guessed] for row, tail in zip(words, request.tails, strict=True)]
            where = Where.scattered(ends, int(ends.max()) + 1)
            return llama(torch.stack(again), ends, where, cache, ends - ends[:, :1]), 0, 0
        assert embedded is not None
        embedded = embedded.to(words[0].dtype)
        if seen is not None:
            chosen = seen.changed  # (batch, changed), as many in each row
            x = embedded.gather(1, chosen[..., None].expand(-1, -1, llama.width))
            columns = patch_columns.gather(1, chosen)
            return self._some(llama, x, columns, words, lengths, ends, cache), chosen.shape[1], 0
        if known is not None and self._options.layout is Layout.TEXT_FIRST and known.prompts.leads == request.leads:
            return self._some(llama, embedded, patch_columns, words, lengths, ends, cache), request.patches, 0
        leads = self._words(request.leads, None)
        rows = [torch.cat(parts) for parts in zip(leads, embedded, words, strict=True)]
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if llama.prune_layer:
            hidden, dropped = llama.pruned(x, lengths, patch_columns, cache, ends)
            return hidden, request.patches, dropped
        where = Where.straight(batch, 0, x.shape[1], device)
        return llama(x, where.columns, where, cache, ends), request.patches, 0

    def _some(
        self,
        llama: LeanLlama,
        patches: Tensor,
        columns: Tensor,
        words: Sequence[Tensor],
        lengths: Tensor,
        ends: Tensor,
        cache: StaticCache,
    ) -> Tensor:
        """A pass over some patches and the words behind them; what the others added is in the cache."""
        text = nn.utils.rnn.pad_sequence(list(words), batch_first=True)
        sizes = torch.tensor([len(row) for row in words], device=text.device)
        first = ends[:, -1:] + 1 - sizes[:, None]  # column of the first word behind the patches
        places = first + torch.arange(text.shape[1], device=text.device)
        x, columns = torch.cat((patches, text), dim=1), torch.cat((columns, places), dim=1)
        where = Where.scattered(columns, int(columns.max()) + 1)
        return llama(x, columns, where, cache, patches.shape[1] + ends - first)

    def _words(self, ids: Sequence[Sequence[int]], draft: Tensor | None) -> list[Tensor]:
        """Embeddings of each row's ids and, behind them, of the guessed tokens."""
        table, device = self._model.language.model.embed_tokens, self._model.device
        rows = [torch.tensor(row, device=device) for row in ids]
        if draft is not None:
            rows = [torch.cat(pair) for pair in zip(rows, draft, strict=True)]
        return [table(row) for row in rows]

    # ------------------------------------------------------------------------------------ the tokens

    def _step(self, llama: LeanLlama, token: Tensor, positions: Tensor, cache: StaticCache, dropped: int) -> Tensor:
        """Normed hidden states (batch, 1, width) of one token for each row."""
        positions = positions[:, None]
        x = self._model.language.model.embed_tokens(token[:, None])
        if self._options.cuda_graphs:
            if self._graph is None or not self._graph.fits(cache, dropped):
                self._graph = StepGraph(llama, cache, dropped)
            return self._graph(x, positions)
        first = int(positions[0])
        if len(token) == 1 or bool((positions == first).all()):
            where = Where.straight(len(token), first, 1, x.device)
            later = Where.straight(len(token), first - dropped, 1, x.device)
        else:
            stop = int(positions.max()) + 1
            where, later = Where.scattered(positions, stop), Where.scattered(positions - dropped, stop - dropped)
        return llama.step(x, positions, where, later, cache)

    def _chosen(self, hidden: Tensor) -> list[Tensor]:
        return list(self._model.choose_hidden(hidden, action_head=self._options.action_head))

    def _draft(self, memory: _Memory | None, batch: int, count: int) -> Tensor | None:
        """(batch, count - 1) tokens that are guessed."""
        if not self._options.speculate or memory is None or memory.tokens.shape != (batch, count) or count < 2:
            return None
        return memory.tokens[:, :-1]

    # ------------------------------------------------------------------------------------ what is remembered

    def _compared(self, pixels: Tensor, request: _Prompts, known: _Memory | None) -> SeenPatches | None:
        """The new pictures beside those that the cache was computed from; None where it is no use."""
        if not self._options.reuse or known is None or known.seen is None or request != known.prompts:
            return None
        return known.seen.compared(pixels)

    def _first(self, pixels: Tensor) -> SeenPatches | None:
        if not self._options.reuse:
            return None
        return SeenPatches.first(pixels, self._model.patch_count, self._levels, self._options.reuse)

    def _room(self, batch: int, request: _Prompts, count: int) -> StaticCache:
        """The cache, allocated anew where it does not fit."""
        llama = self.llama
        assert llama is not None
        needed = int(request.lengths(torch.device("cpu")).max()) + count
        if needed > llama.longest:
            raise ValueError(f"expected at most {llama.longest} positions, found {needed}; shorten the instruction")
        cache = self._cache
        if cache is None or cache.batch != batch or cache.length < needed:
            cache = self._cache = StaticCache(llama, batch, -(-needed // _ROOM) * _ROOM)
        return cache


def _agreed(tokens: Tensor, draft: Tensor) -> int:
    """How many guessed tokens, from the first on, are right in every row."""
    right = (tokens[:, :-1] == draft).all(dim=0)
    return int(right.long().cumprod(dim=0).sum())
