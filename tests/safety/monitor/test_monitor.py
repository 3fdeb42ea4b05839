"""Every limit's monitor fires on a violation made for it, and is silent on an arm that rests at home."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import mujoco
import numpy as np
import pytest

from controllers.robot import RobotDescription, load_robot
from controllers.types import CommandMode, FloatArray, JointCommand, frozen_array
from safety.monitor import GroundTruthMonitor, MonitoredLimit, MonitorTolerance, SenseError, Violation
from safety.profile import (
    BoxZone,
    CapsuleZone,
    CylinderZone,
    HalfSpaceZone,
    KeepOut,
    OrientationCone,
    Plane,
    Polytope,
    SafetyProfile,
    SphereZone,
    load_profile,
)
from sim.fuzz.world import build_world

ROBOTS = ("panda", "ur5e", "so101")
DT = 0.005
L = MonitoredLimit


class Bench:
    """An arm in a world, set to any state."""

    def __init__(self, name: str, profile: SafetyProfile | None = None, mode: CommandMode = CommandMode.POSITION):
        self.robot: RobotDescription = load_robot(name)
        self.profile = load_profile(f"{name}_tabletop") if profile is None else profile
        self.model = build_world(self.robot, self.profile, mode)
        self.data = mujoco.MjData(self.model)
        self.monitor = GroundTruthMonitor(self.model, self.robot, self.profile)
        self.joints = [self.model.joint(joint).id for joint in self.robot.joint_names]
        self.qpos = [int(self.model.jnt_qposadr[joint]) for joint in self.joints]
        self.dofs = [int(self.model.jnt_dofadr[joint]) for joint in self.joints]
        self.place(self.robot.home)

    def place(self, q: FloatArray, qd: FloatArray | None = None) -> None:
        self.data.qpos[self.qpos] = q
        self.data.qvel[:] = 0.0
        if qd is not None:
            self.data.qvel[self.dofs] = qd
        mujoco.mj_forward(self.model, self.data)

    def judged(self) -> set[MonitoredLimit]:
        return limits_of(self.monitor.judge(self.data, 7))

    def tool(self) -> FloatArray:
        return np.array(self.data.site(self.robot.end_effector_site).xpos)

    def command(self, values: FloatArray, opening: float = 0.01) -> set[MonitoredLimit]:
        mode = CommandMode.POSITION
        return limits_of(self.monitor.judge_command(JointCommand(mode, frozen_array(values), opening, 0), DT, 0))


def limits_of(found: tuple[Violation, ...]) -> set[MonitoredLimit]:
    assert all(violation.margin < 0.0 for violation in found)
    return {violation.limit for violation in found}


@cache
def bench(name: str) -> Bench:
    return Bench(name)


@pytest.mark.parametrize("name", ROBOTS)
def test_an_arm_at_rest_at_home_is_clean(name: str) -> None:
    arm = Bench(name)
    assert arm.judged() == set()
    assert limits_of(arm.monitor.judge_contacts(arm.data, 0)) == set()
    assert limits_of(arm.monitor.judge_rest(arm.data, 0)) == set()
    arm.monitor.restart_path(arm.robot.home)
    assert arm.command(arm.robot.home) == set()
    read = {margin.limit for margin in arm.monitor.margins}
    assert {L.JOINT_POSITION, L.WORKSPACE_BOX, L.SELF_COLLISION, L.KINETIC_ENERGY, L.COMMANDED_BOX} <= read
    assert all(margin.margin > 0.0 for margin in arm.monitor.margins)


@pytest.mark.parametrize("name", ROBOTS)
def test_each_joint_range_and_speed_is_watched(name: str) -> None:
    arm = Bench(name)
    limits, joints = arm.robot.limits, arm.profile.joints
    for joint in range(arm.robot.n):
        for sign, end in ((1.0, limits.position_upper), (-1.0, limits.position_lower)):
            q = np.array(arm.robot.home)
            q[joint] = end[joint] - sign * (joints.position_margin_rad - 0.004)
            arm.place(q)
            found = arm.monitor.judge(arm.data, 5)
            (violation,) = [v for v in found if v.limit is L.JOINT_POSITION]
            assert violation.where == arm.robot.joint_names[joint]
            assert violation.value == pytest.approx(0.004, abs=1e-9)
            assert (violation.unit, violation.time_ns) == ("rad", 5)
        for sign in (1.0, -1.0):
            qd = np.zeros(arm.robot.n)
            qd[joint] = sign * 1.05 * limits.velocity[joint] * joints.velocity_fraction
            arm.place(arm.robot.home, qd)
            assert L.JOINT_VELOCITY in arm.judged()
            arm.place(arm.robot.home, 0.9 * qd)
            assert L.JOINT_VELOCITY not in arm.judged()


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize(("side", "sign"), [("lower_m", 1.0), ("upper_m", -1.0)])
def test_the_boxes_of_all_points_are_watched(name: str, side: str, sign: float) -> None:
    built_in = load_profile(f"{name}_tabletop")
    for index, box in enumerate(built_in.workspace):
        axis = index % 3
        home = np.array(bench(name).data.site(box.point).xpos)
        corner = list(getattr(box, side))
        corner[axis] = home[axis] + sign * 0.004  # the face 4 mm on the wrong side of the point
        moved = tuple(
            replace(other, **{side: tuple(corner)}) if other is box else other for other in built_in.workspace
        )
        arm = Bench(name, replace(built_in, workspace=moved))
        (violation,) = [v for v in arm.monitor.judge(arm.data, 0) if v.limit is L.WORKSPACE_BOX]
        assert violation.where == f"{box.point} {'xyz'[axis]}"
        assert violation.value == pytest.approx(0.004, abs=1e-9)


def with_polytope(profile: SafetyProfile, tool: FloatArray, gap: float) -> SafetyProfile:
    normal = (0.6, 0.0, 0.8)
    plane = Plane(normal, float(np.dot(normal, tool)) + gap)
    return replace(profile, polytopes=(Polytope("lid", (profile.workspace[0].point, "tcp"), (plane,)),))


def test_polytopes_are_watched() -> None:
    tool, built_in = bench("panda").tool(), load_profile("panda_tabletop")
    assert L.WORKSPACE_POLYTOPE in Bench("panda", with_polytope(built_in, tool, -0.004)).judged()
    free = Bench("panda", with_polytope(built_in, tool, 1.0))
    assert free.judged() == set()


def zones(place: FloatArray, gap: float) -> dict[str, KeepOut]:
    """Zones whose nearest point is ``gap`` beside ``place`` along -y, seen from far enough to be convex and thick."""
    x, y, z = (float(value) for value in place)
    r = 0.05
    centre = (x, y - gap - r, z)
    low, high = (x, y - gap - r, z - 0.02), (x, y - gap - r, z + 0.02)
    return {
        "sphere": SphereZone("zone", centre, r),
        "capsule": CapsuleZone("zone", low, high, r),
        "cylinder": CylinderZone("zone", low, high, r),
        "box": BoxZone("zone", centre, (r, r, r)),
        "half_space": HalfSpaceZone("zone", (0.0, 1.0, 0.0), y - gap),
    }


@pytest.mark.parametrize("shape", ["sphere", "capsule", "cylinder", "box", "half_space"])
def test_keep_outs_of_every_shape_are_watched_to_the_millimetre(shape: str) -> None:
    """The nearest capsule of the hull is found by brute force: points of its segment against the zone."""
    arm = bench("panda")
    capsule = next(c for c in arm.robot.capsules if c.name == "hand")
    body = arm.data.body(capsule.body)
    turn = body.xmat.reshape(3, 3)
    ends = [body.xpos + turn @ np.array(end) for end in (capsule.start, capsule.end)]
    outermost = min(ends, key=lambda end: end[1])
    surface = outermost - [0.0, capsule.radius, 0.0]
    built_in = load_profile("panda_tabletop")
    for gap in (0.006, -0.006):
        zone = zones(surface, gap)[shape]
        judge = Bench("panda", built_in.with_keep_outs("near", (zone,)))
        found = [v for v in judge.monitor.judge(judge.data, 0) if v.limit is L.KEEP_OUT]
        (margin,) = [m for m in judge.monitor.margins if m.limit is L.KEEP_OUT]
        assert margin.margin == pytest.approx(gap + judge.monitor.tolerance.clearance_m, abs=5e-4)
        assert bool(found) == (gap < 0.0)
        if found:
            assert found[0].where == "hand - zone"


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_the_arm_folding_onto_itself_is_seen(name: str) -> None:
    arm = Bench(name)
    folded = {"panda": {3: -3.05, 5: -0.01}, "ur5e": {2: 3.0}}[name]
    q = np.array(arm.robot.home)
    for joint, value in folded.items():
        q[joint] = value
    arm.place(q)
    assert L.SELF_COLLISION in arm.judged()


def test_the_cone_is_watched() -> None:
    profile = replace(
        load_profile("panda_tabletop"), orientation=OrientationCone((0.0, 0.0, 1.0), (0.0, 0.0, -1.0), 0.3)
    )
    arm = Bench("panda", profile)
    assert arm.judged() == set()
    q = np.array(arm.robot.home)
    q[5] += 0.32
    arm.place(q)
    (violation,) = [v for v in arm.monitor.judge(arm.data, 0) if v.limit is L.ORIENTATION_CONE]
    assert violation.value == pytest.approx(0.32, abs=0.02)


@pytest.mark.parametrize("name", ROBOTS)
def test_tool_speed_turning_and_energy_are_watched_and_right(name: str) -> None:
    arm = Bench(name)
    tool = arm.profile.end_effector
    direction = np.zeros(arm.robot.n)
    direction[0] = 1.0
    before, rate = arm.tool(), 1e-5
    arm.place(arm.robot.home + rate * direction)
    lever = float(np.linalg.norm(arm.tool() - before)) / rate  # finite differences, not the monitor's Jacobian
    arm.place(arm.robot.home, direction * 1.06 * tool.linear_speed_m_s / lever)
    (speed,) = [v for v in arm.monitor.judge(arm.data, 0) if v.limit is L.END_EFFECTOR_LINEAR_SPEED]
    assert speed.value == pytest.approx(1.06 * tool.linear_speed_m_s, rel=1e-4)
    arm.place(arm.robot.home, direction * 1.06 * tool.angular_speed_rad_s)
    assert L.END_EFFECTOR_ANGULAR_SPEED in arm.judged()
    arm.place(arm.robot.home, direction * 0.01)
    assert arm.judged() == set()

    inertia = np.zeros((arm.model.nv, arm.model.nv))
    mujoco.mj_fullM(arm.model, inertia, arm.data.qM)
    strict = replace(arm.profile, end_effector=replace(tool, kinetic_energy_j=0.001))
    fast = Bench(name, strict)
    fast.place(arm.robot.home, direction * 3.0)
    (blow,) = [v for v in fast.monitor.judge(fast.data, 0) if v.limit is L.KINETIC_ENERGY]
    joint = 0.5 * 9.0 * float(inertia[arm.dofs[0], arm.dofs[0]])
    assert 0.02 * joint < blow.value <= joint * (1.0 + 1e-9)  # a free arm gives way: never more than its whole energy


def test_the_gripper_is_watched() -> None:
    arm = Bench("panda")
    fingers = [int(arm.model.jnt_dofadr[arm.model.joint(name).id]) for name in arm.robot.gripper.joints]
    arm.data.qvel[fingers] = 0.3
    mujoco.mj_forward(arm.model, arm.data)
    assert L.GRIPPER_SPEED in arm.judged()
    gentle = replace(arm.profile, gripper=replace(arm.profile.gripper, force_n=10.0))
    grip = Bench("panda", gentle)
    grip.data.ctrl[grip.model.actuator(grip.robot.gripper.actuator).id] = grip.robot.gripper.open
    grip.data.qpos[[int(grip.model.jnt_qposadr[grip.model.joint(n).id]) for n in grip.robot.gripper.joints]] = 0.0
    mujoco.mj_forward(grip.model, grip.data)
    assert L.GRIPPER_FORCE in grip.judged()


def test_pressing_on_the_table_fires_the_force_ceilings_and_penetration() -> None:
    """The arm is driven into the table without a filter."""
    gentle = replace(
        load_profile("panda_tabletop"),
        force=replace(load_profile("panda_tabletop").force, transient_n=60.0, quasi_static_n=30.0, transient_ms=50.0),
    )
    arm = Bench("panda", gentle)
    arm.data.qpos[arm.qpos] = arm.robot.home
    actuators = [arm.model.actuator(arm.robot.actuator_name(joint)).id for joint in arm.robot.joint_names]
    target = np.array(arm.robot.home)
    seen: set[MonitoredLimit] = set()
    for step in range(500):
        target[1] = min(arm.robot.home[1] + 0.004 * step, arm.robot.home[1] + 1.0)
        arm.data.ctrl[actuators] = target
        mujoco.mj_step2(arm.model, arm.data)
        seen |= limits_of(arm.monitor.judge_contacts(arm.data, round(step * 2.5e6)))
        mujoco.mj_step1(arm.model, arm.data)
    assert {L.CONTACT_TRANSIENT, L.CONTACT_QUASI_STATIC} <= seen
    q = np.array(arm.robot.home)
    q[1] += 1.0
    arm.place(q)
    assert L.PENETRATION in limits_of(arm.monitor.judge_contacts(arm.data, 0))


def test_what_the_fingers_hold_is_no_contact_with_the_world() -> None:
    arm = load_robot("panda")
    spec = mujoco.MjSpec.from_file(str(arm.model_path))
    data_of_home = bench("panda")
    ball = spec.worldbody.add_body(name="ball", pos=data_of_home.tool())
    ball.add_freejoint()
    ball.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.02, 0.0, 0.0], mass=0.05, contype=1, conaffinity=3)
    model = spec.compile()
    monitor = GroundTruthMonitor(model, arm, load_profile("panda_tabletop"))
    data = mujoco.MjData(model)
    data.qpos[[int(model.jnt_qposadr[model.joint(name).id]) for name in arm.joint_names]] = arm.home
    for name in arm.gripper.joints:
        data.qpos[int(model.jnt_qposadr[model.joint(name).id])] = 0.012  # 8 mm into the ball
    mujoco.mj_forward(model, data)
    assert data.ncon > 0
    assert monitor.judge_contacts(data, 0) == ()


def test_the_commanded_path_is_judged_exactly() -> None:
    arm = Bench("panda")
    home, limits, joints = np.array(arm.robot.home), arm.robot.limits, arm.profile.joints
    arm.monitor.restart_path(home)
    step = limits.acceleration * joints.acceleration_fraction * DT * DT
    assert arm.command(home + step) == set()
    assert arm.command(home + 3.001 * step) == {L.COMMANDED_ACCELERATION}
    arm.monitor.restart_path(None)
    arm.command(home)
    jump = home.copy()
    jump[0] += 1.001 * limits.velocity[0] * joints.velocity_fraction * DT
    assert arm.command(jump) == {L.COMMANDED_VELOCITY}
    low = home.copy()
    low[1] += 1.0
    arm.monitor.restart_path(None)
    assert L.COMMANDED_BOX in arm.command(low)
    beyond = home.copy()
    beyond[-1] = limits.position_upper[-1] - joints.position_margin_rad + 1e-6
    arm.monitor.restart_path(None)
    assert arm.command(beyond) == {L.COMMANDED_POSITION}
    for broken in (np.full(7, np.nan), home[:-1]):
        assert arm.command(broken) == {L.COMMANDED_FORM}
    assert arm.command(home, opening=0.5) == {L.COMMANDED_FORM}
    torque = JointCommand(CommandMode.TORQUE, frozen_array(1.01 * limits.torque), 0.01, 0)
    assert limits_of(arm.monitor.judge_command(torque, DT, 0)) == {L.COMMANDED_TORQUE}


def test_an_arm_that_moves_does_not_rest() -> None:
    arm = Bench("panda")
    arm.place(arm.robot.home, np.full(7, 0.03))
    assert limits_of(arm.monitor.judge_rest(arm.data, 0)) == {L.REST_AFTER_STOP}


def test_states_that_are_not_numbers_are_violations() -> None:
    arm = Bench("panda")
    arm.data.qpos[arm.qpos[0]] = np.nan
    assert L.JOINT_POSITION in arm.judged()


def test_sense_errors_are_forgiven_openly() -> None:
    tolerance = MonitorTolerance()
    wider = tolerance.with_sense_error(SenseError(1e-3, 0.01), reach_m=1.0, joints=6)
    assert wider.joint_position_rad == pytest.approx(tolerance.joint_position_rad + 1e-3)
    assert wider.point_m == pytest.approx(tolerance.point_m + 3e-3)
    assert wider.tool_speed_ratio == pytest.approx(tolerance.tool_speed_ratio + 0.01)
    assert wider.commanded_m == tolerance.commanded_m
