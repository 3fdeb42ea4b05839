"""``vla bench replay``: which episodes it plans, that faults are injected and replay, that it goes on where it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import tampering
from benchmarks.replay import RESULTS_NAME, Options, read_rows, run
from benchmarks.replay_cases import Case, InjectedFault, Recorder, cases
from controllers.chunking import ChunkStrategyName
from episodes.reader import open_episode
from episodes.replay import replay
from episodes.results import result_of
from episodes.schema import EventKind
from sim.assembly import rebuild_for_replay
from sim.tasks.catalog import task_names


def test_a_plan_covers_everything_and_only_grows() -> None:
    plan = cases(1000, 7)
    assert cases(40, 7) == plan[:40]
    assert sum(case.realtime for case in plan) == 500
    assert sum(case.fault is not None for case in plan) == 100
    assert {case.fault for case in plan} == {None, *InjectedFault}
    combinations = {(case.task, case.strategy, case.realtime) for case in plan}
    assert len(combinations) == 2 * len(task_names()) * len(ChunkStrategyName)
    assert len({case.episode for case in plan}) == 1000
    assert max(Counter((case.task, case.strategy) for case in plan).values()) <= 22


@pytest.mark.parametrize("fault", list(InjectedFault))
def test_an_episode_with_faults_says_so_and_replays(fault: InjectedFault, tmp_path: Path) -> None:
    case = Case(0, "press_button", 3, ChunkStrategyName.SWITCH, realtime=False, fault=fault)
    path = Recorder(tmp_path).record(case)
    episode = open_episode(path)
    assert list(episode.manifest.faults) == [fault.value]
    said = {row.name for row in episode.events if row.kind is EventKind.OPERATOR}
    if fault is InjectedFault.OPERATOR:
        assert {"hold", "resume"} <= said
    elif fault is InjectedFault.BROKEN_CHUNKS:
        assert result_of(episode).rejections
    else:
        assert not [tick for tick, _ in episode.chunk_records if tick % 300 < 60]
    assert replay(episode, rebuild_for_replay).identical


def test_a_bench_goes_on_where_it_was(tmp_path: Path) -> None:
    options = Options(episodes=1, out=str(tmp_path / "bench"))
    first = run(options)
    assert (first.episodes, first.identical, first.skipped, first.failures) == (1, 1, 0, ())
    results = tmp_path / "bench" / RESULTS_NAME
    (row,) = read_rows(results)
    assert row.recording_s > 0.0
    assert run(options).skipped == 1
    results.write_text(results.read_text()[:40])  # the machine went down while it was written
    again = run(options)
    assert (again.identical, again.skipped, again.reference_realtime_factor) == (1, 0, None)
    folder = run(Options(folder=str(tmp_path / "bench" / "episodes")))
    assert (folder.episodes, folder.identical) == (1, 1)


@pytest.mark.slow
def test_one_changed_bit_is_found_wherever_it_is() -> None:
    result = tampering.run(tampering.Options(rot=4, forged=2, seed=1))
    assert result.untouched_identical
    assert (result.found, result.named, result.missed) == (6, 6, ())
