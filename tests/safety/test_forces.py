"""Force ceilings: before contact by the lead of the command, after it by what is measured and estimated."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import CommandMode, FloatArray, OperatorEvent, RobotState, SafetyResult, SafetyStatus
from safety.building import build_filter
from safety.filter import PathConsistentFilter, SafetyMemory
from safety.limits import WALL_RESERVE_M, GripperLimit
from safety.profile import load_profile, parse_profile
from sim.robot import SimRobot, apply_actuator_mode
from tests.safety.helpers import ARMS, DT, ROBOTS, TICK_NS, Arm, Bench, command, felt, robot, safety, sensed, solved

every_arm = pytest.mark.parametrize("name", ARMS)
TRIPPED = SafetyStatus.PROTECTIVE_STOP


@cache
def changed(name: str, section: str, **entries: float) -> PathConsistentFilter:
    data: dict[str, Any] = load_profile(f"{name}_tabletop").to_json()
    data[section] = {**data[section], **entries}
    return build_filter(robot(name), parse_profile(data))


# ------------------------------------------------------------------------------------ before contact


def pressing(name: str, lead: FloatArray, q: FloatArray) -> float:
    """The static force of servos ``lead`` (n,) rad ahead of an end effector held still, by MuJoCo's Jacobian."""
    description = robot(name)
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    data.qpos[: len(q)] = q
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jacSite(model, data, jacobian, None, model.site(description.end_effector_site).id)
    jacobian = jacobian[:, : len(q)]
    assert description.servo is not None
    compliance = jacobian @ np.diag(1.0 / description.servo.stiffness) @ jacobian.T
    return float(np.linalg.norm(np.linalg.solve(compliance, jacobian @ lead)))


@every_arm
def test_a_blocked_arm_is_pressed_no_harder_than_the_ceiling(name: str) -> None:
    """The arm does not move at all, whatever its servos are told; the command must not run away from it."""
    built, home = safety(name), np.array(robot(name).home)
    still, ceiling = np.zeros_like(home), built.profile.force.command_lead_n
    memory = built.initial(sensed(home, still, 0))
    towards = np.zeros_like(home)
    towards[:4] = [0.3, 0.2, -0.1, 0.15]
    largest, above = 0.0, 0
    for tick in range(300):
        asked = command(CommandMode.POSITION, home + towards * min(tick * DT, 1.0), tick * TICK_NS)
        memory, result = built.enforce(memory, sensed(home, still, tick * TICK_NS), asked, (), tick * TICK_NS, DT)
        force = pressing(name, result.command.values - home, home)
        largest = max(largest, force)
        # The filter takes the Jacobian where the command stands; here it is that of the arm. And a path that meets
        # the ceiling at speed overruns it for the one tick that it brakes.
        above += force > ceiling * 1.08
        assert force <= ceiling * 1.3
        assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
    assert largest > 0.9 * ceiling
    assert above <= 1
    assert "force_command_lead" in [reason.limit for reason in result.reasons]


@pytest.mark.parametrize("name", ROBOTS)
def test_a_path_that_runs_ahead_of_a_suddenly_blocked_arm_is_pulled_back(name: str) -> None:
    built = safety(name)
    arm, lead = Arm.at(name, CommandMode.POSITION), np.zeros(robot(name).n)
    lead[:3] = 0.25  # as far as an arm that ran into something may have been left behind
    behind = arm.q - lead
    assert pressing(name, lead, behind) > built.profile.force.command_lead_n
    result = arm.step(arm.q, state=sensed(behind, np.zeros_like(lead), arm.now_ns))
    assert result.status is SafetyStatus.LIMITING
    pulled = next(reason for reason in result.reasons if reason.limit == "force_command_lead")
    assert pulled.margin < 0.0
    share = (result.command.values - behind) / np.where(lead > 0, lead, 1.0)
    np.testing.assert_allclose(share[:3], share[0], atol=1e-6)  # straight towards the arm
    np.testing.assert_allclose(share[3:] * 0 + result.command.values[3:], behind[3:], atol=1e-9)
    for _ in range(5):  # where the arm is from turns the Jacobian: a few ticks settle it
        result = arm.step(arm.q, state=sensed(behind, np.zeros_like(lead), arm.now_ns))
    now = pressing(name, result.command.values - behind, behind)
    assert now <= built.profile.force.command_lead_n * 1.1


# ------------------------------------------------------------------------------------- after contact


