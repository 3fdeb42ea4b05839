"""What changes the status: events, clocks and silence; each change with its reason, and nothing in between."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from controllers.types import CommandMode, JointCommand, OperatorEvent, SafetyReason, SafetyResult, SafetyStatus
from safety.building import build_filter
from safety.filter import PathConsistentFilter
from safety.profile import load_profile, parse_profile
from safety.transitions import Transition, transition, transitions
from tests.safety.helpers import ARMS, DT, Arm, command, robot, solved

MS = 1_000_000
RUN, LIMITING, HOLD = SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.HOLD
PROTECTIVE, EMERGENCY = SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP
HEARTBEAT, REDUCED = OperatorEvent.POLICY_HEARTBEAT, OperatorEvent.REDUCED_SPEED


def result(status: SafetyStatus, *limits: str) -> SafetyResult:
    reasons = tuple(SafetyReason(limit, -1.0) for limit in limits)
    return SafetyResult(command(CommandMode.VELOCITY, [0.0], 0), status, reasons, 1.0, 0.0)


def test_only_changes_are_told_with_the_reasons_of_their_tick() -> None:
    seen = [
        (3, result(RUN)),
        (4, result(LIMITING, "workspace_box")),
        (5, result(LIMITING, "joint_velocity")),
        (9, result(EMERGENCY, "emergency_stop", "tracking")),
        (10, result(RUN)),
    ]
    found = list(transitions(seen))
    assert [(change.tick, change.before, change.after) for change in found] == [
        (4, RUN, LIMITING),
        (9, LIMITING, EMERGENCY),
        (10, EMERGENCY, RUN),
    ]
    assert [[reason.limit for reason in change.reasons] for change in found] == [
        ["workspace_box"],
        ["emergency_stop", "tracking"],
        [],
    ]


def test_the_first_result_is_a_change_only_from_a_status_before_it() -> None:
    first = result(HOLD, "operator_hold")
    assert list(transitions([(0, first)])) == []
    assert list(transitions([(0, first)], before=HOLD)) == []
    assert list(transitions([(0, first)], before=RUN)) == [Transition(0, RUN, HOLD, first.reasons)]
    assert transition(0, HOLD, first) is None
    assert list(transitions([])) == []


def test_stop_categories() -> None:
    assert {status: status.stop_category for status in SafetyStatus} == {
        RUN: None,
        LIMITING: None,
        SafetyStatus.OFF: None,
        HOLD: 2,
        PROTECTIVE: 2,
        EMERGENCY: 1,
    }


# -------------------------------------------------------------------------------------------- clocks


def turning(arm: Arm) -> JointCommand:
    velocity = np.zeros_like(arm.q)
    velocity[0] = min(arm.qd[0] + 0.05, 0.3)
    return command(arm.mode, arm.q + velocity * DT, arm.now_ns)


def ticked(arm: Arm, step_ns: int) -> SafetyResult:
    """One tick ``step_ns`` after the last, at which the arm's own clock stands already."""
    arm.now_ns += step_ns - round(DT * 1e9)
    return arm.step(turning(arm).values)


@pytest.mark.parametrize(
    ("step_ns", "fault"),
    [(0, "clock_frozen"), (56 * MS, "clock_jump"), (-1 * MS, "clock_backwards"), (54 * MS, None), (1, None)],
)
def test_a_clock_that_does_not_tick_as_it_should_holds_the_arm(step_ns: int, fault: str | None) -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    for _ in range(20):
        arm.step(turning(arm).values)
    found = ticked(arm, step_ns)
    if fault is None:
        assert found.status is RUN
        return
    assert found.status is HOLD
    assert fault in [reason.limit for reason in found.reasons]
    # It goes on by itself once the clock does, and has caught up with where it was.
    statuses = [arm.step(turning(arm).values).status for _ in range(20)]
    assert statuses[-1] is RUN


# ------------------------------------------------------------------------------------------- silence


@cache
def impatient() -> PathConsistentFilter:
    data: dict[str, Any] = load_profile("panda_tabletop").to_json()
    data["timing"]["policy_timeout_ms"] = 100
    return build_filter(robot("panda"), parse_profile(data))


