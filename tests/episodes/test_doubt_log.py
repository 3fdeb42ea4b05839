"""Doubt in the log: every number comes back, replay decides the same again, older versions know none of it."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.doubt import ChunkDoubt, DoubtLevel, DoubtMeasure, DoubtOptions, DoubtTransition
from controllers.executor import ChunkExecutor, ExecutorOptions
from controllers.loop import ControlLoop
from controllers.types import ActionChunk, ChunkArrival, ExecutorStatus, RejectionReason, TickInputs
from episodes.chunks import chunk_record, decode_chunk
from episodes.episode import Episode
from episodes.manifest import Outcome
from episodes.reader import open_episode
from episodes.replay import ReplayParts, replay
from episodes.report.page import write_report
from episodes.results import result_of
from episodes.schema import EventKind
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import (
    HORIZON,
    MODEL_XML,
    PERIOD_NS,
    RATE_HZ,
    SPEC,
    SpeedCeiling,
    SpringPlant,
    VelocityServo,
    bits,
    change,
    make_chunk,
    manifest,
    rebuild,
    simple_tick,
)
from vla.tokenizers import COMPACT_TOKENIZER, decoder_from_id

OPTIONS = DoubtOptions(DoubtMeasure.MEAN_ENTROPY, slow_above=2.0, hold_above=3.0)
STACK = {
    "plant": {"stiffness": 3.0},
    "doubt": {"measure": "mean_entropy", "slow_above": 2.0, "hold_above": 3.0, "slow_scale": 0.5, "change_per_s": 4.0},
}


def listening_loop() -> ControlLoop[int]:
    decoder = decoder_from_id(COMPACT_TOKENIZER.tokenizer_id, SPEC)
    executor = ChunkExecutor(decoder, 0.08, RATE_HZ, ExecutorOptions(execution_horizon=4), doubt=OPTIONS)
    return ControlLoop(executor, VelocityServo(8.0), SpeedCeiling(0.25), RATE_HZ)


def listening_rebuild(episode: Episode) -> ReplayParts[Any]:
    return replace(rebuild(episode), loop=listening_loop())


def record(path: Path, doubts: list[float], ticks: int = 300) -> Path:
    """Answer each request with the next doubt, the last one for good."""
    robot, loop = SpringPlant(3.0), listening_loop()
    state = robot.read()
    loop_state = loop.initial(state)
    wanted, count = True, 0
    data = manifest(stack=STACK, keyframe_ticks=50)
    with EpisodeWriter(path, data, model_xml=MODEL_XML, initial_state=robot.get_state()) as writer:
        for tick in range(ticks):
            if tick and tick % data.keyframe_ticks == 0:
                writer.record_keyframe(tick, robot.get_state(), loop_state)
            arrivals: tuple[ChunkArrival, ...] = ()
            if wanted:
                doubt = ChunkDoubt(0.25, 0.125, doubts[min(count, len(doubts) - 1)])
                arrivals = (make_chunk(tick, count, doubt=doubt),)
                count += 1
            inputs = TickInputs(tick, tick * PERIOD_NS, state, arrivals)
            digest = robot.physics_digest()
            loop_state, outputs = loop.tick(loop_state, inputs)
            writer.record_tick(inputs, outputs, digest)
            robot.write(outputs.safety.command)
            state = robot.read()
            wanted = outputs.request_inference
        return writer.close(Outcome(False, "time_limit"))


@given(st.lists(st.floats(0.0, 5.5), min_size=1, max_size=8))
@settings(max_examples=15)
def test_any_course_of_doubt_replays_identical_and_leaves_its_events(doubts: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        episode = open_episode(record(Path(folder) / "d.zarr", doubts))
        assert verify(episode) == ()
        result = replay(episode, listening_rebuild, waive={"stack"})
        assert result.identical, result.first_divergence
        told = [change for index in range(len(episode)) for change in episode.decoder.outputs(index).executor.doubt]
        rows = [row for row in episode.events if row.kind is EventKind.DOUBT]
        assert [(row.name, row.value, row.chunk_id) for row in rows] == [
            (item.level.value, item.value, item.chunk_id) for item in told
        ]
        assert all(item.threshold in (2.0, 3.0) for item in told)
        levels = [DoubtLevel.CLEAR, *(item.level for item in told)]
        assert all(a is not b for a, b in pairwise(levels))


def test_a_replay_may_begin_in_the_middle_of_a_hold(tmp_path: Path) -> None:
    episode = open_episode(record(tmp_path / "d.zarr", [0.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0]))
    held = tuple(ExecutorStatus).index(ExecutorStatus.DOUBTFUL)
    assert int(episode.ticks.executor_status[110]) == held
    result = replay(episode, listening_rebuild, span=(110, 300))
    assert result.identical, result.first_divergence
    assert result.first_tick == 100


def test_a_changed_doubt_is_found_and_replays_to_another_decision(tmp_path: Path) -> None:
    path = record(tmp_path / "d.zarr", [0.0, 1.0])
    second = int(open_episode(path).chunks.arrival_tick[1])
    change(path, "chunks/doubt_mean_entropy", 1, 9.0)
    episode = open_episode(path)
    assert [(item.tick, item.field) for item in verify(episode)] == [(second, "chunks/doubt_mean_entropy")]
    result = replay(episode, listening_rebuild, waive={"integrity"})
    assert result.first_divergence is not None
    assert result.first_divergence.tick == second
    assert result.first_divergence.stage == "executor"


def test_every_number_of_a_doubt_is_kept(tmp_path: Path) -> None:
    spread = np.random.default_rng(1).uniform(0.0, 5.0, (HORIZON, SPEC.dims))
    certainty = -np.random.default_rng(0).exponential(size=(HORIZON, SPEC.dims))
    whole = make_chunk(
        3, 1, log_probability=certainty, entropy=spread, doubt=ChunkDoubt(0.1 + 0.2, 1e-300, math.pi, 0.75)
    )
    bare = make_chunk(3, 2, entropy=spread, doubt=ChunkDoubt(1.0, 0.0))
    silent = make_chunk(3, 3)
    strange = make_chunk(3, 4, entropy=spread[:2], doubt="certain")
    broken = make_chunk(3, 5, tokens=np.zeros((2, 2), np.int64), entropy=np.ones((2, 2)), doubt=ChunkDoubt(0.5, 0.5))
    arrivals = (whole, bare, silent, strange, broken)
    with EpisodeWriter(tmp_path / "s.zarr", manifest()) as writer:
        for tick in range(4):
            writer.record_tick(*simple_tick(tick, arrivals=arrivals if tick == 3 else ()), b"")
    episode = open_episode(tmp_path / "s.zarr")
    assert verify(episode) == ()
    found = episode.decoder.arrivals(3)
    assert [bits(item) for item in found[:3]] == [bits(item) for item in arrivals[:3]]
    assert found[3].chunk.entropy is found[3].chunk.doubt is None
    assert bits(found[4].chunk.entropy) == bits(broken.chunk.entropy)
    assert found[4].chunk.doubt == ChunkDoubt(0.5, 0.5)
    np.testing.assert_array_equal(episode.chunks.doubt_mean_entropy, [math.pi, *[math.nan] * 4])
    np.testing.assert_array_equal(episode.chunks.entropy[1], spread)


UNIT = st.floats(0.0, 1.0)


@given(UNIT, UNIT, st.none() | st.floats(0.0, 100.0), st.none() | UNIT)
def test_a_chunk_without_entropies_has_the_bytes_that_it_had_before(
    mean: float, smallest: float, entropy: float | None, agreement: float | None
) -> None:
    plain = chunk_record(make_chunk(3))
    assert set(plain.header) == {
        "chunk_id",
        "observation_stamp_ns",
        "inference_ns",
        "tokenizer_id",
        "spec_hash",
        "shape",
        "dtype",
    }
    told = chunk_record(make_chunk(3, doubt=ChunkDoubt(mean, smallest, entropy, agreement)))
    back = decode_chunk(told.encode()).to_arrival().chunk
    assert back.doubt == ChunkDoubt(mean, smallest, entropy, agreement)


def test_a_doubt_event_says_what_was_compared_with_what(tmp_path: Path) -> None:
    episode = open_episode(record(tmp_path / "d.zarr", [0.0, 2.5, 4.0, 4.0, 2.5]))
    rows = [row for row in episode.events if row.kind is EventKind.DOUBT]
    assert [(row.name, row.message) for row in rows] == [
        ("slow", "mean_entropy above 2.0"),
        ("hold", "mean_entropy above 3.0"),
        ("slow", "mean_entropy at most 3.0"),
    ]
    (first,) = episode.decoder.outputs(rows[0].tick).executor.doubt
    assert first == DoubtTransition(DoubtLevel.SLOW, DoubtMeasure.MEAN_ENTROPY, 2.5, 2.0, rows[0].chunk_id)
    refused = [row for row in episode.events if row.kind is EventKind.REJECTION]
    assert {row.name for row in refused} == {RejectionReason.DOUBTFUL.value}
    assert refused[0].message == "doubt by mean_entropy is 4, held above 3"


def test_the_report_shows_doubt_and_its_thresholds(tmp_path: Path) -> None:
    path = record(tmp_path / "d.zarr", [0.0, 2.5, 4.0, 4.0, 2.5])
    page = write_report(tmp_path, [result_of(open_episode(path))], tmp_path / "r.html").read_text()
    assert "<strong>Doubt</strong> <i>mean entropy, nat</i>" in page
    for text in ("slow above", "hold above", "doubt-hold", "executor-doubtful", "mean_entropy above 3.0", "held 0."):
        assert text in page


@pytest.mark.parametrize("doubt", [None, ChunkDoubt(0.5, 0.25)])
def test_the_report_of_a_policy_without_entropy_shows_what_there_is(tmp_path: Path, doubt: ChunkDoubt | None) -> None:
    with EpisodeWriter(tmp_path / "s.zarr", manifest()) as writer:
        for tick in range(4):
            writer.record_tick(*simple_tick(tick, arrivals=(make_chunk(0, doubt=doubt),) if tick == 0 else ()), b"")
        writer.close(Outcome(True, "success"))
    page = write_report(tmp_path, [result_of(open_episode(tmp_path / "s.zarr"))], tmp_path / "r.html").read_text()
    assert ("<strong>Doubt</strong> <i>one minus the smallest probability</i>" in page) == (doubt is not None)


def test_a_chunk_is_what_it_was_where_nobody_tells_a_doubt() -> None:
    chunk = make_chunk(0).chunk
    assert isinstance(chunk, ActionChunk)
    assert chunk.entropy is chunk.doubt is None
