"""docs/episode-format.md says what the code does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from episodes.manifest import Manifest
from episodes.schema import ENUMERATIONS, FORMAT_VERSION, TABLES, columns

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "episode-format.md"


def table_lines(group: str) -> list[str]:
    """The document's lines about one table."""
    lines = ["| column | type | entry shape | unit | meaning |", "|---|---|---|---|---|"]
    for name, column in columns(TABLES[group]).items():
        shape = " x ".join(str(size) for size in column.shape) or "-"
        lines.append(f"| `{name}` | {column.dtype[1:]} | {shape} | {column.unit} | {column.doc} |")
    return lines


@pytest.mark.parametrize("group", TABLES)
def test_every_column_is_documented_as_it_is(group: str) -> None:
    text = "\n".join(table_lines(group))
    assert text in DOCUMENT.read_text(), f"put this into {DOCUMENT.name}:\n{text}"


def test_manifest_entries_codes_and_version_are_documented() -> None:
    text = DOCUMENT.read_text()
    for item in dataclasses.fields(Manifest):
        assert f"`{item.name}`" in text, item.name
    for members in ENUMERATIONS.values():
        for member in members:
            assert f"`{member.value}`" in text, member
    assert f"version {FORMAT_VERSION}" in text
