"""The gymnasium environments: conforming, repeatable, vectorizable, and driven through the whole stack."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.assembly import assemble_sim, default_config
from sim.envs import ENVIRONMENT_IDS, TabletopEnv, environment_id
from sim.tasks.catalog import task_names

pytestmark = pytest.mark.gl

STILL = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)


def test_every_task_has_an_environment() -> None:
    assert tuple(environment_id(task) for task in task_names()) == ENVIRONMENT_IDS
    assert "vla_tabletop/PickUp-v0" in ENVIRONMENT_IDS
    assert all(identifier in gymnasium.registry for identifier in ENVIRONMENT_IDS)


@pytest.mark.parametrize("task", ["reach", "sort_by_color"])
def test_gymnasium_checker_passes(task: str) -> None:
    environment = gymnasium.make(environment_id(task), render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infinity.*")  # joint velocities have no bound of their own
        check_env(environment)


def test_same_seed_and_actions_give_the_same_observations() -> None:
    traces = []
    for _ in range(2):
        environment = TabletopEnv("push_to_zone")
        environment.action_space.seed(1)
        observation, _ = environment.reset(seed=4)
        trace = [observation]
        trace += [environment.step(environment.action_space.sample())[0] for _ in range(8)]
        environment.close()
        traces.append(trace)
    for first, second in zip(*traces, strict=True):
        assert first["instruction"] == second["instruction"]
        assert all(np.array_equal(first[key], second[key]) for key in ("proprioception", "workspace", "wrist"))


def test_reset_with_a_seed_is_the_episode_of_that_seed() -> None:
    environment = TabletopEnv("stack")
    observation, information = environment.reset(seed=12)
    environment.close()
    with assemble_sim(default_config(), "stack", 12) as cell:
        state = cell.robot.read()
        shown = cell.source.observe(state, state.ee_pose)
    assert information["seed"] == 12
    assert observation["instruction"] == cell.instruction
    assert np.array_equal(observation["workspace"], shown.images["workspace"])


def test_zero_action_holds_the_arm_and_a_push_moves_it_by_the_declared_distance() -> None:
    environment = TabletopEnv("reach")
    before = environment.reset(seed=0)[0]["proprioception"][14:17]
    for _ in range(5):
        after = environment.step(STILL)[0]["proprioception"][14:17]
    assert np.abs(after - before).max() < 1e-4
    push = STILL.copy()
    push[1] = 0.4  # of 25 mm, ten times: 100 mm to the left
    for action in [push] * 10 + [STILL] * 10:
        observation, _, _, _, information = environment.step(action)
        assert information["rejections"] == ()
    # Deltas start from the reference, which gathers speed smoothly: a little of the first rows is lost.
    moved = observation["proprioception"][14:17] - before
    environment.close()
    assert moved == pytest.approx([0.0, 0.1, 0.0], abs=0.01)


def test_gripper_action_minus_one_closes_and_one_opens() -> None:
    environment = TabletopEnv("reach")
    environment.reset(seed=0)
    closing = STILL.copy()
    closing[-1] = -1.0
    openings = []
    for action in (closing, STILL):
        for _ in range(20):
            observation = environment.step(action)[0]
        openings.append(float(observation["proprioception"][-1]))
    environment.close()
    assert openings[0] == pytest.approx(0.0, abs=2e-3)
    assert openings[1] == pytest.approx(0.08, abs=2e-3)


def test_instruction_can_be_replaced_and_unknown_options_are_refused() -> None:
    environment = TabletopEnv("reach")
    observation, _ = environment.reset(seed=0, options={"instruction": "wave"})
    assert observation["instruction"] == "wave"
    with pytest.raises(ValueError, match=r"unknown options.*instruktion.*valid: instruction"):
        environment.reset(options={"instruktion": "wave"})
    environment.close()


def test_broken_actions_are_refused() -> None:
    environment = TabletopEnv("reach")
    with pytest.raises(gymnasium.error.ResetNeeded):
        environment.step(STILL)
    environment.reset(seed=0)
    for broken in (np.full(7, np.nan), np.zeros(6)):
        with pytest.raises(ValueError, match="finite action"):
            environment.step(broken)
    environment.close()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_environments_vectorize(mode: str) -> None:
    extra = {"context": "spawn", "shared_memory": False} if mode == "async" else {}
    environments = gymnasium.make_vec(environment_id("reach"), num_envs=2, vectorization_mode=mode, vector_kwargs=extra)
    try:
        observations, _ = environments.reset(seed=3)  # 3 and 4
        with assemble_sim(default_config(), "reach", 4) as cell:
            assert observations["instruction"][1] == cell.instruction
        environments.step(environments.action_space.sample())
        observations, rewards, *_ = environments.step(np.stack([STILL, STILL]))
        assert observations["workspace"].shape == (2, 128, 128, 3)
        assert rewards.tolist() == [0.0, 0.0]
    finally:
        environments.close()
