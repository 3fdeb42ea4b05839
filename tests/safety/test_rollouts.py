"""With every limit on, whatever is commanded stays inside: along the path and, where an arm lags behind it, in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.types import CommandMode, FloatArray, OperatorEvent, SafetyResult, SafetyStatus
from safety.filter import PathConsistentFilter, SafetyMemory
from safety.transitions import transitions
from tests.safety.helpers import ARMS, DT, TICK_NS, Arm, command, robot, sensed, solved
from tests.safety.world import PLACES, World, full_filter, world

every_arm = pytest.mark.parametrize("name", ARMS)
both_ways = pytest.mark.parametrize("sliding", [False, True], ids=["path_consistent", "sliding"])
runs = settings(max_examples=4)
seeds = st.integers(0, 2**32 - 1)
# MuJoCo measures distances between convex shapes to about this, m.
_MEASURED = 2e-6
# A velocity is checked for servos that lag as the description says: these arms obey at once, and are off that path by
# what servos would have lagged, where it bends.
_UNLAGGED = 5e-4


@dataclass
class LaggingArm:
    """Servos that close the gap to the command with a time constant, as those of a real arm do."""

    built: PathConsistentFilter
    q: FloatArray
    qd: FloatArray
    memory: SafetyMemory
    time_constant_s: float = 0.04
    now_ns: int = 0

    @staticmethod
    def at_home(built: PathConsistentFilter, **more: Any) -> LaggingArm:
        q = np.array(built.description.home)
        return LaggingArm(built, q, np.zeros_like(q), built.initial(sensed(q, np.zeros_like(q), 0)), **more)

    def step(self, values: FloatArray, events: tuple[OperatorEvent, ...] = ()) -> SafetyResult:
        asked = command(CommandMode.POSITION, values, self.now_ns)
        state = sensed(self.q, self.qd, self.now_ns)
        self.memory, result = self.built.enforce(self.memory, state, asked, events, self.now_ns, DT)
        q = self.q + (result.command.values - self.q) * (1 - np.exp(-DT / self.time_constant_s))
        self.q, self.qd = q, (q - self.q) / DT
        self.now_ns += TICK_NS
        return result


def wanderer(seed: int, n: int) -> Any:
    """Velocities that wander, jump, shake, and push straight on in one direction of space."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(["wander", "jump", "shake", "push"])
    velocity = np.zeros(n)
    direction = rng.normal(size=3)
    direction *= 0.4 / np.linalg.norm(direction)

    def following(tick: int, jacobian: FloatArray) -> FloatArray:
        nonlocal velocity
        if kind == "push":
            return solved(jacobian[:3], direction)
        if kind == "shake":
            return rng.normal(size=n) * 2.0
        if kind == "wander":
            velocity = np.clip(velocity + rng.normal(size=n) * 0.08, -1.5, 1.5)
        elif tick % 40 == 0:
            velocity = rng.normal(size=n)
        return velocity

    return following


def outside(measured: World, q: FloatArray) -> float:
    measured.place(q)
    return max(float(getattr(measured, kind)()) for kind in PLACES)


@every_arm
@both_ways
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
@runs
@given(seed=seeds)
def test_no_limit_is_crossed(name: str, sliding: bool, mode: CommandMode, seed: int) -> None:
    built, measured = full_filter(name, sliding), world(name)
    arm = Arm.at(name, mode, built=built)
    following, tool = wanderer(seed, robot(name).n), built.profile.end_effector
    measured.place(arm.q)
    place = measured.data.site_xpos[measured.tcp].copy()
    for tick in range(200):
        wanted = following(tick, built.kinematics.geometry(arm.q).jacobian)
        qd = arm.qd
        result = arm.step(arm.q + wanted * DT if mode is CommandMode.POSITION else wanted)
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
        assert outside(measured, arm.q) <= (_MEASURED if mode is CommandMode.POSITION else _UNLAGGED)
        limits = robot(name).limits
        assert (np.abs(arm.qd) <= limits.velocity * built.profile.joints.velocity_fraction * (1 + 1e-7)).all()
        assert (np.abs(arm.qd - qd) <= limits.acceleration * DT * (1 + 1e-7) + 1e-9).all()
        before, place = place, measured.data.site_xpos[measured.tcp].copy()
        assert np.linalg.norm(place - before) <= tool.linear_speed_m_s * DT * (1 + 1e-7)
        assert (
            measured.measure("kinetic_energy", arm.q, arm.qd) <= 0.25 * tool.kinetic_energy_j
        )  # see test_limits_inside
    for _ in range(300):
        if not arm.qd.any():
            break
        arm.step(np.full_like(arm.q, np.nan))
        assert outside(measured, arm.q) <= (_MEASURED if mode is CommandMode.POSITION else _UNLAGGED)
    assert not arm.qd.any()


@every_arm
@both_ways
@runs
@given(seed=seeds)
def test_neither_the_path_nor_the_arm_that_lags_behind_it_crosses_a_limit(name: str, sliding: bool, seed: int) -> None:
    built, measured = full_filter(name, sliding), world(name)
    arm = LaggingArm.at_home(built)
    following = wanderer(seed, robot(name).n)
    for tick in range(250):
        path = arm.memory.position
        wanted = following(tick, built.kinematics.geometry(path).jacobian)
        result = arm.step(path + wanted * DT)
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING), result.reasons
        assert outside(measured, result.command.values) <= _MEASURED
        # The arm cuts the corners of the path by what it bends within the lag.
        assert outside(measured, arm.q) <= 2e-3


@every_arm
@runs
@given(seed=seeds)
def test_every_transition_has_a_reason(name: str, seed: int) -> None:
    rng, built = np.random.default_rng(seed), full_filter(name)
    arm = Arm.at(name, CommandMode.VELOCITY, built=built)
    following = wanderer(seed, robot(name).n)
    seen: list[tuple[int, SafetyResult]] = []
    for tick in range(200):
        values = following(tick, built.kinematics.geometry(arm.q).jacobian)
        if rng.random() < 0.05:
            values = values * np.nan
        events = (rng.choice(np.array(OperatorEvent)),) if rng.random() < 0.05 else ()
        force = rng.normal(size=3) * 400 if rng.random() < 0.01 else np.zeros(3)
        state = arm.state(force=force)
        seen.append((tick, arm.step(values, events=events, state=state)))
    for change in transitions(seen):
        assert (change.after is SafetyStatus.RUN) == (not change.reasons), change
        assert all(reason.limit for reason in change.reasons)


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_sliding_goes_on_along_a_wall_where_the_path_is_left_to_wait(name: str) -> None:
    ways: list[float] = []
    for sliding in (False, True):
        built, measured = full_filter(name, sliding), world(name)
        arm = Arm.at(name, CommandMode.VELOCITY, built=built)
        start = built.kinematics.points(arm.q)[0]
        for _ in range(500):
            jacobian = built.kinematics.geometry(arm.q).jacobian[[0, 1, 2, -3, -2, -1]]
            arm.step(solved(jacobian, [0.05, 0.0, -0.2, 0.0, 0.0, 0.0]))
            assert outside(measured, arm.q) <= _UNLAGGED
        end = built.kinematics.points(arm.q)[0]
        assert end[2] < 0.08  # both have come down to the table, or to what the tool's hull leaves of it
        ways.append(float(end[0] - start[0]))
    stopped, slid = ways
    assert stopped < 0.085  # 1.5 s of the way down
    assert slid > stopped + 0.015
