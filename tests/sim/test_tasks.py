"""The tasks: their scenes are sound, and their instructions say something about what is there."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from controllers.robot import load_robot
from sim.objects.base import PALETTE, scatter
from sim.robot import SimRobot
from sim.scene import SceneLook, base_scene, compile_scene
from sim.tabletop import SETTLE_S
from sim.tasks.base import PhrasingSet, TaskInstance
from sim.tasks.catalog import UnknownTaskError, get_task, task_names
from sim.tasks.goals import PlaceGoal

SEEDS = range(20)
PANDA = load_robot("panda")


def build(task: str, seed: int) -> tuple[TaskInstance, mujoco.MjModel]:
    rng = np.random.default_rng(seed)
    spec = base_scene(PANDA, rng, SceneLook())
    instance = get_task(task).build(spec, rng)
    return instance, compile_scene(spec).model


def settled(task: str, seed: int) -> tuple[TaskInstance, SimRobot]:
    instance, model = build(task, seed)
    robot = SimRobot(model, PANDA)
    robot.reset(instance.initialize, SETTLE_S)
    return instance, robot


def words(text: str) -> set[str]:
    return set(text.lower().replace(",", " ").replace(":", " ").split())


def test_catalog_holds_twelve_tasks_and_names_the_nearest() -> None:
    assert len(task_names()) == 12
    with pytest.raises(UnknownTaskError, match=r"did you mean 'open_drawer'\? \(valid: reach, "):
        get_task("open_draw")


@pytest.mark.parametrize("task", task_names())
def test_scene_is_free_of_overlaps_at_the_start(task: str) -> None:
    for seed in SEEDS:
        instance, model = build(task, seed)
        data = mujoco.MjData(model)
        instance.initialize(model, data)
        mujoco.mj_forward(model, data)
        deepest = min((contact.dist for contact in data.contact), default=0.0)
        assert deepest > -1e-3, f"seed {seed}: {deepest} m"


@pytest.mark.parametrize("task", task_names())
def test_objects_stay_where_they_were_put(task: str) -> None:
    for seed in SEEDS:
        instance, robot = settled(task, seed)
        data, names = robot.data, [thing.name for thing in instance.arrangement.things]
        before = np.array([data.body(name).xpos for name in names])
        for _ in range(400):
            mujoco.mj_step(robot.model, data)
        after = np.array([data.body(name).xpos for name in names])
        assert np.abs(after - before).max() < 1e-3
        assert np.abs(data.qvel).max() < 0.02


@pytest.mark.parametrize("task", task_names())
def test_goal_is_not_reached_at_the_start(task: str) -> None:
    for seed in SEEDS:
        instance, robot = settled(task, seed)
        assert not instance.success(robot.model, robot.data)


@pytest.mark.parametrize("task", task_names())
def test_instruction_names_only_colors_that_are_there(task: str) -> None:
    for seed in SEEDS:
        instance, _ = build(task, seed)
        there = {thing.color for thing in instance.arrangement.things}
        assert words(instance.instruction) & set(PALETTE) <= there


@pytest.mark.parametrize("task", task_names())
def test_every_goal_has_distractors(task: str) -> None:
    for seed in SEEDS:
        instance, _ = build(task, seed)
        kinds = {thing.kind for thing in instance.arrangement.things if thing.name in instance.arrangement.targets}
        assert any(thing.kind in kinds for thing in instance.distractors)


@pytest.mark.parametrize("task", task_names())
def test_held_out_wordings_are_disjoint_and_tell_the_goal(task: str) -> None:
    phrasings = get_task(task).phrasings
    assert len(set(phrasings.seen)) >= 8
    assert len(set(phrasings.unseen)) >= 3
    assert not set(phrasings.seen) & set(phrasings.unseen)
    instance, _ = build(task, 0)
    rng = np.random.default_rng(0)
    seen = {instance.instruct(PhrasingSet.SEEN, rng) for _ in range(200)}
    unseen = {instance.instruct(PhrasingSet.UNSEEN, rng) for _ in range(200)}
    assert instance.instruction in seen
    assert not seen & unseen
    assert not any("{" in text for text in seen | unseen)


@pytest.mark.parametrize("task", task_names())
def test_equal_seeds_build_equal_episodes(task: str) -> None:
    (first, model), (second, same) = build(task, 7), build(task, 7)
    assert first.instruction == second.instruction
    assert first.goal == second.goal
    assert np.array_equal(model.qpos0, same.qpos0)


def test_a_block_over_the_bowl_counts_only_once_it_lies_inside() -> None:
    instance, robot = settled("place_in_bowl", 0)
    goal = instance.goal
    assert isinstance(goal, PlaceGoal)
    model, data = robot.model, robot.data
    address = model.joint(model.body(goal.block.thing.name).jntadr[0]).qposadr[0]
    data.qpos[address : address + 3] = [*goal.target.xy, 0.12]
    mujoco.mj_forward(model, data)
    assert not instance.success(model, data)
    for _ in range(400):
        mujoco.mj_step(model, data)
    assert instance.success(model, data)


def test_scatter_says_when_there_is_no_room() -> None:
    with pytest.raises(RuntimeError, match="found no room"):
        scatter(np.random.default_rng(0), [0.5, 0.5])
