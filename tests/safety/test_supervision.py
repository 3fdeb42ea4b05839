"""Latched stops: what sets them, what releases them, and what never does."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from controllers.types import CommandMode, FloatArray, OperatorEvent, SafetyResult, SafetyStatus, frozen_array
from safety.building import build_filter
from safety.filter import PathConsistentFilter
from safety.profile import load_profile, parse_profile
from tests.safety.helpers import DT, ROBOTS, Arm, inspector, robot, sensed

STOP, RESET = OperatorEvent.EMERGENCY_STOP, OperatorEvent.RESET
ACKNOWLEDGE, HOLD, RESUME = OperatorEvent.ACKNOWLEDGE, OperatorEvent.HOLD, OperatorEvent.RESUME


def swinging(name: str = "panda", mode: CommandMode = CommandMode.POSITION) -> Arm:
    arm = Arm.at(name, mode)
    for _ in range(30):
        result = go(arm)
    assert result.status is SafetyStatus.RUN
    return arm


def go(arm: Arm, *events: OperatorEvent) -> SafetyResult:
    """Ask for 0.3 rad/s of the first joint."""
    velocity = np.zeros_like(arm.q)
    velocity[0] = min(arm.qd[0] + 0.05, 0.3)
    return arm.step(velocity if arm.mode is CommandMode.VELOCITY else arm.q + velocity * DT, events=events)


def rest(arm: Arm, status: SafetyStatus) -> None:
    for _ in range(40):
        q, qd = arm.q, arm.qd
        assert go(arm).status is status
        inspector(arm.filter.description.name).check_step(q, arm.q, qd, DT)
    assert not arm.qd.any()


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_an_emergency_stop_brakes_at_once_and_latches(name: str, mode: CommandMode) -> None:
    arm = swinging(name, mode)
    before = arm.qd[0]
    result = go(arm, STOP)
    assert result.status is SafetyStatus.EMERGENCY_STOP
    assert result.speed_scale == 0.0
    assert result.reasons[0].limit == "emergency_stop"
    assert arm.qd[0] < before
    rest(arm, SafetyStatus.EMERGENCY_STOP)
    for event in (ACKNOWLEDGE, RESUME, HOLD, RESUME):
        assert go(arm, event).status is SafetyStatus.EMERGENCY_STOP


def test_a_reset_is_refused_until_the_arm_rests() -> None:
    arm = swinging()
    go(arm, STOP)
    result = go(arm, RESET)
    assert result.status is SafetyStatus.EMERGENCY_STOP
    assert [reason.limit for reason in result.reasons] == ["emergency_stop", "refused"]
    rest(arm, SafetyStatus.EMERGENCY_STOP)
    assert go(arm, RESET).status is SafetyStatus.RUN
    assert arm.qd[0] > 0.0


def test_a_reset_is_refused_while_the_arm_is_seen_moving_or_not_seen() -> None:
    arm = swinging()
    go(arm, STOP)
    rest(arm, SafetyStatus.EMERGENCY_STOP)
    drifting = arm.qd.copy()
    drifting[4] = 0.1
    for state in (sensed(arm.q, drifting, arm.now_ns), sensed(arm.q * np.nan, arm.qd, arm.now_ns)):
        result = arm.step(arm.q, events=(RESET,), state=state)
        assert result.status is SafetyStatus.EMERGENCY_STOP
        assert "refused" in [reason.limit for reason in result.reasons]


def test_a_reset_is_refused_while_the_stop_is_still_being_commanded() -> None:
    arm = swinging()
    go(arm, STOP)
    assert arm.qd.any()
    result = arm.step(arm.q, events=(RESET,), state=sensed(arm.q, np.zeros_like(arm.q), arm.now_ns))
    assert result.status is SafetyStatus.EMERGENCY_STOP
    assert "refused" in [reason.limit for reason in result.reasons]


@pytest.mark.parametrize("events", [(STOP, RESET), (RESET, STOP)])
def test_an_emergency_stop_wins_over_a_reset_in_the_same_tick(events: tuple[OperatorEvent, ...]) -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    assert go(arm, *events).status is SafetyStatus.EMERGENCY_STOP
    assert go(arm, *events).status is SafetyStatus.EMERGENCY_STOP


def test_an_emergency_stop_works_without_a_usable_state() -> None:
    arm = swinging()
    blind = sensed(arm.q * np.nan, arm.qd, arm.now_ns)
    assert arm.step(arm.q, events=(STOP,), state=blind).status is SafetyStatus.EMERGENCY_STOP
    rest(arm, SafetyStatus.EMERGENCY_STOP)


def test_an_arm_that_moved_while_it_was_stopped_starts_again_from_where_it_is() -> None:
    arm = swinging()
    go(arm, STOP)
    rest(arm, SafetyStatus.EMERGENCY_STOP)
    moved = arm.q + 0.1  # by hand, with the power cut
    for _ in range(5):
        arm.step(moved, state=sensed(moved, np.zeros_like(moved), arm.now_ns))
    result = arm.step(moved, events=(RESET,), state=sensed(moved, np.zeros_like(moved), arm.now_ns))
    assert result.status is SafetyStatus.RUN
    np.testing.assert_array_equal(result.command.values, moved)


def test_a_held_arm_stays_until_resumed() -> None:
    arm = swinging()
    result = go(arm, HOLD)
    assert result.status is SafetyStatus.HOLD
    assert result.reasons[0].limit == "operator_hold"
    rest(arm, SafetyStatus.HOLD)
    assert go(arm, RESET).status is SafetyStatus.HOLD
    assert go(arm, RESUME).status is SafetyStatus.RUN


# Off the path by more than is allowed, and yet pressed no harder than is allowed.
OFF_PATH = frozen_array([0.0, 0.04, 0.0, 0.0, 0.0, 0.0, 0.0])


@cache
def strict() -> PathConsistentFilter:
    """A filter that would sooner call a lag a fault than pull the command back to where its force is small."""
    data: dict[str, Any] = load_profile("panda_tabletop").to_json()
    data["force"]["command_lead_n"] = 1000
    data["monitoring"]["tracking_error_rad"] = 0.02
    return build_filter(robot("panda"), parse_profile(data))


def stuck(arm: Arm, offset: FloatArray, ticks: int) -> list[SafetyResult]:
    """The arm is commanded on, but its sensors say that it lags by ``offset``."""
    results: list[SafetyResult] = []
    for _ in range(ticks):
        state = sensed(arm.q - offset, np.zeros_like(arm.q), arm.now_ns)
        results.append(arm.step(arm.q, state=state))
    return results


def test_an_arm_that_does_not_follow_trips_a_protective_stop() -> None:
    arm = Arm.at("panda", CommandMode.POSITION, built=strict())
    before = arm.q.copy()
    results = stuck(arm, OFF_PATH, 12)
    statuses = [result.status for result in results]
    assert statuses[0] is SafetyStatus.RUN  # one reading is no proof
    assert statuses[10] is SafetyStatus.PROTECTIVE_STOP  # 50 ms are
    assert results[10].reasons[0].limit == "tracking"
    assert results[10].reasons[0].margin == pytest.approx(-0.02)
    # It stops pushing: the command moves to where the arm is.
    np.testing.assert_allclose(results[10].command.values, before - OFF_PATH)


def test_a_protective_stop_needs_acknowledgement_at_rest() -> None:
    arm = Arm.at("panda", CommandMode.POSITION, built=strict())
    stuck(arm, OFF_PATH, 12)
    for event in ((), (RESUME,), (RESET,)):
        assert arm.step(arm.q, events=event).status is SafetyStatus.PROTECTIVE_STOP
    arm.qd = np.full(7, 0.1)
    refused = arm.step(arm.q, events=(ACKNOWLEDGE,))
    assert refused.status is SafetyStatus.PROTECTIVE_STOP
    assert "refused" in [reason.limit for reason in refused.reasons]
    assert arm.step(arm.q, events=(ACKNOWLEDGE,)).status is SafetyStatus.RUN


def test_an_emergency_stop_outranks_a_protective_one_and_leaves_it_standing() -> None:
    arm = Arm.at("panda", CommandMode.POSITION, built=strict())
    stuck(arm, OFF_PATH, 12)
    assert arm.step(arm.q, events=(STOP,)).status is SafetyStatus.EMERGENCY_STOP
    assert arm.step(arm.q, events=(RESET,)).status is SafetyStatus.PROTECTIVE_STOP
    assert arm.step(arm.q, events=(ACKNOWLEDGE,)).status is SafetyStatus.RUN


def test_an_ordinary_servo_lag_is_no_fault() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    velocity = np.zeros(7)
    for tick in range(200):  # a joint at 1.2 rad/s that follows 300 ms behind, which is 0.36 rad
        velocity[6] = min(1.2, 0.05 * tick)
        state = sensed(arm.q - 0.3 * velocity, velocity, arm.now_ns)
        assert arm.step(arm.q + velocity * DT, state=state).status in (SafetyStatus.RUN, SafetyStatus.LIMITING)


@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY, CommandMode.TORQUE])
def test_an_arm_seen_too_fast_trips_a_protective_stop(mode: CommandMode) -> None:
    arm = Arm.at("panda", mode)
    fast = np.zeros(7)
    fast[0] = 3.0
    statuses = [arm.step(np.array(arm.q), state=sensed(arm.q, fast, arm.now_ns)).status for _ in range(12)]
    assert SafetyStatus.PROTECTIVE_STOP not in statuses[:10]
    assert statuses[10] is SafetyStatus.PROTECTIVE_STOP


def test_a_fault_that_passes_in_time_trips_nothing() -> None:
    arm = Arm.at("panda", CommandMode.POSITION, built=strict())
    for _ in range(10):
        assert {result.status for result in stuck(arm, OFF_PATH, 8)} == {SafetyStatus.RUN}
        assert arm.step(arm.q).status is SafetyStatus.RUN
