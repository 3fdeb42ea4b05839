"""Legal motion passes untouched, and illegal motion is slowed along its path rather than bent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.protocols import SafetyFilter
from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, SafetyStatus
from safety.building import build_filter
from safety.filter import PathConsistentFilter, SafetyMemory, UncheckedFilter
from safety.profile import SafetyProfile, SafetyProfileError, load_profile, parse_profile
from tests.safety.helpers import DT, ROBOTS, Arm, command, robot, safety, sensed, solved


def smooth_step(x: float) -> float:
    """From 0 to 1 with no jump in acceleration."""
    return 10 * x**3 - 15 * x**4 + 6 * x**5


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_legal_slow_motion_passes_bit_unchanged(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm = Arm.at(name, CommandMode.POSITION)
    start = arm.q.copy()
    swing = rng.uniform(-0.12, 0.12, size=len(start))
    for tick in range(300):
        values = start + swing * smooth_step(min(tick / 200, 1.0))
        result = arm.step(values)
        assert result.status is SafetyStatus.RUN
        assert result.command.values.tobytes() == values.tobytes()
        assert (result.reasons, result.speed_scale) == ((), 1.0)
        assert result.min_margin > 0.0


def cartesian(arm: Arm, velocity: FloatArray) -> FloatArray:
    jacobian = arm.filter.kinematics.geometry(arm.q).jacobian[[0, 1, 2, -3, -2, -1]]
    return solved(jacobian, [*velocity, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_picking_and_placing_near_the_table_is_not_noticed(name: str, mode: CommandMode) -> None:
    arm = Arm.at(name, mode)
    home = arm.filter.kinematics.points(arm.q)[0]
    places = [
        ([home[0], home[1] - 0.15, home[2] - 0.15], 1.2),
        ([home[0], home[1] - 0.15, 0.025], 0.9),  # fingertips 16 mm above the table
        ([home[0], home[1] - 0.15, 0.15], 0.8),
        ([home[0] + 0.1, home[1] + 0.15, 0.15], 1.5),
        ([home[0] + 0.1, home[1] + 0.15, 0.04], 0.7),
        ([home[0] + 0.1, home[1] + 0.15, 0.20], 0.8),
    ]
    fastest = 0.0
    for goal, stretch in places:
        # Slow enough for the energy limit; what is looked for here are walls, speeds and accelerations.
        seconds = 1.4 * stretch
        begin = arm.filter.kinematics.points(arm.q)[0]
        ticks = round(seconds / DT)
        for tick in range(ticks):
            x0, x1 = smooth_step(tick / ticks), smooth_step((tick + 1) / ticks)
            velocity = (np.array(goal) - begin) * (x1 - x0) / DT
            fastest = max(fastest, float(np.linalg.norm(velocity)))
            wanted = cartesian(arm, velocity)
            result = arm.step(arm.q + wanted * DT if mode is CommandMode.POSITION else wanted)
            assert result.status is SafetyStatus.RUN, (goal, tick, result.reasons)
    assert fastest > 0.25


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_jump_of_the_command_is_reached_along_a_straight_line_without_overshoot(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm = Arm.at(name, CommandMode.POSITION)
    start = arm.q.copy()
    goal = start + rng.uniform(-0.15, 0.15, size=len(start))
    for _ in range(300):
        result = arm.step(goal)
        share = (arm.q - start) @ (goal - start) / ((goal - start) @ (goal - start))
        np.testing.assert_allclose(arm.q, start + share * (goal - start), atol=1e-9)
        assert share <= 1.0 + 1e-9
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
    assert result.status is SafetyStatus.RUN
    np.testing.assert_array_equal(arm.q, goal)


@pytest.mark.parametrize("name", ROBOTS)
def test_too_fast_a_path_is_followed_exactly_but_slower(name: str) -> None:
    arm = Arm.at(name, CommandMode.VELOCITY)
    start = arm.q.copy()
    direction = np.zeros_like(start)
    direction[0], direction[-1] = 50.0, -20.0
    for _ in range(40):
        result = arm.step(direction)
        assert result.status is SafetyStatus.LIMITING
        assert result.reasons
        along = (arm.q - start) @ direction / (direction @ direction)
        np.testing.assert_allclose(arm.q, start + along * direction, atol=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_a_sharp_corner_is_rounded_without_stopping(name: str, mode: CommandMode) -> None:
    arm = Arm.at(name, mode)
    velocity = np.zeros_like(arm.q)
    slowest = np.inf
    for tick in range(120):
        velocity[0] = min(0.05 * tick, 0.3)
        velocity[2] = 0.3 if tick >= 60 else 0.0
        arm.step(velocity if mode is CommandMode.VELOCITY else arm.q + velocity * DT)
        if tick >= 60:
            slowest = min(slowest, arm.qd[0])
    assert slowest > 0.2  # braking until the new path can be joined would leave less than 0.15
    np.testing.assert_allclose(arm.qd, velocity, atol=1e-9)


@pytest.mark.parametrize("name", ROBOTS)
def test_the_filter_has_no_memory_of_its_own(name: str) -> None:
    """The same memory and inputs give the same bits, whatever the instance did in between."""
    fresh = build_filter(robot(name), load_profile(f"{name}_tabletop"))
    rng = np.random.default_rng(0)
    arm, other = Arm.at(name, CommandMode.POSITION), Arm.at(name, CommandMode.VELOCITY)
    for _ in range(150):
        values = arm.q + rng.normal(size=len(arm.q)) * 0.02
        state, asked = arm.state(), command(arm.mode, values, arm.now_ns)
        memory = arm.memory
        result = arm.step(values, state=state)
        other.step(rng.normal(size=len(arm.q)))
        for filter_ in (fresh, arm.filter):
            again, repeated = filter_.enforce(memory, state, asked, (), asked.stamp_ns, DT)
            assert repeated.command.values.tobytes() == result.command.values.tobytes()
            assert (repeated.status, repeated.reasons) == (result.status, result.reasons)
            assert (repeated.speed_scale, repeated.min_margin) == (result.speed_scale, result.min_margin)
            assert again.velocity.tobytes() == arm.memory.velocity.tobytes()


def test_what_leaves_the_filter_is_read_only_and_not_the_callers() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    values = arm.q + 1e-4
    result = arm.step(values)
    assert not arm.memory.position.flags.writeable
    assert not arm.memory.velocity.flags.writeable
    assert not result.command.values.flags.writeable
    assert not np.shares_memory(arm.memory.position, result.command.values)


@pytest.mark.parametrize(("opening", "applied"), [(0.2, 0.08), (-0.1, 0.0)])
def test_a_gripper_opening_out_of_range_is_clamped_and_said(opening: float, applied: float) -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    result = arm.step(arm.q, opening=opening)
    assert result.command.gripper_opening == applied
    assert result.status is SafetyStatus.LIMITING
    assert [reason.limit for reason in result.reasons] == ["gripper_opening"]
    assert result.speed_scale == 1.0


def test_safety_is_only_off_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    off: SafetyFilter[None] = UncheckedFilter("benchmark of the raw policy")
    assert "SAFETY IS OFF" in capsys.readouterr().err
    arm = Arm.at("panda", CommandMode.POSITION)
    wild = command(CommandMode.POSITION, np.full(7, np.nan), 0)
    memory = off.initial(sensed(arm.q, arm.qd, 0))
    _, result = off.enforce(memory, sensed(arm.q, arm.qd, 0), wild, (), 0, DT)
    assert result.status is SafetyStatus.OFF
    assert result.reasons[0].message == "benchmark of the raw policy"
    assert result.command is wild
    with pytest.raises(ValueError, match="expected a reason"):
        UncheckedFilter("  ")


def test_the_filter_fits_its_protocol() -> None:
    filter_: SafetyFilter[SafetyMemory] = safety("panda")
    assert isinstance(filter_, PathConsistentFilter)


def _changed(**changes: object) -> SafetyProfile:
    return parse_profile({**load_profile("panda_tabletop").to_json(), **changes})


def _boxes(description: RobotDescription, **boxes: object) -> dict[str, object]:
    workspace = load_profile(f"{description.name}_tabletop").to_json()["workspace"]
    assert isinstance(workspace, dict)
    return {key: value for key, value in {**workspace, **boxes}.items() if value is not None}


def test_a_profile_that_does_not_suit_the_robot_is_refused() -> None:
    panda = robot("panda")
    with pytest.raises(SafetyProfileError, match="expected a profile for robot 'panda', found 'ur5e'"):
        build_filter(panda, _changed(robot="ur5e"))
    with pytest.raises(SafetyProfileError, match="expected a box for point 'elbow'"):
        build_filter(panda, _changed(workspace=_boxes(panda, elbow=None)))
    box = {"lower_m": [-1, -1, -1], "upper_m": [1, 1, 1]}
    with pytest.raises(SafetyProfileError, match="no watched point 'elbou'; did you mean 'elbow'"):
        build_filter(panda, _changed(workspace=_boxes(panda, elbou=box)))
    low = {"lower_m": [0.15, -0.5, 0.003], "upper_m": [0.8, 0.5, 0.1]}
    with pytest.raises(
        SafetyProfileError, match="home posture of panda inside every limit, found it outside workspace"
    ):
        build_filter(panda, _changed(workspace=_boxes(panda, tcp=low)))
