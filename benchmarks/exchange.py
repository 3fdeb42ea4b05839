"""Episodes through other formats: what comes back, what LeRobot makes of them, and how many bytes each takes.

Records expert episodes of all tasks with cameras, exports them to every format, loads and trains on them with LeRobot,
and imports them again. The references are LeRobotDataset (pictures and video) and MCAP themselves, on the same
episodes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lerobot_training import Training, train_act
from benchmarks.machine import Machine
from episodes.exchange.equality import observation_differences
from episodes.exchange.files import folder_bytes
from episodes.exchange.lerobot_export import LerobotExporter, LerobotOptions
from episodes.exchange.lerobot_import import LerobotImporter
from episodes.exchange.mcap_export import McapExporter, McapOptions
from episodes.exchange.mcap_import import McapImporter
from episodes.exchange.mp4_export import Mp4Exporter
from episodes.exchange.protocols import Exporter
from episodes.reader import find_episodes, open_episode
from episodes.replay import replay
from sim.assembly import default_config, rebuild_for_replay
from sim.evaluation import EPISODES_NAME, EvalOptions, Recording, evaluate
from sim.policies import EXPERT, PolicyChoice
from sim.tasks.catalog import task_names


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench exchange``."""

    episodes: int = 50
    """Episodes, spread over all tasks; ignored with ``folder``."""
    folder: str = ""
    """Use the episodes of this folder instead of recording new ones."""
    seed: int = 2_500_000
    """First seed."""
    steps: int = 20
    """Training steps of ACT."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of all episodes in one format.

    Attributes:
        format: Which.
        keeps: What it keeps.
        bytes_per_minute: Of recorded time.
        seconds: How long writing took.
    """

    format: str
    keeps: str
    bytes_per_minute: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of the round trips.

    Attributes:
        episodes: Episodes recorded.
        minutes: Recorded time.
        frames: Pictures of each camera.
        lerobot_equal: Episodes whose observations, pictures, tokens and labels came back from LeRobot bit for bit.
        mcap_equal: Episodes that came back from MCAP bit for bit, every array and the hash chain.
        mcap_replayed: Of those, how many were re-executed, identical at every tick.
        training: What LeRobot made of the data set.
        sizes: Bytes by format.
        first_failure: The first difference, empty if there is none.
        machine: Where.
    """

    episodes: int
    minutes: float
    frames: int
    lerobot_equal: int
    mcap_equal: int
    mcap_replayed: int
    training: Training
    sizes: tuple[Size, ...]
    first_failure: str
    machine: Machine


def run(options: Options) -> Result:
    """Record if asked to, then send everything around."""
    machine = Machine.here()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = Path(options.folder) if options.folder else _record(options, scratch / "recorded")
        return _measure(
            find_episodes(folder)[: None if options.folder else options.episodes], options, scratch, machine
        )


def _record(options: Options, out: Path) -> Path:
    tasks = task_names()
    evaluate(
        EvalOptions(
            policy=PolicyChoice(EXPERT),
            config=default_config(),
            tasks=tasks,
            episodes=-(-options.episodes // len(tasks)),
            first_seed=options.seed,
            workers=0,
            out_dir=out,
            recording=Recording.ALL,
        )
    )
    return out / EPISODES_NAME


def _measure(paths: list[Path], options: Options, scratch: Path, machine: Machine) -> Result:
    minutes = sum(_seconds(path) for path in paths) / 60.0
    sizes = [Size("episode", "everything, lossless", sum(map(folder_bytes, paths)) / minutes, 0.0)]
    targets: list[tuple[str, str, Exporter]] = [
        ("lerobot, images", "observations, lossless", LerobotExporter()),
        ("lerobot, video", "observations, lossy pictures", LerobotExporter(LerobotOptions(video=True))),
        ("mcap, png", "everything, lossless", McapExporter()),
        ("mcap, raw", "everything, lossless", McapExporter(McapOptions("raw"))),
        ("mp4", "lossy pictures alone", Mp4Exporter()),
    ]
    for name, keeps, target in targets:
        started = time.perf_counter()
        done = target.export(paths, scratch / name)
        seconds = time.perf_counter() - started
        sizes.append(Size(name, keeps, folder_bytes(done.out) / minutes, seconds))
    training = train_act(scratch / "lerobot, images", steps=options.steps)
    from_lerobot = LerobotImporter().read(scratch / "lerobot, images", scratch / "from-lerobot").episodes
    failures: list[str] = []
    lerobot_equal = _count(paths, from_lerobot, _observations_differ, failures)
    from_mcap = McapImporter().read(scratch / "mcap, png", scratch / "from-mcap").episodes
    by_name = {path.name: path for path in from_mcap}
    ordered = tuple(by_name[path.name] for path in paths)
    mcap_equal = _count(paths, ordered, _seals_differ, failures)
    replayed = sum(replay(open_episode(path), rebuild_for_replay).identical for path in ordered)
    return Result(
        episodes=len(paths),
        minutes=minutes,
        frames=sum(len(open_episode(path).observations.stamp_ns) for path in paths),
        lerobot_equal=lerobot_equal,
        mcap_equal=mcap_equal,
        mcap_replayed=replayed,
        training=training,
        sizes=tuple(sizes),
        first_failure=failures[0] if failures else "",
        machine=machine,
    )


def _seconds(path: Path) -> float:
    episode = open_episode(path)
    return len(episode) / episode.manifest.control_rate_hz


def _count(
    before: list[Path], after: tuple[Path, ...], differ: Callable[[Path, Path], str], failures: list[str]
) -> int:
    equal = 0
    for first, second in zip(before, after, strict=True):
        found = differ(first, second)
        equal += not found
        if found:
            failures.append(f"{first.name}: {found}")
    return equal


def _observations_differ(first: Path, second: Path) -> str:
    return ", ".join(observation_differences(open_episode(first), open_episode(second)))


def _seals_differ(first: Path, second: Path) -> str:
    same = open_episode(first).integrity == open_episode(second).integrity
    return "" if same else "another array or another chain"
