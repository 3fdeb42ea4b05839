"""Which frames train, how often, and which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.training.dataset import EpisodeEntry, PackedDataset
from vla.training.sources import Source


@dataclass(frozen=True)
class Split:
    """Which frames train, how often, and which are held out.

    Attributes:
        train: (n,) frame numbers.
        cumulative: (n,) cumulative drawing probability of ``train``.
        held_out: (m,) frame numbers of episodes that never train.
        episodes: Number of training episodes.
        held_out_episodes: Number of held-out episodes.
    """

    train: np.ndarray
    cumulative: np.ndarray
    held_out: np.ndarray
    episodes: int
    held_out_episodes: int


def split_dataset(
    data: PackedDataset,
    sources: Sequence[Source],
    task_weights: dict[str, float],
    held_out_fraction: float,
    balance_tasks: bool,
    others_weight: float = 0.5,
) -> Split:
    """Choose frames and their drawing weights. Deterministic, and stable as episodes are added.

    An episode is held out by its seed and task, so that scenes which are held out once stay so in later rounds,
    in every source.

    Args:
        data: The packed episodes.
        sources: Where they come from; an episode belongs to the source with the longest path.
        task_weights: Drawing weight of tasks, 1 if not named.
        held_out_fraction: Share of scenes that never train.
        balance_tasks: Draw every task equally often, before weights.
        others_weight: Drawing weight of frames that are labelled for another instruction than the recorded one.

    Raises:
        ValueError: Nothing to train on, shares that cannot be, or a weight for an unknown task.
    """
    unknown = set(task_weights) - set(data.tasks())
    if unknown:
        raise ValueError(f"weights for unknown tasks {sorted(unknown)}; tasks: {sorted(data.tasks())}")
    frames, weights, tasks, origins, held, episodes, held_episodes = [], [], [], [], [], 0, 0
    for entry in data.episodes:
        source = _source_of(entry, sources)
        if source is None or not data.holds(entry) or (source.successes_only and not entry.success):
            continue
        numbers = np.arange(entry.start, entry.start + entry.count)
        if _is_held_out(entry, held_out_fraction):
            if entry.other == 0:
                held.append(numbers)
                held_episodes += 1
            continue
        episodes += entry.other == 0
        frames.append(numbers)
        kind = others_weight if entry.other else 1.0
        weights.append(np.full(entry.count, kind * source.weight * task_weights.get(entry.task, 1.0)))
        tasks.extend([entry.task] * entry.count)
        origins.append(np.full(entry.count, sources.index(source)))
    if not frames:
        raise ValueError("no episode to train on: check the sources and whether their episodes succeeded")
    weight = np.concatenate(weights)
    if balance_tasks:
        names, number = np.unique(tasks, return_inverse=True)
        share = np.bincount(number, minlength=len(names))
        weight = weight / share[number]
    cumulative = np.cumsum(_with_shares(weight, np.concatenate(origins), sources))
    return Split(
        train=np.concatenate(frames),
        cumulative=cumulative / cumulative[-1],
        held_out=np.concatenate(held) if held else np.zeros(0, np.int64),
        episodes=episodes,
        held_out_episodes=held_episodes,
    )


def _with_shares(weight: np.ndarray, origin: np.ndarray, sources: Sequence[Source]) -> np.ndarray:
    """(n,) weights, scaled so that each source with a share has it of their sum; ``origin`` (n,) numbers the sources.

    Raises:
        ValueError: The shares leave less than nothing, or nothing for sources that need some.
    """
    shares = {number: source.share for number, source in enumerate(sources) if source.share is not None}
    if not shares:
        return weight
    total = sum(shares.values())
    free = ~np.isin(origin, list(shares))
    if total > 1.0 + 1e-9 or (free.any() and total > 1.0 - 1e-9) or (not free.any() and total < 1.0 - 1e-9):
        expected = "shares below 100% in all, so that the others have some" if free.any() else "shares of 100% in all"
        raise ValueError(f"expected {expected}, found {100 * total:g}%; change the shares")
    scaled = weight.copy()
    groups = [(origin == number, share) for number, share in shares.items()]
    for rows, share in [*groups, (free, 1.0 - total)]:
        if not rows.any():
            if share > 1e-9:
                raise ValueError(
                    f"expected frames for a share of {100 * share:g}%, found none: every episode of that source is "
                    "held out, failed or unlabelled"
                )
            continue
        scaled[rows] *= share / weight[rows].sum()
    return scaled


def _source_of(entry: EpisodeEntry, sources: Sequence[Source]) -> Source | None:
    """The source with the longest path that holds the episode."""
    path = Path(entry.path)
    holding = [source for source in sources if path.is_relative_to(source.path.resolve())]
    return max(holding, key=lambda source: len(source.path.resolve().parts), default=None)


def _is_held_out(entry: EpisodeEntry, fraction: float) -> bool:
    digest = hashlib.sha256(f"{entry.task}/{entry.seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32
