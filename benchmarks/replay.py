"""Replay of freshly recorded episodes over all tasks: how many are identical, and how fast.

The reference is how fast the same episodes were recorded: the expert in lock-step, without cameras.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import Machine
from sim.assembly import default_config
from sim.evaluation import EPISODES_NAME, EvalOptions, Recording, evaluate
from sim.policies import EXPERT, PolicyChoice
from sim.tasks.catalog import task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench replay``."""

    episodes: int = 2
    """Episodes for each task; ignored with ``folder``."""
    folder: str = ""
    """Replay the episodes of this folder instead of recording new ones."""
    seed: int = 2_000_000
    """First seed."""


@dataclass(frozen=True, slots=True)
class Result:
    """``identical`` of ``episodes``; ``realtime_factor`` is recorded time over replay time, all episodes together."""

    episodes: int
    identical: int
    ticks: int
    realtime_factor: float
    slowest_realtime_factor: float
    first_failure: str
    reference: str
    reference_realtime_factor: float | None
    machine: Machine


def run(options: Options) -> Result:
    """Record if asked to, then replay everything in a fresh process."""
    machine = Machine.here()
    if options.folder:
        return _replayed(Path(options.folder), None, machine)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        started = time.perf_counter()
        summary = evaluate(
            EvalOptions(
                policy=PolicyChoice(EXPERT),
                config=default_config(),
                tasks=task_names(),
                episodes=options.episodes,
                first_seed=options.seed,
                workers=0,
                out_dir=out,
                recording=Recording.ALL,
            )
        )
        recorded_s = sum(outcome.duration_s for outcome in summary.outcomes)
        factor = recorded_s / (time.perf_counter() - started)
        return _replayed(out / EPISODES_NAME, factor, machine)


def _replayed(folder: Path, recording_factor: float | None, machine: Machine) -> Result:
    import json

    command = [sys.executable, "-m", "benchmarks.replay", str(folder)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    results = [json.loads(line) for line in lines]
    seconds = sum(r["ticks"] / r["rate"] / r["factor"] for r in results if r["factor"] > 0.0)
    recorded = sum(r["ticks"] / r["rate"] for r in results)
    failures = [f"{r['episode']}: {r['divergence']}" for r in results if not r["identical"]]
    return Result(
        episodes=len(results),
        identical=sum(r["identical"] for r in results),
        ticks=sum(r["ticks"] for r in results),
        realtime_factor=recorded / max(seconds, 1e-9),
        slowest_realtime_factor=min((r["factor"] for r in results), default=0.0),
        first_failure=failures[0] if failures else "",
        reference="recording the same episodes in lock-step, with cameras",
        reference_realtime_factor=recording_factor,
        machine=machine,
    )


def _main(folder: Path) -> None:
    """The fresh process: replay every episode of a folder, one JSON line each."""
    import json

    from episodes.reader import open_episode
    from episodes.replay import replay
    from sim.assembly import rebuild_for_replay

    for path in sorted(folder.glob("*.zarr")):
        episode = open_episode(path)
        found = replay(episode, rebuild_for_replay)
        record = {
            "episode": path.name,
            "identical": found.identical,
            "ticks": found.ticks,
            "rate": episode.manifest.control_rate_hz,
            "factor": found.realtime_factor,
            "divergence": str(found.first_divergence),
        }
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
