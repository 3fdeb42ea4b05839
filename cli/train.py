"""Train the compact VLA on collected episodes; resumes after an interruption."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cli.output import console, print_json


@dataclass(frozen=True)
class Options:
    """Options of ``vla train``."""

    data: tuple[str, ...]
    """Folders of episodes, each as PATH or PATH:WEIGHT; a weight over 1 draws its frames more often."""
    out: Path
    """Run folder: checkpoint, log, and the policy under OUT/policy."""
    cache: Path = Path("runs/cache")
    """Folder of the packed frames."""
    minutes: float = 30.0
    """Training time in all."""
    resume: bool = False
    """Continue the run in OUT from its checkpoint."""
    init_from: Path | None = None
    """Policy folder to start from."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    batch_size: int = 32
    """Frames of a step."""
    relabelled: tuple[str, ...] = ()
    """Folders of a student's rollouts that the expert relabelled; their failures are learned from too."""
    task_weights: str = ""
    """How often tasks are drawn, as NAME=WEIGHT separated by commas; 1 for those that are not named."""
    threads: int = 1
    """Torch threads; more than one stalls on a machine that does other work."""
    processes: int = 1
    """Processes that train together, one for each free core."""
    seed: int = 0
    """Seed of weights and batches."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla train --json`` prints."""

    policy: str
    steps: int
    frames: int
    episodes: int
    samples_per_second: float
    minutes: float
    translation_mm: float | None
    token_accuracy: float | None


def main(options: Options) -> int:
    """Train and export."""
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    from vla.training.options import TrainOptions
    from vla.training.train import train

    summary = train(
        TrainOptions(
            sources=(*_sources(options.data, True), *_sources(options.relabelled, False)),
            out=options.out,
            cache=options.cache,
            minutes=options.minutes,
            resume=options.resume,
            init_from=options.init_from,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            task_weights=_task_weights(options.task_weights),
            threads=options.threads,
            processes=options.processes,
            seed=options.seed,
        )
    )
    console.print(f"policy: {summary.policy} ({summary.steps} steps, {summary.minutes:.1f} minutes)")
    measures = summary.measures
    if options.json:
        print_json(
            Result(
                policy=str(summary.policy),
                steps=summary.steps,
                frames=summary.frames,
                episodes=summary.episodes,
                samples_per_second=summary.samples_per_second,
                minutes=summary.minutes,
                translation_mm=None if measures is None else measures.translation_mm,
                token_accuracy=None if measures is None else measures.accuracy,
            )
        )
    return 0


def _task_weights(text: str) -> dict[str, float]:
    weights = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = item.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"expected NAME=WEIGHT, found {item!r}") from None
    return weights


def _sources(data: tuple[str, ...], successes_only: bool):
    from vla.training.sources import Source

    sources = []
    for item in data:
        path, separator, weight = item.rpartition(":")
        if not separator:
            path, weight = item, "1"
        try:
            value = float(weight)
        except ValueError:
            raise ValueError(f"expected PATH or PATH:WEIGHT, found {item!r}") from None
        if not Path(path).is_dir():
            raise ValueError(f"expected a folder of episodes, found nothing at {path!r}; `vla collect` makes one")
        sources.append(Source(Path(path), value, successes_only))
    return tuple(sources)
