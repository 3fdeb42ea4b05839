"""Find episodes by what happened in them: vla query "task=stack and min_margin<0.01 and success=false"."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cli.output import console, print_json
from episodes.index import IndexRow, index_of
from episodes.query import parse_query

_SHOWN = 50


@dataclass(frozen=True)
class Options:
    """Options of ``vla query``."""

    query: Annotated[str, tyro.conf.Positional]
    """FIELD OPERATOR VALUE, joined by and, or, not and parentheses; a wrong field lists all."""
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = (Path("runs/eval/episodes"),)
    """Folders of episodes."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla query --json`` prints."""

    query: str
    searched: int
    found: int
    seconds: float
    episodes: tuple[str, ...]
    rows: tuple[IndexRow, ...]


def main(options: Options) -> int:
    """Ask; 0 whether or not something is found."""
    asked = parse_query(options.query)
    started = time.perf_counter()
    searched = 0
    found: list[tuple[Path, IndexRow]] = []
    for folder in options.folders:
        if not folder.is_dir():
            raise ValueError(
                f"expected a folder of episodes, found {'a file' if folder.exists() else 'nothing'}: {folder}"
            )
        rows = index_of(folder)
        searched += len(rows)
        found += [(folder / row.episode, row) for row in rows if asked(row)]
    seconds = time.perf_counter() - started
    table = Table("episode", "task", "success", "reason", "ticks", "min margin", "interventions")
    for path, row in found[:_SHOWN]:
        cells = (
            row.task,
            str(row.success),
            row.reason,
            str(row.ticks),
            f"{row.min_margin:.3g}",
            str(row.interventions),
        )
        table.add_row(str(path), *cells)
    if found:
        console.print(table)
    more = f", the first {_SHOWN} shown" if len(found) > _SHOWN else ""
    console.print(f"{len(found)} of {searched} episodes in {seconds:.2f} s{more}")
    if options.json:
        names = tuple(str(path) for path, _ in found)
        print_json(Result(options.query, searched, len(found), seconds, names, tuple(row for _, row in found)))
    return 0
