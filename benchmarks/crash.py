"""What a recording loses when its process group is killed at a random moment: does it open, is its chain intact?

Each trial is a process that records at 200 Hz with pictures, killed with ``SIGKILL`` after 0.1 to 1 s. It says on a
pipe which ticks it has recorded; what the store lacks of them is the loss.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.verification import verify

_RATE_HZ = 200
_SETTLE_S = 60.0


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench crash``."""

    trials: int = 100
    """Recordings to kill."""
    seed: int = 0
    """Seed of the moments."""


@dataclass(frozen=True, slots=True)
class Result:
    """``opened`` of ``trials`` are readable with an intact hash chain and no gap; losses are of what was recorded."""

    trials: int
    opened: int
    intact: int
    max_loss_ms: float
    median_loss_ms: float
    first_failure: str
    machine: Machine


def run(options: Options) -> Result:
    """Record, kill, open."""
    machine = Machine.here()
    rng = random.Random(options.seed)
    losses: list[float] = []
    opened = intact = 0
    failure = ""
    with tempfile.TemporaryDirectory() as folder:
        for trial in range(options.trials):
            path = Path(folder) / f"{trial}.zarr"
            reported = _record_and_kill(path, rng.uniform(0.1, 1.0))
            try:
                episode = _settled(path)
                opened += 1
                whole = np.array_equal(episode.ticks.tick, np.arange(len(episode))) and verify(episode) == ()
                intact += bool(whole)
                losses.append(max(0, reported + 1 - len(episode)) / _RATE_HZ * 1e3)
                if not whole and not failure:
                    failure = f"trial {trial}: damaged"
            except EpisodeError as error:
                failure = failure or f"trial {trial}: {error}"
    return Result(
        options.trials,
        opened,
        intact,
        max(losses, default=float("nan")),
        float(np.median(losses)) if losses else float("nan"),
        failure,
        machine,
    )


def _record_and_kill(path: Path, seconds: float) -> int:
    """The last tick that the killed process had recorded, -1 for none."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.crash", str(path)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    first = process.stdout.read(8)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    rest = first + process.stdout.read()
    process.wait()
    process.stdout.close()
    whole = len(rest) // 8 * 8
    return int.from_bytes(rest[whole - 8 : whole], "little") if whole else -1


def _settled(path: Path) -> Episode:
    """The episode once its recording process, which outlives the loop, has finished."""
    deadline = time.monotonic() + _SETTLE_S
    while (episode := open_episode(path)).live and time.monotonic() < deadline:
        time.sleep(0.02)
    return episode


def _main(path: Path) -> None:
    """The process to be killed: real ticks of the whole stack, over and over."""
    from controllers.types import Observation, TickInputs
    from episodes.writer import EpisodeWriter
    from sim.assembly import assemble_loop, assemble_sim, default_config
    from sim.rollout import ExpertSource, build_manifest

    config = replace(default_config(), cameras={})
    with assemble_sim(config, "press_button", 3) as cell:
        manifest = build_manifest("crash", cell, 3, ExpertSource.identity, config, realtime=True)
        manifest = replace(manifest, keyframe_ticks=100)
        state, loop = cell.robot.read(), assemble_loop(config)
    memory = loop.initial(state)
    _, outputs = loop.tick(memory, TickInputs(0, state.stamp_ns, state))
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with EpisodeWriter(path, manifest) as writer:
        deadline = time.monotonic()
        for tick in range(1_000_000):
            if tick % 20 == 0:
                writer.record_observation(Observation({"front": pixels}, state, outputs.commanded_pose, "go", tick))
            writer.offer_memory(tick, memory)
            writer.record_tick(TickInputs(tick, tick * 5_000_000, state), outputs, b"0123456789abcdef")
            os.write(1, tick.to_bytes(8, "little"))
            deadline += 1.0 / _RATE_HZ
            time.sleep(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
