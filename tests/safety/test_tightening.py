"""Limits are tightened at run time, never loosened."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.filter import everything_on
from controllers.robot import load_robot
from controllers.types import CommandMode, SafetyStatus
from safety.building import build_filter
from safety.profile import SafetyProfile, SafetyProfileError, check_tighter, load_profile, loosened, parse_profile
from tests.safety.helpers import TICK_NS, command, sensed

BASE = everything_on(load_profile("panda_tabletop"))


def changed(path: str, value: object) -> SafetyProfile:
    data: Any = copy.deepcopy(BASE.to_json())
    section = data
    *parents, last = path.split("/")
    for key in parents:
        section = section[key]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return parse_profile(data)


LOOSER: list[tuple[str, object]] = [
    ("joints/velocity_fraction", 1.0),
    ("joints/position_margin_rad", 0.0),
    ("end_effector/linear_speed_m_s", 1.0),
    ("force/command_lead_n", 900.0),
    ("stopping/standoff_m", 0.0),
    ("timing/watchdog_ms", 500.0),
    ("self_collision/distance_m", 0.0),
    ("self_collision/ignore", [["forearm", "base"]]),
    ("workspace/tcp/upper_m", [0.9, 0.5, 0.75]),
    ("keep_outs/post", None),
    ("polytopes/corner", None),
    ("orientation/half_angle_rad", 1.3),
    ("orientation", None),
    ("carried_object/radius_m", 0.001),
    ("carried_object", None),
]
TIGHTER: list[tuple[str, object]] = [
    ("joints/velocity_fraction", 0.5),
    ("joints/position_margin_rad", 0.05),
    ("end_effector/kinetic_energy_j", 0.01),
    ("stopping/standoff_m", 0.01),
    ("workspace/tcp/upper_m", [0.7, 0.4, 0.6]),
    ("carried_object/radius_m", 0.05),
    ("force/retreat_m", 0.05),
    ("enforcement", "sliding"),
]


@pytest.mark.parametrize(("path", "value"), LOOSER)
def test_a_looser_entry_is_refused_and_named(path: str, value: object) -> None:
    looser = changed(path, value)
    (found,) = loosened(BASE, looser)
    assert path.split("/")[0] in found
    with pytest.raises(SafetyProfileError, match="to loosen them, restart"):
        check_tighter(BASE, looser)


@pytest.mark.parametrize(("path", "value"), TIGHTER)
def test_a_tighter_entry_passes_and_the_way_back_does_not(path: str, value: object) -> None:
    tighter = changed(path, value)
    check_tighter(BASE, tighter)
    assert tighter.hash != BASE.hash
    if path not in ("force/retreat_m", "enforcement"):
        assert loosened(tighter, BASE)


def test_a_profile_of_another_robot_is_refused() -> None:
    with pytest.raises(SafetyProfileError, match="expected a profile for robot 'panda', found 'ur5e'"):
        check_tighter(BASE, load_profile("ur5e_tabletop"))


def test_a_running_filter_goes_on_under_the_stricter_limits() -> None:
    robot = load_robot("panda")
    first = build_filter(robot, load_profile("panda_tabletop"))
    data: Any = load_profile("panda_tabletop").to_json()
    data["joints"]["velocity_fraction"] = 0.02
    second = first.tightened(parse_profile(data))
    q = np.array(robot.home)
    memory, now = first.initial(sensed(q, q * 0, 0)), 0
    rate = np.zeros(7)
    fastest: list[float] = []
    for tick in range(200):
        now += TICK_NS
        rate[0] = min(rate[0] + 0.01, 0.3)
        asked = memory.position + rate * 0.005
        active = first if tick < 100 else second
        before = memory
        state = sensed(before.position, before.velocity, now)
        memory, result = active.enforce(memory, state, command(CommandMode.POSITION, asked, now), (), now, 0.005)
        fastest.append(float(np.abs(memory.velocity).max()))
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
    assert fastest[99] == pytest.approx(0.3)
    assert max(fastest[150:]) <= 0.02 * 2.175 + 1e-9
    with pytest.raises(SafetyProfileError):
        second.tightened(first.profile)


def test_a_zone_that_spares_more_is_looser_and_one_that_spares_less_is_not() -> None:
    base = load_profile("panda_tabletop")
    (table,) = base.keep_outs
    more = replace(base, keep_outs=(replace(table, spares=("fingers", "hand", "carried_object")),))
    less = replace(base, keep_outs=(replace(table, spares=("fingers",)),))
    assert loosened(base, more) == ("keep_outs.table: spares hand",)
    assert loosened(base, less) == ()


def test_a_zone_spares_capsules_of_the_arm_only() -> None:
    base = load_profile("panda_tabletop")
    (table,) = base.keep_outs
    with pytest.raises(SafetyProfileError, match=r"found 'fingrs'; did you mean 'fingers'"):
        build_filter(load_robot("panda"), replace(base, keep_outs=(replace(table, spares=("fingrs",)),)))
