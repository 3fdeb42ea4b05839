"""Shared memory: torn at any byte, a message is none; and no other process can spoil what the kernel publishes."""

from __future__ import annotations

import mmap
import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import (
    CommandMode,
    JointCommand,
    OperatorEvent,
    Pose,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from safety.process.bounded import Answer, BoundedCall, Failure
from safety.process.contract import EVENTS
from safety.process.inbox import INBOX_SIZE, InboxReader, InboxWriter
from safety.process.memory import Segment
from safety.process.records import KernelTick
from safety.process.slots import Ring, Slot
from safety.process.wire import CommandMessage, TickCodec, lateness_bin, lateness_percentile_ms

KEY = b"k" * 16
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def command(values: object, stamp_ns: int = 1, mode: object = CommandMode.VELOCITY) -> JointCommand:
    return JointCommand(mode, values, 0.04, stamp_ns)  # pyright: ignore[reportArgumentType]


def test_a_write_cut_off_at_any_byte_is_torn() -> None:
    segment = Segment.create("test", 4096, only_mine=False)
    slot = Slot(segment, 64, 40, KEY)
    slot.write(b"a" * 40)
    whole_a = bytes(segment.view[64 : 64 + 56])
    slot.write(b"b" * 40)
    whole_b = bytes(segment.view[64 : 64 + 56])
    for cut in range(1, 56):
        segment.view[64 : 64 + 56] = whole_b[:cut] + whole_a[cut:]
        assert slot.read() in (None, b"a" * 40)  # the old message, or none; never a mixture
    segment.view[64 : 64 + 56] = whole_b
    assert slot.read() == b"b" * 40
    assert Slot(segment, 64, 40, b"x" * 16).read() is None  # another contract
    segment.close()


def test_a_ring_keeps_the_newest() -> None:
    segment = Segment.create("test", 8192, only_mine=False)
    ring = Ring(segment, 1, 64, 8, 4, KEY)
    for number in range(10):
        ring.append(number.to_bytes(8, "little"))
    assert ring.count == 10
    assert [ring.get(index) for index in range(6, 10)] == [number.to_bytes(8, "little") for number in range(6, 10)]
    segment.close()


def test_nobody_else_can_write_or_shrink_what_the_kernel_publishes() -> None:
    segment = Segment.create("test", 4096, only_mine=True)
    path = f"/proc/{os.getpid()}/fd/{segment.fd}"
    other = os.open(path, os.O_RDWR)
    with pytest.raises(PermissionError):
        mmap.mmap(other, 4096)
    with pytest.raises(PermissionError):
        os.write(other, b"x")
    with pytest.raises(PermissionError):
        os.ftruncate(other, 0)
    os.close(other)
    segment.view[0] = 7
    reader = Segment.open(path, writable=False)
    assert reader.view[0] == 7
    reader.close()
    segment.close()


@given(
    st.lists(FLOATS, min_size=7, max_size=7), FLOATS, st.integers(-(2**62), 2**62), st.sampled_from(list(CommandMode))
)
def test_any_command_survives_the_way(values: list[float], opening: float, stamp: int, mode: CommandMode) -> None:
    sent = JointCommand(mode, frozen_array(values), opening, stamp)
    got = CommandMessage.unpack(CommandMessage(3, 4, (0, 1, 2, 3, 4), sent).pack())
    assert (got.session, got.number, got.events, got.command.mode) == (3, 4, (0, 1, 2, 3, 4), mode)
    assert got.command.values.tobytes() == sent.values.tobytes()
    assert got.command.stamp_ns == stamp
    assert not got.command.values.flags.writeable


@pytest.mark.parametrize(
    ("values", "shape"),
    [(np.zeros((2, 7)), (0,)), (np.zeros(200), (0,)), (np.zeros(3), (3,)), ("seven", None), (np.zeros(7, int), None)],
)
def test_unfit_values_arrive_as_unfit(values: object, shape: tuple[int, ...] | None) -> None:
    got = CommandMessage.unpack(CommandMessage(1, 1, (0,) * 5, command(values)).pack()).command
    assert getattr(got.values, "shape", None) == shape


@given(st.binary(min_size=INBOX_SIZE, max_size=INBOX_SIZE))
def test_the_inbox_takes_any_bytes(noise: bytes) -> None:
    segment = Segment.create("test", INBOX_SIZE, only_mine=False)
    reader = InboxReader(segment, KEY, 0)
    segment.view[:INBOX_SIZE] = noise
    assert reader.take(10).command is None
    segment.close()


def test_the_inbox_hands_out_the_newest_once_and_loses_no_event() -> None:
    segment = Segment.create("test", INBOX_SIZE, only_mine=False)
    reader, writer = InboxReader(segment, KEY, 5), InboxWriter(segment, KEY, 77)
    assert reader.take(0).attached
    writer.send(command(np.zeros(7), 1), (OperatorEvent.HOLD,))
    writer.send(command(np.ones(7), 2), ())
    writer.send(command(np.full(7, 2.0), 3), (OperatorEvent.EMERGENCY_STOP,))
    taken = reader.take(10)
    assert taken.command is not None
    assert taken.command.values[0] == 2.0
    assert taken.events == (OperatorEvent.HOLD, OperatorEvent.EMERGENCY_STOP)
    assert reader.take(10) == (None, (), False)
    writer.send(command(np.zeros(7), 1000), ())  # from the future: handed out, the filter says so
    assert reader.take(10).command is not None
    writer.send(command(np.zeros(7), 4), ())  # and does not shut out what comes after
    assert reader.take(10).command is not None
    writer.send(command(np.zeros(7), 3), ())
    assert reader.take(10).command is None
    assert reader.out_of_order == 1
    InboxWriter(segment, KEY, 78)
    writer.send(command(np.zeros(7), 9), ())
    assert reader.take(10) == (None, (), True)
    writer.send(command(np.zeros(7), 10), ())
    assert reader.take(10) == (None, (), False)
    assert reader.foreign == 1
    segment.close()


def test_a_tick_survives_the_way() -> None:
    codec = TickCodec(7)
    pose = Pose(frozen_array([1.0, 2.0, 3.0]), frozen_array([1.0, 0.0, 0.0, 0.0]))
    joints = frozen_array(np.arange(7.0))
    state = RobotState(joints, joints, joints, pose, frozen_array(range(6)), 0.03, 12)
    reasons = tuple(SafetyReason(f"limit_{i}", -0.5 * i, "ä" * 100) for i in range(9))
    result = SafetyResult(command(frozen_array(np.ones(7)), 5), SafetyStatus.LIMITING, reasons, 0.25, -3.0)
    sent = KernelTick(
        4, 12, -3, state, True, command(frozen_array(np.zeros(7))), False, EVENTS[1:3], result, True, b"d" * 16
    )
    raw = codec.pack(sent)
    assert len(raw) == codec.size
    got = codec.unpack(raw)
    assert (got.tick, got.now_ns, got.lateness_ns, got.events, got.physics_digest) == (
        4,
        12,
        -3,
        EVENTS[1:3],
        b"d" * 16,
    )
    assert (got.state_fresh, got.candidate_fresh, got.written) == (True, False, True)
    assert got.state.wrench.tolist() == state.wrench.tolist()
    assert got.state.ee_pose.position.tolist() == [1.0, 2.0, 3.0]
    assert got.result.status is SafetyStatus.LIMITING
    assert [reason.limit for reason in got.result.reasons] == [f"limit_{i}" for i in range(6)]
    assert set(got.result.reasons[0].message) == {"ä"}
    assert got.result.command.values.tolist() == [1.0] * 7


def test_lateness_percentiles_are_upper_edges() -> None:
    histogram = [0] * 112
    for lateness in [50_000] * 98 + [3_000_000] * 2:
        histogram[lateness_bin(lateness)] += 1
    assert 0.05 <= lateness_percentile_ms(histogram, 50) <= 0.06
    assert 3.0 <= lateness_percentile_ms(histogram, 99) <= 3.6


def test_a_call_that_hangs_is_waited_for_only_so_long() -> None:
    pause = 0.3

    def slow(number: int) -> int:
        if number == 1:
            time.sleep(pause)
        if number == 2:
            raise OSError("cable")
        return number

    call = BoundedCall("slow", slow)
    assert call(0, 5.0) == Answer(0)
    assert call(2, 5.0) == Failure("slow: OSError: cable")
    assert isinstance(call(1, 0.01), Failure)
    began = time.monotonic()
    assert call(0, 5.0) == Failure("slow still hangs")
    assert time.monotonic() - began < pause
    deadline = time.monotonic() + 10.0
    while call(0, 5.0) != Answer(0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
