"""Reports, results and intervals."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from controllers.lateness import DeadlineRecord, LatenessHistogram
from controllers.types import frozen_array
from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.report import write_report
from episodes.report.charts import Chart, Series, render, thin
from episodes.report.deadlines import deadline_table
from episodes.report.page import select_episodes
from episodes.report.video import contact_sheets
from episodes.results import EpisodeResult, read_results, result_of, write_results
from episodes.statistics import wilson
from tests.episodes.builders import record_plant, simple_observation, write_simple


@given(data=st.data(), trials=st.integers(1, 3000))
def test_wilson_intervals_agree_with_scipy(data: st.DataObject, trials: int) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials)
    assert found.low == pytest.approx(expected.low, abs=1e-12)
    assert found.high == pytest.approx(expected.high, abs=1e-12)
    assert found.low <= found.rate <= found.high


def test_wilson_without_trials_says_nothing() -> None:
    found = wilson(0, 0)
    assert (found.low, found.high) == (0.0, 1.0)
    assert math.isnan(found.rate)
    with pytest.raises(ValueError, match="expected 0 <= successes <= trials, found 3 of 2"):
        wilson(3, 2)


def row(task: str = "reach", seed: int = 0, success: bool = True, **changes: object) -> EpisodeResult:
    values = EpisodeResult(
        task=task,
        seed=seed,
        instruction="reach the mark",
        policy="expert",
        success=success,
        reason="success" if success else "time_limit",
        ticks=600,
        duration_s=3.0,
        chunks=12,
        rejections={},
        safety_ticks={"run": 600},
        limits={},
        min_margin=0.25,
        episode="",
    )
    return replace(values, **changes)  # pyright: ignore[reportArgumentType]


def test_results_come_back_sorted_and_byte_for_byte_equal(tmp_path: Path) -> None:
    rows = [row("push", 1), row("reach", 2, min_margin=math.inf), row("push", 0, rejections={"stale": 2})]
    write_results(tmp_path / "a.jsonl", rows)
    write_results(tmp_path / "b.jsonl", reversed(rows))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert read_results(tmp_path / "a.jsonl") == [rows[2], rows[0], rows[1]]


def test_a_broken_line_of_results_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_results(path, [row()])
    path.write_text(path.read_text() + json.dumps({"task": "reach"}) + "\n")
    with pytest.raises(EpisodeError, match=r"line 2: expected the result of an episode, found .* \(no chunks, "):
        read_results(path)


def test_a_result_is_derived_from_an_episode(tmp_path: Path) -> None:
    result = result_of(open_episode(record_plant(tmp_path / "p.zarr")))
    assert (result.task, result.ticks, result.duration_s, result.success) == ("reach", 600, 3.0, False)
    assert result.reason == "time_limit"
    assert result.rejections["token_out_of_vocabulary"] >= 1
    assert sum(result.safety_ticks.values()) == 600
    assert result.limits["joint_velocity"] == result.safety_ticks["limiting"]
    assert result.min_margin < 0.0


class Page(HTMLParser):
    """Collects what a page is made of, and refuses what a browser would have to mend."""

    VOID = frozenset({"meta", "input", "line", "rect", "circle", "polyline", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data-sheet")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_report_is_one_well_formed_file_that_needs_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "episodes"
    folder.mkdir()
    paths = [record_plant(folder / "plant.zarr"), write_simple(folder / "simple.zarr", seed=1)]
    results = [result_of(open_episode(path)) for path in paths]
    results += [row("pour", seed, seed % 3 > 0, instruction="<b>pour</b> {{title}} & stir") for seed in range(9)]
    out = write_report(folder, results, tmp_path / "report.html", title="Two <tasks>")
    page = Page()
    page.feed(out.read_text())
    assert page.open == []
    assert all(link.startswith(("#", "data:image/webp;base64,")) for link in page.links)
    assert not re.search(r"https?://(?!www\.w3\.org)", out.read_text())
    text = " ".join(page.text)
    for expected in ("Two <tasks>", "<b>pour</b> {{title}} & stir", "reach the mark", "66.7%", "35.4 – 87.9"):
        assert expected in text, expected
    assert page.counts["canvas"] == 2
    assert "token out of vocabulary" in text
    assert out.stat().st_size < 15_000_000


def test_a_report_names_episodes_that_it_cannot_show(tmp_path: Path) -> None:
    path = write_simple(tmp_path / "simple.zarr")
    result = result_of(open_episode(path))
    (path / "ticks" / "now_ns" / "c.0").unlink()
    page = write_report(tmp_path, [result], tmp_path / "r.html").read_text()
    assert "An episode could not be shown." in page
    assert "ticks/now_ns: expected checksum" in page
    with pytest.raises(EpisodeError, match="ticks/now_ns"):
        write_report(tmp_path, [result], tmp_path / "r.html", selected=["simple.zarr"])


def test_a_report_without_episodes_is_still_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, [], tmp_path / "r.html").read_text()
    assert "0 succeeded" in page


def test_the_choice_of_episodes_tells_most() -> None:
    rows = [
        row(seed=0, episode="plain"),
        row(seed=1, episode="busy", safety_ticks={"run": 1, "limiting": 500}),
        row(seed=2, episode="failed", success=False),
        row(seed=3, episode="refused", rejections={"stale": 4}),
        row(seed=4, episode="other"),
        row(seed=5, episode=""),
    ]
    assert select_episodes(rows) == ["busy", "refused", "failed", "plain"]


def test_frames_of_a_contact_sheet_are_those_of_the_episode(tmp_path: Path) -> None:
    sheets = contact_sheets(open_episode(write_simple(tmp_path / "s.zarr")), 0)
    assert [sheet.camera for sheet in sheets] == ["wrist", "front"]
    assert sheets[0].times == (0.0, 0.2, 0.4)
    picture = cv2.imdecode(np.frombuffer(sheets[0].webp, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    first = picture[:16, :16, ::-1].astype(float)
    # Lossy, and the test pictures are noise: the frame is recognized, not reproduced.
    assert np.corrcoef(first.ravel(), simple_observation(0).images["wrist"].ravel())[0, 1] > 0.5


def test_a_chart_keeps_spikes_and_gaps() -> None:
    time = frozen_array(np.linspace(0.0, 10.0, 5000))
    values = np.array(np.sin(time))
    values[1234], values[4000:4100] = 9.0, np.nan
    _, thinned = thin(time, values)
    assert len(thinned) < 600
    assert np.nanmax(thinned) == 9.0
    figure = render(Chart("spike", "m", time, (Series("s", values, 0),)))
    assert figure.count("<polyline") == 2
    assert "nan" not in figure


def test_a_chart_of_nothing_but_nan_is_drawn_empty() -> None:
    time = frozen_array(np.linspace(0.0, 1.0, 10))
    assert "<polyline" not in render(Chart("none", "m", time, (Series("s", np.full(10, np.nan), 0),)))


def test_the_deadlines_of_an_episode_are_told_by_octaves_and_none_is_lost() -> None:
    lateness = LatenessHistogram()
    for nanoseconds in (500, 4_000, 20_000, 900_000, 950_000, 7_000_000):
        lateness.add(nanoseconds)
    record = DeadlineRecord.of(
        lateness, rate_hz=200, realtime_priority=True, memory_locked=True, overruns=1, missed=2, holds=0
    )
    table = deadline_table(record)
    counts = [int(count) for count in re.findall(r"ms</td><td class=n>(\d+)</td>", table)]
    assert sum(counts) == record.ticks == 6
    assert counts[0] == 2
    assert counts[-1] == 1
    assert "with real-time priority" in table
    assert "2 deadlines missed (25%)" in table
    assert deadline_table(None) == ""
