"""The simulated arm: exact time, exact resumption, the right signs, and refusals."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest

from controllers.robot import load_robot
from controllers.spatial import rotate
from controllers.types import CommandMode, JointCommand, RobotState
from sim.robot import PhysicsError, SimRobot, apply_actuator_mode
from sim.scene import base_scene, compile_scene

PANDA = load_robot("panda")


def make_robot(mode: CommandMode = CommandMode.POSITION, rate_hz: int = 200, robot: str = "panda") -> SimRobot:
    description = load_robot(robot)
    spec = base_scene(description, np.random.default_rng(0))
    for index in range(3):
        body = spec.worldbody.add_body(name=f"block{index}", pos=[0.4 + 0.08 * index, 0.2, 0.03])
        body.add_freejoint()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, density=400)
    apply_actuator_mode(spec, description, mode)
    return SimRobot(compile_scene(spec).model, description, rate_hz)


def holding_values(robot: SimRobot) -> np.ndarray:
    n = robot.description.n
    if robot.mode is CommandMode.POSITION:
        return robot.description.home
    return np.zeros(n) if robot.mode is CommandMode.VELOCITY else robot.data.qfrc_bias[:n].copy()


def command(robot: SimRobot, values: np.ndarray, gripper: float | None = None) -> JointCommand:
    opening = robot.description.gripper.open if gripper is None else gripper
    return JointCommand(robot.mode, values, opening, robot.now_ns)


def same(a: RobotState, b: RobotState) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in (
            (a.joint_position, b.joint_position),
            (a.joint_velocity, b.joint_velocity),
            (a.joint_effort, b.joint_effort),
            (a.ee_pose.position, b.ee_pose.position),
            (a.ee_pose.quaternion, b.ee_pose.quaternion),
            (a.wrench, b.wrench),
            (np.float64(a.gripper_opening), np.float64(b.gripper_opening)),
            (np.int64(a.stamp_ns), np.int64(b.stamp_ns)),
        )
    )


@pytest.mark.parametrize("name", ["panda", "ur5e"])
@pytest.mark.parametrize("mode", list(CommandMode))
def test_arm_holds_still_at_home_in_every_mode(mode: CommandMode, name: str) -> None:
    robot = make_robot(mode, robot=name)
    for _ in range(200):
        robot.write(command(robot, holding_values(robot)))
    state = robot.read()
    assert np.abs(state.joint_position - robot.description.home).max() < 2e-3
    assert np.abs(state.joint_velocity).max() < 2e-3
    assert state.gripper_opening == pytest.approx(robot.description.gripper.open, abs=1e-3)


def test_velocity_mode_follows_the_commanded_rate() -> None:
    robot = make_robot(CommandMode.VELOCITY)
    rates = np.array([0.2, 0, 0, 0, 0, 0, -0.3])
    for _ in range(100):
        robot.write(command(robot, rates))
    assert np.allclose(robot.read().joint_velocity, rates, atol=0.02)


def test_gripper_follows_the_commanded_opening_in_metres() -> None:
    robot = make_robot()
    for _ in range(300):
        robot.write(command(robot, PANDA.home, gripper=0.03))
    assert robot.read().gripper_opening == pytest.approx(0.03, abs=1e-3)


def test_virtual_time_is_whole_periods_and_survives_resumption() -> None:
    robot = make_robot()
    assert robot.read().stamp_ns == 0
    for _ in range(7):
        robot.write(command(robot, PANDA.home))
    assert robot.read().stamp_ns == 7 * 5_000_000
    saved = robot.get_state()
    robot.write(command(robot, PANDA.home))
    robot.set_state(saved)
    assert robot.read().stamp_ns == 7 * 5_000_000


@pytest.mark.parametrize("mode", list(CommandMode))
def test_resuming_is_exact_in_the_same_and_in_a_rebuilt_robot(mode: CommandMode) -> None:
    robot = make_robot(mode)

    def advance(arm: SimRobot, ticks: int) -> list[tuple[bytes, RobotState]]:
        trace = []
        for tick in range(ticks):
            swing = 0.1 * np.sin(0.2 * tick + np.arange(7))
            arm.write(command(arm, holding_values(arm) + swing, gripper=0.02))
            trace.append((arm.physics_digest(), arm.read()))
        return trace

    advance(robot, 37)
    saved, before = robot.get_state(), robot.read()
    first = advance(robot, 40)
    robot.set_state(saved)
    assert same(before, robot.read())
    rebuilt = make_robot(mode)
    rebuilt.set_state(saved)
    for trace in (advance(robot, 40), advance(rebuilt, 40)):
        assert [digest for digest, _ in trace] == [digest for digest, _ in first]
        assert all(same(a, b) for (_, a), (_, b) in zip(trace, first, strict=True))


def test_split_steps_give_the_same_motion_as_mj_step() -> None:
    robot, reference = make_robot(), make_robot()
    model, data = reference.model, reference.data
    for tick in range(60):
        values = PANDA.home + 0.1 * np.sin(0.1 * tick)
        robot.write(command(robot, values))
        data.ctrl[:7] = values
        data.ctrl[7] = PANDA.gripper.open
        for _ in range(robot.substeps):
            mujoco.mj_step(model, data)
    assert np.array_equal(robot.data.qpos, data.qpos)
    assert np.array_equal(robot.data.qvel, data.qvel)


def test_pose_belongs_to_the_joint_angles_read_with_it() -> None:
    robot = make_robot()
    for _ in range(30):
        robot.write(command(robot, PANDA.home + 0.2))
    state = robot.read()
    fresh = mujoco.MjData(robot.model)
    fresh.qpos[:] = robot.data.qpos
    mujoco.mj_kinematics(robot.model, fresh)
    site = robot.model.site(PANDA.end_effector_site).id
    matrix = fresh.site_xmat[site].reshape(3, 3)
    assert np.array_equal(state.ee_pose.position, fresh.site_xpos[site])
    assert np.allclose(rotate(state.ee_pose.quaternion, np.array([1.0, 0, 0])), matrix[:, 0], atol=1e-12)


def test_wrench_is_what_the_environment_does_to_the_hand() -> None:
    robot = make_robot()
    site = robot.model.site(PANDA.wrench_site).id

    def force_in_base() -> np.ndarray:
        return robot.data.site_xmat[site].reshape(3, 3) @ robot.read().wrench[:3]

    for _ in range(40):
        robot.write(command(robot, PANDA.home))
    hand = robot.model.body("hand").id
    weight = float(robot.model.body_subtreemass[hand]) * 9.81
    assert force_in_base() == pytest.approx([0.0, 0.0, -weight], abs=0.05)
    robot.data.xfrc_applied[hand, :3] = [0.0, 0.0, 20.0]  # the environment pushes the hand up
    for _ in range(100):
        robot.write(command(robot, PANDA.home))
    assert force_in_base() == pytest.approx([0.0, 0.0, 20.0 - weight], abs=0.3)


def test_reset_places_objects_and_settles_them_with_the_arm_at_home() -> None:
    robot = make_robot()

    def place(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        data.qpos[model.joint(model.body("block0").jntadr[0]).qposadr[0] + 2] = 0.05

    robot.reset(place, settle_s=0.5)
    assert robot.read().stamp_ns == 0
    assert np.array_equal(robot.read().joint_position, PANDA.home)
    assert robot.data.body("block0").xpos[2] == pytest.approx(0.02, abs=1e-3)
    digest = robot.physics_digest()
    robot.reset(place, settle_s=0.5)
    assert robot.physics_digest() == digest


def test_readings_are_read_only_and_do_not_change_later() -> None:
    robot = make_robot()
    state = robot.read()
    before = state.joint_position.copy()
    robot.write(command(robot, PANDA.home + 0.3))
    assert np.array_equal(state.joint_position, before)
    arrays = (state.joint_position, state.joint_velocity, state.joint_effort, state.wrench)
    assert not any(a.flags.writeable for a in (*arrays, state.ee_pose.position, state.ee_pose.quaternion))


def test_control_period_must_be_a_multiple_of_the_timestep() -> None:
    model = make_robot().model
    with pytest.raises(ValueError, match=r"multiple of the physics timestep 0.0025 s, found .*\(160 Hz\)"):
        SimRobot(model, PANDA, 160)
    with pytest.raises(ValueError, match=r"found .*\(1000 Hz\)"):
        SimRobot(model, PANDA, 1000)


def test_wrong_commands_are_refused() -> None:
    robot = make_robot()
    good = command(robot, PANDA.home)
    with pytest.raises(ValueError, match=r"expected position commands.*found torque"):
        robot.write(dataclasses.replace(good, mode=CommandMode.TORQUE))
    with pytest.raises(ValueError, match="shape"):
        robot.write(dataclasses.replace(good, values=np.zeros(6)))
    for broken in (
        dataclasses.replace(good, values=np.full(7, np.nan)),
        dataclasses.replace(good, gripper_opening=float("inf")),
    ):
        with pytest.raises(ValueError, match="finite"):
            robot.write(broken)
    assert robot.tick == 0


def test_state_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="for this model"):
        make_robot().set_state(np.zeros(5))


def test_divergence_is_reported_not_hidden(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log here
    robot = make_robot()
    robot.write(command(robot, PANDA.home))
    robot.data.qvel[-6:] = np.nan
    with pytest.raises(PhysicsError, match="diverged"):
        robot.write(command(robot, PANDA.home))
