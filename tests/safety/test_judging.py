"""The one call that judges a motion says what the limits themselves say, bit for bit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.judging import Judge
from safety.limits import EndEffectorLinearSpeedLimit, KineticEnergyLimit, Limit, LimitSet
from safety.limits.base import Judgement
from safety.motion import Motion
from tests.safety.cases import GENTLE, LIMITS, Case, cases, few, limit_of, seeds, share_of
from tests.safety.helpers import ARMS
from tests.safety.world import full_bench

every_arm = pytest.mark.parametrize("name", ARMS)
CHANGES = ("joint_velocity", "joint_acceleration", "joint_jerk")


@cache
def judge_of(name: str, kind: str | None = None) -> Judge:
    """Of all limits, or of one besides those on changes of velocity."""
    limits = full_bench(name).limits
    if kind is not None:
        limits = limits._replace(others=() if kind in CHANGES else (limit_of(name, kind),))
    return Judge(limits)


def said(limits: tuple[Limit, ...], motion: Motion) -> tuple[list[tuple[str, float]], float]:
    """Who objects with which margin, and the smallest scaled margin, by the limits themselves."""
    judgements = [(limit, limit.judge(motion)) for limit in limits]
    objecting = [(limit.name, margin) for limit, (slack, margin) in judgements if not slack >= 0.0]
    return objecting, min(margin / limit.margin_scale for limit, (_, margin) in judgements)


def asked(name: str, kind: str | None, start: Case, gentle: bool) -> tuple[list[tuple[str, float]], float]:
    fraction = GENTLE if gentle else 1.0
    verdict = judge_of(name, kind).every(start.factory, start.velocity, fraction, gentle=gentle)
    return [(limit.name, margin) for limit, margin in verdict.objecting], verdict.smallest


@every_arm
@pytest.mark.parametrize("kind", [*LIMITS, None])
@few
@given(seed=seeds, gentle=st.booleans(), rest=st.booleans())
def test_the_call_and_the_limits_agree_bit_for_bit(
    name: str, kind: str | None, seed: int, gentle: bool, rest: bool
) -> None:
    every = full_bench(name).limits.every
    limits = tuple(
        limit
        for limit in every
        if limit.name != "joint_jerk" and (kind is None or limit.name == kind or limit.name in CHANGES)
    )
    for start in cases(name, seed, spread=1.5, rest=rest):
        motion = start.gentle() if gentle else start.hard()
        assert asked(name, kind, start, gentle) == said(limits, motion)


@every_arm
@few
@given(seed=seeds)
def test_asking_until_one_objects_finds_the_first(name: str, seed: int) -> None:
    judge, every = judge_of(name), full_bench(name).limits.every
    for start in cases(name, seed, rest=False):
        objecting, smallest = said(every, start.gentle())
        verdict = judge.first(start.factory, start.velocity, GENTLE, gentle=True)
        assert [(limit.name, margin) for limit, margin in verdict.objecting] == objecting[:1]
        assert objecting or verdict.smallest == smallest


@every_arm
@few
@given(seed=seeds)
def test_limits_get_the_motion_that_was_judged(name: str, seed: int) -> None:
    for start in cases(name, seed):
        judge_of(name).every(start.factory, start.velocity, GENTLE, gentle=True)
        motion = judge_of(name).motion(start.factory, start.velocity, gentle=True)
        for mine, theirs in zip(motion, start.gentle(), strict=True):
            assert mine is theirs or np.array_equal(np.asarray(mine), np.asarray(theirs))


@every_arm
@pytest.mark.parametrize("kind", ["kinetic_energy", "end_effector_linear_speed"])
@few
@given(seed=seeds)
def test_the_share_that_a_margin_gives_is_that_of_the_inequalities(name: str, kind: str, seed: int) -> None:
    limit = limit_of(name, kind)
    assert isinstance(limit, KineticEnergyLimit | EndEffectorLinearSpeedLimit)
    for start in cases(name, seed):
        motion = start.gentle()
        margin = limit.judge(motion).margin
        if margin < 0.0:
            assert abs(limit.share(margin) - share_of(limit, motion)) <= 1e-12


class _Stricter(KineticEnergyLimit):
    """Judges otherwise than its parent."""

    def judge(self, motion: Motion) -> Judgement:
        slack, margin = super().judge(motion)
        return Judgement(slack - 1.0, margin - 1.0)


@every_arm
@few
@given(seed=seeds)
def test_a_limit_that_the_call_does_not_know_is_asked_itself(name: str, seed: int) -> None:
    bench = full_bench(name)
    of = bench.watched.kinematics
    own = _Stricter(bench.profile.end_effector.kinetic_energy_j, bench.description.n, of.tool_points)
    judge = Judge(LimitSet(bench.limits.velocity, bench.limits.acceleration, bench.limits.jerk, (own,)))
    for start in cases(name, seed, rest=False):
        limits = (bench.limits.velocity, bench.limits.acceleration, own)
        verdict = judge.every(start.factory, start.velocity, GENTLE, gentle=True)
        objecting, smallest = said(limits, start.gentle())
        assert [(limit.name, margin) for limit, margin in verdict.objecting] == objecting
        assert verdict.smallest == smallest


def test_a_velocity_that_is_no_number_is_objected_to() -> None:
    start = next(cases("panda", 0))
    velocity = start.velocity.copy()
    velocity[2] = np.nan
    assert judge_of("panda").first(start.factory, velocity, GENTLE, gentle=True).objecting
