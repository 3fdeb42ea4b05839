"""Every limit alone: rest is always admitted, slower and looser never less, and its two answers agree."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from safety.limits import WALL_RESERVE_M, Limit, VelocityBox, scale_interval
from safety.limits.base import stoppable_share
from safety.profile import parse_profile
from tests.safety.cases import AROUND_THE_LAST, GENTLE, LIMITS, cases, dense, few, limit_of, seeds, share_of
from tests.safety.helpers import ARMS, Bench, robot, solved
from tests.safety.world import full_bench, profile_data

every_limit = pytest.mark.parametrize("kind", LIMITS)
every_arm = pytest.mark.parametrize("name", ARMS)


@every_arm
def test_this_suite_knows_every_limit(name: str) -> None:
    assert sorted(limit.name for limit in full_bench(name).limits.every) == sorted(LIMITS)


@every_arm
@every_limit
@few
@given(seed=seeds)
def test_rest_is_always_admitted_even_outside(name: str, kind: str, seed: int) -> None:
    limit = limit_of(name, kind)
    for start in cases(name, seed, spread=2.0):
        assert limit.judge(start.hard(0.0)).slack >= 0.0
        assert limit.judge(start.gentle(0.0)).slack >= 0.0
        assert (dense(limit.inequalities(start.gentle())).b >= 0.0).all()


@every_arm
@every_limit
@few
@given(seed=seeds, rest=st.booleans())
def test_the_two_answers_agree(name: str, kind: str, seed: int, rest: bool) -> None:
    limit = limit_of(name, kind)
    for start in cases(name, seed, rest=rest or kind not in AROUND_THE_LAST):
        inequalities = limit.inequalities(start.gentle())
        rows = dense(inequalities)
        lowest, share = scale_interval(inequalities, start.velocity)
        violated = float((rows.A @ start.velocity - rows.b).max(initial=-np.inf))
        slack = limit.judge(start.gentle()).slack
        assert slack > -1e-7 or violated > 0.0
        assert slack < 1e-7 or violated < 1e-7
        if lowest <= share:
            slower = share - 1e-9 * (share - lowest)
            assert limit.judge(start.gentle(slower)).slack >= -1e-6 * limit.margin_scale
            assert (rows.A @ (slower * start.velocity) <= rows.b + 1e-7).all()


@every_arm
@every_limit
@few
@given(seed=seeds, share=st.floats(0.0, 1.0))
def test_slower_along_an_admitted_path_is_admitted(name: str, kind: str, seed: int, share: float) -> None:
    limit = limit_of(name, kind)
    for start in cases(name, seed):
        if limit.judge(start.hard()).slack >= 0.0:
            assert limit.judge(start.hard(share)).slack >= -1e-9


@every_arm
@pytest.mark.parametrize("kind", AROUND_THE_LAST)
@few
@given(seed=seeds, share=st.floats(0.0, 1.0))
def test_limits_on_changes_admit_less_change(name: str, kind: str, seed: int, share: float) -> None:
    """They need not admit a slower motion, but one nearer to the last velocity, or to where it was heading."""
    limit = limit_of(name, kind)
    for start in cases(name, seed, rest=False):
        factory = start.factory
        centre = factory.previous_velocity
        if kind == "joint_jerk":
            centre = centre + factory.previous_acceleration * factory.dt
        if limit.judge(start.hard()).slack >= 0.0:
            assert limit.judge(factory.motion(centre + share * (start.velocity - centre))).slack >= -1e-6


@cache
def tighter(name: str, by: float) -> Bench:
    """Everything a little stricter. Zones become more instead of larger: larger ones are parted by other planes."""
    data = profile_data(name)
    for section in ("joints", "end_effector"):
        entries = {key: value * (1 - by) for key, value in data[section].items()}
        data[section] = {**entries, "position_margin_rad": 0.02 + 0.5 * by} if section == "joints" else entries
    for key in ("command_lead_n", "quasi_static_n"):
        data["force"][key] *= 1 - by
    data["self_collision"]["distance_m"] += by * 0.1
    for box in data["workspace"].values():
        box["lower_m"] = [low + 0.05 * by for low in box["lower_m"]]
        box["upper_m"] = [high - 0.05 * by for high in box["upper_m"]]
    for plane in data["polytopes"]["roof"]["planes"]:
        plane["offset_m"] -= 0.05 * by
    data["orientation"]["half_angle_rad"] -= 0.3 * by
    data["keep_outs"]["more"] = {"shape": "sphere", "centre_m": [0.3, 0.0, 0.05], "radius_m": 0.3 * by}
    return Bench.of(robot(name), parse_profile(data))


@every_arm
@every_limit
@few
@given(seed=seeds, by=st.sampled_from([0.1, 0.5]))
def test_a_tighter_limit_never_admits_more(name: str, kind: str, seed: int, by: float) -> None:
    strict = tighter(name, by)
    loose = limit_of(name, kind)
    tight: Limit = next(limit for limit in strict.limits.every if limit.name == kind)
    for start in cases(name, seed):
        narrow = start.factory._replace(hull=strict.watched.hull.rows(start.factory.geometry.points))
        if tight.judge(narrow.motion(start.velocity)).slack >= 0.0:
            assert loose.judge(start.hard()).slack >= -1e-9
        assert tight.judge(narrow.motion(start.velocity)).margin <= loose.judge(start.hard()).margin + 1e-9
        assert share_of(tight, narrow.gentle_motion(start.velocity, GENTLE)) <= share_of(loose, start.gentle()) + 1e-6


@every_arm
def test_a_joint_found_outside_may_come_back_but_not_go_farther(name: str) -> None:
    limit, home = limit_of(name, "joint_position"), np.array(robot(name).home)
    q, velocity = home.copy(), np.zeros_like(home)
    q[2] = robot(name).limits.position_upper[2] - 0.01  # the margin is 0.02
    velocity[2] = 0.1
    factory = full_bench(name).factory(q)
    assert limit.judge(factory.motion(velocity)).slack < 0.0
    assert share_of(limit, factory.gentle_motion(velocity, 0.5)) == 0.0
    assert limit.judge(factory.motion(-velocity)).slack >= 0.0
    assert limit.judge(factory.motion(-velocity)).margin < 0.0
    assert share_of(limit, factory.gentle_motion(-velocity, 0.5)) == 1.0


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_a_point_found_outside_may_come_back_but_not_go_farther(name: str) -> None:
    data = profile_data(name)
    data["workspace"]["tcp"]["upper_m"][2] = 0.28  # the end effector is 2 cm above its box
    bench = Bench.of(robot(name), parse_profile(data))
    limit = next(limit for limit in bench.limits.every if limit.name == "workspace_box")
    factory = bench.factory(np.array(robot(name).home))
    up = solved(factory.geometry.jacobian[[0, 1, 2, -3, -2, -1]], [0, 0, 0.1, 0, 0, 0])
    assert limit.judge(factory.motion(up)).slack < 0.0
    assert share_of(limit, factory.gentle_motion(up, 0.5)) < 1e-6
    assert limit.judge(factory.motion(-up)).slack >= 0.0
    assert -0.02 - WALL_RESERVE_M < limit.judge(factory.motion(-up)).margin < 0.0


@given(first=st.floats(-1.0, 1.0), second=st.floats(0.0, 1.0), distance=st.floats(0.0, 1.0), more=st.floats(1e-6, 1.0))
def test_the_stoppable_share_is_the_largest(first: float, second: float, distance: float, more: float) -> None:
    share = stoppable_share(first, second, distance)
    assume(share < 1e6)
    assert first * share + second * share**2 <= distance + 1e-9 * (1 + share + share**2)
    larger = share * (1 + more) + more
    assert first * larger + second * larger**2 >= distance - 1e-9 * (1 + larger**2)


def test_where_there_is_no_room_nothing_that_bends_is_stoppable() -> None:
    assert stoppable_share(0.0, 0.5, 0.0) == 0.0
    assert stoppable_share(0.0, 0.0, 0.0) == np.inf
    assert stoppable_share(-0.1, 0.0, 0.0) == np.inf


def test_a_velocity_box_is_the_same_set_as_its_dense_inequalities() -> None:
    box = VelocityBox(np.array([-1.0, 0.1]), np.array([2.0, 0.5]))
    velocity = np.array([1.0, 1.0])
    assert scale_interval(box, velocity) == pytest.approx((0.1, 0.5))
    assert scale_interval(box.as_inequalities(), velocity) == pytest.approx((0.1, 0.5))
    still = np.array([1.0, 0.0])  # the second joint would have to move
    away = np.array([1.0, -1.0])
    for constraint in (box, box.as_inequalities()):
        for velocity in (still, away):
            lowest, highest = scale_interval(constraint, velocity)
            assert lowest > highest
    inside = np.array([0.1, 0.4])  # only so much less that the second joint keeps moving
    assert scale_interval(box, inside) == pytest.approx((0.25, 1.0))
    assert scale_interval(box.as_inequalities(), inside) == pytest.approx((0.25, 1.0))
