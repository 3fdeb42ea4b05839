"""Write a recorded episode's latencies as a trace, for ``vla run --latency TRACE.jsonl``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from cli.output import console, print_json
from controllers.latency import write_trace
from episodes.answers import answer_latencies_ms
from episodes.reader import open_episode


@dataclass(frozen=True)
class Options:
    """Options of ``vla latency``."""

    episode: Annotated[Path, tyro.conf.Positional]
    """Recorded episode (NAME.zarr), in real time or in lock-step."""
    out: Path = Path("trace.jsonl")
    """Trace to write."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla latency --json`` prints."""

    trace: str
    answers: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def main(options: Options) -> int:
    """Write it."""
    latencies = answer_latencies_ms(open_episode(options.episode))
    known = [value for value in latencies if value is not None]
    if not known:
        raise ValueError(f"{options.episode}: expected an episode with at least one answered observation, found none")
    count = write_trace(options.out, latencies)
    p50, p99, worst = (float(value) for value in np.percentile(known, [50, 99, 100]))
    result = Result(str(options.out), count, count - len(known), p50, p99, worst)
    console.print(f"{count} answers, {result.lost} lost; median {p50:.1f} ms, p99 {p99:.1f} ms: {options.out}")
    if options.json:
        print_json(result)
    return 0
