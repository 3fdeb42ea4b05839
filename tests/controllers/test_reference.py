"""The reference keeps its limits on speed, acceleration and jerk for any waypoints whatever, on SO(3) too."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.kernel.tracking import bounded, shifted, swung, turned
from controllers.reference import Reference, TrackerOptions, at_rest, bounded_step, resting_point, track
from controllers.spatial import quaternion_from_rotation_vector, rotate_by_vector, rotation_difference
from controllers.types import frozen_array
from controllers.waypoints import PathPoint

DT = 0.005
ROUNDING = 1.0 + 1e-9


def wild_points(rng: np.random.Generator, count: int, dims: int, *, turning: bool) -> list[PathPoint]:
    """Waypoints that jump anywhere, with rates that do not fit them, each held for a few ticks."""
    points: list[PathPoint] = []
    while len(points) < count:
        scale = 10.0 ** rng.uniform(-3, 1)
        quaternion = quaternion_from_rotation_vector(rng.uniform(-3, 3, 3)) if turning else None
        rate = tuple(rng.uniform(-5, 5, 3).tolist()) if turning else (0.0, 0.0, 0.0)
        position = tuple((scale * rng.uniform(-1, 1, dims)).tolist())
        point = PathPoint(position, tuple(rng.uniform(-3, 3, dims).tolist()), quaternion, rate, 0.0)
        points += [point] * int(rng.integers(1, 40))
    return points[:count]


def played(options: TrackerOptions, points: list[PathPoint], dims: int) -> list[Reference]:
    reference = at_rest(frozen_array(np.zeros(dims)), frozen_array([1.0, 0.0, 0.0, 0.0]))
    history = [reference]
    for point in points:
        reference = track(reference, point, options, DT)
        history.append(reference)
    return history


def norms(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values, axis=1)


@given(seed=st.integers(0, 2**32 - 1), dims=st.sampled_from([3, 6, 7]))
@settings(max_examples=60, deadline=None)
def test_no_waypoints_make_the_reference_exceed_its_limits(seed: int, dims: int) -> None:
    rng = np.random.default_rng(seed)
    options = TrackerOptions(max_speed=rng.uniform(0.05, 2), max_acceleration=rng.uniform(0.3, 10), max_jerk=80.0)
    history = played(options, wild_points(rng, 200, dims, turning=False), dims)
    position = np.array([item.position for item in history])
    velocity = np.diff(position, axis=0) / DT
    acceleration = np.diff(velocity, axis=0, prepend=np.zeros((1, dims))) / DT
    jerk = np.diff(acceleration, axis=0, prepend=np.zeros((1, dims))) / DT
    # Differences of positions round: compare with what rounding can do.
    grain = np.abs(position).max() * 1e-15
    assert norms(velocity).max() <= options.max_speed * ROUNDING + grain / DT
    assert norms(acceleration).max() <= options.max_acceleration * ROUNDING + 4 * grain / DT**2
    assert norms(jerk).max() <= options.max_jerk * ROUNDING + 16 * grain / DT**3


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_turning_keeps_its_limits_on_so3(seed: int) -> None:
    rng = np.random.default_rng(seed)
    options = TrackerOptions(max_angular_speed_rad_s=rng.uniform(0.2, 4), max_angular_jerk_rad_s3=600.0)
    history = played(options, wild_points(rng, 200, 3, turning=True), 3)
    rate = np.array([item.angular_velocity for item in history])
    acceleration = np.diff(rate, axis=0) / DT
    jerk = np.diff(acceleration, axis=0, prepend=np.zeros((1, 3))) / DT
    assert norms(rate).max() <= options.max_angular_speed_rad_s * ROUNDING
    assert norms(acceleration).max() <= options.max_angular_acceleration_rad_s2 * ROUNDING + 1e-9
    assert norms(jerk).max() <= options.max_angular_jerk_rad_s3 * ROUNDING + 1e-6
    for before, after in pairwise(history):
        assert abs(np.linalg.norm(after.quaternion) - 1.0) < 1e-12
        turned = rotation_difference(after.quaternion, before.quaternion)
        np.testing.assert_allclose(turned, np.array(after.angular_velocity) * DT, atol=1e-9)


def test_a_reference_on_its_path_stays_on_it_without_lag() -> None:
    reference = at_rest(frozen_array([0.0, 0.0, 0.0]), frozen_array([1.0, 0.0, 0.0, 0.0]))
    for tick in range(1, 401):
        point = PathPoint((0.2 * tick * DT, 0.0, 0.0), (0.2, 0.0, 0.0), None, (0.0, 0.0, 0.0), 0.0)
        reference = track(reference, point, TrackerOptions(), DT)
    assert reference.position[0] == pytest.approx(0.2 * 400 * DT, abs=1e-9)
    assert reference.velocity[0] == pytest.approx(0.2, abs=1e-9)


def test_the_nearest_admissible_acceleration_is_taken() -> None:
    still = (0.0, 0.0, 0.0)
    velocity, acceleration = bounded_step(still, still, [1.0, 0.0, 0.0], 1.0, 2.0, 1000.0, DT)
    assert acceleration == (1.0, 0.0, 0.0)
    assert velocity == (DT, 0.0, 0.0)
    _, acceleration = bounded_step(still, still, [9.0, 0.0, 0.0], 1.0, 2.0, 1000.0, DT)
    assert acceleration == pytest.approx((2.0, 0.0, 0.0))
    _, acceleration = bounded_step(still, still, [9.0, 0.0, 0.0], 1.0, 2.0, 100.0, DT)
    assert acceleration == pytest.approx((0.5, 0.0, 0.0))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_compiled_steps_are_the_same_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def vector(scale: float) -> tuple[float, float, float]:
        x, y, z = (10.0 ** rng.uniform(-6, 1) * rng.uniform(-scale, scale, 3)).tolist()
        return x, y, z

    def quaternion() -> tuple[float, float, float, float]:
        w, x, y, z = quaternion_from_rotation_vector(np.array(vector(3.0))).tolist()
        return w, x, y, z

    speed, hardest = rng.uniform(0.05, 3.0, 2).tolist()
    ceilings = (speed, hardest, float(rng.uniform(10.0, 300.0)))
    rate, change = vector(0.5), vector(0.5)
    for _ in range(20):
        wanted = vector(5.0)
        after = bounded_step(rate, change, list(wanted), *ceilings, DT)
        assert bounded(rate, change, wanted, *ceilings, DT) == after
        position, goal, goal_rate = vector(1.0), vector(1.0), vector(1.0)
        push = [
            100.0 * (g - r * DT - x) + 20.0 * (r - v)
            for g, r, x, v in zip(goal, goal_rate, position, rate, strict=True)
        ]
        velocity, acceleration = bounded_step(rate, change, push, *ceilings, DT)
        moved = tuple(x + v * DT for x, v in zip(position, velocity, strict=True))
        assert shifted(position, rate, change, goal, goal_rate, 10.0, *ceilings, DT) == (moved, velocity, acceleration)
        here, there = quaternion(), quaternion()
        error = rotation_difference(np.array(there), np.array(here)).tolist()
        push = [100.0 * (e - r * DT) + 20.0 * (r - v) for e, r, v in zip(error, goal_rate, rate, strict=True)]
        velocity, acceleration = bounded_step(rate, change, push, *ceilings, DT)
        led = tuple(rotate_by_vector(np.array(here), np.array(velocity) * DT).tolist())
        assert swung(here, rate, change, there, goal_rate, 10.0, *ceilings, DT) == (led, velocity, acceleration)
        assert turned(here, goal) == tuple(rotate_by_vector(np.array(here), np.array(goal)).tolist())
        (u, v, w), (a, b, c) = after
        rate, change = (u, v, w), (a, b, c)


def test_an_orientation_that_is_lost_is_an_error() -> None:
    lost = at_rest(np.zeros(3), np.full(4, np.nan))
    point = PathPoint((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), frozen_array([1.0, 0.0, 0.0, 0.0]), (0.0, 0.0, 0.0), 0.0)
    with pytest.raises(ValueError, match="non-zero norm"):
        track(lost, point, TrackerOptions(), DT)


@pytest.mark.parametrize("dims", [3, 5, 6, 7])
def test_a_moving_reference_of_any_size_comes_to_rest_where_it_was_told(dims: int) -> None:
    still = tuple([0.0] * dims)
    options = TrackerOptions()
    reference = at_rest(frozen_array(np.zeros(dims)), frozen_array([1.0, 0.0, 0.0, 0.0]))
    ahead = PathPoint(tuple([0.2] * dims), still, None, (0.0, 0.0, 0.0), 0.0)
    for _ in range(20):
        reference = track(reference, ahead, options, DT)
    rest = resting_point(reference, options)
    for _ in range(400):
        reference = track(reference, rest, options, DT)
    assert reference.position == pytest.approx(rest.position, abs=1e-9)
    assert reference.velocity == pytest.approx(still, abs=1e-9)
    assert len(reference.acceleration) == dims


def test_options_name_what_is_not_positive() -> None:
    with pytest.raises(ValueError, match=r"expected a positive max_jerk of the tracker, found 0"):
        TrackerOptions(max_jerk=0.0)
