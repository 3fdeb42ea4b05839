"""Replay of freshly recorded episodes: how many are identical, and how fast. Each replay is a fresh process.

Episodes run over all tasks and chunk strategies, half of them in real time with a model that infers asynchronously, a
tenth with injected faults. With ``--out`` they are kept and their results appended to a file, so that a run that was
interrupted goes on where it was: what is recorded and verified is left alone. The reference is how fast the same
episodes were recorded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine
from benchmarks.replay_cases import Case, Recorder, cases
from episodes.errors import EpisodeError
from episodes.reader import find_episodes, open_episode

RESULTS_NAME = "replays.jsonl"


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench replay``."""

    episodes: int = 24
    """Episodes to record and replay; ignored with ``folder``."""
    out: str = ""
    """Folder to keep episodes and results in; run again to go on. Empty for a temporary one."""
    folder: str = ""
    """Replay the episodes of this folder instead of recording new ones."""
    policy: str = "compact"
    """Who acts in real time."""
    seed: int = 2_000_000
    """First seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One episode.

    Attributes:
        episode: Name of the store.
        task: Task.
        strategy: Chunk strategy.
        realtime: Recorded against the wall clock.
        fault: What was injected, empty for nothing.
        policy: Who acted.
        success: The task was done.
        ticks: Ticks.
        duration_s: Recorded time.
        recording_s: How long recording took, 0 if it was there.
        identical: Every bit of every tick.
        factor: Recorded time over the time that re-execution took.
        failure: What was not identical, or why nothing was compared.
    """

    episode: str
    task: str = ""
    strategy: str = ""
    realtime: bool = False
    fault: str = ""
    policy: str = ""
    success: bool = False
    ticks: int = 0
    duration_s: float = 0.0
    recording_s: float = 0.0
    identical: bool = False
    factor: float = 0.0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """All episodes of one kind."""

    kind: str
    episodes: int
    identical: int
    successes: int
    ticks: int
    realtime_factor: float


@dataclass(frozen=True, slots=True)
class Result:
    """``identical`` of ``episodes``; ``realtime_factor`` is recorded time over replay time, all episodes together."""

    episodes: int
    identical: int
    ticks: int
    realtime_factor: float
    slowest_realtime_factor: float
    failures: tuple[str, ...]
    groups: tuple[Group, ...]
    skipped: int
    reference: str
    reference_realtime_factor: float | None
    machine: Machine


def run(options: Options) -> Result:
    """Record what is missing, then replay what is not verified yet."""
    machine = Machine.here()
    if options.folder:
        rows = [_replayed(Row(episode=path.name), path) for path in find_episodes(options.folder)]
        return _result(rows, 0, machine)
    if options.out:
        return _campaign(options, Path(options.out), machine)
    with tempfile.TemporaryDirectory() as temporary:
        return _campaign(options, Path(temporary), machine)


def _campaign(options: Options, out: Path, machine: Machine) -> Result:
    out.mkdir(parents=True, exist_ok=True)
    results = out / RESULTS_NAME
    known = {row.episode: row for row in read_rows(results)}
    rows: list[Row] = []
    skipped = 0
    recorder = Recorder(out / "episodes", options.policy)
    try:
        for case in cases(options.episodes, options.seed):
            path = out / "episodes" / case.episode
            row = known.get(case.episode)
            if row is not None and row.identical and path.exists():
                skipped += 1
            else:
                row = _replayed(_recorded(case, path, recorder.record), path)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
            rows.append(row)
            print(f"{case.index + 1}/{options.episodes} {row.episode}: {row.failure or 'identical'}", file=sys.stderr)
    finally:
        recorder.close()
    return _result(rows, skipped, machine)


def _recorded(case: Case, path: Path, record: Callable[[Case], Path]) -> Row:
    """Record a case unless its episode is there and whole."""
    try:
        whole = path.exists() and open_episode(path, check=False).manifest.closed
    except EpisodeError:
        whole = False
    took = 0.0
    if not whole:
        shutil.rmtree(path, ignore_errors=True)
        started = time.perf_counter()
        record(case)
        took = time.perf_counter() - started
    return Row(
        episode=case.episode,
        task=case.task,
        strategy=case.strategy.value,
        realtime=case.realtime,
        fault="" if case.fault is None else case.fault.value,
        recording_s=took,
    )


def read_rows(path: Path) -> list[Row]:
    """Results of earlier runs; of one episode the last counts. A line that was cut off is left out."""
    names = {item.name for item in fields(Row)}
    rows: list[Row] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                data: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            if set(data) == names:
                rows.append(Row(**data))
    return rows


def _replayed(row: Row, path: Path) -> Row:
    """Replay in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.replay", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return replace(row, failure=f"exit status {done.returncode}: {last}")
    return replace(row, **json.loads(done.stdout.splitlines()[-1]))


def _result(rows: list[Row], skipped: int, machine: Machine) -> Result:
    recording = sum(row.recording_s for row in rows)
    recorded = sum(row.duration_s for row in rows if row.recording_s)
    return Result(
        episodes=len(rows),
        identical=sum(row.identical for row in rows),
        ticks=sum(row.ticks for row in rows),
        realtime_factor=_factor(rows),
        slowest_realtime_factor=min((row.factor for row in rows), default=0.0),
        failures=tuple(f"{row.episode}: {row.failure}" for row in rows if not row.identical),
        groups=tuple(_groups(rows)),
        skipped=skipped,
        reference="recording the same episodes: lock-step without cameras, and real time with them",
        reference_realtime_factor=recorded / recording if recording else None,
        machine=machine,
    )


def _factor(rows: Iterable[Row]) -> float:
    rows = [row for row in rows if row.factor > 0.0]
    return sum(row.duration_s for row in rows) / max(sum(row.duration_s / row.factor for row in rows), 1e-9)


def _groups(rows: list[Row]) -> Iterable[Group]:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        names = ["real time" if row.realtime else "lock-step", f"fault {row.fault}" if row.fault else "no fault"]
        for name in (*names, f"strategy {row.strategy}" if row.strategy else "", row.task):
            if name:
                kinds.setdefault(name, []).append(row)
    for kind, members in sorted(kinds.items()):
        yield Group(
            kind,
            len(members),
            sum(row.identical for row in members),
            sum(row.success for row in members),
            sum(row.ticks for row in members),
            _factor(members),
        )


def _main(path: Path) -> None:
    """The fresh process: replay an episode, one JSON line."""
    from episodes.replay import replay
    from sim.assembly import rebuild_for_replay

    episode = open_episode(path)
    found = replay(episode, rebuild_for_replay)
    manifest = episode.manifest
    record = {
        "task": manifest.task,
        "realtime": manifest.realtime,
        "policy": manifest.policy.name,
        "success": manifest.outcome is not None and manifest.outcome.success is True,
        "ticks": len(episode),
        "duration_s": len(episode) / manifest.control_rate_hz,
        "identical": found.identical,
        "factor": found.realtime_factor,
        "failure": "" if found.identical else str(found.first_divergence),
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
