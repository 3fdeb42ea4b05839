"""Arms, sensed states and a simulated torque-driven arm for the controller tests."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
import pytest

from controllers.kinematics import ArmModel
from controllers.robot import BUILT_IN_ROBOTS, load_robot
from controllers.types import FloatArray, JointCommand, Pose, RobotState, frozen_array

OPENING_M = 0.04
PHYSICS_HZ = 1000


def state_of(arm: ArmModel, q: FloatArray, qd: FloatArray | None = None, stamp_ns: int = 0) -> RobotState:
    """What perfect sensors would say."""
    return RobotState(
        joint_position=frozen_array(q),
        joint_velocity=frozen_array(np.zeros(arm.n) if qd is None else qd),
        joint_effort=frozen_array(np.zeros(arm.n)),
        ee_pose=arm.end_effector_pose(q),
        wrench=frozen_array(np.zeros(6)),
        gripper_opening=OPENING_M,
        stamp_ns=stamp_ns,
    )


class TorquePlant:
    """The arm in MuJoCo with ideal torque motors, at 1 kHz; its own position drives are off."""

    def __init__(self, arm: ArmModel) -> None:
        self.arm = arm
        self.model = mujoco.MjModel.from_xml_path(str(arm.description.model_path))
        self.model.opt.timestep = 1.0 / PHYSICS_HZ
        self.data = mujoco.MjData(self.model)
        for joint in arm.description.joint_names:
            name = arm.description.actuator_name(joint)
            index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_ACTUATOR, name)
            self.model.actuator_gainprm[index] = 0.0
            self.model.actuator_biasprm[index] = 0.0
        gripper = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_ACTUATOR, arm.description.gripper.actuator)
        self.data.ctrl[gripper] = OPENING_M
        for joint in arm.description.gripper.joints:
            index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, joint)
            self.data.qpos[self.model.jnt_qposadr[index]] = 0.5 * float(self.model.jnt_range[index].sum())

    def place(self, q: FloatArray) -> None:
        self.data.qpos[: self.arm.n] = q
        self.data.qvel[:] = 0.0

    def state(self) -> RobotState:
        n = self.arm.n
        return state_of(self.arm, self.data.qpos[:n], self.data.qvel[:n], round(self.data.time * 1e9))

    def push(self, force: FloatArray) -> None:
        """Apply a lasting force (3,) N at the end effector's body."""
        site = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, self.arm.description.end_effector_site)
        self.data.xfrc_applied[self.model.site_bodyid[site], :3] = force

    def apply(self, command: JointCommand, seconds: float) -> None:
        self.data.qfrc_applied[: self.arm.n] = command.values
        for _ in range(round(seconds * PHYSICS_HZ)):
            mujoco.mj_step(self.model, self.data)


def needs_six_joints(arm: ArmModel) -> None:
    """Skip what asks for any twist: with fewer joints the end effector can only move in some of its six directions."""
    if arm.n < 6:
        pytest.skip(f"{arm.n} joints cannot move the end effector in all six directions")


def joint_goal(arm: ArmModel, offset: float) -> FloatArray:
    """(n,) rad: home, each joint moved by another share of ``offset``, inside the limits."""
    limits = arm.description.limits
    goal = arm.description.home + np.linspace(-offset, offset, arm.n)
    return np.clip(goal, limits.position_lower + 0.05, limits.position_upper - 0.05)


@pytest.fixture(scope="session", params=BUILT_IN_ROBOTS)
def arm(request: pytest.FixtureRequest) -> ArmModel:
    return ArmModel(load_robot(request.param))


@pytest.fixture
def plant(arm: ArmModel) -> TorquePlant:
    """At rest in the home posture."""
    made = TorquePlant(arm)
    made.place(arm.description.home)
    return made


@pytest.fixture(scope="session")
def sensed() -> Callable[..., RobotState]:
    """``sensed(arm, q, qd, stamp_ns)``: what perfect sensors would say."""
    return state_of


@pytest.fixture(scope="session")
def reachable(arm: ArmModel) -> list[Pose]:
    """Poses of random configurations around home: reachable without leaving home's branch of the kinematics."""
    generator = np.random.default_rng(2024)
    limits, home = arm.description.limits, arm.description.home
    lower, upper = limits.position_lower + 0.1, limits.position_upper - 0.1
    return [arm.end_effector_pose(np.clip(home + generator.uniform(-0.7, 0.7, arm.n), lower, upper)) for _ in range(8)]


@pytest.fixture(scope="session")
def out_of_reach(arm: ArmModel) -> list[Pose]:
    """Places beyond the arm's reach or inside its own base, with the orientation at home."""
    places = [(3.0, 0.0, 0.5), (0.0, 3.0, 0.3), (-2.0, -2.0, 1.0), (0.0, 0.0, 3.0), (0.3, 0.0, -2.0), (0.1, 0.0, 0.1)]
    quaternion = arm.end_effector_pose(arm.description.home).quaternion
    return [Pose(frozen_array(place), quaternion) for place in places]
