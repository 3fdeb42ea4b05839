"""One row for each episode of a folder, kept beside them, so that a query opens none of them.

The index is a cache: a row is used as long as the store's root metadata have not changed since, and made again from the
episode otherwise. Deleting the file costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.results import result_of

INDEX_NAME = "episodes.index.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """What can be asked of an episode.

    Attributes:
        episode: Name of the store.
        task: Task.
        instruction: What the policy was told.
        policy: Policy.
        robot: Robot.
        controller: Controller.
        seed: Seed.
        success: The goal was reached.
        closed: It was closed properly.
        realtime: Recorded against the wall clock.
        safety_off: Recorded without safety.
        reason: Why it ended.
        ticks: Ticks.
        duration_s: Seconds.
        chunks: Chunks taken.
        rejections: Chunks refused.
        interventions: Ticks in which the safety filter did not let the command pass.
        stops: Ticks in a protective or an emergency stop.
        min_margin: Smallest margin over all limits, dimensionless.
        dropped_frames: Pictures lost to overload.
        log_faults: Times in which the log could not be written.
        camera_profile: How pictures are kept.
        limits: Limits that spoke, separated by spaces.
        created: ISO time.
        mujoco: Version of the engine.
        error: Why it cannot be read, empty if it can.
    """

    episode: str
    task: str = ""
    instruction: str = ""
    policy: str = ""
    robot: str = ""
    controller: str = ""
    seed: int = 0
    success: bool = False
    closed: bool = False
    realtime: bool = False
    safety_off: bool = False
    reason: str = ""
    ticks: int = 0
    duration_s: float = 0.0
    chunks: int = 0
    rejections: int = 0
    interventions: int = 0
    stops: int = 0
    min_margin: float = math.inf
    dropped_frames: int = 0
    log_faults: int = 0
    camera_profile: str = ""
    limits: str = ""
    created: str = ""
    mujoco: str = ""
    error: str = ""


def index_row(path: Path) -> IndexRow:
    """Make a row from the episode itself; one that cannot be read is a row with an error."""
    try:
        episode = open_episode(path)
        result, manifest = result_of(episode), episode.manifest
    except EpisodeError as error:
        return IndexRow(episode=path.name, error=str(error))
    safety = result.safety_ticks
    return IndexRow(
        episode=path.name,
        task=manifest.task,
        instruction=manifest.instruction,
        policy=manifest.policy.name,
        robot=manifest.robot,
        controller=str(manifest.controller.get("name", "")),
        seed=manifest.seed,
        success=result.success,
        closed=manifest.closed,
        realtime=manifest.realtime,
        safety_off=manifest.safety_off,
        reason=result.reason,
        ticks=result.ticks,
        duration_s=result.duration_s,
        chunks=result.chunks,
        rejections=sum(result.rejections.values()),
        interventions=sum(count for name, count in safety.items() if name not in ("run", "off")),
        stops=safety.get("protective_stop", 0) + safety.get("emergency_stop", 0),
        min_margin=result.min_margin,
        dropped_frames=sum(manifest.dropped_frames.values()),
        log_faults=len(manifest.log_faults),
        camera_profile=manifest.camera_profile,
        limits=" ".join(result.limits),
        created=manifest.created,
        mujoco=manifest.engine.mujoco,
    )


def index_of(folder: Path) -> list[IndexRow]:
    """Rows of all episodes of a folder, by name; what is new or changed is read, and the index written again."""
    known = _read(folder / INDEX_NAME)
    rows: dict[str, tuple[int, IndexRow]] = {}
    for name, stamp in _stores(folder):
        row = known.get(name)
        rows[name] = row if row is not None and row[0] == stamp else (stamp, index_row(folder / name))
    if rows != known:
        with contextlib.suppress(OSError):  # a folder that cannot be written can still be asked
            _write(folder / INDEX_NAME, rows)
    return [row for _, row in rows.values()]


def _stores(folder: Path) -> Iterator[tuple[str, int]]:
    """Names of the stores with the time at which their root metadata or their journal last changed."""
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        if entry.name.endswith(".zarr"):
            stamps: list[int] = []
            for part in ("zarr.json", "journal.bin"):
                with contextlib.suppress(OSError):
                    stamps.append(os.stat(f"{entry.path}/{part}").st_mtime_ns)
            if stamps:
                yield entry.name, max(stamps)


def _read(path: Path) -> dict[str, tuple[int, IndexRow]]:
    names = {item.name for item in fields(IndexRow)}
    rows: dict[str, tuple[int, IndexRow]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            data = cast("dict[str, Any]", json.loads(line))
            stamp = int(data.pop("stamp_ns"))
            if set(data) != names:
                return {}  # another release's index
            rows[data["episode"]] = (stamp, IndexRow(**data))
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return rows


def _write(path: Path, rows: Mapping[str, tuple[int, IndexRow]]) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    lines: Sequence[str] = [json.dumps({"stamp_ns": stamp, **asdict(row)}) for stamp, row in rows.values()]
    scratch.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(scratch, path)