def step(arm: Arm, force: FloatArray, *events: OperatorEvent, velocity: float = 0.0) -> SafetyResult:
    wanted = np.zeros_like(arm.q)
    wanted[0] = velocity
    values = wanted if arm.mode is CommandMode.VELOCITY else arm.q + wanted * DT
    state = arm.state(force=felt(arm.filter, arm.q, force))
    return arm.step(values, events=events, state=state)


@every_arm
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.VELOCITY])
def test_a_force_above_the_transient_ceiling_trips_at_once_and_the_arm_withdraws(name: str, mode: CommandMode) -> None:
    arm, limits = Arm.at(name, mode), safety(name).profile.force
    push = np.array([-0.6, 0.0, 0.8])
    assert step(arm, push * limits.command_lead_n * 0.4).status is SafetyStatus.RUN
    begin = arm.filter.kinematics.points(arm.q)[0]
    result = step(arm, push * limits.transient_n * 1.1)
    assert result.status is TRIPPED
    assert result.reasons[0].limit == "contact_force"
    assert result.reasons[0].margin == pytest.approx(-0.1 * limits.transient_n, rel=1e-6)
    for _ in range(150):
        assert step(arm, np.zeros(3)).status is TRIPPED
    way = arm.filter.kinematics.points(arm.q)[0] - begin
    assert float(way @ push) == pytest.approx(limits.retreat_m, rel=0.25)
    assert np.linalg.norm(way - push * float(way @ push)) < 0.25 * limits.retreat_m
    assert not arm.qd.any()
    assert step(arm, np.zeros(3), OperatorEvent.ACKNOWLEDGE).status is SafetyStatus.RUN


@every_arm
def test_a_force_above_the_quasi_static_ceiling_trips_once_it_has_lasted(name: str) -> None:
    arm, limits = Arm.at(name, CommandMode.POSITION), safety(name).profile.force
    force = np.array([0.0, 0.0, 1.2 * limits.quasi_static_n])
    ticks = round(limits.transient_ms / 1e3 / DT)
    statuses = [step(arm, force).status for _ in range(ticks + 1)]
    assert TRIPPED not in statuses[:-1]
    assert statuses[-1] is TRIPPED


def test_a_force_that_passes_in_time_trips_nothing_and_starts_anew() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    for _ in range(3):
        assert TRIPPED not in [step(arm, np.array([0.0, 0.0, 200.0])).status for _ in range(90)]
        step(arm, np.zeros(3))


def test_an_emergency_stop_ends_the_withdrawal() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    step(arm, np.array([0.0, 0.0, 1.4 * arm.filter.profile.force.transient_n]))
    for _ in range(10):
        step(arm, np.zeros(3))
    assert arm.qd.any()
    result = step(arm, np.zeros(3), OperatorEvent.EMERGENCY_STOP)
    for _ in range(10):
        result = step(arm, np.zeros(3))
    assert result.status is SafetyStatus.EMERGENCY_STOP
    assert not arm.qd.any()
    rested = arm.q
    assert step(arm, np.zeros(3), OperatorEvent.RESET).status is TRIPPED  # that one stands
    np.testing.assert_array_equal(arm.q, rested)


def test_a_steady_push_on_the_links_trips_without_a_wrist_reading() -> None:
    """The joints accelerate though the drives do not drive: something pushes."""
    built = changed("panda", "force", external_torque_fraction=0.2, transient_ms=100)
    arm = Arm.at("panda", CommandMode.POSITION, built=built)
    pushing = np.zeros(7)
    pushing[1] = -25.0  # the drives hold against it; their limit is 87 N m
    statuses: list[SafetyStatus] = []
    for _ in range(40):
        state = arm.state(effort=pushing, force=felt(built, arm.q, np.zeros(3)))
        result = arm.step(arm.q, state=state)
        statuses.append(result.status)
    assert statuses[-1] is TRIPPED
    assert result.reasons[0].limit == "external_torque"
    assert TRIPPED not in statuses[:20]


# --------------------------------------------------------------------------------------- the observer


