"""The checks that every chunk must pass before it may move anything; each failure is a typed refusal."""

from __future__ import annotations

from typing import cast

from controllers.plan import ReferenceMark
from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.types import ActionChunk, FloatArray, RejectionReason


def observed_mark(
    chunk: ActionChunk, history: tuple[ReferenceMark, ...], newest_stamp_ns: int, now_ns: int, max_age_ns: int
) -> ReferenceMark:
    """Find where the reference was at the chunk's observation.

    Args:
        chunk: The chunk.
        history: Marks of the last ticks, oldest first, this one included.
        newest_stamp_ns: Observation of the newest chunk accepted so far.
        now_ns: The tick's clock.
        max_age_ns: Oldest observation to accept.

    Raises:
        ActionDecodeError: The stamp is no number, in the future, too old, or not newer than the last chunk's.
    """
    stamp = cast(object, chunk.observation_stamp_ns)
    if not isinstance(stamp, int):
        raise ActionDecodeError(
            RejectionReason.WRONG_TYPE, f"expected an integer observation stamp, found {type(stamp).__name__}"
        )
    if stamp > now_ns:
        raise ActionDecodeError(RejectionReason.FUTURE_STAMP, f"observation stamp {stamp} ns is after now, {now_ns} ns")
    if now_ns - stamp > max_age_ns or stamp < history[0].stamp_ns:
        raise ActionDecodeError(
            RejectionReason.STALE,
            f"observation is {(now_ns - stamp) / 1e6:.0f} ms old, allowed {max_age_ns / 1e6:.0f} ms",
        )
    if stamp <= newest_stamp_ns:
        raise ActionDecodeError(
            RejectionReason.OUT_OF_ORDER,
            f"observation stamp {stamp} ns is not newer than that of the last chunk, {newest_stamp_ns} ns",
        )
    for mark in reversed(history):
        if mark.stamp_ns <= stamp:
            return mark
    return history[0]


def decode_chunk(chunk: ActionChunk, decoder: ActionDecoder) -> FloatArray:
    """Decode a chunk to (horizon, dims) actions.

    Raises:
        ActionDecodeError: Another tokenizer or action spec, or tokens that the decoder refuses.
    """
    if chunk.tokenizer_id != decoder.tokenizer_id:
        raise ActionDecodeError(
            RejectionReason.UNKNOWN_TOKENIZER,
            f"expected tokenizer {decoder.tokenizer_id!r}, found {chunk.tokenizer_id!r}",
        )
    if chunk.spec_hash != decoder.spec.hash:
        raise ActionDecodeError(
            RejectionReason.SPEC_MISMATCH,
            f"expected action spec {decoder.spec.hash!r}, found {chunk.spec_hash!r}: the policy was built for "
            "other actions, statistics or rates",
        )
    return decoder.decode(chunk.tokens)
