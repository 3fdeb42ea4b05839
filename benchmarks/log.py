"""What logging costs the tick thread, beside LeRobotDataset.add_frame, an MCAP writer and h5py in the same run.

Every recorder is given the same ticks at 200 Hz, each after the loop has computed one and at the loop's own priority,
and the pictures of one simulated camera at 10 Hz; each call is timed. Ours includes key frames of all that the loop
remembers, one in two seconds as in any real-time episode, and records once more with JPEG pictures. The references run
in this process, as their users run them; a reference whose package is missing is left out by name.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Machine
from controllers.drivers import sleeper
from controllers.loop import ControlLoop, LoopState
from controllers.realtime import RealtimeOptions, realtime
from controllers.types import NANOSECONDS, Observation, TickInputs, TickOutputs
from episodes.exchange.files import folder_bytes
from episodes.manifest import Outcome
from episodes.profile import CameraProfile, camera_profile
from episodes.reader import open_episode
from episodes.writer import EpisodeWriter
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.rollout import REALTIME_KEYFRAME_PERIOD_S, ExpertSource, build_manifest, run_episode

_CAMERA_EVERY = 20
_KEYFRAME_TICKS = round(REALTIME_KEYFRAME_PERIOD_S * 200)


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench log``."""

    seconds: float = 10.0
    """Length of each recording."""
    jpeg: str = "jpeg:90"
    """Camera profile of the second recording."""
    references: bool = True
    """Time the references, too."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one recorder cost; times are of the calls in the loop's thread, closing left out."""

    recorder: str
    p50_us: float
    p99_us: float
    max_us: float
    bytes_per_minute: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What the tick thread pays, and what the disk does; ``references`` are the others, in the same run.

    Attributes:
        p50_us: Median of ``offer_memory`` and ``record_tick``; observations come from another thread in real time.
        p99_us: 99th percentile.
        max_us: Worst.
        bytes_per_minute: Of the finished store with lossless pictures.
        jpeg_bytes_per_minute: With JPEG ones.
        memory_bytes: Of one key frame's memory, as JSON, at the end.
        ticks: Ticks recorded.
        picture: Height and width.
        references: The others.
        machine: Where.
    """

    p50_us: float
    p99_us: float
    max_us: float
    bytes_per_minute: float
    jpeg_bytes_per_minute: float
    memory_bytes: int
    ticks: int
    picture: tuple[int, int]
    references: tuple[Cost, ...]
    machine: Machine


Ticks = list[tuple[TickInputs, TickOutputs]]
_Call = Callable[[int, TickInputs, TickOutputs], None]


@dataclass(frozen=True, slots=True)
class _Material:
    """Ticks of a real episode, what the loop remembered before each, and its pictures (N, H, W, 3) uint8."""

    loop: ControlLoop[Any]
    ticks: Ticks
    memories: list[LoopState]
    pictures: np.ndarray

    def tick(self, index: int) -> None:
        """What the loop computes before it logs a tick: recorders find the caches as that leaves them."""
        place = index % len(self.ticks)
        self.loop.tick(self.memories[place], self.ticks[place][0])

    def picture(self, index: int) -> np.ndarray:
        """The picture of a tick."""
        return self.pictures[index // _CAMERA_EVERY % len(self.pictures)]


def run(options: Options) -> Result:
    """Record the same ticks with everything."""
    machine = Machine.here()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        material = _material(folder)
        count = round(options.seconds * 200)
        ours, memory = _ours(folder / "ours", material, count, CameraProfile())
        jpeg, _ = _ours(folder / "jpeg", material, count, camera_profile(options.jpeg))
        references: list[Cost] = []
        if options.references:
            for name, package, reference in _REFERENCES:
                if importlib.util.find_spec(package) is None:
                    references.append(Cost(name, np.nan, np.nan, np.nan, np.nan, f"{package} is not installed"))
                else:
                    references.append(reference(folder / name, material, count))
    height, width = material.pictures.shape[1:3]
    return Result(
        ours.p50_us,
        ours.p99_us,
        ours.max_us,
        ours.bytes_per_minute,
        jpeg.bytes_per_minute,
        memory,
        count,
        (height, width),
        tuple(references),
        machine,
    )


def _material(folder: Path) -> _Material:
    """One episode of the whole stack."""
    config = default_config()
    outcome = run_episode("press_button", 3, ExpertSource(), config, out_dir=folder / "source")
    episode = open_episode(folder / "source" / outcome.episode)
    decoder = episode.decoder
    ticks = [(decoder.inputs(index), decoder.outputs(index)) for index in range(len(decoder))]
    loop = assemble_loop(config)
    state = loop.initial(ticks[0][0].state)
    memories: list[LoopState] = []
    for inputs, _ in ticks:
        memories.append(state)
        state, _ = loop.tick(state, inputs)
    pictures = np.array(episode.images(episode.cameras[0]))
    pictures.flags.writeable = False
    return _Material(loop, ticks, memories, pictures)


def _timed(
    name: str, count: int, material: _Material, one: _Call, note: str = "", before: _Call | None = None
) -> Callable[[Path], Cost]:
    """Call ``one`` at 200 Hz after a tick of the loop, and time each call.

    ``before`` is what another thread does, and is not timed.
    """
    cost = np.empty(count)
    with realtime(RealtimeOptions()):
        _call(count, material, one, before, cost)
    p50, p99, worst = np.percentile(cost * 1e-3, [50, 99, 100])
    minutes = count / 200 / 60
    return lambda path: Cost(name, float(p50), float(p99), float(worst), folder_bytes(path) / minutes, note)


def _call(count: int, material: _Material, one: _Call, before: _Call | None, cost: np.ndarray) -> None:
    """Fill ``cost`` (count,) with ns."""
    ticks = material.ticks
    wait = sleeper(time.perf_counter_ns)  # the driver's own, which is awake when the tick begins
    deadline = time.perf_counter_ns()
    period = NANOSECONDS // 200
    for index in range(count):
        inputs, outputs = ticks[index % len(ticks)]
        inputs = TickInputs(index, index * period, inputs.state, inputs.arrivals, inputs.events)
        if before is not None:
            before(index, inputs, outputs)
        material.tick(index)
        started = time.perf_counter_ns()
        one(index, inputs, outputs)
        cost[index] = time.perf_counter_ns() - started
        deadline += period
        wait(deadline)


def _ours(folder: Path, material: _Material, count: int, profile: CameraProfile) -> tuple[Cost, int]:
    """Our cost, and the bytes of the last key frame's memory."""
    config = replace(default_config(), cameras={})
    with assemble_sim(config, "press_button", 3) as cell:
        manifest = build_manifest("bench", cell, 3, ExpertSource.identity, config, realtime=True)
    manifest = replace(manifest, camera_profile=str(profile), keyframe_ticks=_KEYFRAME_TICKS)
    folder.mkdir()
    path = folder / "bench.zarr"
    gc.collect()
    gc.freeze()
    gc.disable()  # as the real-time driver does
    try:
        with EpisodeWriter(path, manifest) as writer:

            def one(index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
                writer.offer_memory(index, material.memories[-1])
                writer.record_tick(inputs, outputs, b"0123456789abcdef", inputs.now_ns, inputs.now_ns)

            def before(index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
                if index % _CAMERA_EVERY == 0:
                    pose, stamp = outputs.commanded_pose, inputs.state.stamp_ns
                    images = {"front": material.picture(index)}
                    writer.record_observation(Observation(images, inputs.state, pose, "go", stamp))

            cost = _timed("vla-stack", count, material, one, before=before)
            writer.close(Outcome(None, "done"))
    finally:
        gc.enable()
        gc.unfreeze()
    lengths = open_episode(path).array("loop/length")
    return cost(folder), int(lengths[-1]) if len(lengths) else 0


def _numbers(inputs: TickInputs, outputs: TickOutputs) -> np.ndarray:
    """The state and the action, which is all that the references keep of a tick."""
    state = inputs.state
    return np.concatenate(
        (state.joint_position, state.joint_velocity, state.joint_effort, state.wrench, outputs.safety.command.values)
    )


def _lerobot(folder: Path, material: _Material, count: int) -> Cost:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    size = len(_numbers(*material.ticks[0]))
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": (size,), "names": [f"x{i}" for i in range(size)]},
        "observation.images.front": {
            "dtype": "image",
            "shape": material.pictures.shape[1:],
            "names": ["height", "width", "channels"],
        },
        "action": {"dtype": "float32", "shape": (7,), "names": [f"a{i}" for i in range(7)]},
    }
    dataset: Any = LeRobotDataset.create("bench/log", 200, features, root=folder, use_videos=False)

    def one(index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
        frame = {
            "observation.state": _numbers(inputs, outputs).astype(np.float32),
            "observation.images.front": material.picture(index),
            "action": outputs.safety.command.values.astype(np.float32),
            "task": "go",
        }
        dataset.add_frame(frame)

    # It wants a picture with each frame, so it is given fewer frames: a tenth.
    cost = _timed("lerobot", max(20, count // 10), material, one, "add_frame wants a picture with every frame")
    dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()
    return cost(folder)


def _mcap(folder: Path, material: _Material, count: int) -> Cost:
    from mcap.writer import Writer

    folder.mkdir()
    with (folder / "log.mcap").open("wb") as stream:
        writer: Any = Writer(stream)
        writer.start()
        schema = writer.register_schema(name="tick", encoding="jsonschema", data=json.dumps({}).encode())
        tick = writer.register_channel(topic="/tick", message_encoding="json", schema_id=schema)
        camera = writer.register_channel(topic="/camera", message_encoding="raw", schema_id=schema)

        def one(index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
            data = _numbers(inputs, outputs).tobytes()
            writer.add_message(tick, log_time=inputs.now_ns, data=data, publish_time=inputs.now_ns)
            if index % _CAMERA_EVERY == 0:
                pixels = material.picture(index).tobytes()
                writer.add_message(camera, log_time=inputs.now_ns, data=pixels, publish_time=inputs.now_ns)

        cost = _timed("mcap", count, material, one)
        writer.finish()
    return cost(folder)


def _h5py(folder: Path, material: _Material, count: int) -> Cost:
    import h5py

    folder.mkdir()
    size = len(_numbers(*material.ticks[0]))
    with h5py.File(folder / "log.h5", "w") as opened:
        file: Any = opened
        rows = file.create_dataset("tick", (0, size), "f8", maxshape=(None, size), chunks=(200, size))
        shape = material.pictures.shape[1:]
        pictures = file.create_dataset("camera", (0, *shape), "u1", maxshape=(None, *shape), chunks=(1, *shape))

        def one(index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
            rows.resize(index + 1, axis=0)
            rows[index] = _numbers(inputs, outputs)
            if index % _CAMERA_EVERY == 0:
                place = index // _CAMERA_EVERY
                pictures.resize(place + 1, axis=0)
                pictures[place] = material.picture(index)

        cost = _timed("h5py", count, material, one)
    return cost(folder)


_REFERENCES: tuple[tuple[str, str, Callable[[Path, _Material, int], Cost]], ...] = (
    ("lerobot", "lerobot", _lerobot),
    ("mcap", "mcap", _mcap),
    ("h5py", "h5py", _h5py),
)
