"""How unsure a policy was: bounded numbers from its distributions, carried whole across every boundary."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from controllers.doubt import ChunkDoubt
from controllers.types import ActionChunk, TokenPrefix
from tests.vla.test_compact import SMALL, folder, observations  # noqa: F401 - a fixture
from vla.compact.decoding import chosen_log_probability, mean_around_mode, sampled_agreement
from vla.compact.policy import CompactPolicy
from vla.doubt import chunk_doubt
from vla.process.errors import MalformedMessageError
from vla.process.messages import Answer, decode_reply, encode_reply
from vla.serving.messages import InferReply
from vla.serving.wire import WireError

GOLDEN = Path(__file__).parent / "golden" / "answer.json"
BINS = 255
LOGITS = hnp.arrays(np.float32, (3, 2, BINS), elements=st.floats(-80.0, 80.0, width=32))


@given(LOGITS)
def test_probabilities_and_entropies_are_bounded_whatever_the_logits(values: np.ndarray) -> None:
    logits = torch.from_numpy(values)
    chosen = mean_around_mode(logits)
    certainty, entropy = (item.double().numpy() for item in chosen_log_probability(logits, chosen))
    assert (certainty <= 1e-6).all()
    assert ((entropy >= -1e-6) & (entropy <= math.log(BINS) + 1e-5)).all()
    doubt = chunk_doubt(certainty, entropy)
    assert doubt.mean_entropy is not None
    assert 0.0 <= doubt.min_probability <= doubt.mean_probability <= 1.0
    assert 0.0 <= doubt.mean_entropy <= math.log(BINS) + 1e-5


def test_the_extremes_are_certainty_and_a_uniform_guess() -> None:
    sure, even = torch.full((2, BINS), -math.inf), torch.zeros((2, BINS))
    sure[:, 7] = 0.0
    chosen = torch.tensor([7, 7])
    certain, guess = (
        chunk_doubt(certainty.numpy(), entropy.numpy())
        for certainty, entropy in (chosen_log_probability(logits, chosen) for logits in (sure, even))
    )
    assert certain == ChunkDoubt(1.0, 1.0, 0.0)
    assert guess.mean_entropy == pytest.approx(math.log(BINS), rel=1e-6)
    assert guess.mean_probability == pytest.approx(1.0 / BINS, rel=1e-5)
    assert sampled_agreement(sure, chosen, 5, 0) == 1.0


@given(LOGITS, st.integers(0, 2**64), st.integers(1, 8))
def test_agreement_is_a_share_that_depends_on_its_seed_only(values: np.ndarray, seed: int, samples: int) -> None:
    logits = torch.from_numpy(values)
    chosen = mean_around_mode(logits)
    first, again = (sampled_agreement(logits, chosen, samples, seed) for _ in range(2))
    assert first == again
    assert 0.0 <= first <= 1.0
    assert first * chosen.numel() * samples == pytest.approx(round(first * chosen.numel() * samples))


def test_no_tokens_have_no_doubt() -> None:
    with pytest.raises(ValueError, match="expected the log-probability of at least one token, found none"):
        chunk_doubt(np.zeros((0, 7)))


# ------------------------------------------------------------------------------------------ compact policy


def test_a_chunk_of_the_compact_policy_tells_its_doubt(folder: Path) -> None:  # noqa: F811
    policy = CompactPolicy.load(folder, dtype="fp32", threads=1)
    (chunk,) = policy.infer_batch(observations(1))
    assert chunk.entropy is not None
    assert chunk.log_probability is not None
    assert chunk.entropy.shape == chunk.log_probability.shape == (SMALL.horizon, SMALL.dims)
    assert not chunk.entropy.flags.writeable
    assert chunk.doubt is not None
    assert chunk.doubt == chunk_doubt(chunk.log_probability, chunk.entropy)
    assert chunk.doubt.agreement is None


def test_agreement_does_not_depend_on_the_batch_and_changes_no_token(folder: Path) -> None:  # noqa: F811
    plain, sampled = (CompactPolicy.load(folder, dtype="fp32", threads=1, doubt_samples=count) for count in (0, 4))
    seen = observations(2)
    for one, other in zip(plain.infer_batch(seen), sampled.infer_batch(seen), strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert one.doubt is not None
        assert other.doubt is not None
        assert other.doubt.agreement is not None
        assert replace(other.doubt, agreement=None) == one.doubt
    assert sampled.infer(seen[0]).doubt == sampled.infer(seen[0]).doubt


def test_rows_that_are_forced_on_the_model_make_it_no_surer(folder: Path) -> None:  # noqa: F811
    policy = CompactPolicy.load(folder, dtype="fp32", threads=1)
    (seen,) = observations(1)
    free = policy.infer(seen)
    prefix = TokenPrefix(np.full((3, SMALL.dims), 200, np.int64))
    forced = policy.infer(dataclasses.replace(seen, prefix=prefix))
    assert forced.forced_rows == 3
    assert forced.doubt == free.doubt


def test_samples_may_not_be_negative(folder: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"expected 0 \(none\) or more sampled decodes for the agreement, found -1"):
        CompactPolicy.load(folder, doubt_samples=-1)


# ----------------------------------------------------------------------------------------------- messages

UNIT = st.floats(0.0, 1.0)
DOUBT = st.builds(ChunkDoubt, UNIT, UNIT, st.none() | st.floats(0.0, 50.0), st.none() | UNIT)


def answered(doubt: ChunkDoubt | None, entropy: np.ndarray | None = None) -> Answer:
    chunk = ActionChunk(
        np.arange(14, dtype=np.int64).reshape(2, 7), "t", "s", 5, 3, log_probability=None, entropy=entropy, doubt=doubt
    )
    return Answer(9, chunk, 1_000, 2_000)


@given(st.none() | DOUBT, st.booleans())
def test_doubt_crosses_the_policy_process_bit_for_bit(doubt: ChunkDoubt | None, with_entropy: bool) -> None:
    entropy = np.linspace(0.0, 5.0, 14).reshape(2, 7) if with_entropy else None
    data = bytearray(b"".join(bytes(part) for part in encode_reply(answered(doubt, entropy))))
    reply = decode_reply(data, 3)
    assert isinstance(reply, Answer)
    assert reply.chunk.doubt == doubt
    assert (reply.chunk.entropy is None) == (entropy is None)
    if entropy is not None:
        assert reply.chunk.entropy is not None
        assert reply.chunk.entropy.tobytes() == entropy.tobytes()
        assert not reply.chunk.entropy.flags.writeable


def test_the_answer_on_the_wire_is_the_golden_one() -> None:
    parts = encode_reply(answered(ChunkDoubt(0.5, 0.125, 2.25), np.zeros((2, 7))))
    assert bytes(parts[1]).decode().rstrip() == GOLDEN.read_text().rstrip(), "compare, then write the new text"


def test_an_impossible_doubt_is_no_message() -> None:
    data = b"".join(bytes(part) for part in encode_reply(answered(ChunkDoubt(0.5, 0.125, 2.25))))
    broken = bytearray(data.replace(b'"mean_probability":0.5', b'"mean_probability":1.5'))
    with pytest.raises(MalformedMessageError, match=r"expected mean_probability in \[0, 1\], found 1.5"):
        decode_reply(broken, 3)


@given(st.none() | DOUBT)
def test_doubt_crosses_the_policy_server(doubt: ChunkDoubt | None) -> None:
    message = InferReply(1, answered(doubt).chunk, 1.0, 0.0).to_message()
    assert ("doubt" in message) == (doubt is not None)
    assert InferReply.from_message(message).chunk.doubt == doubt


@pytest.mark.parametrize("wrong", [{"mean_probability": 2.0, "min_probability": 0.1}, {"sure": 1.0}, {}])
def test_a_server_that_tells_rubbish_is_refused(wrong: dict[str, float]) -> None:
    message = InferReply(1, answered(None).chunk, 1.0, 0.0).to_message() | {"doubt": wrong}
    with pytest.raises(WireError, match="doubt: expected the numbers of a chunk's doubt"):
        InferReply.from_message(message)
