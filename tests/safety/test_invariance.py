"""Whatever is commanded, no limit is ever crossed, and the arm can always be stopped inside its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.types import CommandMode, FloatArray, OperatorEvent, SafetyStatus
from safety.building import build_filter
from safety.limits import WALL_RESERVE_M
from safety.profile import load_profile, parse_profile
from tests.safety.helpers import (
    DT,
    ROBOTS,
    Arm,
    Commander,
    coast_to_rest,
    inspector,
    robot,
    solved,
)

MODES = (CommandMode.POSITION, CommandMode.VELOCITY)
STOPPING = {"approach_deceleration_fraction": 0.5, "standoff_m": 0.001}
KINDS = ("steps", "noise", "targets", "ramps", "walls", "resonance")


def adversary(kind: str, mode: CommandMode, rng: np.random.Generator, n: int) -> Commander:
    """Commands that try to leave: what they send is a velocity, or where that velocity leads."""
    scale = float(rng.choice([0.3, 1.0, 5.0]))
    velocity = np.zeros(n)
    goal = np.zeros(n)
    frequency = float(rng.uniform(2.0, 60.0))

    def next_velocity(tick: int, arm: Arm) -> FloatArray:
        nonlocal velocity, goal
        if tick % 37 == 0:
            velocity = rng.normal(size=n) * scale
            goal = arm.q + rng.normal(size=n) * rng.uniform(0.0, 1.5)
        if kind == "noise":
            return rng.normal(size=n) * scale
        if kind == "targets":
            return (goal - arm.q) * 10.0
        if kind == "ramps":
            velocity = velocity + rng.normal(size=n) * 0.05
            return velocity
        if kind == "walls":  # straight at a wall of the box, as fast as it goes
            jacobian = arm.filter.kinematics.geometry(arm.q).jacobian[:3]
            towards = np.sign(velocity[:3]) * scale
            return solved(jacobian, towards)
        if kind == "resonance":
            return np.sign(np.sin(frequency * tick * DT)) * velocity
        return velocity

    def commander(tick: int, arm: Arm) -> FloatArray:
        wanted = next_velocity(tick, arm)
        if mode is CommandMode.VELOCITY:
            return wanted
        return goal if kind == "targets" else arm.q + wanted * DT

    return commander


def roll(name: str, mode: CommandMode, kind: str, seed: int, ticks: int, periods: tuple[float, ...] = (DT,)) -> Arm:
    rng = np.random.default_rng(seed)
    arm = Arm.at(name, mode)
    commander = adversary(kind, mode, rng, len(arm.q))
    check = inspector(name)
    for tick in range(ticks):
        q, qd, dt = arm.q, arm.qd, float(rng.choice(periods))
        result = arm.step(commander(tick, arm), dt=dt)
        check.check_step(q, arm.q, qd, dt)
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
        assert 0.0 <= result.speed_scale <= 1.0
    return arm


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_limit_is_ever_crossed(name: str, mode: CommandMode, kind: str, seed: int) -> None:
    roll(name, mode, kind, seed, ticks=300)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_no_limit_is_crossed_when_the_control_period_changes(
    name: str, mode: CommandMode, seed: int, kind: str
) -> None:
    roll(name, mode, kind, seed, ticks=300, periods=(0.001, 0.002, 0.005, 0.02))


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), ticks=st.integers(1, 150))
def test_a_verified_stop_exists_at_every_moment(name: str, mode: CommandMode, seed: int, kind: str, ticks: int) -> None:
    arm = roll(name, mode, kind, seed, ticks)
    moving = arm.qd.any()
    assert coast_to_rest(arm) > 0 or not moving
    rested = arm.q
    for _ in range(20):
        assert arm.step(np.full_like(rested, np.nan)).status is SafetyStatus.HOLD
    np.testing.assert_array_equal(arm.q, rested)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_limit_is_crossed_through_faults_and_events(name: str, mode: CommandMode, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm = Arm.at(name, mode)
    commander = adversary("ramps", mode, rng, len(arm.q))
    check = inspector(name)
    for tick in range(300):
        q, qd = arm.q, arm.qd
        values = commander(tick, arm)
        if rng.random() < 0.1:
            values = values.copy()
            values[rng.integers(len(values))] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
        events = tuple(rng.choice(np.array(OperatorEvent)) for _ in range(int(rng.random() < 0.05)))
        stamp = arm.now_ns - (200_000_000 if rng.random() < 0.05 else 0)
        arm.step(values, events=events, stamp_ns=stamp)
        check.check_step(q, arm.q, qd, DT)


@pytest.mark.parametrize("name", ROBOTS)
def test_pressing_on_a_wall_comes_to_rest_and_leaving_it_is_free(name: str) -> None:
    arm = Arm.at(name, CommandMode.VELOCITY)

    def down(speed: float) -> FloatArray:
        jacobian = arm.filter.kinematics.geometry(arm.q).jacobian[[0, 1, 2, -3, -2, -1]]
        return solved(jacobian, [0.0, 0.0, -speed, 0.0, 0.0, 0.0])

    for _ in range(800):
        result = arm.step(down(0.3))
    assert np.abs(arm.qd).max() < 1e-6
    assert result.status is SafetyStatus.LIMITING
    assert "workspace_box" in [reason.limit for reason in result.reasons]
    assert result.speed_scale == 0.1  # the path is played on, slowly: it may lead out again
    lowest = arm.filter.kinematics.points(arm.q)[:, 2].min()
    fingertips = arm.filter.profile.box("fingertips")
    height = fingertips.lower_m[2] + WALL_RESERVE_M + arm.filter.profile.stopping.standoff_m
    assert lowest == pytest.approx(height, abs=1e-6)
    for _ in range(100):
        result = arm.step(down(-0.1))
    assert result.status is SafetyStatus.RUN
    assert arm.filter.kinematics.points(arm.q)[:, 2].min() > lowest + 0.02


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", MODES)
def test_distracting_one_joint_does_not_carry_another_past_its_limit(name: str, mode: CommandMode) -> None:
    """The wrist is thrown to and fro; following that, the arm has no acceleration left to slow its last joint down."""
    check = inspector(name)
    q = np.array(Arm.at(name, mode).q)
    q[-1] = check.upper[-1] - 0.24
    arm = Arm.at(name, mode, q)
    stopped = 0
    for tick in range(400):
        velocity = np.zeros_like(arm.q)
        velocity[-1] = min(tick * 0.05, 1.2)
        if tick > 40:
            velocity[-2] = 2.0 if tick % 2 else -2.0
        q, qd = arm.q, arm.qd
        result = arm.step(velocity if mode is CommandMode.VELOCITY else q + velocity * DT)
        check.check_step(q, arm.q, qd, DT)
        stopped += "joint_position" in [reason.limit for reason in result.reasons]
    assert stopped
    assert arm.q[-1] > check.upper[-1] - 0.15


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("joint", [0, -1])
def test_an_arm_that_answers_a_tick_late_stays_inside_too(name: str, joint: int) -> None:
    data = load_profile(f"{name}_tabletop").to_json()
    late = parse_profile({**data, "stopping": {**STOPPING, "reaction_time_s": DT}})
    arm, check = Arm.at(name, CommandMode.VELOCITY, built=build_filter(robot(name), late)), inspector(name)
    velocity = np.zeros_like(arm.q)
    velocity[joint] = 1.5
    for _ in range(1300):
        carried_out = arm.q + arm.qd * DT
        result = arm.step(velocity)
        arm.q = carried_out
        assert check.outside(arm.q) <= 1e-6
    assert np.abs(arm.qd).max() < 1e-6
    assert result.status is SafetyStatus.LIMITING


@pytest.mark.parametrize("name", ROBOTS)
def test_an_arm_found_outside_may_come_back_in(name: str) -> None:
    arm = Arm.at(name, CommandMode.POSITION)
    check = inspector(name)
    q = arm.q.copy()
    q[-1] = check.upper[-1] + 0.01
    arm = Arm.at(name, CommandMode.POSITION, q)
    start = check.outside(arm.q)
    assert start > 0.0
    outward = arm.q.copy()
    outward[-1] += 0.1
    for _ in range(50):
        result = arm.step(outward)
        assert check.outside(arm.q) <= start
        assert result.min_margin < 0.0
    home = np.array(arm.filter.description.home)
    for _ in range(1500):
        arm.step(home)
        assert check.outside(arm.q) <= start + 1e-9
    np.testing.assert_allclose(arm.q, home, atol=1e-9)
    assert check.outside(arm.q) < 0.0
