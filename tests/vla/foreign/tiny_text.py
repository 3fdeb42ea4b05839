"""Small tokenizers and image-text models, built from configurations; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
)
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from vla.tokenizers.byte_level import CHARACTERS

SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "<fake_token_around_image>", "<global-img>", "<video>")
SIDE, PATCH, SHUFFLE = 32, 8, 2
TOKENS_OF_A_PICTURE = (SIDE // PATCH // SHUFFLE) ** 2


def tokenizer(merged: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token a byte, and one for each of these words, which byte pairs build up to."""
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *CHARACTERS))}
    merges: list[tuple[str, str]] = []
    for word in merged:
        piece = "".join(CHARACTERS[byte] for byte in word.encode())
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append((piece[: end - 1], piece[end - 1]))
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    library.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=library,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "video_token": "<video>",
        },
    )


def config(words: PreTrainedTokenizerFast, layers: int = 2) -> SmolVLMConfig:
    """A SmolVLM of a few thousand weights."""
    kind: Any = SmolVLMConfig  # its fields are made by a decorator
    return kind(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": len(words),
            "pad_token_id": words.pad_token_id,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        pad_token_id=words.pad_token_id,
        scale_factor=SHUFFLE,
    )


def save_model(folder: Path, merged: Sequence[str] = (), *, weights: bool = True, seed: int = 0) -> Path:
    """Write configuration, processor and, if wanted, random weights; gives the folder."""
    import torch

    words = tokenizer(merged)
    model = config(words)
    size = {"longest_edge": SIDE}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=TOKENS_OF_A_PICTURE,
        chat_template="{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}",
    )
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    if weights:
        torch.manual_seed(seed)
        SmolVLMForConditionalGeneration(model).eval().save_pretrained(folder)
    return folder
