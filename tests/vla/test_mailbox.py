"""The mailbox in shared memory: whatever the writer, or a killed writer, leaves there, readers see whole messages."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.shared_memory import Segment
from controllers.types import ActionChunk
from tests.vla.synthetic import ToyWorld, toy_spec
from vla.process.errors import MalformedMessageError
from vla.process.mailbox import Mailbox, MessageTooLargeError
from vla.process.messages import (
    Answer,
    Failure,
    Ready,
    decode_observation,
    decode_reply,
    encode_observation,
    encode_reply,
)

CAPACITY, SLOTS = 256, 3


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment.create("test-mailbox", Mailbox.size(CAPACITY, SLOTS), only_mine=False)
    yield segment
    segment.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=CAPACITY), max_size=12), st.integers(1, 4))
def test_a_reader_gets_the_last_slots_in_order_and_nothing_else(messages: list[bytes], every: int) -> None:
    segment = Segment.create("test-mailbox", Mailbox.size(CAPACITY, SLOTS), only_mine=False)
    writer, reader = (Mailbox(segment, 0, CAPACITY, SLOTS) for _ in range(2))
    read = 0
    for number, message in enumerate(messages, start=1):
        assert writer.write([message[:7], message[7:]]) == number
        if number % every == 0:
            found = [reader.read(index) for index in reader.since(read)]
            assert found == messages[max(read, number - SLOTS) : number]
            read = number
    assert reader.torn == 0
    segment.close()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_write_cut_off_anywhere_is_never_seen_as_a_message(data: st.DataObject) -> None:
    """The memory after a kill is any mixture, word by word, of what it was before and after the write."""
    old = data.draw(st.binary(min_size=1, max_size=64))
    new = data.draw(st.binary(min_size=1, max_size=64).filter(lambda text: text != old))
    segment = Segment.create("test-mailbox", Mailbox.size(CAPACITY, 1), only_mine=False)
    mailbox = Mailbox(segment, 0, CAPACITY, 1)
    mailbox.write([old])
    before = bytes(segment.view)
    mailbox.write([new])
    after = bytes(segment.view)
    changed = [at for at in range(0, len(after), 8) if before[at : at + 8] != after[at : at + 8]]
    for at in data.draw(st.sets(st.sampled_from(changed))):
        segment.view[at : at + 8] = before[at : at + 8]
    for number in (1, 2):
        payload = mailbox.read(number)
        assert payload is None or bytes(payload) == (old, new)[number - 1]
    segment.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.integers(0, 1 << 62))
def test_scribbled_memory_raises_nothing_but_a_count_that_went_back(scribble: bytes, read: int) -> None:
    segment = Segment.create("test-mailbox", Mailbox.size(CAPACITY, SLOTS), only_mine=False)
    size = len(segment.view)
    segment.view[:] = (scribble * (size // len(scribble) + 1))[:size]
    mailbox = Mailbox(segment, 0, CAPACITY, SLOTS)
    try:
        numbers = mailbox.since(read)
    except ValueError:
        assert mailbox.count < read
    else:
        assert len(numbers) <= SLOTS
        assert not any(mailbox.read(number) for number in numbers)
    segment.close()


def test_a_message_that_does_not_fit_is_refused_and_leaves_the_others(segment: Segment) -> None:
    mailbox = Mailbox(segment, 0, CAPACITY, SLOTS)
    mailbox.write([b"first"])
    with pytest.raises(MessageTooLargeError, match="at most 256 bytes, found 257"):
        mailbox.write([bytes(257)])
    assert mailbox.read(1) == b"first"
    assert mailbox.count == 1


def test_a_writer_killed_at_work_leaves_whole_messages_only(segment: Segment) -> None:
    process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(segment,))
    process.start()
    mailbox = Mailbox(segment, 0, CAPACITY, SLOTS)
    seen = 0
    deadline = time.monotonic() + 20.0
    while seen < 200 and time.monotonic() < deadline:
        payload = mailbox.read(mailbox.count)
        if payload is not None:
            seen += 1
            assert len(set(payload)) == 1
    process.kill()
    process.join()
    assert seen == 200
    mailbox.write([b"\x05" * CAPACITY])  # a successor goes on from any wreck
    assert mailbox.read(mailbox.count) == b"\x05" * CAPACITY


def _write_for_ever(segment: Segment) -> None:
    mailbox = Mailbox(segment, 0, CAPACITY, SLOTS)
    while True:
        value = mailbox.count % 251
        mailbox.write([bytes([value]) * (CAPACITY // 2), bytes([value]) * (CAPACITY // 2)])


# ----------------------------------------------------------------------------------------------- messages


def chunk(tokens: np.ndarray) -> ActionChunk:
    return ActionChunk(tokens, "uniform-255/rt2", "abc", 12, 0)


def payload_of(parts: list) -> bytearray:
    return bytearray(b"".join(bytes(part) for part in parts))


def test_an_observation_arrives_bit_for_bit() -> None:
    seen = ToyWorld.create(3).observe(5, np.random.default_rng(0))
    got, episode = decode_observation(payload_of(encode_observation(seen, 4)))
    assert episode == 4
    assert (got.instruction, got.stamp_ns, got.state.stamp_ns) == (seen.instruction, seen.stamp_ns, seen.state.stamp_ns)
    assert list(got.images) == list(seen.images)
    for name, image in seen.images.items():
        assert got.images[name].tobytes() == image.tobytes()
        assert got.images[name].shape == image.shape
        assert not got.images[name].flags.writeable
    for name in ("joint_position", "joint_velocity", "joint_effort", "wrench"):
        assert getattr(got.state, name).tobytes() == getattr(seen.state, name).tobytes()
    assert got.commanded_pose.position.tobytes() == seen.commanded_pose.position.tobytes()
    assert got.state.ee_pose.quaternion.tobytes() == seen.state.ee_pose.quaternion.tobytes()


@pytest.mark.parametrize(
    "tokens",
    [
        np.arange(56).reshape(8, 7),
        np.full((8, 7), np.nan),
        np.zeros((0, 7), np.int64),
        np.zeros((2, 3, 4), np.uint8),
        np.array(7),
    ],
)
def test_tokens_of_any_shape_and_type_arrive_as_they_are(tokens: np.ndarray) -> None:
    reply = decode_reply(payload_of(encode_reply(Answer(3, chunk(tokens), 17, 99))), chunk_id=41)
    assert isinstance(reply, Answer)
    assert (reply.number, reply.inference_ns, reply.ended_ns, reply.chunk.chunk_id) == (3, 17, 99, 41)
    assert reply.chunk.tokens.dtype == tokens.dtype
    assert reply.chunk.tokens.shape == tokens.shape
    assert reply.chunk.tokens.tobytes() == tokens.tobytes()


def test_the_contract_arrives() -> None:
    reply = decode_reply(payload_of(encode_reply(Ready(toy_spec(), "uniform-255/rt2"))), 0)
    assert reply == Ready(toy_spec(), "uniform-255/rt2")
    assert decode_reply(payload_of(encode_reply(Failure(2, "no"))), 0) == Failure(2, "no")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbage_is_a_typed_error(data: st.DataObject) -> None:
    good = payload_of(encode_reply(Answer(3, chunk(np.arange(56).reshape(8, 7)), 17, 99)))
    if data.draw(st.booleans()):
        garbage = bytearray(data.draw(st.binary(max_size=200)))
    else:
        garbage = good[: data.draw(st.integers(0, len(good)))]
        for at in data.draw(st.lists(st.integers(0, max(0, len(garbage) - 1)), max_size=4)):
            if garbage:
                garbage[at] = data.draw(st.integers(0, 255))
    try:
        reply = decode_reply(garbage, 0)
    except MalformedMessageError:
        return
    assert isinstance(reply, (Answer, Failure, Ready))


def test_a_mailbox_leaves_no_name_behind(segment: Segment) -> None:
    Mailbox(segment, 0, CAPACITY, SLOTS).write([b"x"])
    assert not [name for name in os.listdir("/dev/shm") if "mailbox" in name]
