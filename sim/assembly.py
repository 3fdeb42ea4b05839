"""From a configuration to running parts: the loop, the simulated cell, and both again from a logged episode."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Any

import mujoco
import numpy as np

from controllers.chunking import ChunkStrategyName
from controllers.executor import ChunkExecutor
from controllers.kinematics import ArmModel
from controllers.loop import ControlLoop
from controllers.robot import RobotDescription, load_robot
from controllers.types import Observation, Pose, RobotState
from episodes.episode import Episode
from episodes.manifest import model_hash
from episodes.replay import ReplayParts, StackIdentity
from safety.building import build_filter
from safety.filter import UncheckedFilter
from safety.profile import load_profile
from sim.obstacles.placement import NO_OBSTACLES, ObstacleField, PlacementError, add_obstacles
from sim.rendering import CameraRenderer
from sim.robot import SimRobot, apply_actuator_mode
from sim.scene import CompiledScene, SceneLook, base_scene, compile_scene
from sim.stack import StackConfig, StackConfigError
from sim.tasks.base import PhrasingSet, TaskInstance
from sim.tasks.catalog import get_task
from vla.tokenizers import TokenActionDecoder, decoder_from_id

_ARRANGEMENTS = 12  # draws of objects and obstacles, before obstacles beside the way will do


class ReplayMismatchError(ValueError):
    """An episode that cannot be executed again with what is installed here."""


def default_config(robot: str = "panda") -> StackConfig:
    """The tabletop suite's configuration for a built-in robot."""
    return StackConfig(robot=robot, safety=load_profile(f"{robot}_tabletop"))


def assemble_loop(config: StackConfig) -> ControlLoop:
    """Build executor, controller and safety filter, joined into one tick."""
    description = load_robot(config.robot)
    decoder = decoder_from_id(config.tokenizer_id, config.action_spec, config.tokenizer_definition)
    if config.chunking.strategy is ChunkStrategyName.TOKEN_RTC and not isinstance(decoder, TokenActionDecoder):
        raise StackConfigError(
            f"expected a tokenizer with one token for each row and dimension for token_rtc, found "
            f"{config.tokenizer_id!r}, which writes whole chunks; choose the strategy ensembling or another tokenizer"
        )
    executor = ChunkExecutor(
        decoder,
        description.gripper.open,
        config.control_rate_hz,
        config.executor,
        config.chunking,
        config.doubt,
    )
    controller = config.make_controller(ArmModel(description))
    if config.safety is None:
        return ControlLoop(executor, controller, UncheckedFilter(config.safety_off_reason), config.control_rate_hz)
    safety = build_filter(description, config.safety)
    return ControlLoop(executor, controller, safety, config.control_rate_hz)


# ----------------------------------------------------------------------------------------------- chance


@dataclass(frozen=True, slots=True)
class EpisodeStreams:
    """Independent sources of chance of one episode; they depend on task and seed only.

    Attributes:
        look: Lights, colours, camera jitter.
        arrangement: Objects and the sampled wording.
        wording: Wording, when a phrasing set is asked for.
        policy: Exploration noise and whatever else a policy draws.
        obstacles: What stands in the way, and where.
    """

    look: np.random.Generator
    arrangement: np.random.Generator
    wording: np.random.Generator
    policy: np.random.Generator
    obstacles: np.random.Generator


def episode_streams(task_name: str, seed: int) -> EpisodeStreams:
    """The sources of chance of the episode ``seed`` of a task, whatever ran before it and wherever it runs."""
    root = np.random.SeedSequence([seed, zlib.crc32(task_name.encode())])
    return EpisodeStreams(*(np.random.default_rng(child) for child in root.spawn(5)))


# ------------------------------------------------------------------------------------ the simulated cell


class SimObservationSource:
    """Joins the pictures of the simulation's current state with the sensed state; an ``ObservationSource``."""

    def __init__(self, robot: SimRobot, renderer: CameraRenderer | None, instruction: str) -> None:
        """Take pictures with ``renderer``, or none at all."""
        self._robot = robot
        self._renderer = renderer
        self.instruction = instruction

    def observe(self, state: RobotState, commanded_pose: Pose) -> Observation:
        """Render all cameras now; the simulation must be in ``state``."""
        images = {} if self._renderer is None else self._renderer.render(self._robot.data)
        return Observation(images, state, commanded_pose, self.instruction, state.stamp_ns)


