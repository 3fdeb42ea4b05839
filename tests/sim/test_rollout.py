"""Episodes: repeatable from the seed, logged so that they replay bit for bit, labelled, and safe to interrupt."""

from __future__ import annotations

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controllers.differential_ik import DifferentialIKOptions
from controllers.executor import ExecutorOptions
from controllers.latency import parse_latency
from controllers.operational_space import OperationalSpaceOptions
from controllers.protocols import PolicyClient
from controllers.types import CommandMode, OperatorEvent
from episodes.manifest import PolicyIdentity
from episodes.reader import open_episode
from episodes.replay import replay
from episodes.report.latency import chunk_latency, latency_table
from sim.assembly import SimCell, assemble_sim, default_config, episode_streams, rebuild_for_replay
from sim.rollout import ExpertSource, Teaching, episode_name, expert_policy, interruptible, new_interrupt, run_episode
from sim.stack import StackConfig, StackConfigError, controller_options
from sim.tasks.base import PhrasingSet
from sim.teaching import BurstNoise, Mixture, NoiseBursts
from vla.tokenizers import COMPACT_TOKENIZER

BLIND = replace(default_config(), cameras={})


class Lazy(ExpertSource):
    """A student that never moves: the expert's tokens with all motion taken out."""

    identity = PolicyIdentity("lazy")

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        inner = super().client(cell, config)
        poll = inner.poll

        def still(now_ns: int):
            arrivals = poll(now_ns)
            return tuple(replace(a, chunk=replace(a.chunk, tokens=np.full_like(a.chunk.tokens, 127))) for a in arrivals)

        inner.poll = still  # type: ignore[method-assign]
        return inner


class Student:
    """The same, but no expert by type, so that teaching treats it as a student."""

    identity = PolicyIdentity("student")

    def check(self, config: StackConfig) -> None:
        pass

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        return Lazy().client(cell, config)

    def close(self) -> None:
        pass


# ------------------------------------------------------------------------------------------- the episode


def test_expert_succeeds_and_the_same_seed_gives_the_same_episode() -> None:
    first, second = (run_episode("reach", 3, ExpertSource(), BLIND) for _ in range(2))
    other = run_episode("reach", 4, ExpertSource(), BLIND)
    assert first.success
    assert first.reason == "success"
    assert first.rejections == {}
    assert first == second
    assert first.final_digest != other.final_digest


def test_result_does_not_depend_on_what_ran_before_or_on_cameras() -> None:
    alone = run_episode("press_button", 5, ExpertSource(), BLIND)
    from sim.assembly import assemble_loop

    loop = assemble_loop(BLIND)
    run_episode("reach", 1, ExpertSource(), BLIND, loop=loop)
    after = run_episode("press_button", 5, ExpertSource(), BLIND, loop=loop)
    assert alone == after


@pytest.mark.gl
def test_recorded_episode_replays_bit_for_bit(tmp_path: Path) -> None:
    outcome = run_episode("pick_up", 2, ExpertSource(), default_config(), out_dir=tmp_path)
    episode = open_episode(tmp_path / outcome.episode)
    result = replay(episode, rebuild_for_replay)
    assert result.identical, result.first_divergence
    assert result.ticks == outcome.ticks == len(episode)
    assert episode.manifest.outcome is not None
    assert episode.manifest.outcome.success is outcome.success is True
    assert episode.images("wrist").shape[1:] == (128, 128, 3)
    assert episode.manifest.instruction == outcome.instruction
    assert StackConfig.from_json(episode.manifest.stack) == default_config()
    blind = replay(episode, lambda e: rebuild_for_replay(e, physics=False))
    assert blind.identical, blind.first_divergence


def test_changed_physics_is_found_by_replay(tmp_path: Path) -> None:
    outcome = run_episode("reach", 2, ExpertSource(), BLIND, out_dir=tmp_path)

    def heavier(episode):
        parts = rebuild_for_replay(episode)
        parts.robot.model.opt.gravity[2] = -9.80  # type: ignore[union-attr]
        return parts

    result = replay(open_episode(tmp_path / outcome.episode), heavier)
    assert not result.identical
    assert result.first_divergence is not None


def test_key_frames_are_the_states_that_their_ticks_sensed(tmp_path: Path) -> None:
    outcome = run_episode("press_button", 0, ExpertSource(), BLIND, out_dir=tmp_path)
    episode = open_episode(tmp_path / outcome.episode)
    robot = rebuild_for_replay(episode).robot
    assert robot is not None
    assert episode.physics.keyframe_tick.tolist() == list(range(200, outcome.ticks, 200))
    for tick, state in zip(episode.physics.keyframe_tick, episode.physics.keyframe_state, strict=True):
        robot.set_state(np.array(state))  # type: ignore[attr-defined]
        if tick < len(episode):
            assert robot.physics_digest() == episode.ticks.physics_digest[tick].tobytes()
            assert np.array_equal(robot.read().wrench, episode.ticks.state_wrench[tick])


