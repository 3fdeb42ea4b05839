"""Re-execute a logged episode and compare every tick, bit for bit, with what was recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cli.output import console, print_json
from episodes.comparison import Divergence
from episodes.reader import open_episode
from episodes.replay import replay
from sim.assembly import rebuild_for_replay


@dataclass(frozen=True)
class Options:
    """Options of ``vla replay``."""

    episode: Annotated[Path, tyro.conf.Positional]
    """The episode's folder, NAME.zarr."""
    waive: tuple[str, ...] = ()
    """Fields whose difference is accepted and listed, e.g. code_hash after a refactoring."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla replay --json`` prints."""

    identical: bool
    ticks: int
    first_divergence: Divergence | None
    refusal: str | None
    waived: tuple[Divergence, ...]
    notes: tuple[str, ...]
    realtime_factor: float


def main(options: Options) -> int:
    """Replay one episode; 1 when it diverged or was refused."""
    found = replay(open_episode(options.episode), rebuild_for_replay, waive=options.waive)
    refusal = None if found.refusal is None else found.refusal.value
    result = Result(
        found.identical,
        found.ticks,
        found.first_divergence,
        refusal,
        found.waived,
        found.notes,
        found.realtime_factor,
    )
    divergence = found.first_divergence
    if found.identical:
        console.print(
            f"[green]identical[/] at all {found.ticks} ticks, {found.realtime_factor:.1f} times faster than real time"
        )
    elif divergence is not None:
        verdict = f"refused ({refusal})" if refusal else f"diverged at tick {divergence.tick}"
        console.print(f"[red]{verdict}[/]: field {divergence.field}")
        console.print(f"  recorded: {divergence.recorded}\n  here:     {divergence.replayed}", highlight=False)
    for waived in found.waived:
        console.print(f"[yellow]waived[/] {waived.field}: recorded {waived.recorded}, here {waived.replayed}")
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)
    if options.json:
        print_json(result)
    return 0 if found.identical else 1
