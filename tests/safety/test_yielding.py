"""How the path gives way: never to where the arm must not be, to links' contacts too, and fingers stop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import CommandMode, FloatArray, SafetyStatus
from safety.contact import LinkTouch
from safety.kernel.contact import unexplained
from safety.lag import Servos
from safety.limits import Fingers, GripperLimit
from safety.profile import load_profile
from tests.safety.helpers import ARMS, DT, Arm, bench, felt, robot, safety, sensed

JAW = Fingers(0.05, moving=True)
GRIP = Fingers(0.05, moving=False)


# --------------------------------------------------------------------------------- never out of the limits


@pytest.mark.parametrize("name", ARMS)
@given(seed=st.integers(0, 2**32 - 1), force_n=st.floats(50.0, 300.0))
def test_a_path_that_gives_way_stays_inside_wherever_the_arm_is_pushed(name: str, seed: int, force_n: float) -> None:
    """Something pushes the arm past the end of a joint's range: the command does not follow it there."""
    rng, built = np.random.default_rng(seed), safety(name)
    description, margin = robot(name), built.profile.joints.position_margin_rad
    lower = description.limits.position_lower + margin
    upper = description.limits.position_upper - margin
    arm = Arm.at(name, CommandMode.POSITION)
    arm.step(arm.q)
    pushed = rng.uniform(-1.0, 1.0, len(arm.q)) * rng.choice([0.02, 0.2, 2.0])
    where = arm.q.copy()
    for _ in range(12):
        where = where + pushed / 12
        force = rng.normal(size=3)
        state = sensed(where, pushed / (12 * DT), arm.now_ns, force=force * (force_n / np.linalg.norm(force)))
        result = arm.step(arm.q, state=state)
        assert (result.command.values >= lower - 1e-9).all()
        assert (result.command.values <= upper + 1e-9).all()
        assert built.judge_place(result.command.values) >= -1e-9


def test_a_protective_stop_begins_where_it_can_end_inside() -> None:
    """An arm that runs towards the end of a range as its stop trips is not led on at its own speed."""
    built, arm = safety("panda"), Arm.at("panda", CommandMode.POSITION)
    arm.step(arm.q)
    end = robot("panda").limits.position_upper - built.profile.joints.position_margin_rad
    at = end.copy()
    at[:6] = arm.q[:6]
    at[6] -= 1e-4
    rates = np.zeros(7)
    rates[6] = 2.0
    for _ in range(20):  # too fast for the path that it was led: overspeed
        result = arm.step(arm.q, state=sensed(at, rates, arm.now_ns))
    assert result.status is SafetyStatus.PROTECTIVE_STOP
    assert (result.command.values <= end + 1e-9).all()


# ------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", ARMS)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 3.0))
def test_what_the_tool_feels_is_no_link_and_what_a_link_feels_is(name: str, seed: int, share: float) -> None:
    rng, made = np.random.default_rng(seed), bench(name)
    q = rng.uniform(made.description.limits.position_lower, made.description.limits.position_upper)
    jacobian = made.watched.kinematics.geometry(q).jacobian
    rows = np.vstack((jacobian[:3], jacobian[-3:]))
    most = np.full(len(q), 8.0)
    wrench = rng.normal(size=6) * (100.0, 100.0, 100.0, 10.0, 10.0, 10.0)
    explained = rows.T @ wrench
    lagging = min(share, 1.0)  # the observer has not yet seen all of it
    assert unexplained(lagging * explained, most, jacobian, wrench) <= -8.0 + 1e-6
    joint = int(rng.integers(len(q)))
    pushed = explained.copy()
    pushed[joint] += np.copysign(10.0 * share, pushed[joint])
    expected = min(abs(float(pushed[joint])), 10.0 * share) - 8.0
    assert unexplained(pushed, most, jacobian, wrench) == pytest.approx(expected, abs=1e-6)


def link_pushed(arm: Arm, torque: FloatArray) -> FloatArray:
    """Effort of drives that hold the arm against a ``torque`` (n,) N m from outside that the wrist does not feel."""
    return arm.effort() - torque


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_a_position_path_gives_way_to_a_link_that_is_stopped(name: str) -> None:
    """The arm stands against something before the wrist; the command does not go on pushing."""
    arm = Arm.at(name, CommandMode.POSITION)
    where, servo = arm.q.copy(), robot(name).servo
    assert servo is not None
    most = np.maximum(0.15 * robot(name).limits.torque, 8.0)
    direction = np.zeros_like(where)
    direction[1] = 1.0
    pulls: list[float] = []
    statuses: list[SafetyStatus] = []
    for _ in range(200):
        pull = servo.stiffness * (arm.q - where)
        arm.qd = np.zeros_like(where)
        state = sensed(where, arm.qd, arm.now_ns, effort=link_pushed(arm, -pull))
        result = arm.step(arm.q + 0.2 * DT * direction, state=state)
        pulls.append(float((servo.stiffness * (result.command.values - where))[1]))
        statuses.append(result.status)
    assert max(pulls) < 4.0 * most[1]  # what a few ticks add until the observer has seen it
    assert np.mean(pulls[-50:]) < 1.5 * most[1]
    assert SafetyStatus.LIMITING in statuses[-10:]


