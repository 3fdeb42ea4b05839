"""What the tokens of a vocabulary write, as far as a chunk can hold it."""

from __future__ import annotations

from typing import Any

from vla.rt2.grammar import TextChunkError
from vla.tokenizers.byte_level import CHARACTERS

_SPACES = ("\N{LOWER ONE EIGHTH BLOCK}", CHARACTERS[ord(" ")])  # how sentence pieces and byte pairs write a space


def token_texts(tokenizer: Any, alphabet: str) -> dict[int, str]:
    """Id -> text of every token that writes characters of ``alphabet`` only, in the middle of a text.

    Tokenizers drop or add a space at the beginning of a text, so each token is read behind another one.

    Raises:
        TextChunkError: The tokenizer has no token for the digit 0.
    """
    spellings = {*alphabet, *_SPACES, *(CHARACTERS[byte] for byte in alphabet.encode())}
    bytes_apart = {f"<0x{byte:02X}>" for byte in alphabet.encode()}
    pieces: dict[str, int] = tokenizer.get_vocab()
    special = set(tokenizer.all_special_ids)
    if "0" not in pieces:
        raise TextChunkError(
            "expected a token for the digit 0, found none; choose a model whose tokenizer writes digits"
        )
    before = pieces["0"]
    alone = _decode(tokenizer, [before])
    texts: dict[int, str] = {}
    for piece, token in pieces.items():
        if token in special or not (set(piece) <= spellings or piece in bytes_apart):
            continue
        text = _decode(tokenizer, [before, token])
        if text.startswith(alone):
            texts[token] = text[len(alone) :]
    return texts


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
