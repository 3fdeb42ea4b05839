"""Write episodes in another format: LeRobotDataset, MCAP, rerun, mp4 or csv."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cli.exchange_output import LossRow, explain_losses, loss_rows
from cli.output import console, print_json
from episodes.exchange.files import folder_bytes
from episodes.exchange.formats import ExportOptions, exporter
from episodes.reader import find_episodes


@dataclass(frozen=True)
class Options:
    """Options of ``vla export``."""

    episodes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Episodes: stores NAME.zarr, folders of them, or globs."""
    to: str
    """Format: lerobot, mcap, rerun, mp4 or csv."""
    out: Path
    """Folder to write; must not exist yet."""
    formats: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)
    """Options of the formats."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla export --json`` prints."""

    format: str
    episodes: int
    out: str
    bytes: int
    losses: tuple[LossRow, ...]


def main(options: Options) -> int:
    """Export; 0 when everything was written."""
    target = exporter(options.to, options.formats)
    if not options.episodes:
        raise ValueError(
            "expected at least one episode, folder or glob, found none; e.g. vla export runs/eval/episodes"
        )
    paths = [path for pattern in options.episodes for path in find_episodes(pattern)]
    done = target.export(paths, options.out)
    size = folder_bytes(done.out)
    console.print(f"{done.episodes} episodes, {size / 1e6:.1f} MB: {done.out}", highlight=False)
    explain_losses(done.losses)
    if options.json:
        print_json(Result(options.to, done.episodes, str(done.out), size, loss_rows(done.losses)))
    return 0
