"""Tokenizers by identity: replay rebuilds the decoder of a log from what the log carries."""

from __future__ import annotations

import json
import re
from typing import Any, cast

import numpy as np

from controllers.names import nearest_name_hint
from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.types import ActionSpec, RejectionReason
from vla.tokenizers.bspline import BSplineTokenizer
from vla.tokenizers.decoder import decoder_for
from vla.tokenizers.fast import FastTokenizer
from vla.tokenizers.protocol import ActionTokenizer
from vla.tokenizers.quantile import QuantileBinTokenizer
from vla.tokenizers.uniform import LLAMA_VOCABULARY, TokenConvention, UniformBinTokenizer

_UNIFORM = re.compile(r"uniform-([1-9]\d{0,4})/(?:(rt2)|openvla-([1-9]\d{0,6}))")
_BSPLINE = re.compile(r"bspline-([1-9]\d{0,3})/([1-9]\d{0,4})")
_DEFINED = re.compile(r"(?:fast|quantile)-[1-9]\d{0,6}/[0-9a-f]{12}")


def tokenizer_ids() -> tuple[str, ...]:
    """The identities in common use; others of the same form are understood too."""
    return (
        UniformBinTokenizer().tokenizer_id,
        UniformBinTokenizer(bins=256).tokenizer_id,
        UniformBinTokenizer(convention=TokenConvention.OPENVLA).tokenizer_id,
        BSplineTokenizer().tokenizer_id,
    )


def tokenizer_from_id(tokenizer_id: str, definition: str = "") -> ActionTokenizer:
    """Build the tokenizer that an identity names, e.g. ``uniform-255/rt2``.

    Args:
        tokenizer_id: What a chunk carries.
        definition: :attr:`ActionTokenizer.definition` for identities that name one by its hash.

    Raises:
        ActionDecodeError: No such tokenizer, or not the definition that the identity names (UNKNOWN_TOKENIZER).
    """
    try:
        if match := _UNIFORM.fullmatch(tokenizer_id):
            bins, rt2, vocabulary = match.groups()
            return UniformBinTokenizer(
                bins=int(bins),
                convention=TokenConvention.RT2 if rt2 else TokenConvention.OPENVLA,
                vocabulary_size=int(vocabulary) if vocabulary else LLAMA_VOCABULARY,
            )
        if match := _BSPLINE.fullmatch(tokenizer_id):
            return BSplineTokenizer(*map(int, match.groups()))
        if _DEFINED.fullmatch(tokenizer_id):
            return _defined(tokenizer_id, definition)
    except (ValueError, KeyError, TypeError) as error:
        raise ActionDecodeError(
            RejectionReason.UNKNOWN_TOKENIZER, f"impossible tokenizer {tokenizer_id!r}: {error}"
        ) from error
    known = tokenizer_ids()
    hint = nearest_name_hint(tokenizer_id, known)
    raise ActionDecodeError(
        RejectionReason.UNKNOWN_TOKENIZER,
        f"unknown tokenizer {tokenizer_id!r}{hint} (known: {', '.join(known)}, and fast-N/HASH and quantile-N/HASH "
        "with their definition)",
    )


def _defined(tokenizer_id: str, definition: str) -> ActionTokenizer:
    if not definition:
        raise ValueError("expected its definition beside it (bin edges or a vocabulary), found none")
    data = cast("dict[str, Any]", json.loads(definition))
    tokenizer: ActionTokenizer
    if data["scheme"] == "fast":
        tokenizer = FastTokenizer.from_definition(data)
    else:
        tokenizer = QuantileBinTokenizer(np.asarray(data["edges"], np.float64))
    if tokenizer.tokenizer_id != tokenizer_id:
        raise ValueError(f"the definition beside it is that of {tokenizer.tokenizer_id!r}")
    return tokenizer


def decoder_from_id(tokenizer_id: str, spec: ActionSpec, definition: str = "") -> ActionDecoder:
    """Build the decoder for an identity and an action spec.

    Raises:
        ActionDecodeError: No such tokenizer.
        ValueError: An unusable spec.
    """
    return decoder_for(tokenizer_from_id(tokenizer_id, definition), spec)
