"""Golden episodes of older format versions, made by the releases that wrote them, open for ever."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from episodes.errors import EpisodeError
from episodes.manifest import LogFault, Manifest
from episodes.reader import open_episode
from episodes.replay import Refusal, replay
from episodes.schema import rows_from_table
from episodes.verification import verify
from tests.episodes.builders import change, manifest, rebuild

GOLDEN = Path(__file__).parent / "golden"


def unpack(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(GOLDEN / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder / f"{name}.zarr"


def test_an_episode_of_version_1_opens_with_every_bit_it_had(tmp_path: Path) -> None:
    episode = open_episode(unpack("version-1", tmp_path))
    assert episode.manifest.format_version == 1
    assert verify(episode) == ()
    old_rows = rows_from_table(episode.ticks, 3, version=1)
    assert hashlib.sha256(old_rows.tobytes()).hexdigest() == (
        "f0d3f24b105626013adaa35cd7fc80cf832b032951aab513c604843518e34534"
    )
    assert len(episode) == 200
    assert episode.chunks.malformed.tolist().count(1) == 1
    assert episode.images("wrist").shape[1:] == (8, 8, 3)
    assert len(episode.labels.stamp_ns) == len(episode.observations.stamp_ns) > 1


def test_what_version_1_did_not_know_reads_as_unknown(tmp_path: Path) -> None:
    episode = open_episode(unpack("version-1", tmp_path))
    assert set(episode.ticks.sent_ns.tolist()) == set(episode.ticks.applied_ns.tolist()) == {-1}
    assert np.isnan(episode.chunks.log_probability).all()
    assert episode.decoder.arrivals(int(episode.chunks.arrival_tick[0]))[0].chunk.log_probability is None
    assert episode.memories == {}
    assert episode.manifest.camera_profile == "lossless"
    assert episode.manifest.machine.architecture == "x86_64"


def test_an_episode_of_version_1_is_fed_through_the_loop_of_today_where_its_code_is_waived(tmp_path: Path) -> None:
    episode = open_episode(unpack("version-1", tmp_path))
    refused = replay(episode, rebuild)
    assert refused.refusal in (Refusal.CODE, Refusal.ENGINE)
    result = replay(episode, rebuild, waive={"code_hash", "engine.mujoco"})
    assert result.refusal is None
    assert result.ticks == 200
    assert any(note.startswith("code_hash was waived: any output of a tick may differ") for note in result.notes)
    # What the executor decides has changed since; what it was given has not.
    if result.first_divergence is not None:
        assert result.first_divergence.stage == "executor"
        assert result.first_divergence.inputs == ()


def test_a_changed_bit_of_version_1_is_still_located(tmp_path: Path) -> None:
    path = unpack("version-1", tmp_path)
    change(path, "ticks/state_joint_position", (71, 2), 0.5)
    assert [(item.tick, item.field) for item in verify(open_episode(path))] == [(71, "ticks/state_joint_position")]


def test_a_journal_of_version_1_that_a_crash_left_opens(tmp_path: Path) -> None:
    episode = open_episode(unpack("version-1-journal", tmp_path))
    assert episode.recovered
    assert len(episode) == 256
    assert [tick for tick, _ in episode.chunk_records] == [0, 50, 100, 150, 200, 250]
    assert not episode.manifest.closed


def test_an_episode_of_version_2_opens_with_every_bit_it_had_and_replays(tmp_path: Path) -> None:
    episode = open_episode(unpack("version-2", tmp_path))
    assert episode.manifest.format_version == 2
    assert verify(episode) == ()
    rows = rows_from_table(episode.ticks, 3, version=2)
    assert hashlib.sha256(rows.tobytes()).hexdigest() == (
        "c490b1335e3f661713002dd714332539292385c3b87e63433bd3c4d9de1398de"
    )
    assert episode.array("ticks/chain")[-1].tobytes().hex() == "6280ba1fc4729097b8730ce398b60f07"
    assert np.isfinite(episode.chunks.log_probability).all(axis=(1, 2)).sum() == len(episode.chunks.chunk_id) == 11
    result = replay(episode, rebuild, waive={"code_hash", "engine.mujoco"})
    assert result.refusal is None
    assert result.identical, result.first_divergence
    assert result.ticks == 400


def test_what_version_2_did_not_know_reads_as_unknown(tmp_path: Path) -> None:
    chunks = open_episode(unpack("version-2", tmp_path)).chunks
    assert chunks.entropy.shape == chunks.log_probability.shape
    for values in (chunks.entropy, chunks.doubt_mean_probability, chunks.doubt_mean_entropy, chunks.doubt_agreement):
        assert np.isnan(values).all()
    arrival = open_episode(tmp_path / "version-2.zarr").decoder.arrivals(int(chunks.arrival_tick[0]))[0]
    assert arrival.chunk.log_probability is not None
    assert arrival.chunk.entropy is arrival.chunk.doubt is None


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_manifest_keeps_the_form_of_its_version(version: int) -> None:
    faults = (LogFault("disk full", 7, 0.5, 2),) if version >= 2 else ()
    recorded = manifest(format_version=version, log_faults=faults)
    data = recorded.to_json()
    assert Manifest.from_json(data).to_json() == data
    assert ("camera_profile" in data) == (version >= 2)
    if version >= 2:
        assert Manifest.from_json(data) == recorded


def test_a_manifest_of_version_1_may_not_hold_later_fields() -> None:
    data = manifest(format_version=1).to_json() | {"camera_profile": "lossless"}
    with pytest.raises(EpisodeError, match=r"the fields of format version 1, .* unknown \['camera_prof"):
        Manifest.from_json(data)
