"""The real-time driver: deadlines, overruns, holds. The clock is virtual, so nothing here depends on the machine."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.drivers import HoldEvents, OverrunPolicy, OverrunWatch
from controllers.lateness import DeadlineRecord, LatenessHistogram
from controllers.realtime import RealtimeOptions, realtime
from controllers.types import OperatorEvent


@given(st.lists(st.integers(-10, 1 << 41), min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_is_never_flattering_and_at_most_3_percent_off(values: list[int], share: float) -> None:
    histogram = LatenessHistogram()
    for value in values:
        histogram.add(value)
    late = sorted(max(0, value) for value in values)
    index = next(i for i in range(len(late)) if i + 1 >= share * len(late))
    found = histogram.quantile_ns(share)
    assert late[index] <= found <= max(late[index] * 1.04, late[index] + 1)
    assert histogram.max_ns == late[-1]
    assert histogram.quantile_ns(1.0) == late[-1]


@given(st.lists(st.integers(0, 1 << 41)), st.lists(st.integers(0, 1 << 41)))
def test_histograms_add_up_and_survive_their_record(first: list[int], second: list[int]) -> None:
    parts = [LatenessHistogram(), LatenessHistogram()]
    whole = LatenessHistogram()
    for part, values in zip(parts, (first, second), strict=True):
        for value in values:
            part.add(value)
            whole.add(value)
    parts[0].merge(parts[1])
    assert parts[0].bins() == whole.bins()
    again = LatenessHistogram.of_bins(whole.bins(), whole.max_ns)
    assert (again.bins(), again.count, again.max_ns) == (whole.bins(), whole.count, whole.max_ns)
    record = DeadlineRecord.of(
        whole, rate_hz=200, realtime_priority=True, memory_locked=False, overruns=1, missed=2, holds=3
    )
    data = {name: getattr(record, name) for name in DeadlineRecord.__dataclass_fields__}
    data["histogram_ns"] = [list(pair) for pair in record.histogram_ns]
    assert DeadlineRecord.from_json(data) == record


def test_many_overruns_within_a_second_hold_and_a_quiet_second_releases() -> None:
    watch = OverrunWatch(OverrunPolicy(hold_after=5), rate_hz=100)
    for tick in range(40):
        watch.step(tick % 10 == 0)
    assert not watch.holding  # four in the last second
    for _ in range(3):
        watch.step(True)
    assert watch.holding
    for _ in range(99):
        watch.step(False)
    assert watch.holding
    watch.step(False)
    assert not watch.holding
    assert (watch.overruns, watch.holds) == (7, 1)


def test_overruns_far_apart_never_hold() -> None:
    watch = OverrunWatch(OverrunPolicy(hold_after=2), rate_hz=50)
    for tick in range(1000):
        watch.step(tick % 60 == 0)
        assert not watch.holding


HOLD, RESUME = OperatorEvent.HOLD, OperatorEvent.RESUME


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([(), (HOLD,), (RESUME,)]))))
def test_the_arm_holds_exactly_while_somebody_wants_it(steps: list[tuple[bool, tuple[OperatorEvent, ...]]]) -> None:
    holder = HoldEvents()
    operator = held = False
    for wanted, others in steps:
        for event in others:
            operator = event is HOLD
        for event in (*others, *holder.step(wanted, others)):
            held = event is HOLD
        assert held == (wanted or operator)


def test_options_that_no_system_grants_are_refused() -> None:
    with pytest.raises(ValueError, match=r"real-time priority from 0 \(none\) to 98, found 99"):
        RealtimeOptions(priority=99)
    with pytest.raises(ValueError, match=r"expected processors out of \[.*\], found \[4096\]"):
        RealtimeOptions(cpus=(4096,))
    with pytest.raises(ValueError, match="hold_after of 0"):
        OverrunPolicy(hold_after=-1)


def test_what_was_asked_of_the_system_is_given_back() -> None:
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    cpu = min(os.sched_getaffinity(0))
    with realtime(RealtimeOptions(priority=10, lock_memory=False, cpus=(cpu,))) as grants:
        assert os.sched_getaffinity(0) == {cpu}
        assert bool(os.sched_getscheduler(0) & os.SCHED_FIFO) == grants.fifo
        assert grants.fifo or "ulimit -r" in grants.message
        assert not grants.locked
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before
