"""How unsure a policy was of a chunk, from its distributions over the action vocabulary. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from controllers.doubt import ChunkDoubt

Numbers = npt.NDArray[np.floating[Any]]


def chunk_doubt(log_probability: Numbers, entropy: Numbers | None = None, agreement: float | None = None) -> ChunkDoubt:
    """Sum a chunk's distributions up.

    Args:
        log_probability: Of each token that was chosen, nat; any shape, at least one.
        entropy: Of the distribution that each was chosen from, nat, in the same shape; None if unknown. Its mean over
            the tokens is the chunk's entropy rate where tokens are drawn independently (C. E. Shannon, "A mathematical
            theory of communication", 1948, section 6).
        agreement: Share of tokens on which a sampled decode agrees, in [0, 1]; None if none was drawn.

    Raises:
        ValueError: No tokens, or numbers that are no probabilities.
    """
    if log_probability.size == 0:
        raise ValueError("expected the log-probability of at least one token, found none")
    # Rounding may put a certain token's log-probability just above zero, an entropy just below, and a mean below all.
    probability = np.minimum(np.exp(log_probability.astype(np.float64)), 1.0)
    mean = None if entropy is None else max(0.0, float(entropy.astype(np.float64).mean()))
    smallest = float(probability.min())
    return ChunkDoubt(max(smallest, float(probability.mean())), smallest, mean, agreement)