def test_latency_is_an_input_and_replays(tmp_path: Path) -> None:
    prompt = run_episode("reach", 0, ExpertSource(), BLIND)
    late = run_episode("reach", 0, ExpertSource(latency_ns=60_000_000), BLIND, out_dir=tmp_path)
    assert late.final_digest != prompt.final_digest
    assert late.success
    assert replay(open_episode(tmp_path / late.episode), rebuild_for_replay).identical


def test_episode_without_success_ends_at_the_time_limit() -> None:
    outcome = run_episode("reach", 0, Lazy(), BLIND)
    with assemble_sim(BLIND, "reach", 0) as cell:
        limit = cell.instance.time_limit_s
    assert not outcome.success
    assert outcome.reason == "time_limit"
    assert outcome.duration_s == pytest.approx(limit)


def test_torque_controller_runs_the_same_task_and_replays(tmp_path: Path) -> None:
    config = replace(BLIND, controller=OperationalSpaceOptions())
    assert config.command_mode is CommandMode.TORQUE
    outcome = run_episode("reach", 1, ExpertSource(), config, out_dir=tmp_path)
    assert outcome.success
    assert replay(open_episode(tmp_path / outcome.episode), rebuild_for_replay).identical


def test_running_without_safety_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(BLIND, safety=None, safety_off_reason="a test")
    outcome = run_episode("reach", 1, ExpertSource(), config, out_dir=tmp_path)
    assert outcome.safety_ticks == {"off": outcome.ticks}
    assert open_episode(tmp_path / outcome.episode).manifest.safety_off
    assert "SAFETY IS OFF" in capsys.readouterr().err


def test_emergency_stop_ends_the_episode_at_rest() -> None:
    def press(tick: int) -> tuple[OperatorEvent, ...]:
        return (OperatorEvent.EMERGENCY_STOP,) if tick == 60 else ()

    outcome = run_episode("reach", 0, ExpertSource(), BLIND, events=press)
    assert outcome.reason == "emergency_stop"
    assert 60 < outcome.ticks < 200


def test_interrupt_brings_the_arm_to_rest_and_closes_the_episode(tmp_path: Path) -> None:
    switch = new_interrupt()

    def press(tick: int) -> tuple[OperatorEvent, ...]:
        if tick == 80:
            switch.press()
        return ()

    outcome = run_episode("reach", 0, ExpertSource(), BLIND, out_dir=tmp_path, events=press, interrupt=switch)
    episode = open_episode(tmp_path / outcome.episode)
    assert outcome.reason == "interrupted"
    assert 80 < outcome.ticks < 210
    assert np.abs(episode.ticks.state_joint_velocity[-1]).max() < 0.01
    assert replay(episode, rebuild_for_replay).identical


def test_first_interrupt_is_gentle_and_the_second_is_not() -> None:
    with interruptible() as switch:
        os.kill(os.getpid(), signal.SIGINT)
        assert switch.pressed
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_instruction_and_phrasing_change_the_words_only() -> None:
    own = assemble_sim(BLIND, "stack", 7)
    told = assemble_sim(BLIND, "stack", 7, instruction="do it")
    unseen = assemble_sim(BLIND, "stack", 7, phrasing=PhrasingSet.UNSEEN)
    assert told.instruction == "do it"
    assert unseen.instruction != own.instruction
    assert own.scene.xml == told.scene.xml == unseen.scene.xml
    assert np.array_equal(own.initial_state, unseen.initial_state)


def test_streams_of_tasks_and_seeds_differ_and_repeat() -> None:
    def draws(task: str, seed: int) -> list[float]:
        streams = episode_streams(task, seed)
        return [g.random() for g in (streams.look, streams.arrangement, streams.wording, streams.policy)]

    assert draws("reach", 1) == draws("reach", 1)
    assert len({*draws("reach", 1), *draws("reach", 2), *draws("stack", 1)}) == 12


# --------------------------------------------------------------------------------------------- teaching


def test_labels_are_the_clean_expert_whatever_noise_does(tmp_path: Path) -> None:
    noise = BurstNoise(probability=0.5)
    outcome = run_episode("press_button", 3, ExpertSource(), BLIND, out_dir=tmp_path, teaching=Teaching(noise=noise))
    episode = open_episode(tmp_path / outcome.episode)
    labels, chunks = episode.labels, episode.chunks
    assert np.array_equal(labels.stamp_ns, episode.observations.stamp_ns)
    assert np.array_equal(labels.stamp_ns, chunks.observation_stamp_ns)
    differs = (labels.tokens != chunks.tokens).any(axis=(1, 2))
    assert 0 < differs.sum() < len(differs)
    assert np.array_equal(labels.tokens[..., -1], chunks.tokens[..., -1]), "the gripper is left alone"
    with assemble_sim(BLIND, "press_button", 3) as cell:
        state = cell.robot.read()
        first = expert_policy(cell, BLIND).infer(cell.source.observe(state, state.ee_pose))
    assert np.array_equal(first.tokens, labels.tokens[0])


