"""Each limit alone: rest is always admitted, tighter admits less, and what is admitted stays inside to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controllers.types import FloatArray
from safety.limits import (
    EndEffectorAngularSpeedLimit,
    EndEffectorLinearSpeedLimit,
    Inequalities,
    JointAccelerationLimit,
    JointPositionLimit,
    JointVelocityLimit,
    Limit,
    VelocityBox,
    WorkspaceBoxLimit,
    scale_interval,
)
from safety.limits.base import stoppable_share
from safety.motion import Motion, MotionFactory
from tests.safety.helpers import ROBOTS, robot, safety, solved

LIMITS = (
    "joint_position",
    "joint_velocity",
    "joint_acceleration",
    "workspace_box",
    "end_effector_linear_speed",
    "end_effector_angular_speed",
)
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0])


def limit_of(name: str, kind: str) -> Limit:
    return next(limit for limit in safety(name).limits if limit.name == kind)


@dataclass
class Case:
    """A random start and velocity."""

    factory: MotionFactory
    velocity: FloatArray

    def gentle(self, share: float = 1.0) -> Motion:
        return self.factory.gentle_motion(self.velocity * share, 0.5)

    def hard(self, share: float = 1.0) -> Motion:
        return self.factory.motion(self.velocity * share)


def case(name: str, seed: int, size: float, spread: float = 0.4, rest: bool = False) -> Case:
    description, filter_ = robot(name), safety(name)
    rng = np.random.default_rng(seed)
    limits = description.limits
    reach = spread * (limits.position_upper - limits.position_lower) / 4
    q = np.clip(
        description.home + rng.uniform(-1, 1, description.n) * reach, limits.position_lower, limits.position_upper
    )
    velocity = rng.normal(size=description.n) * size
    previous = np.zeros(description.n) if rest else rng.normal(size=description.n) * size
    dt = float(rng.choice([0.002, 0.005, 0.02]))
    factory = MotionFactory(
        q, previous, filter_.kinematics, filter_.kinematics.geometry(q), limits.acceleration, dt, dt
    )
    return Case(factory, velocity)


def share_of(limit: Limit, motion: Motion) -> float:
    return scale_interval(limit.inequalities(motion), motion.velocity)[1]


def dense(constraint: Inequalities | VelocityBox) -> Inequalities:
    return constraint.as_inequalities() if isinstance(constraint, VelocityBox) else constraint


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("kind", LIMITS)
@given(seed=seeds, size=sizes)
def test_rest_is_always_admitted_even_outside(name: str, kind: str, seed: int, size: float) -> None:
    limit = limit_of(name, kind)
    start = case(name, seed, size, spread=2.0, rest=True)
    assert limit.judge(start.hard(0.0)).slack >= 0.0
    assert limit.judge(start.gentle(0.0)).slack >= 0.0
    inequalities = dense(limit.inequalities(start.gentle()))
    assert (inequalities.b >= 0.0).all()


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("kind", LIMITS)
@given(seed=seeds, size=sizes)
def test_what_satisfies_the_inequalities_is_admitted(name: str, kind: str, seed: int, size: float) -> None:
    limit = limit_of(name, kind)
    start = case(name, seed, size, rest=True)
    share = share_of(limit, start.gentle())
    assert 0.0 <= share <= 1.0
    assert (limit.judge(start.gentle()).slack >= 0.0) == (share >= 1.0) or abs(share - 1.0) < 1e-9
    assert limit.judge(start.gentle(share * (1 - 1e-9))).slack >= -1e-13
    # A stop half as long is judged anew: from outside a box, by a slightly different estimate of the same curve.
    outside = kind == "workspace_box" and _box_excess(name)(start.factory.position, start.velocity) > 0.0
    assert limit.judge(start.hard(share * (1 - 1e-9))).slack >= (-1e-3 if outside else -1e-9)
    inequalities = dense(limit.inequalities(start.gentle()))
    assert (inequalities.A @ (share * start.velocity) <= inequalities.b + 1e-9).all()


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("kind", LIMITS)
@given(seed=seeds, size=sizes, share=st.floats(0.0, 1.0))
def test_slower_along_an_admitted_path_is_admitted(name: str, kind: str, seed: int, size: float, share: float) -> None:
    limit = limit_of(name, kind)
    start = case(name, seed, size, rest=True)
    assume(limit.judge(start.hard()).slack >= 0.0)
    assert limit.judge(start.hard(share)).slack >= -1e-13


def _tightened(name: str, kind: str, by: float) -> Limit:
    limit = limit_of(name, kind)
    if isinstance(limit, JointPositionLimit):
        room = by * 0.2 * (limit.upper - limit.lower)
        return JointPositionLimit(limit.lower + room, limit.upper - room, robot(name).limits.acceleration)
    if isinstance(limit, JointVelocityLimit):
        return JointVelocityLimit(limit.maximum * (1 - by))
    if isinstance(limit, JointAccelerationLimit):
        return JointAccelerationLimit(limit.maximum * (1 - by))
    if isinstance(limit, WorkspaceBoxLimit):
        room = by * 0.2 * (limit.upper - limit.lower)
        return WorkspaceBoxLimit(limit.lower + room, limit.upper - room, limit.standoff)
    if isinstance(limit, EndEffectorLinearSpeedLimit):
        return EndEffectorLinearSpeedLimit(limit.maximum * (1 - by))
    assert isinstance(limit, EndEffectorAngularSpeedLimit)
    return EndEffectorAngularSpeedLimit(limit.maximum * (1 - by))


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("kind", LIMITS)
@given(seed=seeds, size=sizes, by=st.floats(0.0, 0.9))
def test_a_tighter_limit_never_admits_more(name: str, kind: str, seed: int, size: float, by: float) -> None:
    loose, tight = limit_of(name, kind), _tightened(name, kind, by)
    start = case(name, seed, size, rest=True)
    assert tight.judge(start.hard()).margin <= loose.judge(start.hard()).margin + 1e-12
    assert share_of(tight, start.gentle()) <= share_of(loose, start.gentle()) + 1e-9


def _joint_excess(name: str) -> Callable[[FloatArray, FloatArray], float]:
    limit = limit_of(name, "joint_position")
    assert isinstance(limit, JointPositionLimit)
    return lambda q, qd: max(float((q - limit.upper).max()), float((limit.lower - q).max()))


def _box_excess(name: str) -> Callable[[FloatArray, FloatArray], float]:
    limit, kinematics = limit_of(name, "workspace_box"), safety(name).kinematics
    assert isinstance(limit, WorkspaceBoxLimit)

    def excess(q: FloatArray, qd: FloatArray) -> float:
        points = kinematics.points(q)
        return max(float((points - limit.upper).max()), float((limit.lower - points).max()))

    return excess


def _speed_excess(name: str, rows: slice, maximum: float) -> Callable[[FloatArray, FloatArray], float]:
    kinematics = safety(name).kinematics
    return lambda q, qd: float(np.linalg.norm(kinematics.geometry(q).jacobian[rows] @ qd)) - maximum


def _excess(name: str, kind: str) -> Callable[[FloatArray, FloatArray], float]:
    limit = limit_of(name, kind)
    if isinstance(limit, EndEffectorLinearSpeedLimit):
        return _speed_excess(name, slice(0, 3), limit.maximum)
    if isinstance(limit, EndEffectorAngularSpeedLimit):
        return _speed_excess(name, slice(-3, None), limit.maximum)
    return _joint_excess(name) if kind == "joint_position" else _box_excess(name)


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("kind", ["joint_position", "workspace_box", "end_effector_linear_speed", LIMITS[-1]])
@given(seed=seeds, size=sizes)
def test_an_admitted_motion_stays_inside_until_it_rests(name: str, kind: str, seed: int, size: float) -> None:
    limit, excess = limit_of(name, kind), _excess(name, kind)
    start = case(name, seed, size, rest=True)
    start.velocity *= share_of(limit, start.hard()) * (1 - 1e-9)  # on the verge of what is admitted
    motion = start.hard()
    assume(limit.judge(motion).slack >= 0.0 and excess(motion.position, motion.velocity * 0.0) <= 0.0)
    end = motion.first_time + motion.stop_time
    for time in np.linspace(0.0, end, 40):
        braking = max(time - motion.first_time, 0.0)
        share = 1.0 - braking / motion.stop_time if motion.stop_time > 0.0 else 0.0
        way = min(time, motion.first_time) + braking * (1.0 + share) / 2.0
        assert excess(motion.position + motion.velocity * way, motion.velocity * share) <= 1e-9


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds, size=sizes)
def test_the_margin_of_the_boxes_is_a_lower_bound_and_a_close_one(name: str, seed: int, size: float) -> None:
    limit, excess = limit_of(name, "workspace_box"), _excess(name, "workspace_box")
    motion = case(name, seed, size, rest=True).hard()
    assume(excess(motion.position, motion.velocity) <= 0.0)
    way = motion.velocity * motion.reach_time
    found = min(-excess(motion.position + x * way, motion.velocity) for x in np.linspace(0.0, 1.0, 50))
    margin = min(limit.judge(motion).margin, -excess(motion.position, motion.velocity))
    assert margin <= found + 1e-9
    step = np.abs(way).sum()
    assert margin >= found - 0.3 * step**2 - 0.05 * step**4


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds, size=st.sampled_from([0.5, 2.0, 4.0]))
def test_points_stay_between_the_curves_that_enclose_them(name: str, seed: int, size: float) -> None:
    limit, kinematics = limit_of(name, "workspace_box"), safety(name).kinematics
    assert isinstance(limit, WorkspaceBoxLimit)
    motion = case(name, seed, size, spread=2.0, rest=True).hard()
    ends, rest = limit._ends(motion)
    tangent, first, last = ends.reshape(3, -1)
    start = motion.points.ravel()
    way = motion.velocity * motion.reach_time
    for x in np.linspace(0.02, 1.0, 30):
        point = kinematics.points(motion.position + x * way).ravel()
        bend = (point - start - x * (tangent - start)) / x**2
        assert (np.abs(bend - (1 - x) * (first - tangent) - x * (last - tangent)) <= rest + 1e-10).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_a_joint_found_outside_may_come_back_but_not_go_farther(name: str) -> None:
    limit = limit_of(name, "joint_position")
    assert isinstance(limit, JointPositionLimit)
    start = case(name, 0, 0.1, spread=0.0, rest=True)
    q = np.array(robot(name).home)
    q[2] = limit.upper[2] + 0.01
    start.factory = start.factory._replace(position=q)
    start.velocity = np.zeros_like(q)
    start.velocity[2] = 0.1
    assert limit.judge(start.hard()).slack < 0.0
    assert share_of(limit, start.gentle()) == 0.0
    start.velocity[2] = -0.1
    assert limit.judge(start.hard()).slack >= 0.0
    assert limit.judge(start.hard()).margin < 0.0
    assert share_of(limit, start.gentle()) == 1.0


@pytest.mark.parametrize("name", ROBOTS)
def test_a_point_found_outside_may_come_back_but_not_go_farther(name: str) -> None:
    start = case(name, 0, 0.1, spread=0.0, rest=True)
    loose = limit_of(name, "workspace_box")
    assert isinstance(loose, WorkspaceBoxLimit)
    upper = loose.upper.copy()
    upper[0, 2] = start.factory.geometry.points[0, 2] - 0.02  # the end effector is 2 cm above its box
    limit = WorkspaceBoxLimit(loose.lower, upper, loose.standoff)
    up = solved(start.factory.geometry.jacobian[[0, 1, 2, -3, -2, -1]], [0, 0, 0.1, 0, 0, 0])
    start.velocity = up
    assert limit.judge(start.hard()).slack < 0.0
    assert share_of(limit, start.gentle()) < 1e-6
    start.velocity = -up
    assert limit.judge(start.hard()).slack >= 0.0
    assert -0.02 < limit.judge(start.hard()).margin < 0.0


@given(first=st.floats(-1.0, 1.0), second=st.floats(0.0, 1.0), distance=st.floats(0.0, 1.0), more=st.floats(1e-6, 1.0))
def test_the_stoppable_share_is_the_largest(first: float, second: float, distance: float, more: float) -> None:
    share = stoppable_share(first, second, distance)
    assume(share < 1e6)
    assert first * share + second * share**2 <= distance + 1e-9 * (1 + share + share**2)
    larger = share * (1 + more) + more
    assert first * larger + second * larger**2 >= distance - 1e-9 * (1 + larger**2)


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
