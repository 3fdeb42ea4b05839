"""What the expert would do if something else had been asked for in a recorded scene.

A learner that meets each scene with one instruction only can tell from the scene what to do, and need not listen.
Here the same pictures get the labels of other instructions too: the recorded episode is re-simulated, and at each
observation an expert for each other goal writes its chunk. Nothing is rendered anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import zarr

from controllers.robot import load_robot
from controllers.types import CommandMode, JointCommand, Observation, Pose, frozen_array
from sim.assembly import episode_streams
from sim.experts.policy import ExpertPolicy
from sim.robot import SimRobot
from sim.scene import SceneLook, base_scene
from sim.stack import StackConfig
from sim.tasks.base import TaskInstance
from sim.tasks.catalog import get_task

SUFFIX = ".others.npz"


def label_other_goals(path: Path, limit: int = 2) -> int:
    """Write the labels of other goals beside a recorded episode, as ``NAME.others.npz``.

    The file holds ``stamp_ns`` (n,), ``tokens`` (goals, n, horizon, dims) int16 and ``instructions`` (goals,).

    Args:
        path: Store of an episode of the tabletop suite. Without joint position commands, or with obstacles in the
            way, there is nothing to label.
        limit: Most goals to label: the first of the arrangement's, then others drawn by the episode's seed.

    Returns:
        Number of goals that were labelled; without any, no file is written.

    Raises:
        ValueError: The re-simulation left the recorded one, so that labels would belong to other states.
    """
    group = zarr.open_group(str(path), mode="r")
    manifest: Any = group.attrs["manifest"]
    config = StackConfig.from_json(manifest["stack"])
    if config.command_mode is not CommandMode.POSITION or manifest["stack"].get("obstacles"):
        return 0
    seed = int(manifest["seed"])
    rng = np.random.default_rng((seed, 1))
    asked = _instance(config, str(manifest["task"]), seed).asking_otherwise(rng)
    if not asked:
        return 0
    # The first is the one that is easiest to confuse with what was asked for.
    chosen = [asked[0], *(asked[1 + i] for i in rng.permutation(len(asked) - 1))][:limit]
    stamps, tokens = _labels(group, config, chosen, path)
    words = np.array([instance.instruction for instance in chosen])
    target = path.with_name(path.stem + SUFFIX)
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, stamp_ns=stamps, tokens=tokens, instructions=words)
    partial.replace(target)
    return len(chosen)


def _instance(config: StackConfig, task: str, seed: int) -> TaskInstance:
    """The task of an episode, with its goals: what its seed drew."""
    streams = episode_streams(task, seed)
    look = SceneLook.sample(streams.look)
    spec = base_scene(load_robot(config.robot), streams.look, look)
    return get_task(task).build(spec, streams.arrangement)


def _labels(
    group: zarr.Group, config: StackConfig, asked: list[TaskInstance], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Stamps (n,) and tokens (goals, n, horizon, dims) at each observation of the re-simulated episode."""

    def read(name: str) -> np.ndarray:
        array: Any = group[name]
        return np.asarray(array[...])

    model = mujoco.MjModel.from_xml_string(read("model_xml").tobytes().decode())
    robot = SimRobot(model, load_robot(config.robot), config.control_rate_hz)
    robot.set_state(read("physics/initial_state"))
    experts = [ExpertPolicy(instance, robot, config.action_spec) for instance in asked]
    ticks, stamps = read("observations/tick"), read("observations/stamp_ns")
    commanded, sensed = read("observations/commanded_pose"), read("observations/ee_pose")
    values, openings = read("ticks/applied_values"), read("ticks/applied_gripper_opening")
    rows, first = {int(tick): row for row, tick in enumerate(ticks)}, int(read("ticks/tick")[0])
    tokens = np.zeros((len(asked), len(ticks), config.action_spec.horizon, config.action_spec.dims), np.int16)
    for index, (command, opening) in enumerate(zip(values, openings, strict=True)):
        row = rows.get(first + index)
        if row is not None:
            state = robot.read()
            if np.abs(state.ee_pose.position - sensed[row, :3]).max() > 1e-9:
                raise ValueError(f"{path}: the re-simulation left the recorded episode at tick {first + index}")
            pose = Pose(frozen_array(commanded[row, :3]), frozen_array(commanded[row, 3:]))
            observation = Observation({}, state, pose, "", int(stamps[row]))
            for labels, expert in zip(tokens, experts, strict=True):
                labels[row] = expert.infer(observation).tokens
        robot.write(JointCommand(CommandMode.POSITION, frozen_array(command), float(opening), robot.now_ns))
    return stamps, tokens


def label_folder(folder: Path, limit: int = 2) -> int:
    """:func:`label_other_goals` for every finished episode of a folder that has no such labels yet.

    Returns:
        Number of episodes labelled now.
    """
    done = 0
    for path in sorted(folder.rglob("*.zarr")):
        if path.with_name(path.stem + SUFFIX).exists() or not _closed(path):
            continue
        done += label_other_goals(path, limit) > 0
    return done


def _closed(path: Path) -> bool:
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (FileNotFoundError, KeyError, json.JSONDecodeError):
        return False
    return bool(attributes.get("manifest", {}).get("closed"))
