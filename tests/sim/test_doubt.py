"""Thresholds on doubt in closed loop: the arm slows down and holds, goes on, and all of it replays bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.doubt import ChunkDoubt, DoubtMeasure, DoubtOptions
from controllers.protocols import PolicyClient
from controllers.types import ExecutorStatus
from episodes.manifest import PolicyIdentity
from episodes.reader import open_episode
from episodes.replay import replay
from episodes.schema import EventKind
from sim.assembly import SimCell, default_config, rebuild_for_replay
from sim.rollout import ExpertSource, run_episode
from sim.stack import StackConfig, StackConfigError
from tests.controllers.test_doubt import distance_from_path

BLIND = replace(default_config(), cameras={})
OPTIONS = DoubtOptions(DoubtMeasure.MIN_PROBABILITY, slow_above=0.6, hold_above=0.8)


class Unsure(ExpertSource):
    """The expert, which tells a doubt that depends on the time."""

    identity = PolicyIdentity("unsure")

    def __init__(self, doubt: Callable[[float], float]) -> None:
        super().__init__()
        self._doubt = doubt

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        inner = super().client(cell, config)
        poll = inner.poll

        def telling(now_ns: int):
            doubt = ChunkDoubt(0.9, 1.0 - self._doubt(now_ns * 1e-9))
            return tuple(replace(a, chunk=replace(a.chunk, doubt=doubt)) for a in poll(now_ns))

        inner.poll = telling  # type: ignore[method-assign]
        return inner


def course(time_s: float) -> float:
    """Sure, less sure, at a loss, sure again."""
    return 0.1 if time_s < 0.5 else 0.7 if time_s < 1.0 else 0.9 if time_s < 2.0 else 0.1


@pytest.mark.parametrize("strategy", [ChunkStrategyName.SWITCH, ChunkStrategyName.TOKEN_RTC])
def test_an_episode_with_holds_goes_on_succeeds_and_replays_bit_for_bit(
    strategy: ChunkStrategyName, tmp_path: Path
) -> None:
    config = replace(BLIND, doubt=OPTIONS, chunking=ChunkingOptions(strategy=strategy))
    outcome = run_episode("pick_up", 2, Unsure(course), config, out_dir=tmp_path)
    assert outcome.success
    assert set(outcome.rejections) == {"doubtful"}
    episode = open_episode(tmp_path / outcome.episode)
    assert StackConfig.from_json(episode.manifest.stack) == config
    result = replay(episode, rebuild_for_replay)
    assert result.identical, result.first_divergence
    assert result.ticks == outcome.ticks
    rows = [row for row in episode.events if row.kind is EventKind.DOUBT]
    assert [row.name for row in rows] == ["slow", "hold", "clear"]
    assert [row.message for row in rows] == [
        "min_probability above 0.6",
        "min_probability above 0.8",
        "min_probability at most 0.6",
    ]
    held = episode.ticks.executor_status == tuple(ExecutorStatus).index(ExecutorStatus.DOUBTFUL)
    first, last = np.flatnonzero(held)[[0, -1]].tolist()
    standing = episode.ticks.commanded_pose[first + 60 : last]
    if strategy is ChunkStrategyName.SWITCH:  # token_rtc tells the policy the waypoint of its row instead
        assert (standing == standing[0]).all()
    targets = episode.ticks.target_pose[first + 60 : last]
    assert len(targets) > 100
    assert (targets == targets[0]).all()
    assert not episode.ticks.target_twist[first + 60 : last].any()


def test_a_hold_keeps_to_the_path_of_the_episode_without_it(tmp_path: Path) -> None:
    free = run_episode("pick_up", 2, Unsure(course), BLIND, out_dir=tmp_path / "free")
    held = run_episode("pick_up", 2, Unsure(course), replace(BLIND, doubt=OPTIONS), out_dir=tmp_path / "held")
    paths = [
        list(open_episode(tmp_path / name / outcome.episode).ticks.target_pose[:, :3])
        for name, outcome in (("free", free), ("held", held))
    ]
    assert distance_from_path(paths[1][:420], paths[0]) < 0.004  # later chunks are other chunks
    assert held.ticks > free.ticks + 150


def test_without_thresholds_an_episode_is_the_one_that_it_was() -> None:
    assert run_episode("reach", 3, Unsure(course), BLIND).final_digest == (
        run_episode("reach", 3, ExpertSource(), BLIND).final_digest
    )


def test_a_policy_that_stays_in_doubt_ends_at_the_time_limit_without_moving() -> None:
    outcome = run_episode("reach", 3, Unsure(lambda time_s: 0.95), replace(BLIND, doubt=OPTIONS))
    assert (outcome.success, outcome.reason, outcome.chunks) == (False, "time_limit", 0)


# ----------------------------------------------------------------------------------------- configuration


def test_thresholds_are_logged_only_where_there_are_some() -> None:
    assert "doubt" not in default_config().to_json()
    config = replace(default_config(), doubt=OPTIONS)
    assert StackConfig.from_json(config.to_json()) == config != default_config()


def test_a_mistyped_threshold_is_refused() -> None:
    data = replace(default_config(), doubt=OPTIONS).to_json()
    doubt = dict(data["doubt"])  # type: ignore[call-overload]
    with pytest.raises(StackConfigError, match=r"hold_abov'"):
        StackConfig.from_json({**data, "doubt": {**doubt, "hold_abov": 0.5}})
    with pytest.raises(StackConfigError, match=r"stack\.doubt\.measure: unknown name 'entropy'"):
        StackConfig.from_json({**data, "doubt": {**doubt, "measure": "entropy"}})
