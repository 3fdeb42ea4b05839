"""Where the time of a request went, from the policy to the summary."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from controllers.types import ActionChunk
from vla.process.messages import Answer, decode_reply, encode_reply
from vla.process.timing import LatencySummary, RequestTiming


def test_it_travels_with_the_answer() -> None:
    chunk = ActionChunk(np.zeros((1, 7), np.int64), "t", "s", 1, 0)
    timing = RequestTiming(256, 1.0, 20.5, 3.0, 25.0)
    for sent in (timing, None):
        payload = bytearray(b"".join(bytes(part) for part in encode_reply(Answer(1, chunk, 5, 6, None, sent))))
        reply = decode_reply(payload, 3)
        assert isinstance(reply, Answer)
        assert reply.timing == sent


def test_other_fields_are_refused() -> None:
    data = asdict(RequestTiming(256, 1.0, 2.0, 3.0, 6.0))
    with pytest.raises(TypeError, match="expected numbers"):
        RequestTiming.from_json({**data, "total_ms": "long"})
    with pytest.raises(TypeError):
        RequestTiming.from_json({**data, "lunch_ms": 1.0})


def test_a_summary_has_median_and_p95_of_each_part() -> None:
    timings = [RequestTiming(10 * n, 0.0, float(n), 2.0 * n, 3.0 * n) for n in range(1, 101)]
    summary = LatencySummary.of(timings)
    assert summary.requests == 100
    assert summary.visual_tokens.p50 == pytest.approx(505.0)
    assert summary.decode_ms.p95 == pytest.approx(np.percentile(2.0 * np.arange(1, 101), 95))
    assert summary.line().startswith("100 requests, median and p95: 505 and 950 visual tokens; vision 0.0 and 0.0, ")
    with pytest.raises(ValueError, match="at least one request"):
        LatencySummary.of([])