def test_student_drives_and_the_expert_labels(tmp_path: Path) -> None:
    teaching = Teaching(mixture=Mixture(expert_fraction=0.0))
    outcome = run_episode("reach", 3, Student(), BLIND, out_dir=tmp_path / "student", teaching=teaching)
    episode = open_episode(tmp_path / "student" / outcome.episode)
    assert not outcome.success
    assert (episode.chunks.tokens == 127).all()
    assert (episode.labels.tokens[..., :6] != 127).any(axis=(1, 2)).all(), "the expert would always move"
    assert len(episode.labels.stamp_ns) == len(episode.observations.stamp_ns)
    mixed = run_episode(
        "reach", 3, Student(), BLIND, out_dir=tmp_path / "mixed", teaching=Teaching(mixture=Mixture(0.5, 3))
    )
    still = (open_episode(tmp_path / "mixed" / mixed.episode).chunks.tokens == 127).all(axis=(1, 2))
    assert 0 < still.sum() < len(still)


def test_bursts_are_short_constant_pushes_inside_the_vocabulary() -> None:
    noise = BurstNoise(probability=0.3, min_chunks=2, max_chunks=4, sigma_bins=60.0)
    bursts = NoiseBursts(noise, COMPACT_TOKENIZER, np.random.default_rng(0))
    clean = np.full((8, 7), 127, np.int64)
    played = [bursts.apply(clean) for _ in range(400)]
    pushed = [not np.array_equal(tokens, clean) for tokens in played]
    assert 0.2 < np.mean(pushed) < 0.7
    assert all((tokens >= 0).all() and (tokens <= 254).all() for tokens in played)
    assert all(np.array_equal(tokens[0], tokens[-1]) for tokens in played)


def test_labels_without_a_log_are_refused() -> None:
    with pytest.raises(ValueError, match="out_dir"):
        run_episode("reach", 0, ExpertSource(), BLIND, teaching=Teaching())


# ---------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("name", ["differential_ik", "operational_space", "joint_impedance"])
def test_configuration_survives_json(name: str) -> None:
    import json
    import pickle

    config = replace(
        BLIND, controller=controller_options(name), executor=ExecutorOptions(execution_horizon=4, max_chunk_age_s=1.0)
    )
    assert StackConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.controller_name == name


def test_mistyped_configuration_names_the_near_match() -> None:
    data = default_config().to_json()
    with pytest.raises(StackConfigError, match=r"unknown entry 'robott'.*did you mean 'robot'"):
        StackConfig.from_json({**data, "robott": "panda"})
    with pytest.raises(StackConfigError, match="missing robot"):
        StackConfig.from_json({key: value for key, value in data.items() if key != "robot"})
    with pytest.raises(StackConfigError, match="control_rate_hz: expected int, found '200'"):
        StackConfig.from_json({**data, "control_rate_hz": "200"})
    with pytest.raises(StackConfigError, match=r"unknown controller 'differential_k'.*differential_ik"):
        controller_options("differential_k")
    with pytest.raises(StackConfigError, match=r"unknown entry 'gian'.*'gain'"):
        controller_options("differential_ik", {"gian": 3.0})
    assert controller_options("differential_ik", {"gain": 3}) == DifferentialIKOptions(gain=3.0)


def test_safety_cannot_be_left_out_silently() -> None:
    with pytest.raises(StackConfigError, match="neither"):
        replace(BLIND, safety=None)
    with pytest.raises(StackConfigError, match="drop one"):
        replace(BLIND, safety_off_reason="because")
    with pytest.raises(StackConfigError, match="for the robot 'ur5e', found 'panda_tabletop'"):
        replace(BLIND, robot="ur5e")


def test_names_of_episodes_sort_by_seed() -> None:
    assert episode_name("reach", 7) == "reach-000007.zarr"


def test_the_report_traces_a_picture_to_its_first_command(tmp_path: Path) -> None:
    config = replace(BLIND, latency=parse_latency("100ms"))
    outcome = run_episode("reach", 5, ExpertSource(), config, out_dir=tmp_path)
    episode = open_episode(tmp_path / outcome.episode)
    latency = chunk_latency(episode)
    assert len(latency.whole) + latency.never_played == int(episode.chunks.accepted.sum())
    assert latency.whole.min() >= 100.0
    parts = latency.inferred + latency.arrived + latency.played
    np.testing.assert_allclose(parts, latency.whole, atol=1e-9)
    table = latency_table(episode)
    counts = [int(count) for count in re.findall(r"ms</td><td class=n>(\d+)</td>", table)]
    assert sum(counts) == len(latency.whole)
    assert "Picture to first command" in table