class Simulated:
    """An arm in MuJoCo behind a filter, told to stay where it is."""

    def __init__(self, name: str, mode: CommandMode) -> None:
        spec = mujoco.MjSpec.from_file(str(robot(name).model_path))
        apply_actuator_mode(spec, robot(name), mode)
        self.robot = SimRobot(spec.compile(), robot(name), round(1 / DT))
        self.filter: PathConsistentFilter = safety(name)
        self.memory: SafetyMemory = self.filter.initial(self.robot.read())
        self.mode, self.home = mode, np.array(robot(name).home)

    def values(self, state: RobotState) -> FloatArray:
        if self.mode is CommandMode.POSITION:
            return self.home
        if self.mode is CommandMode.VELOCITY:
            return np.zeros_like(self.home)
        dynamics = self.filter.kinematics.dynamics(state.joint_position, state.joint_velocity)
        spring = 100.0 * (self.home - state.joint_position) - 20.0 * state.joint_velocity
        return dynamics.inertia @ spring + dynamics.bias

    def run(self, seconds: float) -> FloatArray:
        """The estimate (n,) N m after that time."""
        for _ in range(round(seconds / DT)):
            state, now_ns = self.robot.read(), self.robot.now_ns
            asked = command(self.mode, self.values(state), now_ns, state.gripper_opening)
            self.memory, result = self.filter.enforce(self.memory, state, asked, (), now_ns, DT)
            assert result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
            self.robot.write(result.command)
        return self.memory.observer.torque


@every_arm
@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.TORQUE])
def test_a_constant_torque_from_outside_is_estimated_within_a_tenth_in_50_ms(name: str, mode: CommandMode) -> None:
    arm, torque = Simulated(name, mode), robot(name).limits.torque
    settled = arm.run(0.5)
    assert (np.abs(settled) <= 0.02 * torque).all()
    outside = np.zeros_like(torque)
    outside[:3] = [0.15, -0.1, 0.1] * torque[:3]
    arm.robot.data.qfrc_applied[: len(torque)] = outside
    found = arm.run(0.05)
    np.testing.assert_allclose(found[:3], outside[:3], atol=0.1 * float(np.abs(outside).max()))
    assert np.linalg.norm(found - outside) <= 0.1 * np.linalg.norm(outside)


def test_a_force_on_the_tool_is_estimated_by_the_torques_it_makes() -> None:
    arm = Simulated("panda", CommandMode.POSITION)
    arm.run(0.3)
    data, model = arm.robot.data, arm.robot.model
    site = model.site(robot("panda").end_effector_site)
    body = int(model.site_bodyid[site.id])
    force = np.array([10.0, -5.0, 20.0])
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jac(model, data, jacobian, None, data.xipos[body], body)
    data.xfrc_applied[body, :3] = force
    expected = (jacobian.T @ force)[:7]
    found = arm.run(0.05)
    assert np.linalg.norm(found - expected) <= 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("mode", [CommandMode.POSITION, CommandMode.TORQUE])
def test_an_arm_that_was_out_of_sight_is_not_thought_to_be_pushed(mode: CommandMode) -> None:
    """What it gained meanwhile, over many ticks, is no sign of a push in the tick when it is seen again."""
    built, home = safety("panda"), np.array(robot("panda").home)
    gravity = built.kinematics.dynamics(home, np.zeros(7)).gravity
    effort = gravity if mode is CommandMode.TORQUE else np.zeros(7)
    values = gravity if mode is CommandMode.TORQUE else home
    memory = built.initial(sensed(home, np.zeros(7), 0, effort=effort))
    velocity = np.zeros(7)
    for tick in range(20):
        seen = velocity if tick < 5 or tick >= 15 else np.full(7, np.nan)
        if tick == 15:
            velocity = seen = np.full(7, 0.01)
        state = sensed(home, seen, tick * TICK_NS, effort=effort)
        memory, _ = built.enforce(memory, state, command(mode, values, tick * TICK_NS), (), tick * TICK_NS, DT)
        assert np.abs(memory.observer.torque).max() < 0.5


# ---------------------------------------------------------------------------------------- the gripper


def test_the_gripper_closes_no_faster_than_allowed() -> None:
    built = changed("panda", "gripper", speed_m_s=0.05)
    arm, opening = Arm.at("panda", CommandMode.POSITION, built=built), 0.04
    for tick in range(300):
        asked = 0.0 if tick < 200 else 0.08
        result = arm.step(arm.q, opening=asked, state=arm.state(opening=opening))
        assert abs(result.command.gripper_opening - opening) <= 0.05 * DT + 1e-12
        moving = abs(asked - opening) > 0.05 * DT
        assert (result.status is SafetyStatus.LIMITING) == moving
        assert [reason.limit for reason in result.reasons] == (["gripper_speed"] if moving else [])
        opening = result.command.gripper_opening


