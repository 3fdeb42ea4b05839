"""What cannot be read says what was expected, what was found and what to do: golden messages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from episodes.errors import EpisodeError
from episodes.journal import JOURNAL_NAME
from episodes.reader import find_episodes, open_episode
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import manifest, simple_tick, write_simple


def message_of(call: Callable[[], Any], folder: Path) -> str:
    with pytest.raises(EpisodeError) as caught:
        call()
    return str(caught.value).replace(f"{folder}/", "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_simple(tmp_path / "reach-0.zarr")


def edit_root(path: Path, edit: Callable[[Any], None]) -> None:
    file = path / "zarr.json"
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


def test_a_wrong_name_lists_the_valid_ones_and_the_nearest(path: Path) -> None:
    for name in ("pour-1.zarr", "reach-1.zarr"):
        shutil.copytree(path, path.parent / name)
    assert message_of(lambda: open_episode(path.parent / "reach-2.zar"), path.parent) == (
        "reach-2.zar: expected an episode store, found nothing; did you mean reach-1.zarr? "
        "Valid names: pour-1.zarr, reach-0.zarr, reach-1.zarr"
    )


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    assert message_of(lambda: open_episode(tmp_path / "a.zarr"), tmp_path.parent) == (
        f"{tmp_path.name}/a.zarr: expected an episode store, found nothing; "
        f"there are no episodes in {tmp_path.name} either; check the path"
    )


def test_episodes_are_found_by_name_folder_and_glob(path: Path) -> None:
    other = path.parent / "reach-1.zarr"
    shutil.copytree(path, other)
    assert find_episodes(path) == [path]
    assert find_episodes(path.parent) == find_episodes(path.parent / "reach-*") == [path, other]
    assert find_episodes(str(path.parent / "*-1.zarr")) == [other]
    assert message_of(lambda: find_episodes(path.parent / "place-*"), path.parent).startswith(
        "place-*: expected an episode store, found nothing; did you mean reach-"
    )


def test_a_foreign_zarr_store_is_not_an_episode(tmp_path: Path) -> None:
    folder = tmp_path / "f.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert message_of(lambda: open_episode(folder), tmp_path) == (
        "f.zarr: expected a manifest in the root attributes, found none; "
        "this zarr store is not an episode of this stack"
    )


def test_a_cut_root_is_named(path: Path) -> None:
    file = path / "zarr.json"
    file.write_text(file.read_text()[:100])
    assert message_of(lambda: open_episode(path), path.parent).startswith(
        "reach-0.zarr/zarr.json: expected JSON, found 100 characters that are not ("
    )


def test_another_format_version_is_refused(path: Path) -> None:
    edit_root(path, lambda root: root["attributes"]["manifest"].update(format_version=4))
    assert message_of(lambda: open_episode(path), path.parent) == (
        "reach-0.zarr: manifest: expected format version 1, 2 or 3, found version 4; "
        "use the release that wrote it, or record it again"
    )


def test_a_manifest_without_an_entry_is_refused(path: Path) -> None:
    edit_root(path, lambda root: root["attributes"]["manifest"].pop("tokenizer_id"))
    assert message_of(lambda: open_episode(path), path.parent) == (
        "reach-0.zarr: manifest: expected the fields of format version 3, found missing ['tokenizer_id'], unknown []; "
        "the manifest was edited or cut; restore it from the array 'sealed_manifest'"
    )


def test_a_store_without_seals_or_journal_is_refused(path: Path) -> None:
    edit_root(path, lambda root: root["attributes"].pop("integrity"))
    assert message_of(lambda: open_episode(path), path.parent) == (
        "reach-0.zarr: expected a finished store or a journal.bin, found neither; "
        "the recording was cut off and its journal.bin is gone; restore it from a copy"
    )


def test_a_missing_array_is_named_with_those_that_are_there(path: Path) -> None:
    shutil.rmtree(path / "labels" / "tokens")
    assert message_of(lambda: open_episode(path).labels, path.parent) == (
        "reach-0.zarr: labels/tokens: expected an array, found only stamp_ns; "
        "the store is incomplete; restore it from a copy"
    )
    assert verify(open_episode(path))[0].field == "labels/tokens"


def chunk_file(path: Path, name: str) -> Path:
    return min((path / name).glob("c.*"))


def test_a_lost_chunk_is_not_read_as_zeros(path: Path) -> None:
    chunk_file(path, "ticks/now_ns").unlink()
    message = message_of(lambda: open_episode(path).ticks, path.parent)
    assert message.startswith("reach-0.zarr: ticks/now_ns: expected checksum ")
    assert message.endswith("was changed or cut after recording; episodes.verification.verify tells where")


@pytest.mark.parametrize("name", ["ticks/now_ns", "ticks/physics_digest", "observations/images/wrist"])
def test_a_cut_chunk_is_named(name: str, path: Path) -> None:
    file = chunk_file(path, name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def read() -> object:
        episode = open_episode(path)
        return episode.image("wrist", 0) if "images" in name else episode.ticks

    message = message_of(read, path.parent)
    assert message.startswith(f"reach-0.zarr: {name}")
    assert "expected" in message
    assert "found" in message
    assert "restore it from a copy" in message
    assert verify(open_episode(path))[0].field.startswith(name)


def test_a_table_of_unequal_columns_is_refused(path: Path) -> None:
    metadata = path / "ticks" / "now_ns" / "zarr.json"
    data = json.loads(metadata.read_text())
    data["shape"] = [119]
    metadata.write_text(json.dumps(data))
    episode = open_episode(path, check=False)
    assert message_of(lambda: episode.ticks, path.parent) == (
        "reach-0.zarr: ticks/now_ns: expected (120,) of int64, found (119,) of int64; "
        "the table was cut or written by another release; restore it from a copy"
    )


def test_codes_of_another_release_are_refused(path: Path) -> None:
    file = path / "ticks" / "zarr.json"
    file.write_text(file.read_text().replace('"protective_stop"', '"paused"'))
    message = message_of(lambda: open_episode(path).ticks, path.parent)
    assert message.startswith("reach-0.zarr: ticks: codes of safety_status: expected ['run', 'limiting', 'hold',")
    assert "'paused'" in message


def test_a_journal_cut_in_its_first_record_cannot_be_recovered(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "j.zarr", manifest()).open()
    journal = writer.path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:90])
    assert message_of(lambda: open_episode(writer.path), tmp_path) == (
        "j.zarr/journal.bin: expected a journal that begins with a manifest, found 0 valid bytes, 90 damaged; the "
        "recording died before its first record or the file was overwritten; nothing can be recovered"
    )


@pytest.mark.parametrize("cut", [1, 40, 5_000])
def test_a_journal_cut_anywhere_keeps_all_before(cut: int, tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "j.zarr", manifest()).open()
    for tick in range(600):
        writer.record_tick(*simple_tick(tick), b"")
    journal = writer.path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-cut])
    episode = open_episode(writer.path)
    assert len(episode) == 256
    assert not episode.manifest.closed


def test_a_flipped_bit_in_a_journal_ends_the_episode_before_it(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "j.zarr", manifest()).open()
    for tick in range(600):
        writer.record_tick(*simple_tick(tick), b"")
    journal = writer.path / JOURNAL_NAME
    data = bytearray(journal.read_bytes())
    data[-2000] ^= 1
    journal.write_bytes(data)
    assert len(open_episode(writer.path)) == 256


def test_a_store_is_never_written_over(path: Path) -> None:
    assert message_of(lambda: EpisodeWriter(path, manifest()), path.parent) == (
        "reach-0.zarr: expected a path that does not exist, found something there; delete it or choose another name"
    )
    assert message_of(lambda: EpisodeWriter(path.parent / "reach-1", manifest()), path.parent) == (
        "reach-1: expected a folder named NAME.zarr, found the name 'reach-1'; add the suffix .zarr"
    )


def test_an_unknown_camera_lists_the_known_ones(path: Path) -> None:
    assert message_of(lambda: open_episode(path).images("rear"), path.parent) == (
        "reach-0.zarr: expected one of the cameras ['wrist', 'front'], found 'rear'; choose one of these"
    )


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "w.zarr", manifest())
    assert message_of(lambda: writer.record_tick(*simple_tick(0), b""), tmp_path) == (
        "w.zarr: expected an open episode, found one that is not; use 'with EpisodeWriter(...) as writer:'"
    )
