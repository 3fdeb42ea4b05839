"""Action tokenizers: numpy and scipy only, so that the loop and replay decode without a deep-learning framework."""

from vla.tokenizers.bspline import BSplineTokenizer
from vla.tokenizers.catalog import decoder_from_id, tokenizer_from_id, tokenizer_ids
from vla.tokenizers.decoder import SequenceActionDecoder, TokenActionDecoder, decoder_for
from vla.tokenizers.fast import FastTokenizer
from vla.tokenizers.protocol import ActionTokenizer
from vla.tokenizers.quantile import QuantileBinTokenizer
from vla.tokenizers.uniform import COMPACT_TOKENIZER, TokenConvention, UniformBinTokenizer

__all__ = [
    "COMPACT_TOKENIZER",
    "ActionTokenizer",
    "BSplineTokenizer",
    "FastTokenizer",
    "QuantileBinTokenizer",
    "SequenceActionDecoder",
    "TokenActionDecoder",
    "TokenConvention",
    "UniformBinTokenizer",
    "decoder_for",
    "decoder_from_id",
    "tokenizer_from_id",
    "tokenizer_ids",
]
