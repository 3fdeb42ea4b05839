"""Where every body was during an episode, and how near every limit: for looking at it.

An episode with physics is simulated again from its initial state with the commands that were applied, which gives the
same states bit for bit, and judged by the independent monitor. Without physics, the arm stands where its joints were
measured.
"""

from __future__ import annotations

import mujoco
import numpy as np

from controllers.names import unknown_name
from controllers.robot import BUILT_IN_ROBOTS, RobotDescription, load_robot
from controllers.types import FloatArray
from episodes.episode import Episode
from episodes.viewer.motion import BodyMotion
from safety.monitor.ledger import LIMITS
from safety.monitor.monitor import GroundTruthMonitor
from safety.profile import SafetyProfile
from sim.robot import SimRobot
from sim.stack import StackConfig


def watched_motion(episode: Episode, *, robot: str = "", margins: bool = True) -> BodyMotion | None:
    """The motion of all bodies, None where no geometry is known.

    Args:
        episode: The recording.
        robot: Description to draw an episode without physics with; empty for the one that its manifest names.
        margins: Judge every tick by the independent monitor as well.

    Raises:
        ValueError: No such robot, or one with another number of joints.
    """
    if episode.model_xml:
        return _simulated(episode, margins)
    name = robot or episode.manifest.robot
    if not robot and name not in BUILT_IN_ROBOTS:
        return None
    if robot and robot not in BUILT_IN_ROBOTS and "/" not in robot:
        raise ValueError(unknown_name("robot", robot, BUILT_IN_ROBOTS))
    description = load_robot(name)
    if description.n != episode.manifest.joints:
        raise ValueError(
            f"expected a robot with the {episode.manifest.joints} joints of the episode, found {name} with "
            f"{description.n}; choose another with --robot"
        )
    return _measured(episode, description)


class _Track:
    """Collects the poses of all bodies."""

    def __init__(self, model: mujoco.MjModel, ticks: int, wrist_site: str) -> None:
        self.position = np.empty((ticks, model.nbody, 3))
        self.quaternion = np.empty((ticks, model.nbody, 4))
        self.wrist = np.full((ticks, 7), np.nan)
        self._site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, wrist_site)

    def take(self, index: int, data: mujoco.MjData) -> None:
        self.position[index] = data.xpos
        self.quaternion[index] = data.xquat
        if self._site >= 0:
            self.wrist[index, :3] = data.site_xpos[self._site]
            mujoco.mju_mat2Quat(self.wrist[index, 3:], data.site_xmat[self._site])


def _simulated(episode: Episode, margins: bool) -> BodyMotion:
    config = StackConfig.from_json(episode.manifest.stack)
    description = load_robot(config.robot)
    model = mujoco.MjModel.from_xml_string(episode.model_xml.decode())
    robot = SimRobot(model, description, config.control_rate_hz)
    robot.set_state(np.array(episode.physics.initial_state))
    track = _Track(model, len(episode), description.wrench_site)
    judge = _Judge(model, description, config.safety, len(episode)) if margins and config.safety is not None else None
    decoder, differs = episode.decoder, -1
    for index in range(len(episode)):
        robot.read()
        if differs < 0 and robot.physics_digest() != decoder.physics_digest(index):
            differs = index
        command = decoder.outputs(index).safety.command
        track.take(index, robot.data)
        if judge is not None:
            judge.monitor.open()
            judge.monitor.judge(robot.data, robot.now_ns)
            judge.monitor.judge_command(command, 1.0 / config.control_rate_hz, robot.now_ns)
        robot.write(command)
        if judge is not None:
            judge.monitor.judge_contacts(robot.data, robot.now_ns)
            judge.rows[index] = judge.monitor.relative_margins
    source = "simulated again: identical to the recording at every tick"
    if differs >= 0:
        source = f"simulated again: differs from the recording from tick {differs} on, as other versions of MuJoCo do"
    return BodyMotion(
        model=model,
        position=track.position,
        quaternion=track.quaternion,
        wrist=track.wrist,
        margins={} if judge is None else judge.by_name(),
        source=source,
    )


class _Judge:
    """The independent monitor and what it found on every tick."""

    def __init__(
        self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile, ticks: int
    ) -> None:
        self.monitor = GroundTruthMonitor(model, description, profile)
        self.rows: FloatArray = np.full((ticks, len(LIMITS)), np.inf)

    def by_name(self) -> dict[str, FloatArray]:
        columns = ((limit.value, self.rows[:, column]) for column, limit in enumerate(LIMITS))
        return {name: values for name, values in columns if np.isfinite(values).any()}


def _measured(episode: Episode, description: RobotDescription) -> BodyMotion:
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    places = [int(model.joint(name).qposadr[0]) for name in description.joint_names]
    track = _Track(model, len(episode), description.wrench_site)
    for index, position in enumerate(episode.ticks.state_joint_position):
        data.qpos[places] = np.nan_to_num(position)
        mujoco.mj_kinematics(model, data)
        track.take(index, data)
    return BodyMotion(
        model=model,
        position=track.position,
        quaternion=track.quaternion,
        wrist=track.wrist,
        source=f"{description.name} at the measured joint angles; its surroundings were not recorded",
    )
