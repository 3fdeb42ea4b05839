"""An image-text model that writes its actions as integers: every answer is a whole chunk, whatever the model thinks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from controllers.types import ActionChunk, ActionSpec, IntArray, Observation
from vla.foreign.declaration import ForeignDeclaration, Leading
from vla.process.refusal import refused_chunk
from vla.rt2.grammar import ChunkGrammar, Place, TextChunkError, TokenGrammar, bin_ranges
from vla.rt2.vocabulary import token_texts

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_LEAST = -1e30  # of an allowed token: still chosen before one that is not allowed
FINISHED = "the model takes the episode for finished (its terminate flag is 1)"


@dataclass(frozen=True)
class TextPolicyOptions:
    """How a model is run.

    Attributes:
        spec: Contract of the stack's actions: dimensions and rows of a chunk.
        tokenizer_id: ``uniform-BINS/rt2``: the integers that it writes are the tokens.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
    """

    spec: ActionSpec
    tokenizer_id: str
    device: str = "cpu"
    dtype: str = "bf16"


class GrammarMask:
    """Lets through the tokens that a chunk may go on with; a logits processor of transformers, for one sequence.

    Whatever stands in the scores, NaN and infinities too, an allowed token has the highest one.
    """

    def __init__(self, grammar: TokenGrammar, prompt_length: int) -> None:
        """Start at the end of a prompt of that many tokens."""
        self._grammar, self._read, self._place = grammar, prompt_length, Place()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Mask the scores (1, vocabulary) of what follows ``input_ids`` (1, n).

        Raises:
            TextChunkError: More than one sequence, or tokens that this mask did not let through.
        """
        if input_ids.shape[0] != 1:
            raise TextChunkError(f"expected one sequence, found {input_ids.shape[0]}")
        for token in input_ids[0, self._read :].tolist():
            self._place = self._grammar.advance(self._place, token)
        self._read = input_ids.shape[1]
        allowed = torch.from_numpy(self._grammar.allowed(self._place)).to(scores.device)
        masked = torch.full_like(scores, -torch.inf)
        least = max(_LEAST, torch.finfo(scores.dtype).min)
        masked[0, allowed] = torch.nan_to_num(scores[0, allowed], nan=least, posinf=-least, neginf=least)
        return masked


class TextPolicy:
    """Implements :class:`controllers.protocols.Policy`."""

    def __init__(self, model: Any, processor: Any, declaration: ForeignDeclaration, options: TextPolicyOptions) -> None:
        """Join network, processor and contract; :meth:`load` reads them from a folder.

        Raises:
            TextChunkError: A tokenizer that the model's answers are none of, or a vocabulary that cannot write one.
        """
        self._model, self._processor, self._declaration, self._options = model, processor, declaration, options
        leading = ((0, 1),) if declaration.text.leading is Leading.TERMINATE else ()
        limits = leading + bin_ranges(options.tokenizer_id, options.spec)
        grammar = ChunkGrammar(options.spec.horizon, limits, declaration.text.rows_apart)
        words = processor.tokenizer
        if words.eos_token_id is None:
            raise TextChunkError("expected a token that ends an answer (eos_token), found none in the tokenizer")
        self._grammar = TokenGrammar(grammar, token_texts(words, grammar.alphabet), int(words.eos_token_id))
        self._padding = words.pad_token_id if words.pad_token_id is not None else words.eos_token_id

    @staticmethod
    def load(folder: Path | str, declaration: ForeignDeclaration, options: TextPolicyOptions) -> TextPolicy:
        """Load any model that ``AutoModelForImageTextToText`` knows, with its processor, from a folder.

        Raises:
            TextChunkError: The folder is none, or the model cannot write chunks.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if options.dtype not in _DTYPES:
            raise TextChunkError(f"expected dtype {', '.join(_DTYPES)}, found {options.dtype!r}")
        try:
            processor = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(
                str(folder), dtype=_DTYPES[options.dtype], local_files_only=True
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise TextChunkError(f"{folder}: expected an image-text model with its processor: {error}") from error
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise TextChunkError(
                f"{folder}: expected a processor of pictures and text, found a {type(processor).__name__}; add the "
                "model's processor_config.json"
            )
        model = cast(Any, model).to(options.device).eval()
        model.requires_grad_(False)
        return TextPolicy(model, processor, declaration, options)

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._options.spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._options.tokenizer_id

    def reset(self) -> None:
        """Nothing to forget: every chunk follows from one observation."""

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation; a refusal where the model takes the episode for finished.

        Raises:
            MappingError: The observation lacks a camera.
            TextChunkError: What was decoded is no chunk, which the mask excludes.
        """
        numbers = self._grammar.grammar.parse(self.answer(observation))
        tokens: IntArray = numbers
        if self._declaration.text.leading is Leading.TERMINATE:
            if numbers[:, 0].any():
                return refused_chunk(FINISHED, self.spec, observation.stamp_ns)
            tokens = np.ascontiguousarray(numbers[:, 1:])
            tokens.flags.writeable = False
        return ActionChunk(tokens, self.tokenizer_id, self.spec.hash, observation.stamp_ns, 0)

    def answer(self, observation: Observation) -> str:
        """What the model writes, decoded greedily with a cache."""
        from transformers import GenerationConfig, LogitsProcessorList

        inputs = self._inputs(observation)
        length = inputs["input_ids"].shape[1]
        mask = cast(Any, GrammarMask(self._grammar, length))
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=self._grammar.longest,
            eos_token_id=self._grammar.end,
            pad_token_id=self._padding,
        )
        with torch.inference_mode():
            # Ours comes after every processor of the library's own, so that none of them can undo it.
            ids = self._model.generate(
                **inputs, generation_config=settings, logits_processor=LogitsProcessorList([mask])
            )
        return self._grammar.text(ids[0, length:].tolist())

    def _inputs(self, observation: Observation) -> dict[str, Any]:
        mapping = self._declaration.observation
        message = mapping.write(observation)
        pictures = [Image.fromarray(message[image.key]) for image in mapping.images]
        prompt = self._declaration.text.prompt.format(instruction=observation.instruction)
        if getattr(self._processor, "chat_template", None):
            content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
            text = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        else:
            text = getattr(self._processor, "image_token", "<image>") * len(pictures) + prompt
        batch = self._processor(text=[text], images=[pictures], return_tensors="pt")
        device, dtype = self._options.device, _DTYPES[self._options.dtype]
        return {
            key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for key, value in batch.items()
            if isinstance(value, Tensor)
        }
