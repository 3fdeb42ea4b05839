"""Collecting episodes to learn from: the expert labels every observation, whoever drives."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.results import EpisodeResult
from sim.evaluation import EPISODES_NAME, EvalOptions, Recording, run_cases
from sim.rollout import episode_name


@dataclass(frozen=True, slots=True)
class CollectSummary:
    """What a collection came to.

    Attributes:
        folder: Where the episodes lie.
        recorded: Episodes recorded now.
        present: Episodes that an earlier run had already recorded.
        repaired: Unfinished episodes of an interrupted run that were recorded again.
        successes: Successes among those recorded now.
        complete: Every case is recorded; False after Ctrl-C.
    """

    folder: Path
    recorded: int
    present: int
    repaired: int
    successes: int
    complete: bool


def collect(options: EvalOptions, *, show_progress: bool = True) -> CollectSummary:
    """Record labelled episodes; running it again records what is missing.

    Cases are run seed by seed over all tasks, so that an interrupted collection is balanced.

    Args:
        options: Like an evaluation, with ``teaching`` and ``out_dir``.
        show_progress: Show a progress bar.

    Raises:
        ValueError: No teaching or no folder.
    """
    out_dir = options.out_dir
    if options.teaching is None or out_dir is None:
        raise ValueError("expected teaching options and a folder to collect episodes into, found none")
    options = replace(options, recording=Recording.ALL)
    folder = out_dir / EPISODES_NAME
    wanted = sorted(options.cases(), key=lambda case: (case[1], options.tasks.index(case[0])))
    present, broken = _on_disk(folder, wanted)
    for path in broken:
        shutil.rmtree(path)
    missing = [case for case in wanted if case not in present]
    outcomes: list[EpisodeResult] = run_cases(options, missing, show_progress=show_progress)
    return CollectSummary(
        folder=folder,
        recorded=len(outcomes),
        present=len(present),
        repaired=len(broken),
        successes=sum(outcome.success for outcome in outcomes),
        complete=len(outcomes) == len(missing),
    )


def _on_disk(folder: Path, cases: Iterable[tuple[str, int]]) -> tuple[set[tuple[str, int]], list[Path]]:
    """Cases that are recorded and closed, and folders of those that were cut short."""
    present, broken = set(), []
    for task, seed in cases:
        path = folder / episode_name(task, seed)
        if not path.exists():
            continue
        try:
            closed = open_episode(path, check=False).manifest.closed
        except EpisodeError:
            closed = False
        if closed:
            present.add((task, seed))
        else:
            broken.append(path)
    return present, broken
