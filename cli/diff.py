"""Compare two episodes: manifests, the first tick and field that differ, and how far every value drifts apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cli.output import console, print_json
from episodes.difference import difference
from episodes.reader import open_episode


@dataclass(frozen=True)
class Options:
    """Options of ``vla diff``."""

    first: Annotated[Path, tyro.conf.Positional]
    """An episode."""
    second: Annotated[Path, tyro.conf.Positional]
    """Another."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


def main(options: Options) -> int:
    """Compare; 1 when something differs."""
    found = difference(open_episode(options.first), open_episode(options.second))
    for entry in found.manifest:
        console.print(f"manifest.{entry.entry}: {entry.first} | {entry.second}", highlight=False)
    if found.identical:
        console.print(f"[green]identical[/] at all {found.compared} ticks, chunks and events")
    else:
        console.print(
            f"{found.ticks[0]} and {found.ticks[1]} ticks; chunks equal: {found.chunks_equal}, "
            f"events equal: {found.events_equal}"
        )
    if found.first is not None:
        console.print(f"first difference: {found.first} ({found.first.stage})", highlight=False)
        table = Table("field", "part", "ticks that differ", "first", "largest difference", "unit")
        for item in found.columns:
            table.add_row(
                item.field, item.stage, str(item.ticks), str(item.first_tick), f"{item.largest:.3g}", item.unit
            )
        console.print(table)
    if options.json:
        print_json(found)
    return 0 if found.identical else 1