def test_the_gripper_presses_no_harder_than_allowed() -> None:
    built = changed("panda", "gripper", force_n=20)
    stiffness = robot("panda").gripper.stiffness
    arm, blocked = Arm.at("panda", CommandMode.POSITION, built=built), 0.03
    result = arm.step(arm.q)
    for _ in range(100):
        state = arm.state(opening=blocked)
        result = arm.step(arm.q, opening=0.0, state=state)
        assert stiffness * abs(blocked - result.command.gripper_opening) <= 20.0 * (1 + 1e-9)
    assert stiffness * (blocked - result.command.gripper_opening) == pytest.approx(20.0)
    assert "gripper_force" in [reason.limit for reason in result.reasons]


@pytest.mark.parametrize("rate_hz", [50, 200])
@given(seed=st.integers(0, 2**32 - 1), late=st.integers(0, 1))
def test_fingers_that_are_seen_late_or_not_at_all_are_led_no_farther(rate_hz: int, seed: int, late: int) -> None:
    """Wherever fingers have gone towards their command since they were seen, its lead presses no harder."""
    rng, gripper = np.random.default_rng(seed), robot("panda").gripper
    settings = load_profile("panda_tabletop").gripper
    limit = GripperLimit(gripper, replace(settings, force_n=20.0))
    dt, lead = 1.0 / rate_hz, 20.0 / gripper.stiffness
    at = applied = 0.04
    seen, lost, asked = [(0, at)] * (late + 1), 0, 0.04
    stamp, opening = seen[0]
    for tick in range(80):
        lost = lost - 1 if lost else int(rng.choice([0, 0, 0, 0, 1, 8]))
        if not lost:
            stamp, opening = seen[0]
        if rng.random() < 0.2:
            asked = float(rng.uniform(gripper.closed, gripper.open))
        applied, _ = limit.bounded(asked, applied, opening, dt, (tick - stamp) * dt)
        assert abs(applied - at) <= lead * (1 + 1e-9)
        way = gripper.max_speed * dt * float(rng.choice([0.0, 1.0, rng.random()]))
        at += min(max(applied - at, -way), way)
        seen = [*seen[1:], (tick + 1, at)]


def test_fingers_that_open_are_stopped_with_the_arm_and_a_grip_stays() -> None:
    """Fingers that go on opening against a table drive a stopped arm out of its limits."""
    stiffness = robot("panda").gripper.stiffness
    for asked, opening in ((0.08, 0.02), (0.0, 0.03)):
        arm = Arm.at("panda", CommandMode.POSITION)
        for tick in range(20):
            state = arm.state(opening=opening)
            events = (OperatorEvent.EMERGENCY_STOP,) if tick == 5 else ()
            result = arm.step(arm.q, events=events, opening=asked, state=state)
            pushing = stiffness * (result.command.gripper_opening - opening)
            if tick < 5 or asked == 0.0:
                assert result.command.gripper_opening == asked
            else:
                assert 0.0 <= pushing <= 5.0


def test_a_drive_that_sags_in_a_stop_keeps_what_it_was_told() -> None:
    arm = Arm.at("panda", CommandMode.POSITION)
    for tick in range(20):
        state = arm.state(opening=0.0395)
        events = (OperatorEvent.HOLD,) if tick == 5 else ()
        result = arm.step(arm.q, events=events, opening=0.04, state=state)
        assert result.command.gripper_opening == 0.04


def test_a_mad_reading_of_the_fingers_does_not_lead_out_of_their_range() -> None:
    built = changed("panda", "gripper", force_n=20)
    for reading in (-1.0, 5.0, 1e6):
        arm = Arm.at("panda", CommandMode.POSITION, built=built)
        result = arm.step(arm.q, opening=0.03, state=sensed(arm.q, arm.qd, 0, opening=reading))
        assert 0.0 <= result.command.gripper_opening <= 0.08


