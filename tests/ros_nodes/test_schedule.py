from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.schedule import TickSchedule

PERIOD = 5_000_000


def drive(schedule: TickSchedule, arrivals: list[int], end_ns: int) -> list[int]:
    """Tick times of a node that wakes exactly when it asked to be, and at each arrival."""
    ticks, waiting, now = [], False, 0
    pending = sorted(arrivals)
    while now < end_ns:
        wake = schedule.wake_ns(message=waiting)
        coming = pending[0] if pending else end_ns
        now = max(now, min(wake, coming))
        if pending and now >= pending[0]:
            pending.pop(0)
            waiting = True
        if schedule.due(now, message=waiting):
            schedule.ticked(now, message=waiting)
            ticks.append(now)
            waiting = False
    return ticks


@given(st.lists(st.integers(0, 400_000_000), max_size=600))
def test_whoever_sends_messages_cannot_raise_the_rate(arrivals: list[int]) -> None:
    ticks = drive(TickSchedule(PERIOD, 0), arrivals, 400_000_000)
    for first in range(len(ticks)):
        for last in range(first + 20, len(ticks), 20):
            count = last - first
            # The window of one tick (0.9 of a period), and what the phase may come forward once (0.8).
            assert ticks[last] - ticks[first] >= (0.98 * count - 1.75) * PERIOD


@given(st.lists(st.integers(0, 400_000_000), max_size=60))
def test_ticks_go_on_without_messages(arrivals: list[int]) -> None:
    ticks = drive(TickSchedule(PERIOD, 0), arrivals, 400_000_000)
    gaps = [b - a for a, b in pairwise(ticks)]
    assert len(ticks) > 40
    assert max(gaps) <= 2.1 * PERIOD


@given(st.integers(0, PERIOD - 1))
def test_a_steady_stream_is_taken_at_once_whatever_its_phase(phase: int) -> None:
    arrivals = [phase + k * PERIOD for k in range(200)]
    ticks = drive(TickSchedule(PERIOD, 0), arrivals, arrivals[-1])
    late = [min(tick - a for a in arrivals if a <= tick) for tick in ticks[-50:]]
    assert max(late) <= 0.05 * PERIOD


@pytest.mark.parametrize("late", [0.55, 0.7, 0.9, 0.98])
def test_a_tick_that_took_the_next_ones_place_is_caught_up_at_once(late: float) -> None:
    arrivals = [k * PERIOD for k in range(200)]
    arrivals[100] += round(late * PERIOD)
    ticks = drive(TickSchedule(PERIOD, 0), arrivals, arrivals[-1])
    waits = {tick: min(tick - a for a in arrivals if a <= tick) for tick in ticks}
    assert all(waits[tick] <= 0.02 * PERIOD for tick in ticks if tick > arrivals[106])
    assert all(b - a >= 0.09 * PERIOD for a, b in pairwise(ticks))


def test_a_long_pause_is_counted_and_not_caught_up() -> None:
    schedule = TickSchedule(PERIOD, 0)
    schedule.ticked(0, message=False)
    schedule.ticked(20 * PERIOD, message=False)
    assert schedule.missed == 19
    assert schedule.deadline_ns > 20 * PERIOD
