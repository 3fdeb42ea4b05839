"""What goes into the log comes out of it: every field, every bit, also of chunks that make no sense."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.types import (
    ActionChunk,
    ChunkArrival,
    ExecutorReport,
    ExecutorStatus,
    JointTarget,
    OperatorEvent,
    Pose,
    PoseTarget,
    Rejection,
    RejectionReason,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    TickInputs,
    TickOutputs,
    TokenPrefix,
    TwistTarget,
)
from episodes.errors import EpisodeError
from episodes.manifest import Manifest, Outcome
from episodes.reader import open_episode
from episodes.schema import TABLES, columns
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import (
    HORIZON,
    JOINTS,
    PERIOD_NS,
    SPEC,
    any_bits,
    any_command,
    any_float,
    any_state,
    bits,
    make_chunk,
    manifest,
    simple_observation,
    simple_tick,
    write_simple,
)

INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def ticks(draw: st.DrawFn, tick: int, joints: int) -> tuple[TickInputs, TickOutputs, bytes]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    events = tuple(draw(st.lists(st.sampled_from(OperatorEvent), max_size=4)))
    arrivals = tuple(
        ChunkArrival(
            ActionChunk(
                rng.integers(0, 255, (HORIZON, SPEC.dims)),
                draw(st.text(max_size=5)),
                "spec",
                stamp,
                stamp,
                draw(st.integers(0, 8)),
            ),
            draw(INT64),
        )
        for stamp in draw(st.lists(INT64, max_size=2))
    )
    state = any_state(rng, joints, draw(INT64))
    frame = draw(st.sampled_from(["base", "world", "wrist"]))
    targets = (
        JointTarget(any_bits(rng, joints), any_float(rng)),
        PoseTarget(Pose(any_bits(rng, 3), any_bits(rng, 4)), any_bits(rng, 6), any_float(rng), frame),
        TwistTarget(any_bits(rng, 6), any_float(rng), frame),
    )
    reasons = tuple(
        SafetyReason(limit, any_float(rng), message)
        for limit, message in draw(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=40)), max_size=3))
    )
    rejections = tuple(
        Rejection(draw(INT64), reason, message)
        for reason, message in draw(st.lists(st.tuples(st.sampled_from(RejectionReason), st.text()), max_size=3))
    )
    outputs = TickOutputs(
        target=draw(st.sampled_from(targets)),
        command=any_command(rng, joints),
        safety=SafetyResult(
            any_command(rng, joints), draw(st.sampled_from(SafetyStatus)), reasons, any_float(rng), any_float(rng)
        ),
        executor=ExecutorReport(
            draw(st.sampled_from(ExecutorStatus)),
            draw(INT64),
            any_float(rng),
            rejections,
            tuple(draw(st.lists(INT64, max_size=2))),
        ),
        request_inference=draw(st.booleans()),
        commanded_pose=Pose(any_bits(rng, 3), any_bits(rng, 4)),
    )
    digest = draw(st.sampled_from([b"", bytes(range(16)), b"\xff" * 16]))
    return TickInputs(tick, draw(INT64), state, arrivals, events), outputs, digest


@given(data=st.data(), joints=st.integers(1, 9), count=st.integers(1, 6))
@settings(max_examples=25)
def test_every_field_of_every_tick_comes_back_bit_for_bit(data: st.DataObject, joints: int, count: int) -> None:
    logged = [data.draw(ticks(tick, joints)) for tick in range(count)]
    folder = Path(tempfile.mkdtemp())
    try:
        with EpisodeWriter(folder / "any.zarr", manifest(joints=joints)) as writer:
            for inputs, outputs, digest in logged:
                writer.record_tick(inputs, outputs, digest)
            writer.close(Outcome(None, "done"))
        episode = open_episode(folder / "any.zarr")
        assert len(episode) == count
        for index, (inputs, outputs, digest) in enumerate(logged):
            assert bits(episode.decoder.inputs(index)) == bits(inputs)
            assert bits(episode.decoder.outputs(index)) == bits(outputs)
            assert episode.decoder.physics_digest(index) == digest
        assert verify(episode) == ()
    finally:
        shutil.rmtree(folder)


MALFORMED: dict[str, dict[str, Any]] = {
    "short": {"tokens": np.zeros((HORIZON - 1, SPEC.dims), np.int64)},
    "flat": {"tokens": np.zeros(HORIZON * SPEC.dims, np.int64)},
    "empty": {"tokens": np.zeros((0, 7), np.int64)},
    "scalar": {"tokens": np.array(3)},
    "int32": {"tokens": np.arange(HORIZON * SPEC.dims, dtype=np.int32).reshape(HORIZON, SPEC.dims)},
    "big endian": {"tokens": np.arange(HORIZON * SPEC.dims, dtype=">i8").reshape(HORIZON, SPEC.dims)},
    "nan": {"tokens": np.full((HORIZON, SPEC.dims), np.nan)},
    "bool": {"tokens": np.ones((HORIZON, SPEC.dims), np.bool_)},
    "text": {"tokens": np.array(["left", "right"])},
    "list": {"tokens": [[1, 2], [3]]},
    "none": {"tokens": None},
    "string": {"tokens": "128 127 91"},
    "stamp beyond int64": {"observation_stamp_ns": 2**64},
    "numpy stamp": {"observation_stamp_ns": np.int64(5)},
    "float stamp": {"observation_stamp_ns": 1.5},
    "no stamp": {"observation_stamp_ns": None},
    "no tokenizer": {"tokenizer_id": None},
    "no spec": {"spec_hash": 7},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_chunks_are_logged_as_they_came(name: str, tmp_path: Path) -> None:
    arrivals = (make_chunk(0, 0), make_chunk(0, 1, **MALFORMED[name]), make_chunk(0, 2))
    with EpisodeWriter(tmp_path / "m.zarr", manifest()) as writer:
        writer.record_tick(*simple_tick(0, arrivals=arrivals), b"")
        writer.close(Outcome(None, "done"))
    episode = open_episode(tmp_path / "m.zarr")
    assert bits(episode.decoder.arrivals(0)) == bits(arrivals)
    assert episode.chunks.malformed.tolist() == [0, 1, 0]
    assert verify(episode) == ()


def test_strangest_chunks_are_counted_and_refused_on_replay(tmp_path: Path) -> None:
    strange = [np.array([object()]), object(), np.zeros((1 << 18,), np.int64), "x" * (1 << 21), {1, 2}]
    arrivals = tuple(make_chunk(0, index, tokens=tokens) for index, tokens in enumerate(strange))
    with EpisodeWriter(tmp_path / "s.zarr", manifest()) as writer:
        writer.record_tick(*simple_tick(0, arrivals=arrivals), b"")
        writer.close(Outcome(None, "done"))
    episode = open_episode(tmp_path / "s.zarr")
    assert episode.chunks.chunk_id.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(EpisodeError, match=r"cannot be replayed|not replayed"):
        episode.decoder.arrivals(0)


def test_a_finished_store_is_plain_zarr(tmp_path: Path) -> None:
    path = write_simple(tmp_path / "plain.zarr")
    root = zarr.open_group(str(path), mode="r")
    assert sorted(root.group_keys()) == ["chunks", "events", "labels", "loop", "observations", "physics", "ticks"]
    assert root.metadata.zarr_format == 3
    for group, table in TABLES.items():
        for name, column in columns(table).items():
            array: Any = root[f"{group}/{name}"]
            assert array[...].dtype == np.dtype(column.dtype), name
    now: Any = root["ticks/now_ns"]
    np.testing.assert_array_equal(now[:], np.arange(120) * PERIOD_NS)
    images: Any = root["observations/images/wrist"]
    np.testing.assert_array_equal(images[1], simple_observation(40).images["wrist"])
    assert not list(path.glob("journal*"))


def test_observations_labels_and_key_frames_come_back(tmp_path: Path) -> None:
    episode = open_episode(write_simple(tmp_path / "o.zarr"))
    assert episode.cameras == ("wrist", "front")
    for index, tick in enumerate((0, 40, 80)):
        assert bits(episode.observation(index)) == bits(simple_observation(tick))
        np.testing.assert_array_equal(episode.labels.tokens[index], make_chunk(tick).chunk.tokens)
        np.testing.assert_array_equal(episode.physics.keyframe_state[index], np.arange(5.0) + tick)
    assert episode.observations.tick.tolist() == episode.physics.keyframe_tick.tolist() == [0, 40, 80]
    assert episode.labels.stamp_ns.tolist() == [0, 40 * PERIOD_NS, 80 * PERIOD_NS]
    assert episode.images("front").shape == (3, 16, 16, 3)
    assert episode.manifest.dropped_frames == {"wrist": 0, "front": 0}


def test_the_committed_rows_that_an_observation_carried_come_back(tmp_path: Path) -> None:
    tokens = np.arange(3 * SPEC.dims, dtype=np.int64).reshape(3, SPEC.dims)
    plain, forced = simple_observation(0), replace(simple_observation(1), prefix=TokenPrefix(tokens))
    with EpisodeWriter(tmp_path / "p.zarr", manifest()) as writer:
        writer.record_observation(plain)
        writer.record_observation(forced)
        writer.record_tick(*simple_tick(0, arrivals=(make_chunk(0, 0, forced_rows=3),)), b"")
        writer.close(Outcome(None, "done"))
    episode = open_episode(tmp_path / "p.zarr")
    assert bits(episode.observation(0)) == bits(plain)
    assert bits(episode.observation(1)) == bits(forced)
    assert episode.decoder.arrivals(0)[0].chunk.forced_rows == 3
    assert verify(episode) == ()


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    opened = open_episode(write_simple(tmp_path / "m.zarr", seed=3)).manifest
    assert opened.closed
    assert opened.outcome == Outcome(True, "success", 120)
    assert opened.model_xml_sha256
    assert Manifest.from_json(opened.to_json()) == opened
    assert replace(opened.opening(), model_xml_sha256="") == manifest(seed=3)


def test_accepted_chunks_are_marked(tmp_path: Path) -> None:
    inputs, outputs = simple_tick(0, arrivals=(make_chunk(0, 4), make_chunk(0, 5), make_chunk(0, 5)))
    outputs = replace(outputs, executor=replace(outputs.executor, accepted=(5,)))
    with EpisodeWriter(tmp_path / "a.zarr", manifest()) as writer:
        writer.record_tick(inputs, outputs, b"")
    assert open_episode(tmp_path / "a.zarr").chunks.accepted.tolist() == [0, 1, 0]


def test_an_empty_episode_opens(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "e.zarr", manifest()) as writer:
        writer.close(Outcome(False, "aborted"))
    episode = open_episode(tmp_path / "e.zarr")
    assert len(episode) == 0
    assert episode.events == episode.chunk_records == ()
    assert verify(episode) == ()


def test_a_block_without_close_says_so(tmp_path: Path) -> None:
    def fail(writer: EpisodeWriter) -> None:
        with writer:
            writer.record_tick(*simple_tick(0), b"")
            raise RuntimeError("overheated")

    with pytest.raises(RuntimeError, match="overheated"):
        fail(EpisodeWriter(tmp_path / "x.zarr", manifest()))
    episode = open_episode(tmp_path / "x.zarr")
    assert episode.manifest.outcome == Outcome(None, "RuntimeError: overheated", 1)


def test_ticks_must_be_consecutive(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "c.zarr", manifest()) as writer:
        writer.record_tick(*simple_tick(0), b"")
        with pytest.raises(ValueError, match=r"expected tick 1, found 2"):
            writer.record_tick(*simple_tick(2), b"")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"../wrist": np.zeros((4, 4, 3), np.uint8)}, "expected a camera name that can be a folder"),
        ({"wrist": np.zeros((4, 4), np.uint8)}, r"camera 'wrist': expected \(H, W, 3\) uint8, found \(4, 4\) uint8"),
        ({"wrist": np.zeros((4, 4, 3))}, r"expected \(H, W, 3\) uint8, found \(4, 4, 3\) float64"),
    ],
)
def test_unusable_pictures_are_refused(images: dict[str, Any], message: str, tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "i.zarr", manifest()) as writer, pytest.raises(ValueError, match=message):
        writer.record_observation(replace(simple_observation(0), images=images))


def test_a_camera_keeps_its_size(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "i.zarr", manifest()) as writer:
        writer.record_observation(simple_observation(0, size=16))
        with pytest.raises(ValueError, match=r"expected frames of shape \(16, 16, 3\) as before, found \(8, 8, 3\)"):
            writer.record_observation(simple_observation(1, size=8))


def test_wrong_number_of_joints_is_an_error_and_logs_nothing(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "j.zarr", manifest(joints=JOINTS)) as writer:
        with pytest.raises(ValueError, match="shape"):
            writer.record_tick(*simple_tick(0, joints=JOINTS + 1), b"")
        writer.record_tick(*simple_tick(0), b"")
    assert len(open_episode(tmp_path / "j.zarr")) == 1


def test_every_stamp_and_log_probability_is_kept(tmp_path: Path) -> None:
    certainty = np.random.default_rng(0).normal(size=(HORIZON, SPEC.dims))
    sure = replace(make_chunk(3, 1, log_probability=certainty), inferred_ns=17)
    strange = replace(make_chunk(3, 2, log_probability=certainty[:2]), inferred_ns=-1)  # not one a token
    broken = make_chunk(3, 3, tokens=np.zeros((2, 2), np.int64), log_probability=np.array([[0.5, np.nan], [0.0, 1.0]]))
    with EpisodeWriter(tmp_path / "s.zarr", manifest()) as writer:
        for tick in range(4):
            arrivals = (sure, strange, broken) if tick == 3 else ()
            writer.record_tick(*simple_tick(tick, arrivals=arrivals), b"", 1000 + tick, 2000 + tick)
    episode = open_episode(tmp_path / "s.zarr")
    assert verify(episode) == ()
    assert episode.decoder.write_stamps(2) == (1002, 2002)
    first, second, third = episode.decoder.arrivals(3)
    assert bits(first) == bits(sure)
    assert second.chunk.log_probability is None
    assert bits(third.chunk.log_probability) == bits(broken.chunk.log_probability)
    assert episode.chunks.inferred_ns.tolist() == [17, -1, -1]
    np.testing.assert_array_equal(episode.chunks.log_probability[0], certainty)
