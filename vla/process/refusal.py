"""An answer that is no motion: a chunk without tokens, whose tokenizer says in words why."""

from __future__ import annotations

from controllers.types import ActionChunk, ActionSpec, IntArray, frozen_array

MAX_REASON = 200  # characters; the reason of a refusal is logged with the episode
_PREFIX = "none: "


def refused_chunk(reason: str, spec: ActionSpec, stamp_ns: int) -> ActionChunk:
    """A chunk without tokens, which every executor rejects with the reason in words."""
    return ActionChunk(_NO_TOKENS, _PREFIX + reason[:MAX_REASON], spec.hash, stamp_ns, 0)


def is_refusal(chunk: ActionChunk) -> bool:
    """Whether a chunk is one of these: its policy works, and says that it has no answer."""
    return chunk.tokenizer_id.startswith(_PREFIX) and chunk.tokens.size == 0


def _no_tokens() -> IntArray:
    tokens = frozen_array([]).astype("int64").reshape(0, 0)
    tokens.flags.writeable = False
    return tokens


_NO_TOKENS = _no_tokens()
