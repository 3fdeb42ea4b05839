"""Forced prefixes for parallel decoding: committed rows are frozen, the rows after them continue them.

The model decodes all rows of a chunk at once, from where the arm was at the observation. Where committed rows lead
somewhere else than the model's own first rows would have, its later rows, which are steps, would start from the wrong
place. The difference is carried row by row as in autoregressive decoding: each free row takes up a share of what is
left of it, in whole bins, so that the chunk comes back to where the model wanted to be. It needs no further pass of the
model.
"""

from __future__ import annotations

import numpy as np

from controllers.types import ActionSpace, ActionSpec, IntArray, TokenPrefix

GAIN = 0.35
"""Share of the remaining difference that one row takes up."""


def check_prefix(prefix: TokenPrefix, spec: ActionSpec) -> None:
    """Refuse a prefix that leaves nothing to decode or has another width.

    Raises:
        ValueError: Says what was expected and found.
    """
    found = prefix.tokens.shape
    if len(found) != 2 or found[1] != spec.dims or not 1 <= found[0] < spec.horizon:
        raise ValueError(
            f"expected a prefix of 1 to {spec.horizon - 1} rows of {spec.dims} tokens for chunks of {spec.horizon} "
            f"rows, found {found}"
        )


def force_prefix(
    tokens: IntArray, prefix: TokenPrefix, spec: ActionSpec, lowest: int, highest: int, gain: float = GAIN
) -> IntArray:
    """The chunk with its first rows replaced by committed ones, and the others shifted to continue those.

    Args:
        tokens: (horizon, dims) bins that the model decoded.
        prefix: Committed rows.
        spec: What the dimensions mean; only steps (deltas) accumulate.
        lowest: Smallest token of the vocabulary.
        highest: Largest token of the vocabulary.
        gain: Share of the remaining difference that one row takes up.

    Returns:
        (horizon, dims) int64, read-only.

    Raises:
        ValueError: The prefix does not fit the chunk.
    """
    check_prefix(prefix, spec)
    rows = prefix.rows
    forced = np.array(tokens)
    forced[:rows] = prefix.tokens
    if spec.space is ActionSpace.EE_DELTA:
        steps = spec.dims - 1  # the gripper is absolute
        left = (tokens[:rows, :steps] - prefix.tokens[:, :steps]).sum(0).astype(np.float64)
        for row in range(rows, len(forced)):
            wanted = forced[row, :steps] + np.rint(gain * left).astype(np.int64)
            bounded = np.clip(wanted, lowest, highest)
            left -= bounded - forced[row, :steps]
            forced[row, :steps] = bounded
    forced.flags.writeable = False
    return forced
