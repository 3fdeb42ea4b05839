"""Replays that begin at a key frame, and replays of what did not happen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.replay import replay
from episodes.replay_set import replay_all
from episodes.what_if import delayed_arrivals, what_if
from tests.episodes.builders import SpringPlant, build_loop, change, rebuild, record_plant


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_plant(tmp_path_factory.mktemp("plant") / "p.zarr", keyframe_ticks=100)


@pytest.mark.parametrize(
    ("span", "begins"), [((0, 50), 0), ((99, 120), 0), ((100, 101), 100), ((350, 400), 300), ((599, 10_000), 500)]
)
def test_a_replay_begins_at_the_key_frame_before_and_is_identical(
    plant: Path, span: tuple[int, int], begins: int
) -> None:
    result = replay(open_episode(plant), rebuild, span=span)
    assert result.first_divergence is None
    assert (result.first_tick, result.ticks) == (begins, min(span[1], 600) - begins)
    assert result.identical


def test_key_frames_hold_the_loops_memory_and_the_physics(plant: Path) -> None:
    episode = open_episode(plant)
    assert list(episode.memories) == episode.physics.keyframe_tick.tolist() == [100, 200, 300, 400, 500]


@pytest.mark.parametrize("span", [(600, 700), (-1, 5), (50, 50), (9, 3)])
def test_a_span_that_the_episode_does_not_have_is_refused(plant: Path, span: tuple[int, int]) -> None:
    with pytest.raises(EpisodeError, match="expected a span of ticks that the episode has"):
        replay(open_episode(plant), rebuild, span=span)


def test_a_tick_that_was_changed_within_the_span_is_found_by_the_chain(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "p.zarr", keyframe_ticks=100)
    change(path, "ticks/state_wrench", (350, 1), 7.0)
    with pytest.raises(EpisodeError, match="tick 350: expected a link of the hash chain"):
        replay(open_episode(path), rebuild, span=(320, 400))
    assert replay(open_episode(path), rebuild, span=(400, 500)).identical


def test_a_key_frame_that_was_changed_shows_at_its_first_tick(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "p.zarr", keyframe_ticks=100)
    change(path, "physics/keyframe_state", (2, 0), 0.123)
    result = replay(open_episode(path), rebuild, span=(300, 400))
    assert result.first_divergence is not None
    assert (result.first_divergence.tick, result.first_divergence.stage) == (300, "input")
    assert "state_joint_position" in result.first_divergence.inputs


def test_the_same_stack_changes_nothing(plant: Path) -> None:
    episode = open_episode(plant)
    result = what_if(episode, build_loop(), SpringPlant(3.0))
    assert result.identical
    assert result.interventions == result.recorded_interventions
    assert result.min_margin == float(episode.ticks.safety_min_margin.min())
    assert result.max_command_difference == result.max_position_difference_m == 0.0


def test_a_tighter_limit_intervenes_earlier_and_says_where_and_by_how_much(plant: Path) -> None:
    episode = open_episode(plant)
    result = what_if(episode, build_loop(limit=0.1), SpringPlant(3.0))
    assert result.interventions > result.recorded_interventions
    first = result.first_intervention
    assert first is not None
    assert (first.limit, first.status) == ("joint_velocity", "limiting")
    assert first.margin < 0.0
    fastest = np.abs(episode.ticks.command_values[: first.tick + 1]).max(axis=1)
    assert (fastest[:-1] <= 0.1).all()  # nothing else could have been first
    assert fastest[-1] > 0.1
    assert result.limits[0].worst_margin <= first.margin
    assert result.max_position_difference_m > 0.0


def test_fed_with_the_recorded_readings_nothing_moves(plant: Path) -> None:
    result = what_if(open_episode(plant), build_loop(limit=0.1), None)
    assert not result.simulated
    assert result.max_position_difference_m == 0.0
    assert result.max_command_difference is not None
    assert result.max_command_difference > 0.0


def test_later_chunks_are_taken_later_or_refused(plant: Path) -> None:
    episode = open_episode(plant)
    arrivals = delayed_arrivals(episode, lambda number: 100_000_000)
    ticks = {tick for tick, items in arrivals.items() for item in items}
    assert min(ticks) == 20
    result = what_if(episode, build_loop(), SpringPlant(3.0), arrivals)
    assert result.first_change is not None
    assert result.first_change.tick <= 5
    stale = what_if(episode, build_loop(), SpringPlant(3.0), delayed_arrivals(episode, lambda number: 1_600_000_000))
    assert stale.rejected_chunks == sum(map(len, delayed_arrivals(episode, lambda number: 1_600_000_000).values()))


def test_many_episodes_are_verified_in_their_order(plant: Path, tmp_path: Path) -> None:
    broken = record_plant(tmp_path / "b.zarr", ticks=50)
    change(broken, "ticks/now_ns", 33, 1)
    found = list(replay_all([plant, broken, tmp_path / "none.zarr"], rebuild))
    assert [item.identical for item in found] == [True, False, False]
    assert found[1].result is not None
    assert re.match("tick 33, ticks/now_ns", str(found[1].result.first_divergence))
    assert "expected an episode store" in found[2].error
