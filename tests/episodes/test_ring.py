"""The ring between loop and recorder: every packet once, in order, whole, whatever the sizes and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.shared_memory import PAGE
from episodes.log_faults import RecorderStatus
from episodes.ring import PacketRing

SIZE = 8192


@given(
    steps=st.lists(st.one_of(st.just(-1), st.integers(0, SIZE // 2 - 16)), max_size=60),
    seed=st.integers(0, 255),
)
@settings(deadline=None)
def test_what_is_put_is_taken_once_in_order_and_whole(steps: list[int], seed: int) -> None:
    ring = PacketRing.create("test", SIZE)
    try:
        reader = PacketRing.of(os.dup(ring.fd))
        waiting: deque[bytes] = deque()
        for number, step in enumerate(steps):
            if step < 0:
                assert reader.take() == (waiting.popleft() if waiting else None)
                reader.free(reader.cursor)
                continue
            header, data = number.to_bytes(8, "little"), bytes((seed + number + i) % 256 for i in range(step))
            held = sum(-(-(8 + len(packet)) // 8) * 8 for packet in waiting)
            if ring.put(header, memoryview(data)):
                waiting.append(header + data)
                assert held + 16 + step <= SIZE
            else:  # refused only for want of room: a packet behind the wrap cost less than its own size before it
                assert 2 * (held + len(header) + step + 16) > SIZE
        while waiting:
            assert reader.take() == waiting.popleft()
        assert reader.take() is None
        reader.close()
    finally:
        ring.close()


@given(taken=st.integers(0, 20), freed=st.integers(0, 20))
@settings(deadline=None)
def test_a_reader_begins_behind_the_last_packet_that_was_freed(taken: int, freed: int) -> None:
    ring = PacketRing.create("test", SIZE)
    try:
        packets = [number.to_bytes(8, "little") for number in range(20)]
        for packet in packets:
            assert ring.put(packet, memoryview(b"x" * 50))
        killed = PacketRing.of(os.dup(ring.fd))
        for number in range(min(taken, 20)):
            assert killed.take() == packets[number] + b"x" * 50
            if number < freed:
                killed.free(killed.cursor)
        killed.close()
        successor = PacketRing.of(os.dup(ring.fd))
        first = min(taken, freed, 20)
        assert successor.take() == (packets[first] + b"x" * 50 if first < 20 else None)
        successor.close()
    finally:
        ring.close()


def test_a_record_longer_than_half_the_ring_gets_through_in_packets() -> None:
    ring = PacketRing.create("test", SIZE)
    reader = PacketRing.of(os.dup(ring.fd))
    for number in range(100):  # nothing is freed by the reader itself
        assert ring.put(number.to_bytes(8, "little"), memoryview(bytes(1000)))
        assert reader.take() == number.to_bytes(8, "little") + bytes(1000)
    reader.close()
    ring.close()


@given(before=st.integers(0, 1 << 40), appended=st.booleans(), freed=st.booleans(), number=st.integers(0, 1 << 40))
def test_a_record_that_was_on_its_way_is_neither_lost_nor_repeated(
    before: int, appended: bool, freed: bool, number: int
) -> None:
    status = RecorderStatus.create()
    try:
        status.handled = number
        status.intend(5000, before)
        if freed:  # then it was appended, and counted
            status.handled = number + 1
        cursor = status.resume(5000 if freed else 4000, before + 77 * (appended or freed))
        assert cursor == (5000 if appended or freed else 4000)
        assert status.handled == number + (appended or freed)
    finally:
        status.close()


def test_a_packet_that_might_never_find_room_is_refused() -> None:
    ring = PacketRing.create("test", SIZE)
    with pytest.raises(ValueError, match="at most 4088 bytes, found 4097"):
        ring.put(b"h", memoryview(bytes(4096)))
    ring.close()


_WRITER = """
import sys
from episodes.ring import PacketRing
ring, number = PacketRing.of(int(sys.argv[1])), 0
while True:
    if ring.put(number.to_bytes(8, "little"), memoryview(number.to_bytes(8, "little") * (number % 97))):
        number += 1
"""


@pytest.mark.parametrize("trial", range(5))
def test_a_writer_that_is_killed_leaves_whole_packets_in_order(trial: int) -> None:
    ring = PacketRing.create("test", 1 << 16)
    command = [sys.executable, "-c", _WRITER, str(ring.fd)]
    process = subprocess.Popen(command, pass_fds=(ring.fd,), env={**os.environ, "PYTHONPATH": os.getcwd()})
    expected, until = 0, None
    while True:
        packet = ring.take()
        if packet is not None:
            assert packet == expected.to_bytes(8, "little") * (1 + expected % 97)
            expected += 1
            until = until or time.monotonic() + 0.1 + 0.037 * trial
        elif process.poll() is not None:
            break
        if until is not None and time.monotonic() > until:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            until = float("inf")
    assert expected > 100
    ring.close()


def test_a_packet_that_cannot_be_seen_whole_yet_is_not_there_yet() -> None:
    ring = PacketRing.create("test", SIZE)
    reader = PacketRing.of(os.dup(ring.fd))
    assert ring.put(b"head", memoryview(b"data"))
    view = ring._segment.view
    view[PAGE + 12] ^= 1  # the last store is not visible to the reader
    assert reader.take() is None
    view[PAGE + 12] ^= 1
    assert reader.take() == b"headdata"
    reader.close()
    ring.close()
