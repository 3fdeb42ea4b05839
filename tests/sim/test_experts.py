"""The experts: reactive, within the action contract, and able to do every task through the whole stack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controllers.robot import load_robot
from controllers.types import Observation, frozen_array
from sim.experts.motion import OPEN_M, Hand, Item, holds, pick, wrap
from sim.experts.policy import ExpertPolicy
from sim.robot import SimRobot
from sim.rollout import ExpertSource, run_episode
from sim.scene import SceneLook, base_scene, compile_scene
from sim.stack import StackConfig
from sim.tabletop import SETTLE_S, TABLETOP_ACTION_SPEC
from sim.tasks.catalog import get_task, task_names
from vla.tokenizers import COMPACT_TOKENIZER

PANDA = load_robot("panda")


def expert(task: str, seed: int) -> tuple[ExpertPolicy, Observation]:
    rng = np.random.default_rng(seed)
    spec = base_scene(PANDA, rng, SceneLook())
    instance = get_task(task).build(spec, rng)
    robot = SimRobot(compile_scene(spec).model, PANDA)
    robot.reset(instance.initialize, SETTLE_S)
    state = robot.read()
    observation = Observation({}, state, state.ee_pose, instance.instruction, state.stamp_ns)
    return ExpertPolicy(instance, robot, TABLETOP_ACTION_SPEC), observation


@pytest.mark.parametrize("task", task_names())
def test_chunks_keep_the_action_contract_from_any_pose(task: str) -> None:
    policy, observation = expert(task, 0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        position = frozen_array(rng.uniform([0.30, -0.30, 0.01], [0.70, 0.30, 0.40]))
        pose = replace(observation.state.ee_pose, position=position)
        opening = float(rng.uniform(0.0, OPEN_M))
        state = replace(observation.state, ee_pose=pose, gripper_opening=opening)
        moved = replace(observation, state=state, commanded_pose=pose)
        actions = policy.actions(moved)
        assert (actions >= TABLETOP_ACTION_SPEC.lower).all()
        assert (actions <= TABLETOP_ACTION_SPEC.upper).all()
        tokens = policy.infer(moved).tokens
        decoded = COMPACT_TOKENIZER.decode(tokens, TABLETOP_ACTION_SPEC)
        assert np.abs(decoded - actions).max() <= COMPACT_TOKENIZER.error_bound(TABLETOP_ACTION_SPEC).max() + 1e-12


@pytest.mark.parametrize("task", task_names())
def test_expert_depends_on_the_current_state_only(task: str) -> None:
    policy, observation = expert(task, 1)
    first = policy.infer(observation).tokens
    elsewhere = replace(observation.state.ee_pose, position=frozen_array([0.5, 0.1, 0.05]))
    policy.infer(replace(observation, state=replace(observation.state, ee_pose=elsewhere), commanded_pose=elsewhere))
    assert np.array_equal(policy.infer(observation).tokens, first)


def test_hand_goes_up_before_it_goes_sideways_at_table_height() -> None:
    aim = pick(Hand(0.35, -0.2, 0.02, 0.0, OPEN_M), Item(0.5, 0.1, 0.02, width=0.04))
    assert (aim.x, aim.y) == (0.35, -0.2)
    assert aim.z > 0.1


def test_fingers_close_only_around_the_block() -> None:
    block = Item(0.5, 0.1, 0.02, width=0.04)
    assert pick(Hand(0.5, 0.1, 0.021, 0.0, OPEN_M), block).opening == 0.0
    assert pick(Hand(0.5, 0.115, 0.021, 0.0, OPEN_M), block).opening == 1.0


def test_a_block_is_held_once_the_fingers_have_met_it() -> None:
    block = Item(0.5, 0.1, 0.02, width=0.04)
    assert not holds(Hand(0.5, 0.1, 0.02, 0.0, 0.06), block)
    assert holds(Hand(0.5, 0.1, 0.02, 0.0, 0.039), block)


def test_grasp_takes_the_smallest_turn() -> None:
    block = Item(0.5, 0.1, 0.02, yaw=np.radians(110.0), width=0.04)
    assert pick(Hand(0.5, 0.1, 0.2, 0.0, OPEN_M), block).yaw == pytest.approx(np.radians(20.0))
    assert wrap(np.pi, np.pi) == pytest.approx(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("task", task_names())
def test_expert_solves_the_task_through_tokens_and_safety(task: str, seed: int) -> None:
    outcome = run_episode(task, seed, ExpertSource(), StackConfig(cameras={}))
    assert outcome.success, outcome
    assert not outcome.rejections