def test_a_velocity_path_gives_way_to_a_link_that_is_stopped() -> None:
    arm = Arm.at("panda", CommandMode.VELOCITY)
    where, asked = arm.q.copy(), np.array([0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(40):
        arm.q, arm.qd = where.copy(), np.zeros(7)
        pushed = np.array([0.0, -40.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        result = arm.step(asked, state=sensed(where, arm.qd, arm.now_ns, effort=link_pushed(arm, pushed)))
    most = robot("panda").limits.acceleration * DT
    assert abs(float(result.command.values[1])) <= most[1] + 1e-9  # no more than one tick's start from rest
    assert any("link" in reason.message for reason in result.reasons)


def test_without_servos_a_link_is_led_where_it_is() -> None:
    touch = LinkTouch(robot("panda"))
    state = sensed(np.zeros(7), np.zeros(7), 0)
    servo = robot("panda").servo
    assert servo is not None
    led = touch.led(np.full(7, 1.0), state)
    assert (servo.stiffness * led <= np.maximum(0.15 * robot("panda").limits.torque, 8.0) + 1e-9).all()


# ------------------------------------------------------------------------------------- servos' way


@pytest.mark.parametrize("name", ARMS)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_way_left_is_what_velocity_servos_make_beyond_their_command(name: str, seed: int) -> None:
    """Integrated in small steps, whatever the command does on its way to rest."""
    rng, made = np.random.default_rng(seed), bench(name)
    description, kinematics = made.description, made.watched.kinematics
    servo = description.servo
    assert servo is not None
    q = rng.uniform(0.5 * description.limits.position_lower, 0.5 * description.limits.position_upper)
    start = rng.uniform(-0.3, 0.3, len(q)) * description.limits.velocity
    left = Servos(description, kinematics).way_left(q, start)
    inertia = kinematics.dynamics(q, start).inertia
    step, qd = 2e-5, start.copy()
    way, led = np.zeros(len(q)), np.zeros(len(q))
    times, values = [0.0, 0.02, 0.06], [start, rng.uniform(-0.5, 0.5, len(q)), np.zeros(len(q))]
    solve = np.linalg.inv(inertia + step * np.diag(servo.drive))
    for tick in range(round(1.0 / step / 2)):
        now = tick * step
        command = values[0] if now < times[1] else values[1] if now < times[2] else values[2]
        qd = solve @ (inertia @ qd + step * servo.drive * command)
        way, led = way + qd * step, led + command * step
    assert way == pytest.approx(led + left, abs=2e-3 * float(np.abs(start).max()) + 1e-5)


# ----------------------------------------------------------------------------------------- fingers


def limit() -> GripperLimit:
    return GripperLimit(robot("so101").gripper, load_profile("so101_tabletop").gripper)


def test_fingers_that_move_in_a_contact_stop_and_a_grip_stays() -> None:
    for asked, previous in ((0.007, 0.007), (0.1, 0.1)):  # closing, opening
        opening, (reason,) = limit().arrested(asked, previous, JAW)
        assert (opening, reason.limit) == (0.05, "gripper_contact")
    assert limit().arrested(0.007, 0.007, GRIP) == (0.007, ())  # pressing on what it holds
    stopped = GRIP._replace(stopped=True)
    assert limit().arrested(0.007, 0.0501, stopped)[0] == 0.0501  # and still there


def test_movement_of_fingers_is_told_from_two_states() -> None:
    assert Fingers(0.05, moving=False).seen(0.0495, DT).moving
    assert not Fingers(0.05, moving=True).seen(0.04995, DT).moving


@pytest.mark.parametrize("nearly_out", [True, False])
def test_a_jaw_that_closes_on_the_table_is_arrested_where_it_would_drive_the_arm_out(nearly_out: bool) -> None:
    """The wrist feels what the jaw pushes against; once nothing is felt for a while the fingers go on."""
    start = np.array(robot("so101").home)
    if nearly_out:
        end = robot("so101").limits.position_upper - safety("so101").profile.joints.position_margin_rad
        start[4] = end[4] - 1e-3
    arm, opening, leads = Arm.at("so101", CommandMode.POSITION, start), 0.095, []
    for tick in range(60):
        touching = 5 <= tick < 10
        force = felt(arm.filter, arm.q, np.array([0.0, 0.0, 40.0]) if touching else np.zeros(3))
        result = arm.step(arm.q, opening=0.007, state=arm.state(force=force, opening=opening))
        leads.append(opening - result.command.gripper_opening)
        opening -= min(max(leads[-1], -0.001), 0.001)
    assert leads[4] > 0.001
    assert all(lead <= 0.001 + 1e-9 for lead in leads[6:24]) == nearly_out  # 100 ms after the last contact at least
    assert leads[-1] > 0.001


def test_fingers_that_nobody_sees_do_not_go_on() -> None:
    arm = Arm.at("so101", CommandMode.POSITION)
    for opening in (0.06, 0.059, 0.058):
        seen = arm.state(opening=opening)
        arm.step(arm.q, opening=0.007, state=seen)
    for _ in range(8):
        result = arm.step(arm.q, opening=0.007, state=seen)
    assert result.command.gripper_opening == pytest.approx(0.058)


def test_a_velocity_path_leads_nowhere_a_touched_link_is_pushed_from() -> None:
    """Even what one tick of a slow loop would gain from rest takes nothing from what pushes the link."""
    arm = Arm.at("panda", CommandMode.VELOCITY)
    where, pushed = arm.q.copy(), np.array([0.0, -40.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    for asked in (0.5, -0.5):
        for _ in range(20):
            arm.q, arm.qd = where.copy(), np.zeros(7)
            state = sensed(where, arm.qd, arm.now_ns, effort=link_pushed(arm, pushed))
            result = arm.step(np.array([0.0, asked, 0.0, 0.0, 0.0, 0.0, 0.0]), dt=0.02, state=state)
        assert float(result.command.values[1]) * -40.0 >= -1e-9
