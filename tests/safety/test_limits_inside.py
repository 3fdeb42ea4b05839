"""What a limit admits stays inside until it rests, and its margin is a close lower bound: measured by MuJoCo."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import FloatArray
from safety.limits import WALL_RESERVE_M
from safety.motion import Motion, braked
from safety.profile import SphereZone
from tests.safety.cases import case, cases, few, limit_of, seeds, share_of
from tests.safety.helpers import ARMS, robot
from tests.safety.world import PLACES, SPEEDS, full_bench, world

every_arm = pytest.mark.parametrize("name", ARMS)
# Speed and reflected mass are judged at the start of the tick; on the way to rest the energy may grow by this share.
_GROWTH = {"kinetic_energy": 0.25}


def way_to_rest(motion: Motion, acceleration: FloatArray, rng: np.random.Generator) -> Iterator[tuple[FloatArray, ...]]:
    """Positions and velocities through the tick and a stop that is executed in random control periods."""
    q, velocity, dt = motion.position, motion.velocity, motion.dt
    while True:
        for share in (0.25, 0.5, 0.75, 1.0):
            yield q + velocity * dt * share, velocity
        q = q + velocity * dt
        if not velocity.any():
            return
        dt = float(rng.choice([0.002, 0.01, 0.03]))
        velocity = braked(velocity, acceleration, dt)


def on_the_verge(kind: str, name: str, seed: int) -> Iterator[Motion]:
    """Motions that a limit just admits."""
    limit = limit_of(name, kind)
    for start in cases(name, seed):
        factory = start.factory._replace(carrying=False)
        share = share_of(limit, factory.motion(start.velocity)) * (1 - 1e-9)
        motion = factory.motion(start.velocity * share)
        if limit.judge(motion).slack >= 0.0:
            yield motion


@every_arm
@pytest.mark.parametrize("kind", [*PLACES, *SPEEDS])
@few
@given(seed=seeds)
def test_an_admitted_motion_stays_inside_until_it_rests(name: str, kind: str, seed: int) -> None:
    measured, rng = world(name), np.random.default_rng(seed)
    acceleration = full_bench(name).limits.acceleration.maximum
    for motion in on_the_verge(kind, name, seed):
        # Found outside, it may come back in but never go farther out.
        allowed = max(measured.measure(kind, motion.position), 0.0) + 1e-6
        allowed += _GROWTH.get(kind, 0.0) * limit_of(name, kind).margin_scale
        for q, qd in way_to_rest(motion, acceleration, rng):
            assert measured.measure(kind, q, qd) <= allowed


@every_arm
@pytest.mark.parametrize("kind", PLACES)
@few
@given(seed=seeds)
def test_margins_are_lower_bounds_of_the_true_distance_and_close_ones(name: str, kind: str, seed: int) -> None:
    limit, measured, acceleration = limit_of(name, kind), world(name), full_bench(name).limits.acceleration.maximum
    rng = np.random.default_rng(seed)
    for start in cases(name, seed):
        factory = start.factory._replace(carrying=False)
        rest = factory.motion(np.zeros_like(start.velocity))
        distance = -measured.measure(kind, rest.position)
        margin = limit.judge(rest).margin
        assert margin <= distance + 1e-6
        if 0.0 < distance < 0.2:  # inside, the ways out that are tried need not be the shortest; far off they are not
            assert margin >= distance - 1e-5
        motion = factory.motion(start.velocity)
        found = [-measured.measure(kind, q) for q, _ in way_to_rest(motion, acceleration, rng)]
        end = -measured.measure(kind, motion.position + motion.velocity * motion.reach_time)
        margin = limit.judge(motion).margin
        # The margin is that of the end; on the way the start may be the nearest.
        assert min(margin, limit.judge(rest).margin) <= min(*found, end) + 1e-6
        step = float(np.abs(motion.velocity).sum()) * motion.reach_time
        if 0.0 < end < 0.2 and step < 0.1:
            # A plane parts all of a capsule: its far end may near it while the shortest way stays as long.
            turning = 0.5 * step if kind in ("keep_out", "self_collision") else 0.0
            assert margin >= end - turning - 2.0 * step**2 - 1e-5


@every_arm
@few
@given(seed=seeds)
def test_a_load_is_kept_out_of_zones_and_in_the_box_as_well(name: str, seed: int) -> None:
    measured, bench = world(name), full_bench(name)
    carried, box = bench.profile.carried_object, bench.profile.box("carried_object")
    assert carried is not None
    keep_out, walls, floor = limit_of(name, "keep_out"), limit_of(name, "workspace_box"), np.array(box.lower_m)
    for start in cases(name, seed):
        factory = start.factory._replace(carrying=True)
        rest = factory.motion(np.zeros_like(start.velocity))
        measured.place(rest.position)
        site = measured.data.site(bench.description.end_effector_site)
        centre = site.xpos + site.xmat.reshape(3, 3) @ np.array(carried.centre_m)
        inside = min(float((centre - floor).min()), float((np.array(box.upper_m) - centre).min())) - carried.radius_m
        inside -= WALL_RESERVE_M
        assert walls.judge(rest).margin == pytest.approx(min(inside, -measured.workspace_box()), abs=1e-9)
        ball = next(zone for zone in bench.profile.keep_outs if isinstance(zone, SphereZone))
        free = float(np.linalg.norm(centre - np.array(ball.centre_m))) - ball.radius_m - carried.radius_m
        assert keep_out.judge(rest).margin <= min(free, -measured.keep_out()) + 1e-6


@every_arm
@few
@given(seed=seeds)
def test_an_admitted_lead_presses_no_harder_than_the_ceiling(name: str, seed: int) -> None:
    limit, servo = limit_of(name, "force_command_lead"), robot(name).servo
    assert servo is not None
    for index, start in enumerate(cases(name, seed)):
        contact = start.factory.contact.servo
        assert contact is not None
        share = share_of(limit, start.hard()) * (1 - 1e-9)
        lead = contact.lead + start.velocity * share * start.factory.dt
        jacobian = start.factory.geometry.jacobian[:3]
        compliance = jacobian @ np.diag(1 / servo.stiffness) @ jacobian.T + 1e-6 * np.eye(3)
        now, then = (float(np.linalg.norm(np.linalg.solve(compliance, jacobian @ x))) for x in (contact.lead, lead))
        assert then <= max(limit.margin_scale, now) * (1 + 1e-6), index


@every_arm
@few
@given(seed=seeds)
def test_the_arm_moves_the_slower_against_a_force_the_nearer_it_is_to_the_ceiling(name: str, seed: int) -> None:
    limit = limit_of(name, "contact_force")
    for start in cases(name, seed):
        share = share_of(limit, start.hard())
        force, size = start.factory.contact.wrench[:3], start.factory.contact.force_size
        against = -float(force @ (start.factory.geometry.jacobian[:3] @ start.velocity)) / size * share
        assert size < 0.5 * limit.margin_scale or against <= 0.1 * 2 * max(1 - size / limit.margin_scale, 0.0) + 1e-9


@every_arm
@given(seed=seeds, size=st.sampled_from([0.5, 2.0, 4.0]))
def test_points_stay_between_the_curves_that_enclose_them(name: str, seed: int, size: float) -> None:
    """On the line through a point's bend half-way and at the end, it is off by at most the rest."""
    motion = case(name, seed, size, spread=2.0).hard()
    points, way = full_bench(name).watched.kinematics.points, motion.velocity * motion.reach_time
    tangent = motion.rates[:-3].reshape(-1, 3) * motion.reach_time
    half = 4.0 * (motion.middle_points - motion.points - tangent / 2)
    last = motion.end_points - motion.points - tangent
    for x in np.linspace(0.02, 1.0, 30):
        bend = (points(motion.position + x * way) - motion.points - x * tangent) / x**2
        line = (2 - 2 * x) * half + (2 * x - 1) * last
        assert (np.linalg.norm(bend - line, axis=1) <= motion.rest + 1e-10).all()
