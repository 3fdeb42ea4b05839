"""Episodes are found by what happened in them without opening each, and two are compared value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from episodes import index
from episodes.difference import difference
from episodes.index import INDEX_NAME, IndexRow, index_of
from episodes.query import QueryError, parse_query
from episodes.reader import open_episode
from tests.episodes.builders import record_plant, write_simple

ROW = IndexRow(episode="a.zarr", task="stack", success=False, min_margin=0.005, ticks=10, instruction="put it on top")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", True),
        ("task=stack and min_margin<0.01 and success=false", True),
        ("task=stack and not success=false", False),
        ("task=reach or ticks>=10", True),
        ("task=reach or ticks>10 and success=false", False),
        ("(task=reach or task=stack) and ticks<11", True),
        ("not (task=reach or task=stack)", False),
        ("task!=reach", True),
        ('instruction ~ "ON TOP"', True),
        ("instruction='put it on top'", True),
    ],
)
def test_questions_and_answers(query: str, expected: bool) -> None:
    assert parse_query(query)(ROW) is expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("taks=stack", "unknown field 'taks'; did you mean 'task'"),
        ("ticks=many", "ticks: expected a int, found 'many'"),
        ("success=1", "success: expected true or false, found '1'"),
        ("success<true", "success: expected one of = != for a bool, found '<'"),
        ("ticks ~ 3", "ticks: expected one of"),
        ("task=", "expected a value for task at its end, found nothing"),
        ("task=stack success=true", "expected 'and', 'or' or the end, found 'success'"),
        ("(task=stack", "expected '\\)' at its end"),
    ],
)
def test_a_wrong_question_is_refused(query: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        parse_query(query)


def test_the_index_opens_no_episode_twice_and_follows_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_simple(tmp_path / "a.zarr", ticks=60)
    write_simple(tmp_path / "b.zarr", ticks=30)
    opened: list[str] = []
    make = index.index_row

    def counted(path: Path) -> IndexRow:
        opened.append(path.name)
        return make(path)

    monkeypatch.setattr(index, "index_row", counted)
    first = index_of(tmp_path)
    assert [(row.episode, row.ticks, row.error) for row in first] == [("a.zarr", 60, ""), ("b.zarr", 30, "")]
    assert index_of(tmp_path) == first
    write_simple(tmp_path / "c.zarr", ticks=10)
    assert [row.ticks for row in index_of(tmp_path)] == [60, 30, 10]
    assert opened == ["a.zarr", "b.zarr", "c.zarr"]
    (tmp_path / INDEX_NAME).write_text("rubbish")
    assert len(index_of(tmp_path)) == 3
    assert len(opened) == 6


def test_an_episode_that_cannot_be_read_is_a_row_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text("{}")
    assert "expected a manifest" in index_of(tmp_path)[0].error


def differences(first: Path, second: Path) -> Any:
    return difference(open_episode(first), open_episode(second))


def test_an_episode_does_not_differ_from_itself(tmp_path: Path) -> None:
    path = record_plant(tmp_path / "a.zarr", ticks=100)
    assert differences(path, path).identical


def test_the_first_difference_is_named_with_its_part_and_both_values(tmp_path: Path) -> None:
    first = record_plant(tmp_path / "a.zarr", ticks=200)
    second = record_plant(tmp_path / "b.zarr", ticks=150, stack={"plant": {"stiffness": 3.5}})
    found = differences(first, second)
    assert not found.identical
    assert (found.ticks, found.compared) == ((200, 150), 150)
    assert [(item.entry, item.first, item.second) for item in found.manifest] == [
        ("stack.plant.stiffness", "3.0", "3.5")
    ]
    assert found.first is not None
    assert found.first.stage == "input"
    assert found.first.recorded != found.first.replayed
    assert min(item.first_tick for item in found.columns) == found.first.tick
