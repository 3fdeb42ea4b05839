"""Make episodes of recordings in another format: LeRobotDataset v3 or MCAP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cli.output import console, print_json
from episodes.exchange.formats import ImportOptions, importer


@dataclass(frozen=True)
class Options:
    """Options of ``vla import``."""

    source: Annotated[Path, tyro.conf.Positional]
    """Data set, bag folder or file."""
    out: Path
    """Folder for the episodes."""
    origin: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Format: lerobot or mcap; empty to find out."""
    formats: Annotated[ImportOptions, tyro.conf.arg(name="")] = field(default_factory=ImportOptions)
    """Options of the formats."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla import --json`` prints."""

    episodes: tuple[str, ...]
    exact: bool
    lacks: tuple[str, ...]


def main(options: Options) -> int:
    """Import; 0 when everything was read."""
    done = importer(options.origin, options.source, options.formats).read(options.source, options.out)
    how = "bit for bit as exported" if done.exact else "as far as the recording goes"
    console.print(f"{len(done.episodes)} episodes, {how}: {options.out}", highlight=False)
    for text in done.lacks:
        console.print(f"[yellow]lacks[/] {text}", highlight=False)
    if options.json:
        print_json(Result(tuple(str(path) for path in done.episodes), done.exact, done.lacks))
    return 0
