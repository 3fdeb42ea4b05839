"""The whole stack in simulation: recorded, re-executed bit for bit, and every change named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.latency import parse_latency, write_trace
from episodes.answers import answer_latencies_ms
from episodes.reader import open_episode
from episodes.replay import Refusal, replay
from episodes.results import EpisodeResult, result_of
from episodes.verification import verify
from sim.assembly import default_config, rebuild_for_replay
from sim.rollout import ExpertSource, run_episode
from sim.stack import StackConfig


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EpisodeResult]:
    folder = tmp_path_factory.mktemp("stack")
    outcome = run_episode("press_button", 3, ExpertSource(), replace(default_config(), cameras={}), out_dir=folder)
    return folder / outcome.episode, outcome


@pytest.fixture
def path(recorded: tuple[Path, EpisodeResult], tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded[0], tmp_path / recorded[0].name))


def test_an_episode_of_the_whole_stack_re_executes_bit_for_bit(path: Path) -> None:
    episode = open_episode(path)
    assert verify(episode) == ()
    result = replay(episode, rebuild_for_replay)
    assert result.first_divergence is None
    assert result.identical
    assert result.ticks == len(episode) > 100


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ChunkStrategyName)
def test_every_chunk_strategy_re_executes_bit_for_bit(strategy: ChunkStrategyName, tmp_path: Path) -> None:
    latency = parse_latency("lognormal:150ms,0.4,drop=0.1,reorder,seed=3")
    config = replace(default_config(), cameras={}, chunking=ChunkingOptions(strategy=strategy), latency=latency)
    assert StackConfig.from_json(config.to_json()) == config
    outcome = run_episode("press_button", 3, ExpertSource(), config, out_dir=tmp_path)
    episode = open_episode(tmp_path / outcome.episode)
    result = replay(episode, rebuild_for_replay)
    assert result.first_divergence is None
    assert result.identical
    # What the log says of the latencies is a trace to run others with; arrivals are whole ticks.
    latencies = answer_latencies_ms(episode)
    known = [value for value in latencies if value is not None]
    assert len(known) > 3
    assert all(round(value, 6) % 5.0 == 0.0 for value in known)
    assert write_trace(tmp_path / "trace.jsonl", latencies) == len(latencies)
    traced = replace(config, latency=parse_latency(str(tmp_path / "trace.jsonl")))
    assert StackConfig.from_json(traced.to_json()) == traced


def test_without_physics_it_re_executes_from_its_sensors(path: Path) -> None:
    result = replay(open_episode(path), lambda episode: replace(rebuild_for_replay(episode), robot=None))
    assert result.first_divergence is None
    assert result.identical


def test_the_log_and_the_rollout_agree_on_the_result(recorded: tuple[Path, EpisodeResult]) -> None:
    path, outcome = recorded
    row = result_of(open_episode(path))
    for name in ("task", "seed", "instruction", "success", "reason", "ticks", "chunks", "rejections", "safety_ticks"):
        assert getattr(row, name) == getattr(outcome, name), name
    assert row.limits == outcome.limits
    assert row.min_margin == outcome.min_margin


def test_a_loosened_limit_is_named_and_its_effect_too(path: Path) -> None:
    root = zarr.open_group(str(path), mode="r+")
    manifest: Any = json.loads(json.dumps(root.attrs["manifest"]))
    for profile in (manifest["safety_profile"], manifest["stack"]["safety"]):
        profile["end_effector"]["linear_speed_m_s"] = 0.05
    root.attrs["manifest"] = manifest
    result = replay(open_episode(path), rebuild_for_replay)
    assert result.refusal is Refusal.DAMAGED
    assert result.first_divergence is not None
    assert result.first_divergence.field == "manifest.safety_profile.end_effector.linear_speed_m_s"
    what_if = replay(open_episode(path), rebuild_for_replay, waive={"integrity", "safety_profile_hash"})
    assert what_if.first_divergence is not None
    assert what_if.first_divergence.tick > 0
    assert what_if.first_divergence.field.startswith(("safety_", "applied_", "events/safety_reason"))


def test_a_changed_model_is_named_and_its_effect_too(path: Path) -> None:
    root = zarr.open_group(str(path), mode="r+")
    xml: Any = root["model_xml"]
    text = xml[:].tobytes()
    at = text.index(b'mass="') + 6
    while not chr(text[at]).isdigit() or text[at : at + 1] == b"9":
        at += 1
    xml[at] = text[at] + 1
    result = replay(open_episode(path), rebuild_for_replay)
    assert result.refusal is Refusal.DAMAGED
    assert result.first_divergence is not None
    assert result.first_divergence.field == "model_xml"
    what_if = replay(open_episode(path), rebuild_for_replay, waive={"integrity", "model_xml", "model_xml_sha256"})
    assert what_if.first_divergence is not None
    assert what_if.first_divergence.tick >= 0