@dataclass(frozen=True, slots=True)
class SimCell:
    """A scene with its task, at rest before tick 0. Close it, or use it as a context manager.

    Attributes:
        scene: The compiled scene and its XML.
        robot: The arm in it.
        instance: The task.
        instruction: What the policy is told.
        source: Takes the pictures.
        streams: The episode's sources of chance; ``policy`` is for the policy.
        initial_state: State before tick 0.
        obstacles: What stands in the way.
    """

    scene: CompiledScene
    robot: SimRobot
    instance: TaskInstance
    instruction: str
    source: SimObservationSource
    streams: EpisodeStreams
    initial_state: np.ndarray
    obstacles: ObstacleField
    _renderer: CameraRenderer | None

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()

    def __enter__(self) -> SimCell:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def assemble_sim(
    config: StackConfig,
    task_name: str,
    seed: int,
    *,
    instruction: str | None = None,
    phrasing: PhrasingSet | None = None,
    look: SceneLook | None = None,
) -> SimCell:
    """Build the scene of one episode and bring it to rest.

    Args:
        config: The stack; its controller decides what the actuators take.
        task_name: Name in the catalog.
        seed: Seed of scene, arrangement and wording.
        instruction: Words to use instead of the task's own.
        phrasing: Draw the wording from this set; default is the task's sampled one.
        look: A fixed look instead of a sampled one.
    """
    description = load_robot(config.robot)
    streams = episode_streams(task_name, seed)
    spec, instance, obstacles = _arranged(config, task_name, description, streams, look)
    if phrasing is not None:
        instance = replace(instance, instruction=instance.instruct(phrasing, streams.wording))
    words = instance.instruction if instruction is None else instruction
    apply_actuator_mode(spec, description, config.command_mode)
    scene = compile_scene(spec)
    robot = SimRobot(scene.model, description, config.control_rate_hz)
    robot.reset(instance.initialize, config.settle_s)
    renderer = CameraRenderer(scene.model, config.cameras) if config.cameras else None
    source = SimObservationSource(robot, renderer, words)
    return SimCell(scene, robot, instance, words, source, streams, robot.get_state(), obstacles, renderer)


def _arranged(
    config: StackConfig, task_name: str, description: RobotDescription, streams: EpisodeStreams, look: SceneLook | None
) -> tuple[mujoco.MjSpec, TaskInstance, ObstacleField]:
    """The scene with its objects. With obstacles, arrangements are drawn until one leaves room for them in the way."""
    look = SceneLook.sample(streams.look) if look is None else look
    found: tuple[mujoco.MjSpec, TaskInstance, ObstacleField] | None = None
    for draw in range(_ARRANGEMENTS):
        spec = base_scene(description, streams.look, look)
        spec.option.timestep = config.physics_timestep_s
        instance = get_task(task_name).build(spec, streams.arrangement)
        if config.obstacles is None:
            return spec, instance, NO_OBSTACLES
        try:
            obstacles = add_obstacles(spec, instance, description, config.obstacles, streams.obstacles)
        except PlacementError:
            if found is None and draw == _ARRANGEMENTS - 1:
                raise
            continue
        if obstacles.complete:
            return spec, instance, obstacles
        if found is None or sum(obstacles.blocking) > sum(found[2].blocking):
            found = spec, instance, obstacles
    assert found is not None
    return found


def episode_config(config: StackConfig, cell: SimCell) -> StackConfig:
    """The configuration of one episode: its safety profile keeps the arm off the cell's obstacles.

    Without obstacles it is ``config`` itself.
    """
    if config.safety is None or config.obstacles is None:
        return config
    return replace(config, safety=cell.obstacles.declare(config.safety))


# ----------------------------------------------------------------------------------------------- replay


@lru_cache(maxsize=4)
def _shared_loop(config: StackConfig) -> ControlLoop:
    """A loop holds no memory of its own, so episodes of one configuration can share one, one after the other."""
    return assemble_loop(config)


def rebuild_for_replay(episode: Episode, *, physics: bool = True) -> ReplayParts[Any]:
    """Build loop and simulation again from what an episode logged; see :func:`episodes.replay.replay`.

    Args:
        episode: The recording.
        physics: False to feed the logged sensor readings instead of simulating, for an episode that was recorded with
            another version of MuJoCo.

    Raises:
        ReplayMismatchError: The robot description changed, so that the same commands would not give the same motion.
    """
    manifest = episode.manifest
    config = StackConfig.from_json(manifest.stack)
    description = load_robot(config.robot)
    if description.content_hash != manifest.robot_hash:
        raise ReplayMismatchError(
            f"{episode.path}: expected the robot description {manifest.robot_hash} that it was recorded with, found "
            f"{description.content_hash}; check out the release that recorded it"
        )
    loop = _shared_loop(config)
    xml = episode.model_xml
    identity = StackIdentity(
        action_spec_hash=config.action_spec.hash,
        tokenizer_id=loop.executor.decoder.tokenizer_id,
        safety_profile_hash="" if config.safety is None else config.safety.hash,
        model_xml_sha256=model_hash(xml) if xml else "",
    )
    if not xml or not physics:
        return ReplayParts(loop, None, identity)
    robot = SimRobot(mujoco.MjModel.from_xml_string(xml.decode()), description, config.control_rate_hz)
    robot.set_state(np.array(episode.physics.initial_state))
    return ReplayParts(loop, robot, identity, robot)