def test_a_policy_that_falls_silent_holds_the_arm_until_it_is_heard_again() -> None:
    arm = Arm.at("panda", CommandMode.POSITION, built=impatient())
    seen: list[tuple[int, SafetyResult]] = []
    for tick in range(200):
        beats = (60 <= tick < 100 and tick % 10 == 0) or tick == 150
        seen.append((tick, arm.step(turning(arm).values, events=(HEARTBEAT,) if beats else ())))
    found = [(change.tick, change.after) for change in transitions(seen) if change.after in (HOLD, RUN)]
    # Never heard, never missed; heard at 90 last, and 100 ms are 20 ticks.
    assert found[0] == (111, HOLD)
    assert [reason.limit for reason in seen[111][1].reasons] == ["policy_silent"]
    assert seen[150][1].status in (RUN, LIMITING)
    assert seen[170][1].status in (RUN, LIMITING)
    assert seen[171][1].status is HOLD
    assert not arm.qd.any()


# ------------------------------------------------------------------------------------- reduced speed


@pytest.mark.parametrize("name", ARMS)
def test_reduced_speed_once_asked_for_stays_whatever_is_pressed(name: str) -> None:
    arm = Arm.at(name, CommandMode.VELOCITY)
    tool, check = arm.filter.profile.end_effector, arm.filter.kinematics

    def speed() -> float:
        before = check.points(arm.q - arm.qd * DT)[0]
        return float(np.linalg.norm(check.points(arm.q)[0] - before)) / DT

    def sideways(tick: int) -> Any:
        direction = [0.0, 1.0 if tick // 60 % 2 else -1.0, 0.0]
        return solved(check.geometry(arm.q).jacobian[:3], np.array(direction) * tool.linear_speed_m_s * 0.8)

    fastest = 0.0
    for tick in range(50):
        arm.step(sideways(tick))
        fastest = max(fastest, speed())
    assert fastest > 1.5 * tool.reduced_speed_m_s
    arm.step(sideways(50), events=(REDUCED,))
    others = [event for event in OperatorEvent if event is not REDUCED]
    slowest_at_last = 0.0
    for tick in range(51, 400):
        event = (others[tick // 20 % len(others)],) if tick % 20 == 0 else ()
        seen = arm.step(sideways(tick), events=event)
        if tick > 70:  # it has braked by then
            assert speed() <= tool.reduced_speed_m_s * (1 + 1e-6)
        if seen.status is LIMITING and tick > 300:
            slowest_at_last = max(slowest_at_last, speed())
        if seen.status is EMERGENCY and not arm.qd.any():
            arm.step(sideways(tick), events=(OperatorEvent.RESET, OperatorEvent.RESUME, HEARTBEAT))
    assert slowest_at_last > 0.5 * tool.reduced_speed_m_s  # it does move


# --------------------------------------------------------------------------------------- all together


def test_the_life_of_a_cell_is_told_without_gaps() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    seen: list[tuple[int, SafetyResult]] = []

    def go(ticks: int, *events: OperatorEvent, **more: Any) -> None:
        for index in range(ticks):
            asked = arm.step(turning(arm).values, events=events if index == 0 else (), **more)
            seen.append((len(seen), asked))

    go(20)
    go(20, OperatorEvent.HOLD)
    go(10, OperatorEvent.RESUME)
    go(30, OperatorEvent.EMERGENCY_STOP)
    go(10, OperatorEvent.RESET)
    go(1, state=arm.state(force=np.array([500.0, 0.0, 0.0])))
    go(80)
    go(5, OperatorEvent.ACKNOWLEDGE)
    told = [(change.after, tuple(reason.limit for reason in change.reasons)) for change in transitions(seen)]
    assert told == [
        (HOLD, ("operator_hold",)),
        (RUN, ()),
        (EMERGENCY, ("emergency_stop",)),
        (RUN, ()),
        (PROTECTIVE, ("contact_force",)),
        (RUN, ()),
    ]