@pytest.mark.parametrize("force_n", [70.0, 6.0])
def test_a_grasp_is_noticed_however_gently_the_gripper_may_close(force_n: float) -> None:
    """What it holds is then kept inside its box as well, so the arm is stopped higher above the table."""
    data: dict[str, Any] = load_profile("panda_tabletop").to_json()
    data["gripper"]["force_n"] = force_n
    data["carried_object"] = {"centre_m": [0, 0, 0], "radius_m": 0.05}
    data["workspace"]["carried_object"] = dict(data["workspace"]["tcp"])
    built = build_filter(robot("panda"), parse_profile(data))
    heights: list[float] = []
    for fingers in (0.0, 0.03):  # nothing between them, and something
        arm = Arm.at("panda", CommandMode.VELOCITY, built=built)
        for _ in range(400):
            jacobian = built.kinematics.geometry(arm.q).jacobian[[0, 1, 2, -3, -2, -1]]
            down = solved(jacobian, [0.0, 0.0, -0.3, 0.0, 0.0, 0.0])
            arm.step(down, opening=0.0, state=arm.state(opening=fingers))
        heights.append(float(built.kinematics.points(arm.q)[0][2]))
    empty, full = heights
    assert full == pytest.approx(0.003 + 0.05 + WALL_RESERVE_M + built.profile.stopping.standoff_m, abs=1e-4)
    assert empty < 0.02


# ----------------------------------------------------------------------------------- giving way to it


@every_arm
def test_a_wrist_reading_is_the_wrench_that_acts_on_the_tool(name: str) -> None:
    """A force at some point of the hand, and the tool's weight: MuJoCo's sensor reads it, the kernel undoes it."""
    description, rng = robot(name), np.random.default_rng(3)
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    n, site = description.n, model.site(description.wrench_site)
    body, tool = int(site.bodyid[0]), model.site(description.end_effector_site).id
    data.qpos[:n] = np.array(description.home) + 0.2 * rng.normal(size=n)
    mujoco.mj_forward(model, data)
    centre, turn, mass = data.subtree_com[body], data.site_xmat[site.id].reshape(3, 3), model.body_subtreemass[body]
    force, at = rng.normal(size=3) * 50.0, data.site_xpos[tool] + rng.normal(size=3) * 0.05
    weight = np.array([0.0, 0.0, -9.81 * mass])
    sensor = data.site_xpos[site.id]
    moment = np.cross(at - sensor, force) + np.cross(centre - sensor, weight)
    reading = np.concatenate((turn.T @ (force + weight), turn.T @ moment))
    found = safety(name).kinematics.external_wrench(data.qpos[:n].copy(), reading)
    assert found[:3] == pytest.approx(force, abs=1e-9)
    assert found[3:] == pytest.approx(np.cross(at - data.site_xpos[tool], force), abs=2e-2)


def test_a_velocity_command_into_a_contact_ends_at_once_and_one_out_of_it_does_not() -> None:
    arm = Arm.at("panda", CommandMode.VELOCITY)
    for _ in range(20):
        step(arm, np.zeros(3), velocity=0.3)
    row = arm.filter.kinematics.geometry(arm.q).jacobian[:3, 0]
    into = row / np.linalg.norm(row)
    before = float(row @ into) * float(arm.qd[0])
    assert before > 0.1
    result = step(arm, -60.0 * into, velocity=0.3)
    assert "contact_force" in {reason.limit for reason in result.reasons}
    moved = arm.filter.kinematics.geometry(arm.q).jacobian[:3] @ result.command.values
    assert float(moved @ into) < 0.25 * before
    for _ in range(60):
        result = step(arm, -60.0 * into, velocity=-0.3)
    assert result.status is SafetyStatus.RUN


@given(rate_hz=st.integers(20, 200), force_n=st.floats(31.0, 139.0))
def test_no_contact_is_entered_far_within_a_tick(rate_hz: int, force_n: float) -> None:
    """However slowly the loop runs: it notices only at the next tick what it has pressed."""
    bench = Bench.of(robot("panda"), load_profile("panda_tabletop"))
    dt, home = 1.0 / rate_hz, np.array(robot("panda").home)
    factory = bench.factory(home, force=np.array([0.0, 0.0, force_n]), dt=dt)
    assert factory.contact.allowed * dt <= 5e-4 + 1e-12


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_what_presses_lastingly_is_given_up(name: str) -> None:
    """The arm is stuck, its wrist reads more than it may press with: the command goes back until it would not."""
    built, home = safety(name), np.array(robot(name).home)
    still, ceiling = np.zeros_like(home), safety(name).profile.force.command_lead_n
    memory, away = built.initial(sensed(home, still, 0)), np.array([0.0, 0.0, 1.4 * ceiling])
    for tick in range(10):
        now = tick * TICK_NS
        state = sensed(home, still, now, force=felt(built, home, away))
        memory, _ = built.enforce(memory, state, command(CommandMode.POSITION, home, now), (), now, DT)
    lift = built.kinematics.points(memory.position)[0] - built.kinematics.points(home)[0]
    assert lift[2] > 1e-3
