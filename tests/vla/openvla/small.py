"""A small random checkpoint in the published layout, with a tokenizer of its own, that `vla` commands can load.

``python -m tests.vla.openvla.small OUT`` writes it. The towers' numbers of heads are the published ones, which no file
says, so that nothing has to be declared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from benchmarks.random_openvla import Sizes, make_tensors, write_checkpoint

SMALL = Sizes(
    side=112,
    patch=14,
    dino=64,
    dino_mlp=256,
    siglip=64,
    siglip_mlp=96,
    depth=4,
    registers=4,
    text=128,
    text_mlp=256,
    layers=3,
    heads=4,
    scale=0.25,
)
SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1 and 2, as Llama's


def write_small(folder: Path, seed: int = 0) -> Path:
    """The whole folder."""
    write_checkpoint(folder, make_tensors(SMALL, seed), SMALL.side, language_heads=SMALL.heads)
    tokenizer().save_pretrained(str(folder))
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, BOS in front: a stand-in for Llama's, whose files are not ours to ship."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {piece: index for index, piece in enumerate((*SPECIAL, *sorted(letters)))}
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    library.decoder = decoders.ByteLevel()  # pyright: ignore
    library.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=library, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=2048
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a small random OpenVLA checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_small(arguments.folder, arguments.seed)
