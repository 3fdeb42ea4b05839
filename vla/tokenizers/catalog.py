"""Tokenizers by identity: replay rebuilds the decoder of a log from the string that the log carries."""

from __future__ import annotations

import difflib
import re

from controllers.protocols import ActionDecodeError
from controllers.types import ActionSpec, RejectionReason
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import LLAMA_VOCABULARY, TokenConvention, UniformBinTokenizer

_PATTERN = re.compile(r"uniform-([1-9]\d{0,4})/(?:(rt2)|openvla-([1-9]\d{0,6}))")


def tokenizer_ids() -> tuple[str, ...]:
    """The identities in common use; others of the same form are understood too."""
    return (
        UniformBinTokenizer().tokenizer_id,
        UniformBinTokenizer(bins=256).tokenizer_id,
        UniformBinTokenizer(convention=TokenConvention.OPENVLA).tokenizer_id,
    )


def tokenizer_from_id(tokenizer_id: str) -> UniformBinTokenizer:
    """Build the tokenizer that an identity names, e.g. ``uniform-255/rt2``.

    Raises:
        ActionDecodeError: No such tokenizer (reason UNKNOWN_TOKENIZER).
    """
    match = _PATTERN.fullmatch(tokenizer_id)
    if match is None:
        known = tokenizer_ids()
        near = difflib.get_close_matches(tokenizer_id, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ActionDecodeError(
            RejectionReason.UNKNOWN_TOKENIZER,
            f"unknown tokenizer {tokenizer_id!r}{hint} (known: {', '.join(known)})",
        )
    bins, rt2, vocabulary = match.groups()
    try:
        return UniformBinTokenizer(
            bins=int(bins),
            convention=TokenConvention.RT2 if rt2 else TokenConvention.OPENVLA,
            vocabulary_size=int(vocabulary) if vocabulary else LLAMA_VOCABULARY,
        )
    except ValueError as error:
        raise ActionDecodeError(
            RejectionReason.UNKNOWN_TOKENIZER, f"impossible tokenizer {tokenizer_id!r}: {error}"
        ) from error


def decoder_from_id(tokenizer_id: str, spec: ActionSpec) -> TokenActionDecoder:
    """Build the decoder for an identity and an action spec.

    Raises:
        ActionDecodeError: No such tokenizer.
        ValueError: An unusable spec.
    """
    return TokenActionDecoder(tokenizer_from_id(tokenizer_id), spec)
