"""What is not fit to be obeyed is a typed HOLD: a braking stop, never NaN, never a jump, and it recovers by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    RobotState,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from tests.safety.helpers import DT, ROBOTS, TICK_NS, Arm, command, inspector, robot, safety, sensed

MODES = tuple(CommandMode)
MS = 1_000_000


def moving(name: str = "panda", mode: CommandMode = CommandMode.POSITION, ticks: int = 30) -> Arm:
    """An arm turning its first joint at 0.3 rad/s."""
    arm = Arm.at(name, mode)
    for _ in range(ticks):
        result = arm.step(going(arm))
    assert result.status is SafetyStatus.RUN
    assert arm.qd[0] == pytest.approx(0.3)
    return arm


def going(arm: Arm) -> FloatArray:
    velocity = np.zeros_like(arm.q)
    velocity[0] = min(arm.qd[0] + 0.05, 0.3)
    return velocity if arm.mode is CommandMode.VELOCITY else arm.q + velocity * DT


def offer(arm: Arm, wrong: Any, state: RobotState | None = None) -> SafetyResult:
    """Give the filter a command as it is; the arm obeys the answer."""
    state = arm.state() if state is None else state
    arm.memory, result = arm.filter.enforce(arm.memory, state, wrong, (), arm.now_ns, DT)
    applied = result.command.values
    if arm.mode is CommandMode.POSITION:
        arm.q, arm.qd = applied.copy(), (applied - arm.q) / DT
    else:
        arm.q, arm.qd = arm.q + applied * DT, applied.copy()
    arm.now_ns += TICK_NS
    return result


def expect_hold(arm: Arm, wrong: Any, limit: str, state: RobotState | None = None) -> SafetyResult:
    q, qd = arm.q, arm.qd
    result = offer(arm, wrong, state)
    assert result.status is SafetyStatus.HOLD
    assert [reason.limit for reason in result.reasons] == [limit]
    assert result.reasons[0].message
    assert result.speed_scale == 0.0
    assert np.isfinite(result.command.values).all()
    inspector(arm.filter.description.name).check_step(q, arm.q, qd, DT)
    assert abs(arm.qd[0]) <= abs(qd[0])
    return result


def good(arm: Arm, **changes: Any) -> JointCommand:
    return replace(command(arm.mode, going(arm), arm.now_ns), **changes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_a_non_finite_command_is_held_and_names_the_joint(mode: CommandMode, bad: float) -> None:
    arm = moving(mode=mode)
    values = going(arm)
    values[3] = bad
    result = expect_hold(arm, good(arm, values=frozen_array(values)), "command_non_finite")
    assert result.reasons[0].message == f"panda_joint4: expected a finite value, found {bad}"


def test_a_non_finite_gripper_opening_is_held() -> None:
    arm = moving()
    result = expect_hold(arm, good(arm, gripper_opening=float("nan")), "command_non_finite")
    assert result.command.gripper_opening == 0.04


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"values": frozen_array([0.0] * 6)}, "command_shape"),
        ({"values": frozen_array([[0.0] * 7])}, "command_shape"),
        ({"values": np.zeros(7, dtype=np.float32)}, "command_type"),
        ({"values": np.array([None] * 7)}, "command_type"),
        ({"values": [0.0] * 7}, "command_type"),
        ({"values": None}, "command_type"),
        ({"gripper_opening": "open"}, "command_type"),
        ({"gripper_opening": None}, "command_type"),
        ({"stamp_ns": None}, "command_type"),
        ({"stamp_ns": 0.5}, "command_type"),
        ({"mode": "position"}, "command_mode"),
        ({"mode": CommandMode.VELOCITY}, "command_mode"),
        ({"mode": CommandMode.TORQUE}, "command_mode"),
        ({"values": frozen_array([0.0] * 6 + [1e9])}, "command_magnitude"),
        ({"stamp_ns": 30 * TICK_NS - 101 * MS}, "command_stale"),
        ({"stamp_ns": 30 * TICK_NS + 6 * MS}, "command_future"),
    ],
)
def test_a_malformed_command_is_held(changes: dict[str, Any], limit: str) -> None:
    arm = moving()
    expect_hold(arm, good(arm, **changes), limit)


@pytest.mark.parametrize("mode", ["position", None, 3])
def test_a_first_command_of_no_known_mode_is_held(mode: object) -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    result = expect_hold(arm, good(arm, mode=mode), "command_mode")
    assert result.command.mode is CommandMode.POSITION
    np.testing.assert_array_equal(result.command.values, arm.filter.description.home)


def bad_states(arm: Arm) -> dict[str, RobotState]:
    state = arm.state()
    nan = np.full_like(arm.q, np.nan)
    pose = replace(state.ee_pose, position=frozen_array([0.0, np.inf, 0.0]))
    return {
        "position": replace(state, joint_position=frozen_array(nan)),
        "velocity": replace(state, joint_velocity=frozen_array(nan)),
        "effort": replace(state, joint_effort=frozen_array(nan)),
        "wrench": replace(state, wrench=frozen_array([0, 0, np.nan, 0, 0, 0])),
        "pose": replace(state, ee_pose=pose),
        "gripper": replace(state, gripper_opening=float("nan")),
    }


@pytest.mark.parametrize("field", ["position", "velocity", "effort", "wrench", "pose", "gripper"])
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_a_non_finite_state_is_held(mode: CommandMode, field: str) -> None:
    arm = moving(mode=mode)
    expect_hold(arm, good(arm), "state_non_finite", bad_states(arm)[field])


def test_a_state_of_another_arm_is_held() -> None:
    arm = moving()
    state = arm.state()
    result = expect_hold(arm, good(arm), "state_shape", replace(state, joint_position=frozen_array([0.0] * 6)))
    assert result.reasons[0].message == "joint_position: expected 7 values, one for each joint, found (6,)"


@pytest.mark.parametrize("field", ["joint_position", "joint_velocity"])
def test_a_state_that_no_arm_can_be_in_is_held(field: str) -> None:
    arm = moving()
    state = arm.state()
    changes: dict[str, Any] = {field: frozen_array(np.full(7, 1e5))}
    expect_hold(arm, good(arm), "state_magnitude", replace(state, **changes))


@pytest.mark.parametrize(("age_ms", "limit"), [(101, "state_stale"), (-6, "state_future"), (10, "state_backwards")])
def test_a_state_out_of_time_is_held(age_ms: int, limit: str) -> None:
    arm = moving()
    result = expect_hold(arm, good(arm), limit, arm.state(age_ns=age_ms * MS))
    assert "ms" in result.reasons[0].message
    assert result.reasons[0].margin < 0.0


def test_a_state_read_slower_than_the_loop_is_not_stale() -> None:
    arm = moving()
    state = arm.state()
    for _ in range(10):
        assert arm.step(going(arm), state=state).status is SafetyStatus.RUN


def test_a_clock_that_goes_back_is_held_until_it_has_caught_up() -> None:
    arm = moving()
    arm.now_ns -= 50 * MS
    limits = [{reason.limit for reason in offer(arm, good(arm)).reasons} for _ in range(12)]
    assert limits[:9] == [{"clock_backwards", "state_backwards"}] * 9
    assert limits[9:] == [{"clock_frozen"}, set(), set()]  # at the tenth it shows the same time as before


@pytest.mark.parametrize("dt", [0.0, -1.0, 1e-9, 5.0, float("nan"), float("inf"), float("-inf")])
def test_an_absurd_control_period_is_held(dt: float) -> None:
    arm = moving()
    state, asked = arm.state(), good(arm)
    _, result = arm.filter.enforce(arm.memory, state, asked, (), arm.now_ns, dt)
    assert result.status is SafetyStatus.HOLD
    assert [reason.limit for reason in result.reasons] == ["control_period"]
    assert np.abs(result.command.values - arm.q).max() < 0.05


def test_one_command_repeated_trips_the_watchdog_and_a_new_one_recovers() -> None:
    arm = moving()
    stamp, values = arm.now_ns, going(arm)
    statuses = [arm.step(values, stamp_ns=stamp).status for _ in range(20)]
    assert SafetyStatus.HOLD not in statuses[:13]  # 60 ms
    assert set(statuses[13:]) == {SafetyStatus.HOLD}
    assert arm.step(values).status is not SafetyStatus.HOLD


def test_a_silent_commander_trips_the_watchdog_before_its_command_is_stale() -> None:
    arm = moving()
    stamp, values = arm.now_ns, going(arm)
    limits = [[reason.limit for reason in arm.step(values, stamp_ns=stamp).reasons] for _ in range(40)]
    assert ["command_watchdog"] in limits
    assert limits[-1] == ["command_stale"]
    assert not arm.qd.any()


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_a_hold_brakes_to_rest_stays_and_recovers(name: str, mode: CommandMode) -> None:
    arm = moving(name, mode)
    for _ in range(30):
        expect_hold(arm, good(arm, values=frozen_array(np.full_like(arm.q, np.nan))), "command_non_finite")
    assert not arm.qd.any()
    rested = arm.q.copy()
    expect_hold(arm, good(arm, values=frozen_array(np.full_like(arm.q, np.nan))), "command_non_finite")
    np.testing.assert_array_equal(arm.q, rested)
    for _ in range(30):
        q, qd = arm.q, arm.qd
        result = arm.step(going(arm))
        inspector(name).check_step(q, arm.q, qd, DT)
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
    assert arm.qd[0] == pytest.approx(0.3)


weird = st.one_of(
    st.floats(), st.floats(-3, 3), st.sampled_from([0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf")])
)


@pytest.mark.parametrize("mode", MODES)
@given(data=st.data())
def test_no_input_gets_nan_or_a_raise_out(mode: CommandMode, data: st.DataObject) -> None:
    arm = Arm.at("panda", mode)
    memory, now_ns = arm.memory, 0
    for _ in range(4):
        now_ns += data.draw(st.integers(-5 * MS, 50 * MS))
        vectors = [np.array(data.draw(st.lists(weird, min_size=7, max_size=7))) for _ in range(3)]
        sane = data.draw(st.booleans())
        state = sensed(arm.q if sane else vectors[1], arm.qd if sane else vectors[2], now_ns)
        asked = JointCommand(mode, frozen_array(vectors[0]), data.draw(weird), now_ns)
        memory, result = arm.filter.enforce(memory, state, asked, (), now_ns, data.draw(st.sampled_from([DT, 0.01])))
        assert np.isfinite(result.command.values).all()
        assert np.isfinite(result.min_margin)
        assert 0.0 <= result.speed_scale <= 1.0
        assert 0.0 <= result.command.gripper_opening <= 0.08
        assert np.isfinite(memory.position).all()
        assert np.isfinite(memory.velocity).all()
        if not np.isfinite(vectors[0]).all() or not np.isfinite(asked.gripper_opening):
            assert result.status in (SafetyStatus.HOLD, SafetyStatus.PROTECTIVE_STOP)


@pytest.mark.parametrize("field", ["joint_position", "joint_velocity", "wrench"])
def test_a_start_from_a_broken_state_is_refused(field: str) -> None:
    good = sensed(np.array(robot("panda").home), np.zeros(7), 0)
    broken = np.array(getattr(good, field))
    broken[2] = np.nan
    with pytest.raises(ValueError, match="cannot start from this state: the sensed state holds NaN"):
        safety("panda").initial(replace(good, **{field: broken}))
