"""What ``vla doctor`` says of a machine's deadlines."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.deadlines import RATES_HZ, highest_rate, measure_deadlines
from tests.cli.test_commands import last_json, vla


@given(busy_ms=st.floats(0.0, 100.0), more_ms=st.floats(0.0, 100.0))
def test_more_work_never_holds_a_higher_rate(busy_ms: float, more_ms: float) -> None:
    rate = highest_rate(busy_ms)
    assert rate in (0, *RATES_HZ)
    assert rate == 0 or busy_ms < 1000.0 / rate
    assert highest_rate(busy_ms + more_ms) <= rate


@pytest.mark.realtime
def test_the_loop_is_measured_tick_by_tick() -> None:
    found = measure_deadlines(0.5, rate_hz=100)
    assert found.ticks == 50
    assert 0.0 < found.tick_p50_ms <= found.tick_p999_ms
    assert found.late_p50_ms <= found.late_p999_ms <= found.late_max_ms
    assert found.refused or found.realtime_priority


@pytest.mark.parametrize(("seconds", "rate_hz"), [(0.0, 200), (float("nan"), 200), (1.0, 0)])
def test_times_that_make_no_sense_are_refused(seconds: float, rate_hz: int) -> None:
    with pytest.raises(ValueError, match="expected seconds and a rate above 0"):
        measure_deadlines(seconds, rate_hz)


@pytest.mark.realtime
@pytest.mark.slow
def test_the_doctor_says_what_rate_this_machine_holds() -> None:
    found = last_json(vla("doctor", "--json"))
    checks = {check["name"]: check for check in cast(list[dict[str, str]], found["checks"])}
    assert checks["timing"]["verdict"] in ("ok", "note")
    assert "this load leaves room for" in checks["timing"]["found"]
    assert checks["real-time priority"]["verdict"] in ("ok", "note")
