"""Typed values for the tests of the episode log: manifests, ticks with any bits, a small pure stack on a real plant."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from controllers.executor import ChunkExecutor, ExecutorOptions
from controllers.loop import ControlLoop
from controllers.types import (
    ActionChunk,
    ActionSpace,
    ActionSpec,
    ChunkArrival,
    CommandMode,
    ExecutorReport,
    ExecutorStatus,
    FloatArray,
    JointCommand,
    JointTarget,
    NormalizationStatistics,
    Observation,
    OperatorEvent,
    Pose,
    PoseTarget,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    Target,
    TickInputs,
    TickOutputs,
    frozen_array,
)
from episodes.episode import Episode
from episodes.integrity import array_checksum
from episodes.manifest import Manifest, Outcome, PolicyIdentity, model_hash
from episodes.replay import ReplayParts, StackIdentity
from episodes.writer import EpisodeWriter
from vla.tokenizers import COMPACT_TOKENIZER, decoder_from_id

JOINTS = 3
RATE_HZ = 200
PERIOD_NS = 5_000_000
HORIZON = 8
MODEL_XML = b"<mujoco model='plant'/>" * 40
SPEC = ActionSpec(
    space=ActionSpace.JOINT_POSITION,
    frame="joint",
    names=("q0", "q1", "q2", "gripper"),
    units=("rad", "rad", "rad", "fraction_open"),
    lower=frozen_array([-1.0, -1.0, -1.0, 0.0]),
    upper=frozen_array([1.0, 1.0, 1.0, 1.0]),
    rate_hz=20,
    horizon=HORIZON,
    statistics=NormalizationStatistics(
        frozen_array([-1.0, -1.0, -1.0, 0.0]), frozen_array([1.0] * 4), (True, True, True, True)
    ),
)


def manifest(**changes: Any) -> Manifest:
    profile = {"name": "plant", "joint_velocity": [0.25, 0.25, 0.25], "force_ceiling_n": 30.0}
    values: dict[str, Any] = {
        "episode_id": "reach-0",
        "task": "reach",
        "instruction": "reach the mark",
        "seed": 0,
        "robot": "plant",
        "robot_hash": "0" * 16,
        "joints": JOINTS,
        "controller": {"gain": 8.0},
        "control_rate_hz": RATE_HZ,
        "physics_timestep_s": 0.005,
        "action_spec": SPEC.to_json(),
        "action_spec_hash": SPEC.hash,
        "tokenizer_id": COMPACT_TOKENIZER.tokenizer_id,
        "safety_profile": profile,
        "safety_profile_hash": profile_hash(profile),
        "policy": PolicyIdentity("wave", "f" * 64),
        "stack": {"plant": {"stiffness": 3.0}},
        "created": "2026-11-22T00:00:00+00:00",
    }
    return Manifest(**{**values, **changes})


def profile_hash(profile: object) -> str:
    return hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()[:16]


def change(path: Path, name: str, index: Any, value: Any, *, reseal: bool = False) -> None:
    """Change one entry of an array with plain zarr, as anyone could."""
    root = zarr.open_group(str(path), mode="r+")
    array: Any = root[name]
    array[index] = value
    if reseal:
        integrity: Any = root.attrs["integrity"]
        integrity["arrays"][name] = array_checksum(array[...])
        root.attrs["integrity"] = integrity


# ------------------------------------------------------------------------------------- any bits at all


def any_bits(rng: np.random.Generator, *shape: int) -> Any:
    """float64 of random bits: subnormals, infinities and every NaN included."""
    return frozen_array(rng.integers(0, 2**64, shape, dtype=np.uint64).view(np.float64))


def any_float(rng: np.random.Generator) -> float:
    return float(any_bits(rng, 1)[0])


def any_state(rng: np.random.Generator, joints: int, stamp_ns: int) -> RobotState:
    return RobotState(
        any_bits(rng, joints),
        any_bits(rng, joints),
        any_bits(rng, joints),
        Pose(any_bits(rng, 3), any_bits(rng, 4)),
        any_bits(rng, 6),
        any_float(rng),
        stamp_ns,
    )


def any_command(rng: np.random.Generator, joints: int) -> JointCommand:
    mode = list(CommandMode)[rng.integers(len(CommandMode))]
    return JointCommand(mode, any_bits(rng, joints), any_float(rng), int(rng.integers(-(2**62), 2**62)))


def simple_tick(tick: int, joints: int = JOINTS, arrivals: tuple[ChunkArrival, ...] = ()) -> tuple[TickInputs, Any]:
    """A tick with plausible numbers."""
    rng = np.random.default_rng(tick)
    now = tick * PERIOD_NS
    state = replace(any_state(rng, joints, now), gripper_opening=0.04)
    pose = Pose(frozen_array(rng.normal(size=3)), frozen_array([1.0, 0.0, 0.0, 0.0]))
    command = JointCommand(CommandMode.POSITION, frozen_array(rng.normal(size=joints)), 0.04, now)
    limiting = tick % 50 == 49
    reasons = (SafetyReason("joint_velocity", -0.01, "too fast"),) if limiting else ()
    status = SafetyStatus.LIMITING if limiting else SafetyStatus.RUN
    outputs = TickOutputs(
        PoseTarget(pose, frozen_array(rng.normal(size=6)), 0.04, "base"),
        command,
        SafetyResult(command, status, reasons, 1.0, 0.5),
        ExecutorReport(ExecutorStatus.EXECUTING, 0, 1.5),
        False,
        pose,
    )
    return TickInputs(tick, now, state, arrivals), outputs


def simple_observation(tick: int, size: int = 16, cameras: tuple[str, ...] = ("wrist", "front")) -> Observation:
    inputs, outputs = simple_tick(tick)
    rng = np.random.default_rng(1000 + tick)
    images = {camera: rng.integers(0, 255, (size, size, 3), np.uint8) for camera in cameras}
    return Observation(images, inputs.state, outputs.commanded_pose, "reach the mark", inputs.state.stamp_ns)


def make_chunk(tick: int, chunk_id: int = 0, **changes: Any) -> ChunkArrival:
    tokens = np.random.default_rng(tick).integers(60, 190, (HORIZON, SPEC.dims))
    chunk = ActionChunk(tokens, COMPACT_TOKENIZER.tokenizer_id, SPEC.hash, tick * PERIOD_NS, chunk_id)
    return ChunkArrival(replace(chunk, **changes), 1_000_000)


def write_simple(path: Path, ticks: int = 120, **changes: Any) -> Path:
    """A finished episode with chunks, observations, labels, key frames and a few events."""
    with EpisodeWriter(path, manifest(**changes), model_xml=MODEL_XML, initial_state=frozen_array(range(5))) as writer:
        for tick in range(ticks):
            arrivals = (make_chunk(tick, tick // 20),) if tick % 20 == 0 else ()
            if tick % 40 == 0:
                writer.record_observation(simple_observation(tick))
                writer.record_label(tick * PERIOD_NS, make_chunk(tick).chunk.tokens)
                writer.record_keyframe(tick, frozen_array(np.arange(5) + tick))
            inputs, outputs = simple_tick(tick, arrivals=arrivals)
            if tick == 7:
                inputs = replace(inputs, events=(OperatorEvent.HOLD, OperatorEvent.RESUME))
            writer.record_tick(inputs, outputs, hashlib.blake2b(bytes([tick]), digest_size=16).digest())
        return writer.close(Outcome(True, "success"))


def bits(value: object) -> object:
    """A form in which two values are equal exactly when all their bits are."""
    if is_dataclass(value):
        return type(value).__name__, tuple(bits(getattr(value, item.name)) for item in fields(value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.generic):
        return value.dtype.str, value.tobytes()
    if isinstance(value, bool | str | Enum) or value is None:
        return value
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, tuple | list):
        return type(value).__name__, tuple(bits(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, bits(item)) for key, item in value.items())
    return value


# ---------------------------------------------------------------------- a small stack on a real plant


class SpringPlant:
    """Joints on springs, driven by velocity, one explicit Euler step a tick; a ``Robot``."""

    def __init__(self, stiffness: float) -> None:
        self._stiffness = stiffness
        self._q = np.zeros(JOINTS)
        self._qd = np.zeros(JOINTS)
        self._tick = 0

    def read(self) -> RobotState:
        pose = Pose(frozen_array(self._q), frozen_array([1.0, 0.0, 0.0, 0.0]))
        force = frozen_array([*(-self._stiffness * self._q), 0.0, 0.0, 0.0])
        return RobotState(
            frozen_array(self._q),
            frozen_array(self._qd),
            frozen_array(self._stiffness * self._q),
            pose,
            force,
            0.04,
            self._tick * PERIOD_NS,
        )

    def write(self, command: JointCommand) -> None:
        self._qd = 0.9 * self._qd + 0.1 * (command.values - 0.1 * self._stiffness * self._q)
        self._q = self._q + self._qd / RATE_HZ
        self._tick += 1

    def get_state(self) -> FloatArray:
        return np.concatenate([self._q, self._qd, [float(self._tick)]])

    def set_state(self, state: FloatArray) -> None:
        self._q, self._qd, self._tick = state[:JOINTS], state[JOINTS:-1], int(state[-1])

    def physics_digest(self) -> bytes:
        return hashlib.blake2b(self._q.tobytes() + self._qd.tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class VelocityServo:
    """A ``Controller``: joint velocity proportional to the joint error."""

    gain: float

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        del previous, dt
        assert isinstance(target, JointTarget)
        values = frozen_array(self.gain * (target.position - state.joint_position))
        return JointCommand(CommandMode.VELOCITY, values, target.gripper_opening, state.stamp_ns)

    def hold(self, state: RobotState) -> JointCommand:
        return JointCommand(CommandMode.VELOCITY, frozen_array(np.zeros(JOINTS)), 0.04, state.stamp_ns)


@dataclass(frozen=True)
class SpeedCeiling:
    """A ``SafetyFilter`` with one limit and memory: how often it has bitten."""

    limit: float

    def initial(self, state: RobotState) -> int:
        del state
        return 0

    def enforce(
        self,
        memory: int,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[int, SafetyResult]:
        del state, events, now_ns, dt
        fastest = float(np.abs(command.values).max())
        scale = min(1.0, self.limit / max(fastest, 1e-9))
        if scale >= 1.0:
            return memory, SafetyResult(command, SafetyStatus.RUN, (), 1.0, self.limit - fastest)
        slowed = replace(command, values=frozen_array(command.values * scale))
        reason = SafetyReason("joint_velocity", self.limit - fastest, f"slowed {memory + 1} times")
        return memory + 1, SafetyResult(slowed, SafetyStatus.LIMITING, (reason,), scale, self.limit - fastest)


def build_loop(gain: float = 8.0, limit: float = 0.25) -> ControlLoop[int]:
    executor = ChunkExecutor(
        decoder_from_id(COMPACT_TOKENIZER.tokenizer_id, SPEC), 0.08, RATE_HZ, ExecutorOptions(execution_horizon=4)
    )
    return ControlLoop(executor, VelocityServo(gain), SpeedCeiling(limit), RATE_HZ)


def rebuild(episode: Episode) -> ReplayParts[Any]:
    """What a composition root does: loop and plant from the manifest."""
    data = episode.manifest
    stack: Any = data.stack
    controller: Any = data.controller
    profile: Any = data.safety_profile
    robot = SpringPlant(stack["plant"]["stiffness"])
    identity = StackIdentity(
        action_spec_hash=ActionSpec.from_json(data.action_spec).hash,
        tokenizer_id=data.tokenizer_id,
        safety_profile_hash=profile_hash(dict(profile)),
        model_xml_sha256=model_hash(episode.model_xml),
    )
    return ReplayParts(build_loop(controller["gain"], profile["joint_velocity"][0]), robot, identity, robot)


def rebuild_with(change: Callable[[ReplayParts[Any]], ReplayParts[Any]]) -> Callable[[Episode], ReplayParts[Any]]:
    return lambda episode: change(rebuild(episode))


def record_plant(path: Path, ticks: int = 600, **changes: Any) -> Path:
    """Drive the plant through the real control loop with chunks that arrive late, and now and then a broken one."""
    data = manifest(**changes)
    stack: Any = data.stack
    robot, loop = SpringPlant(stack["plant"]["stiffness"]), build_loop()
    state = robot.read()
    loop_state = loop.initial(state)
    pending: list[tuple[int, ChunkArrival]] = []
    wanted, count = True, 0
    with EpisodeWriter(path, data, model_xml=MODEL_XML, initial_state=robot.get_state()) as writer:
        for tick in range(ticks):
            if data.keyframe_ticks and tick and tick % data.keyframe_ticks == 0:
                writer.record_keyframe(tick, robot.get_state(), loop_state)
            if wanted:
                arrival = make_chunk(tick, count)
                if count % 7 == 6:
                    arrival = make_chunk(tick, count, tokens=np.full((HORIZON, SPEC.dims), 100_000))
                pending.append((tick + 1 + tick % 5, arrival))
                count += 1
            due = tuple(arrival for when, arrival in pending if when <= tick)
            pending = [item for item in pending if item[0] > tick]
            events = (OperatorEvent.HOLD,) if tick == 300 else (OperatorEvent.RESUME,) if tick == 330 else ()
            inputs = TickInputs(tick, tick * PERIOD_NS, state, due, events)
            digest = robot.physics_digest()
            loop_state, outputs = loop.tick(loop_state, inputs)
            writer.record_tick(inputs, outputs, digest)
            robot.write(outputs.safety.command)
            state = robot.read()
            wanted = outputs.request_inference
        return writer.close(Outcome(None, "time_limit"))
