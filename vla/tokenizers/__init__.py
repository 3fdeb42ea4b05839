"""Action tokenizers: numpy only, so that the loop and replay decode without a deep-learning framework."""

from vla.tokenizers.catalog import decoder_from_id, tokenizer_from_id, tokenizer_ids
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import COMPACT_TOKENIZER, TokenConvention, UniformBinTokenizer

__all__ = [
    "COMPACT_TOKENIZER",
    "TokenActionDecoder",
    "TokenConvention",
    "UniformBinTokenizer",
    "decoder_from_id",
    "tokenizer_from_id",
    "tokenizer_ids",
]
