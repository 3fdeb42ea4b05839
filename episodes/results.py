"""One typed row for each episode of an evaluation, and the ``results.jsonl`` that holds them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from controllers.types import SafetyStatus
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.schema import EventKind


class ResultRow(Protocol):
    """What a report needs to know of an episode; see :class:`EpisodeResult` for the meaning of the fields."""

    @property
    def task(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def instruction(self) -> str: ...
    @property
    def success(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def ticks(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def chunks(self) -> int: ...
    @property
    def rejections(self) -> Mapping[str, int]: ...
    @property
    def safety_ticks(self) -> Mapping[str, int]: ...
    @property
    def limits(self) -> Mapping[str, int]: ...
    @property
    def episode(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeResult:
    """What happened in an episode. Holds nothing that depends on the wall clock.

    Attributes:
        task: Task name.
        seed: Seed of scene, arrangement and wording.
        instruction: What the policy was told.
        policy: Name of the policy.
        success: The goal was reached.
        reason: Why it ended.
        ticks: Control ticks.
        duration_s: Ticks over the control rate, s.
        chunks: Chunks that the executor took.
        rejections: Refused chunks by reason.
        safety_ticks: Ticks by safety status.
        limits: Ticks by limit that intervened.
        min_margin: Smallest safety margin, dimensionless; infinite without safety.
        final_digest: Digest of the physics after the last tick, hexadecimal; empty where it is not known.
        episode: Name of the recorded episode, empty if it was not recorded.
        collisions: Times that the robot or an object touched an obstacle; None without obstacles, or where it is not
            known.
        obstacle_shift_m: Farthest that an obstacle was pushed, m; None like ``collisions``.
    """

    task: str
    seed: int
    instruction: str
    policy: str
    success: bool
    reason: str
    ticks: int
    duration_s: float
    chunks: int
    rejections: Mapping[str, int]
    safety_ticks: Mapping[str, int]
    limits: Mapping[str, int]
    min_margin: float
    final_digest: str = ""
    episode: str = ""
    collisions: int | None = None
    obstacle_shift_m: float | None = None


def result_of(episode: Episode) -> EpisodeResult:
    """Derive the row from a recorded episode."""
    manifest, ticks = episode.manifest, episode.ticks
    statuses = tuple(status.value for status in SafetyStatus)
    counts = np.bincount(ticks.safety_status, minlength=len(statuses))
    checked = ticks.safety_min_margin[ticks.safety_status != statuses.index(SafetyStatus.OFF.value)]
    rejections = Counter(row.name for row in episode.events if row.kind is EventKind.REJECTION)
    touched = {(row.tick, row.name) for row in episode.events if row.kind is EventKind.SAFETY_REASON}
    outcome = manifest.outcome
    return EpisodeResult(
        task=manifest.task,
        seed=manifest.seed,
        instruction=manifest.instruction,
        policy=manifest.policy.name,
        success=outcome is not None and outcome.success is True,
        reason="not closed" if outcome is None else outcome.reason,
        ticks=len(episode),
        duration_s=len(episode) / manifest.control_rate_hz,
        chunks=int(episode.chunks.accepted.sum()),
        rejections=dict(sorted(rejections.items())),
        safety_ticks={name: int(count) for name, count in sorted(zip(statuses, counts, strict=True)) if count},
        limits=dict(sorted(Counter(name for _, name in touched).items())),
        min_margin=float(checked.min()) if len(checked) else math.inf,
        episode=episode.path.name,
    )


def write_results(path: Path, results: Iterable[EpisodeResult]) -> None:
    """Write rows as JSON lines, sorted by task and seed; equal results give equal bytes."""
    lines = [
        json.dumps({**asdict(row), "min_margin": _finite(row.min_margin)}, sort_keys=True)
        for row in sorted(results, key=lambda row: (row.task, row.seed, row.instruction))
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_results(path: Path) -> list[EpisodeResult]:
    """Read what :func:`write_results` wrote.

    Raises:
        EpisodeError: A line is not a result; names it.
    """
    names = {item.name for item in fields(EpisodeResult)}
    results: list[EpisodeResult] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            data = cast(dict[str, Any], json.loads(line))
            missing = sorted(names - set(data))
            if missing:
                raise ValueError(f"no {', '.join(missing)}")
            margin = data["min_margin"]
            known: dict[str, Any] = {key: value for key, value in data.items() if key in names}
            known["min_margin"] = math.inf if margin is None else margin
            results.append(EpisodeResult(**known))
        except (ValueError, TypeError) as error:
            raise EpisodeError(
                f"{path}, line {number}", "the result of an episode", f"{line[:60]!r} ({error})", "restore the file"
            ) from error
    return results
