"""The compiled rows against the same formulas in numpy, and against the path that they bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import FloatArray
from safety.kernel.rows import NO_POINT, Rows, bound_rows, judge_rows, rows_of
from safety.limits.base import Inequalities, scale_interval, stoppable_share
from safety.motion import Motion
from tests.safety.cases import Case, cases, few, seeds
from tests.safety.helpers import ARMS
from tests.safety.world import full_bench

every_arm = pytest.mark.parametrize("name", ARMS)
HORIZON = 0.25
standoffs = st.sampled_from([0.0, 0.001, 0.02])


class Measures(NamedTuple):
    """Of each row: its value, its rate, its way by the tangent, and how far it may bend off that."""

    value: FloatArray
    rate: FloatArray
    way: FloatArray
    bend: FloatArray


def random_rows(start: Case, rng: np.random.Generator, count: int = 12) -> Rows:
    """Rows near zero, some violated, some far off, between points and against the base."""
    normals = rng.normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    k = len(start.factory.geometry.points)
    first = rng.integers(0, k, count)
    second = np.where(rng.random(count) < 0.4, rng.integers(0, k, count), NO_POINT)
    rows = rows_of(normals, first, second, np.zeros(count))
    free = rng.choice([-0.05, 1e-5, 0.0005, 0.01, 0.1, 0.4], count) * rng.uniform(0.5, 1.0, count)
    return rows._replace(offsets=of(rows, start.factory.geometry.points) - free)


def of(rows: Rows, points: FloatArray) -> FloatArray:
    """Values (m,) of the rows at points (k, 3)."""
    other = np.where((rows.second == NO_POINT)[:, None], 0.0, points[rows.second])
    return (rows.normals * (points[rows.first] - other)).sum(axis=1) - rows.offsets


def measures(rows: Rows, motion: Motion) -> Measures:
    velocities = motion.rates[:-3].reshape(-1, 3)
    value = of(rows, motion.points)
    rate = of(rows._replace(offsets=np.zeros(len(value))), velocities)
    way = rate * motion.reach_time
    # f(x) = value + way x + u(x) x^2, from f(1/2) and f(1), on the line through both
    at_half = 4.0 * (of(rows, motion.middle_points) - value - way / 2)
    at_end = of(rows, motion.end_points) - value - way
    off = motion.rest * np.where(rows.second == NO_POINT, 1.0, 2.0)
    return Measures(value, rate, way, np.maximum(np.maximum(-(2 * at_half - at_end), -at_end), 0.0) + off)


def judged(rows: Rows, motion: Motion, standoff: float) -> tuple[float, float]:
    return judge_rows(
        *rows,
        motion.points,
        motion.middle_points,
        motion.end_points,
        motion.rates,
        motion.reach_time,
        motion.rest,
        standoff,
    )


def bounded(rows: Rows, motion: Motion, standoff: float) -> Inequalities:
    size = len(rows.offsets) + 1
    matrix, bounds = np.empty((size, len(motion.velocity))), np.empty(size)
    used = bound_rows(
        *rows,
        motion.points,
        motion.middle_points,
        motion.end_points,
        motion.rates,
        motion.jacobian,
        motion.dt,
        motion.stop_time,
        motion.reach_time,
        motion.rest,
        standoff,
        HORIZON,
        motion.velocity.copy(),
        matrix,
        bounds,
    )
    return Inequalities(matrix[:used], bounds[:used])


@every_arm
@few
@given(seed=seeds, standoff=standoffs)
def test_judgements_are_those_of_the_formulas(name: str, seed: int, standoff: float) -> None:
    rng = np.random.default_rng(seed)
    for start in cases(name, seed):
        rows, motion = random_rows(start, rng), start.hard()
        value, _, way, bend = measures(rows, motion)
        slacks: list[float] = []
        for v, w, b in zip(value, way, bend, strict=True):
            room = min(v + w - b, v + w - standoff)
            if room < 0:  # beyond the standoff the way decides; within it, only bending is free
                free = max(v, 0.0)
                room = max(free - standoff, 0.0) + w - max(b - min(free, standoff), 0.0)
            slacks.append(room)
        slack, margin = judged(rows, motion, standoff)
        assert slack == pytest.approx(min(slacks), abs=1e-12)
        assert margin == pytest.approx(float((value + way - bend).min()), abs=1e-12)


@every_arm
@few
@given(seed=seeds, standoff=standoffs)
def test_bounds_are_those_of_the_formulas(name: str, seed: int, standoff: float) -> None:
    rng = np.random.default_rng(seed)
    for start in cases(name, seed):
        rows, motion = random_rows(start, rng), start.gentle()
        value, rate, way, bend = measures(rows, motion)
        linear = motion.jacobian[:-3].reshape(len(motion.points), 3, -1)
        expected: list[tuple[FloatArray, float]] = []
        swing = 1.0
        for i in range(len(value)):
            if value[i] > HORIZON and way[i] - bend[i] > -0.5 * HORIZON:
                continue
            jacobian = linear[rows.first[i]] - (0 if rows.second[i] == NO_POINT else linear[rows.second[i]])
            inside = min(max(value[i], 0.0), standoff)
            rest_of_bend, free = max(bend[i] - inside, 0.0), max(value[i] - standoff, 0.0)
            bound = free / motion.reach_time
            if rest_of_bend - way[i] > free:
                toward = -rate[i]
                share = stoppable_share(toward * motion.dt, 0.5 * toward * motion.stop_time + rest_of_bend, free)
                if toward > 0:
                    bound = toward * share
                else:
                    swing = min(swing, share)
            expected.append((-rows.normals[i] @ jacobian, bound))
        if swing < 1.0:
            expected.append((motion.velocity / (motion.velocity @ motion.velocity), swing))
        matrix, bounds = bounded(rows, motion, standoff)
        assert len(bounds) == len(expected)
        for i, (row, bound) in enumerate(expected):
            np.testing.assert_allclose(matrix[i], row, atol=1e-12)
            assert bounds[i] == pytest.approx(bound, rel=1e-9, abs=1e-12)


@every_arm
@few
@given(seed=seeds)
def test_what_is_judged_bounds_the_true_path(name: str, seed: int) -> None:
    """Sampled densely, no row falls below the margin and its start, nor, if admitted, below 0 or its start."""
    rng, points = np.random.default_rng(seed), full_bench(name).watched.kinematics.points
    for start in cases(name, seed):
        rows, motion = random_rows(start, rng), start.hard()
        slack, margin = judged(rows, motion, 0.0)
        values = np.array(
            [of(rows, points(motion.position + x * motion.reach_time * motion.velocity)) for x in np.linspace(0, 1, 40)]
        )
        assert values[-1].min() >= margin - 1e-10
        assert values.min() >= min(margin, values[0].min()) - 1e-10
        if slack >= 0.0:
            assert (values >= np.minimum(values[0], 0.0) - 1e-10).all()


@every_arm
@few
@given(seed=seeds, standoff=standoffs)
def test_the_share_within_the_bounds_is_judged_admissible(name: str, seed: int, standoff: float) -> None:
    """Row by row: then neither the others nor the rounding of their shares can hide a row that disagrees."""
    rng = np.random.default_rng(seed)
    for start in cases(name, seed):
        rows, motion = random_rows(start, rng, 4), start.gentle()
        for i in range(4):
            normals, first, second, offsets = rows
            row = Rows(normals[i : i + 1], first[i : i + 1], second[i : i + 1], offsets[i : i + 1])
            share = scale_interval(bounded(row, motion, standoff), motion.velocity)[1]
            slack, _ = judged(row, motion, standoff)
            assert (share >= 1.0) == (slack >= 0.0) or abs(slack) < 1e-9
            slower = start.gentle(share * (1 - 1e-9))
            assert judged(row, slower, standoff)[0] >= -1e-8
