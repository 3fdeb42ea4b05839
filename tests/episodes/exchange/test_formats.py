"""Formats by name and by content, tables, videos, rerun recordings, and what the user reads when it does not work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from episodes.errors import EpisodeError
from episodes.exchange.csv_export import CsvExporter, CsvOptions
from episodes.exchange.formats import EXPORTERS, IMPORTERS, ExportOptions, ImportOptions, exporter, importer
from episodes.exchange.losses import LossKind, losses_path
from episodes.exchange.mp4_export import Mp4Exporter
from episodes.exchange.rerun_export import RerunExporter
from episodes.extras import load
from episodes.reader import find_episodes, open_episode
from episodes.schema import TickTable, columns
from tests.episodes.builders import record_plant, write_simple

GOLDEN = Path(__file__).parent / "golden" / "errors.txt"


def test_every_tick_of_a_table_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    source = record_plant(tmp_path / "plant.zarr", 200)
    done = CsvExporter().export([source], tmp_path / "out")
    with done.files[0].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    ticks = open_episode(source).ticks
    assert len(rows) == 200
    for name, column in columns(TickTable).items():
        values = getattr(ticks, name)
        if column.dtype == "<f8" and not column.shape:
            np.testing.assert_array_equal([float(row[name]) for row in rows], values)
        elif column.dtype == "<f8" and column.shape == ("n",):
            read = [[float(row[f"{name}_{index + 1}"]) for index in range(values.shape[1])] for row in rows]
            np.testing.assert_array_equal(read, values)
        elif column.dtype == "<i8":
            assert [int(row[name]) for row in rows] == values.tolist()
    assert {row["safety_status"] for row in rows} <= {"run", "limiting"}
    with (tmp_path / "out" / "plant.events.csv").open(newline="") as stream:
        events = list(csv.DictReader(stream))
    assert [event["kind"] for event in events] == [event.kind.value for event in open_episode(source).events]


def test_a_thinned_table_says_so(tmp_path: Path) -> None:
    source = record_plant(tmp_path / "plant.zarr", 100)
    done = CsvExporter(CsvOptions(every=10)).export([source], tmp_path / "out")
    assert any(loss.kind is LossKind.RESAMPLED for loss in done.losses)
    written = json.loads(losses_path(tmp_path / "out").read_text())["losses"]
    assert written[0] == {"what": "ticks", "kind": "resampled", "why": "every 10th tick"}


def test_a_video_has_each_picture_at_its_true_time(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    source = write_simple(tmp_path / "simple.zarr", 200)
    done = Mp4Exporter().export([source], tmp_path / "out")
    stamps = open_episode(source).observations.stamp_ns
    with av.open(str(done.files[0])) as container:
        frames = list(container.decode(video=0))
    times = np.array([frame.time for frame in frames])
    np.testing.assert_allclose(times - times[0], (stamps - stamps[0]) * 1e-9, atol=2e-5)
    assert frames[0].width == 512  # two cameras, enlarged, side by side


def test_rerun_itself_reads_the_recording(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    source = write_simple(tmp_path / "simple.zarr", 120)
    done = RerunExporter().export([source], tmp_path / "out")
    assert done.files[0].read_bytes()[:4] == b"RRF2"
    reader = pytest.importorskip("rerun.experimental").RrdReader(done.files[0])
    (recording,) = reader.recordings()
    assert recording.application_id == "vla-stack"
    schema = str(reader.store().schema())
    for entity in ("/camera/wrist", "/joints/position/joint_1", "/end_effector/target/x", "/policy/tokens"):
        assert entity in schema


def _message(action: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the golden file holds the whole text
        action()  # type: ignore[operator]
    return str(caught.value)


def test_error_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what was expected, what was found and what to change. Rewrite the golden file if they get better."""
    monkeypatch.chdir(tmp_path)
    write_simple(Path("reach.zarr"), 20)
    taken = Path("taken")
    taken.mkdir()
    (taken / "file").write_text("x")
    Path("notes.txt").write_text("hello")
    Path("old/meta").mkdir(parents=True)
    Path("old/meta/info.json").write_text('{"codebase_version": "v2.1"}')
    cases = {
        "unknown target": lambda: exporter("lerobt", ExportOptions()),
        "unknown source": lambda: importer("mcab", Path("reach.zarr"), ImportOptions()),
        "no episode": lambda: find_episodes("raech.zarr"),
        "target taken": lambda: exporter("csv", ExportOptions()).export([Path("reach.zarr")], taken),
        "source missing": lambda: importer("", Path("nowhere"), ImportOptions()),
        "an episode as source": lambda: importer("", Path("reach.zarr"), ImportOptions()),
        "an unknown file": lambda: importer("", Path("notes.txt"), ImportOptions()),
        "an old data set": lambda: importer("", Path("old"), ImportOptions()).read(Path("old"), Path("out")),
        "a missing package": lambda: load("no_such_package_here", "exchange"),
        "a thinning of nothing": lambda: CsvOptions(every=0),
    }
    text = "".join(f"{name}: {_message(action)}\n" for name, action in cases.items())
    assert text == GOLDEN.read_text()


def test_nothing_is_left_behind_by_an_export_that_failed(tmp_path: Path) -> None:
    good = write_simple(tmp_path / "good.zarr", 20)
    with pytest.raises(EpisodeError, match="expected an episode store"):
        CsvExporter().export([good, tmp_path / "missing.zarr"], tmp_path / "out")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["good.zarr"]


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_exporter_refuses_a_target_that_is_taken(name: str, tmp_path: Path) -> None:
    source = write_simple(tmp_path / "simple.zarr", 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(EpisodeError, match="expected a path that does not exist, found a folder that is not empty"):
        exporter(name, ExportOptions()).export([source], tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer_refuses_what_it_cannot_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    reading = importer(name, tmp_path / "empty", ImportOptions())
    assert not reading.reads(tmp_path / "empty")
    with pytest.raises(EpisodeError):
        reading.read(tmp_path / "empty", tmp_path / "out")
