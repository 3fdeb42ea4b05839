"""Servos follow a turning command each in its own time; the tool must not get too fast or too forceful meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import CommandMode, FloatArray
from safety.kernel.dynamics import blow
from safety.kernel.lag import SPEEDS, beyond, blow_rows
from safety.lag import Servos
from safety.limits import ServoLagLimit
from safety.motion import Motion
from safety.profile import load_profile, parse_profile
from tests.safety.cases import case, few, limit_of, seeds, share_of
from tests.safety.helpers import ARMS, DT, Bench, robot, sensed
from tests.safety.world import full_bench

every_arm = pytest.mark.parametrize("name", ARMS)
_STEP_S = 5e-5


def shares(name: str, motion: Motion, qd: FloatArray) -> FloatArray:
    """(2 + t,) of the bounds that joint velocities (n,) rad/s use up: speed, turning, a blow by each point."""
    limit = limit_of(name, "servo_lag")
    assert isinstance(limit, ServoLagLimit)
    struck = full_bench(name).watched.kinematics.tool_points
    jacobian, factor = motion.jacobian, motion.dynamics.factor
    scratch = np.zeros((3, len(qd)))
    rates = motion.jacobian @ qd
    linear, angular = float(np.linalg.norm(rates[:3])), float(np.linalg.norm(rates[-3:]))
    blows = [np.sqrt(blow(jacobian, 3 * point, factor, qd, scratch)) / limit.blow for point in struck]
    return np.array([linear / limit.linear, angular / limit.angular, *blows])


def followed(name: str, mode: CommandMode, motion: Motion, qd: FloatArray, lead: FloatArray) -> float:
    """The largest share that servos use up at four moments, by integrating their own equation in small steps."""
    servo, damping = robot(name).servo, full_bench(name).watched.kinematics.damping
    assert servo is not None
    position = mode is CommandMode.POSITION
    qd, lead = qd.copy(), lead + motion.velocity * (0.5 * motion.dt if position else 0.0)
    inverse, every = np.linalg.inv(motion.dynamics.inertia), round((0.010 if position else 0.005) / _STEP_S)
    most = 0.0
    for step in range(4 * every):
        if position:
            torque = servo.stiffness * lead - (servo.damping + damping) * qd
        else:
            torque = servo.drive * (motion.velocity - qd) - damping * qd
        qd = qd + _STEP_S * (inverse @ torque)
        lead = lead + _STEP_S * (motion.velocity - qd)
        if (step + 1) % every == 0:
            most = max(most, float(shares(name, motion, qd).max()))
    return most


@every_arm
@few
@given(seed=seeds, position=st.booleans(), size=st.sampled_from([0.1, 0.5, 1.0]))
def test_what_is_predicted_is_what_servos_do(name: str, seed: int, position: bool, size: float) -> None:
    start, rng = case(name, seed, size), np.random.default_rng(seed)
    q, n = start.factory.position, robot(name).n
    moving = np.clip(start.velocity + rng.normal(size=n) * 0.2, -3.0, 3.0)
    servo = robot(name).servo
    assert servo is not None
    lead = np.zeros(n)
    if position:  # as after some time at that velocity
        lead = servo.damping / servo.stiffness * moving + rng.normal(size=n) * 1e-3
        factory = full_bench(name).factory(q, moving, lead=lead, rates=moving)
        there = full_bench(name).factory(q - lead, moving)
    else:
        there = factory = full_bench(name).factory(q, moving, rates=moving, force=np.zeros(3))
    motion, arm = factory.motion(start.velocity), there.motion(start.velocity)
    mode = CommandMode.POSITION if position else CommandMode.VELOCITY
    highest = followed(name, mode, arm, moving, lead)
    margin = limit_of(name, "servo_lag").judge(motion).margin
    now = float(shares(name, arm, moving).max())
    # Steps as long as the joints lag forget the present a little late: that errs to the safe side, but for some percent
    # of the rate, and where the arm is slow 2% of what is allowed.
    size = max(highest, now)
    assert -0.06 * size - 0.02 <= 1.0 - margin - highest <= 0.2 * size + 0.02


@every_arm
@few
@given(seed=seeds)
def test_rows_of_a_blow_say_its_energy(name: str, seed: int) -> None:
    start = case(name, seed, 1.0)
    jacobian, factor = start.factory.geometry.jacobian, start.factory.dynamics.factor
    rows, scratch = np.zeros((4, robot(name).n)), np.zeros((3, robot(name).n))
    for point in full_bench(name).watched.kinematics.tool_points:
        blow_rows(jacobian, 3 * point, factor, rows, 1)
        rates = rows[1:] @ start.velocity
        felt = blow(jacobian, 3 * point, factor, start.velocity.copy(), scratch)
        assert float(rates @ rates) == pytest.approx(felt, rel=1e-9)


@every_arm
@few
@given(seed=seeds, position=st.booleans())
def test_the_share_that_inequalities_give_is_admitted(name: str, seed: int, position: bool) -> None:
    limit, start = limit_of(name, "servo_lag"), case(name, seed, 2.0)
    rates = np.random.default_rng(seed).normal(size=robot(name).n)
    lead = np.zeros_like(rates) if position else None
    factory = full_bench(name).factory(start.factory.position, lead=lead, rates=rates, force=np.zeros(3))
    motion = factory.motion(start.velocity)
    share = share_of(limit, motion)
    assert limit.judge(factory.motion(start.velocity * share)).slack >= -1e-9
    assert limit.judge(factory.motion(start.velocity * 0.0)).slack >= 0.0


@given(seed=seeds)
def test_rates_beyond_their_bounds_are_found(seed: int) -> None:
    """What a motion may be is what it is at rest, where that is too much already."""
    rng = np.random.default_rng(seed)
    groups = SPEEDS + 2
    lag, velocity = rng.normal(size=(3 * groups * 4, 8)), rng.normal(size=7)
    lag *= rng.uniform(0.01, 1.0)
    change = lag[:, :7] @ velocity
    which, most = np.zeros(groups * 4, dtype=np.int64), np.zeros(groups * 4)
    count = beyond(lag, change, groups, 0.5, 2.0, 1.4, which, most)
    rest = np.linalg.norm(lag[:, 7].reshape(-1, 3), axis=1)
    bounds = np.maximum(np.tile([0.5, 2.0, 1.4, 1.4], 4), rest)
    rates = np.linalg.norm((lag[:, 7] + change).reshape(-1, 3), axis=1)
    found = np.flatnonzero(rates > bounds)
    assert which[:count].tolist() == found.tolist()
    assert most[:count] == pytest.approx(bounds[found])


@every_arm
@few
@given(seed=seeds)
def test_a_joint_that_lags_by_more_than_its_gains_say_is_foretold_no_wild_speed(name: str, seed: int) -> None:
    """Drives pull no harder than they can: a lead says no more than that, however large it is."""
    description, rng = robot(name), np.random.default_rng(seed)
    servo, n = description.servo, description.n
    assert servo is not None
    rates = rng.normal(size=n) * 0.3
    settled = servo.damping / servo.stiffness * rates
    most = np.abs(settled) + 1.1 * description.limits.torque / servo.stiffness  # with the joints' own friction
    sign = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    q, still = np.array(description.home), np.zeros(n)
    kinematics = full_bench(name).watched.kinematics
    geometry, dynamics, servos = kinematics.geometry(q), kinematics.dynamics(q, still), Servos(description, kinematics)
    state = sensed(q, rates, 0)
    lags = [
        servos.lag(CommandMode.POSITION, state, q + sign * size, geometry, dynamics, 0.005)
        for size in (2.0 * most, 20.0 * most)
    ]
    assert np.array_equal(lags[0].rates, lags[1].rates)


def test_joints_that_cancel_each_other_do_not_while_one_lags() -> None:
    """Before and after the turn the hand stands still; in between the wrist is ahead of the shoulder."""
    data: dict[str, Any] = load_profile("panda_tabletop").to_json()
    data["end_effector"].update(angular_speed_rad_s=0.5, kinetic_energy_j=2.0)
    data["force"]["transient_n"] = 1000.0
    built = Bench.of(robot("panda"), parse_profile(data))
    turning, servo = np.zeros(7), robot("panda").servo
    assert servo is not None
    turning[0], turning[6] = 1.5, 1.5  # opposite axes
    # As after some time at that velocity, at the start of a tick that takes its way at once.
    lead = turning * (servo.damping / servo.stiffness - 0.5 * DT)
    factory = built.factory(np.array(robot("panda").home), lead=lead, rates=turning)
    limit = next(limit for limit in built.limits.every if limit.name == "servo_lag")
    angular = next(limit for limit in built.limits.every if limit.name == "end_effector_angular_speed")
    assert angular.judge(factory.motion(turning)).margin > 0.3
    assert limit.judge(factory.motion(turning)).slack > 0.0
    back = factory.motion(-turning)
    assert limit.judge(back).slack < 0.0
    share = share_of(limit, back)
    assert 0.0 < share < 1.0
    assert abs(limit.judge(factory.motion(-turning * share)).slack) < 1e-9
