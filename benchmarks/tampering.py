"""One bit changed in a recorded episode: is it found, is the right tick and field named, and how long does that take?

``rot`` flips a bit of any logged array of a copy and leaves its seals alone, as a disk would. ``forged`` records a
sensed state once more with one bit changed, with seals and hash chain that fit: only re-execution can tell. Each trial
is `vla replay` in a fresh process.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import zarr

from benchmarks.machine import Machine
from controllers.types import FloatArray, RobotState, frozen_array
from episodes.episode import Episode
from episodes.manifest import Outcome
from episodes.reader import open_episode
from episodes.writer import EpisodeWriter
from sim.assembly import default_config
from sim.rollout import ExpertSource, run_episode

_TASK, _SEED = "pick_up", 2_000_000


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench tampering``."""

    rot: int = 40
    """Trials with a flipped bit in the store."""
    forged: int = 10
    """Trials with a flipped bit in a sensed state, sealed again."""
    seed: int = 0
    """Of the bits."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One changed bit.

    Attributes:
        kind: rot or forged.
        field: Array that it is in.
        tick: Tick that it belongs to, -1 for what belongs to none.
        found: The replay was refused or diverged.
        named: It named that field, and that tick where there is one.
        said: What it named.
        seconds: Of the whole command.
    """

    kind: str
    field: str
    tick: int
    found: bool
    named: bool
    said: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """``untouched_identical``: the same episode without a changed bit, the reference, replays identical."""

    trials: int
    found: int
    named: int
    max_s: float
    untouched_identical: bool
    untouched_s: float
    missed: tuple[Trial, ...]
    machine: Machine


def run(options: Options) -> Result:
    """Record once, change one bit at a time."""
    machine = Machine.here()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = folder / run_episode(_TASK, _SEED, ExpertSource(), default_config(), out_dir=folder).episode
        began = time.perf_counter()
        untouched = _replay(source)["identical"] is True
        untouched_s = time.perf_counter() - began
        trials = [_rotten(source, folder / "rot.zarr", rng) for _ in range(options.rot)]
        trials += [_forged(source, folder / "forged.zarr", rng) for _ in range(options.forged)]
    return Result(
        trials=len(trials),
        found=sum(trial.found for trial in trials),
        named=sum(trial.named for trial in trials),
        max_s=max((trial.seconds for trial in trials), default=0.0),
        untouched_identical=untouched,
        untouched_s=untouched_s,
        missed=tuple(trial for trial in trials if not trial.named),
        machine=machine,
    )


def _replay(path: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "cli.main", "replay", str(path), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    found["code"] = done.returncode
    return found


def _judged(kind: str, field: str, tick: int, path: Path) -> Trial:
    began = time.perf_counter()
    found = _replay(path)
    seconds = time.perf_counter() - began
    divergence = found.get("first_divergence")
    where = divergence if isinstance(divergence, dict) else {}
    said = f"tick {where.get('tick')}, {where.get('field')}" if where else str(found.get("error", ""))
    named = field in str(where.get("field", said)) and (tick < 0 or where.get("tick") == tick)
    return Trial(kind, field, tick, found["code"] == 1 or "error" in found, named, said, seconds)


def _rotten(source: Path, copy: Path, rng: random.Random) -> Trial:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    root = zarr.open_group(copy, mode="r+")
    members = root.members(max_depth=None)
    arrays = {name: item for name, item in members if isinstance(item, zarr.Array) and _has_numbers(item)}
    name = rng.choice(sorted(arrays))
    array = arrays[name]
    place = tuple(rng.randrange(size) for size in array.shape)
    value = np.array(array[place])
    changed = bytearray(value.tobytes())
    bit = 0 if value.dtype == np.bool_ else rng.randrange(8 * len(changed))
    changed[bit // 8] ^= 1 << bit % 8
    array[place] = np.frombuffer(bytes(changed), value.dtype).reshape(value.shape)
    tick = int(open_episode(source).ticks.tick[place[0]]) if name.startswith("ticks/") else -1
    if name == "ticks/tick":
        tick = -1  # the changed number is the tick's own
    return _judged("rot", name, tick, copy)


def _has_numbers(array: zarr.Array) -> bool:
    return bool(array.size) and array.dtype.kind in "fiub"


_FIELDS = ("joint_position", "joint_velocity", "joint_effort", "wrench")


def _forged(source: Path, copy: Path, rng: random.Random) -> Trial:
    shutil.rmtree(copy, ignore_errors=True)
    episode = open_episode(source)
    place, field = rng.randrange(len(episode)), rng.choice(_FIELDS)
    _record_again(episode, copy, place, field, rng)
    return _judged("forged", f"state_{field}", int(episode.decoder.tick(place)), copy)


def _record_again(episode: Episode, copy: Path, place: int, field: str, rng: random.Random) -> None:
    """The same episode but for one bit of one sensed number; pictures and key frames are left out."""
    decoder, manifest = episode.decoder, replace(episode.manifest.opening(), keyframe_ticks=0)
    with EpisodeWriter(
        copy, manifest, model_xml=episode.model_xml, initial_state=episode.physics.initial_state, in_process=True
    ) as writer:
        for index in range(len(decoder)):
            inputs = decoder.inputs(index)
            if index == place:
                inputs = replace(inputs, state=_with_a_flipped_bit(inputs.state, field, rng))
            stamps = decoder.write_stamps(index)
            writer.record_tick(inputs, decoder.outputs(index), decoder.physics_digest(index), *stamps)
        outcome = episode.manifest.outcome or Outcome(None, "copied")
        writer.close(Outcome(outcome.success, outcome.reason))


def _with_a_flipped_bit(state: RobotState, field: str, rng: random.Random) -> RobotState:
    values: FloatArray = np.array(getattr(state, field))
    bits = values.view(np.uint64)
    bits[rng.randrange(len(bits))] ^= np.uint64(1 << rng.randrange(52))  # of the mantissa: it stays a number
    return replace(state, **{field: frozen_array(values)})
