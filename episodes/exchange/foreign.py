"""Recordings of other origin as episodes: what they hold, in our tables; what they lack, in the manifest.

A tick is a reading of the joints; an observation is a moment of which there is a picture. Nothing is made up: what
was not recorded is NaN, no filter judged (status ``off``), and there is no physics. ``vla replay`` refuses such an
episode and says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from controllers.types import (
    ActionSpace,
    ActionSpec,
    ChunkArrival,
    CommandMode,
    ExecutorReport,
    ExecutorStatus,
    FloatArray,
    IntArray,
    JointCommand,
    JointTarget,
    NormalizationStatistics,
    Observation,
    Pose,
    RobotState,
    SafetyResult,
    SafetyStatus,
    TickInputs,
    TickOutputs,
    frozen_array,
)
from episodes.errors import EpisodeError
from episodes.exchange.files import check_free, new_folder
from episodes.manifest import EngineVersions, MachineInfo, Manifest, Outcome, PolicyIdentity
from episodes.provenance import IMPORTED, Provenance
from episodes.writer import EpisodeWriter

NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class JointReadings:
    """What the joints did, one entry a tick; NaN stands for what was not recorded.

    Attributes:
        stamp_ns: (T,) time of each reading, increasing.
        arrival_ns: (T,) when it was received.
        position: (T, n) rad.
        velocity: (T, n) rad/s.
        effort: (T, n) N m.
        ee_pose: (T, 7) xyz wxyz, base frame.
        wrench: (T, 6) N, N m.
        gripper: (T,) m.
        reference: (T, 7) commanded end-effector pose, xyz wxyz, base frame.
    """

    stamp_ns: IntArray
    arrival_ns: IntArray
    position: FloatArray
    velocity: FloatArray
    effort: FloatArray
    ee_pose: FloatArray
    wrench: FloatArray
    gripper: FloatArray
    reference: FloatArray

    def state(self, index: int) -> RobotState:
        """One reading."""
        return RobotState(
            frozen_array(self.position[index]),
            frozen_array(self.velocity[index]),
            frozen_array(self.effort[index]),
            pose(self.ee_pose[index]),
            frozen_array(self.wrench[index]),
            float(self.gripper[index]),
            int(self.stamp_ns[index]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCommands:
    """The command that was in force on each tick.

    Attributes:
        mode: What the values are.
        values: (T, n) rad, rad/s or N m; NaN before the first command.
        gripper: (T,) m, NaN where unknown.
        stamp_ns: (T,) when it was given; 0 before the first.
    """

    mode: CommandMode
    values: FloatArray
    gripper: FloatArray
    stamp_ns: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording of other origin.

    Attributes:
        manifest: What is known of it; see :func:`foreign_manifest`.
        provenance: Where it came from and what it does not hold.
        joints: The readings.
        commands: The commands, None where there are none.
        observations: What the cameras saw, in order of their stamps; read once.
        chunks: Chunks by the tick on which they are taken in.
        labels: Stamp of the observation and clean tokens (rows, dims).
    """

    manifest: Manifest
    provenance: Provenance
    joints: JointReadings
    commands: JointCommands | None
    observations: Iterable[Observation]
    chunks: Mapping[int, Sequence[tuple[ChunkArrival, bool]]]
    labels: Sequence[tuple[int, IntArray]] = ()


def pose(values: FloatArray) -> Pose:
    """A pose of xyz wxyz (7,)."""
    return Pose(frozen_array(values[:3]), frozen_array(values[3:]))


def unknown(*shape: int) -> FloatArray:
    """What was not recorded."""
    return np.full(shape, np.nan)


def median_rate_hz(stamps_ns: IntArray) -> int:
    """Readings per second, rounded, at least 1."""
    gaps = np.diff(stamps_ns)
    middle = float(np.median(gaps)) if len(gaps) else 0.0
    return max(1, round(1e9 / middle)) if middle > 0 else 1


def foreign_manifest(name: str, robot: str, joint_names: Sequence[str], rate_hz: int, instruction: str) -> Manifest:
    """The manifest of a recording about which nothing else is known."""
    spec = _joint_spec(joint_names, rate_hz)
    return Manifest(
        episode_id=name,
        task=IMPORTED,
        instruction=instruction,
        seed=0,
        robot=robot,
        robot_hash="",
        joints=len(joint_names),
        controller={},
        control_rate_hz=rate_hz,
        physics_timestep_s=None,
        action_spec=spec.to_json(),
        action_spec_hash=spec.hash,
        tokenizer_id="",
        safety_profile={},
        safety_profile_hash="",
        policy=PolicyIdentity(IMPORTED),
        stack={},
        engine=EngineVersions(NOT_RECORDED, NOT_RECORDED, NOT_RECORDED, NOT_RECORDED),
        code_hash="",
        machine=MachineInfo(NOT_RECORDED, NOT_RECORDED),
        created=NOT_RECORDED,
        outcome=Outcome(None, IMPORTED),
    )


def _joint_spec(joint_names: Sequence[str], rate_hz: int) -> ActionSpec:
    """Absolute joint positions without bounds: what a recorded command is, as far as one can tell."""
    dims = len(joint_names)
    largest = np.full(dims, np.finfo(np.float64).max)
    ones = np.ones(dims)
    return ActionSpec(
        space=ActionSpace.JOINT_POSITION,
        frame="joint",
        names=tuple(joint_names),
        units=("rad",) * dims,
        lower=frozen_array(-largest),
        upper=frozen_array(largest),
        rate_hz=rate_hz,
        horizon=1,
        statistics=NormalizationStatistics(frozen_array(-ones), frozen_array(ones), (False,) * dims),
    )


# ----------------------------------------------------------------------------------------------- writing


def write_recording(path: Path, recording: Recording) -> Path:
    """Write a new episode store.

    Raises:
        EpisodeError: The target exists, the stamps do not increase, or there are no readings.
    """
    _check(recording)
    check_free(path)
    stack = {**recording.manifest.stack, **recording.provenance.to_json()}
    manifest = replace(recording.manifest, stack=stack, realtime=True, safety_off=True)
    outcome = manifest.outcome or Outcome(None, IMPORTED)
    with new_folder(path) as scratch:
        store = scratch / path.name
        try:
            with EpisodeWriter(store, manifest, in_process=True) as writer:
                _write(writer, recording)
                writer.close(outcome)
        except ValueError as error:
            if isinstance(error, EpisodeError):
                raise
            raise EpisodeError(
                str(recording.provenance.source), "a recording that fits the episode format", str(error), "see the docs"
            ) from error
        _lift(store, scratch)
    return path


def _lift(inner: Path, outer: Path) -> None:
    for item in list(inner.iterdir()):
        item.rename(outer / item.name)
    inner.rmdir()


def _check(recording: Recording) -> None:
    stamps = recording.joints.stamp_ns
    source = str(recording.provenance.source)
    if not len(stamps):
        raise EpisodeError(source, "joint readings", "none", "a tick is a reading of the joints; name them")
    gaps = np.diff(stamps)
    if (gaps < 0).any():
        index = int(np.flatnonzero(gaps < 0)[0])
        raise EpisodeError(
            source,
            "joint readings in the order of their stamps",
            f"reading {index + 1} is {-int(gaps[index])} ns before the one ahead of it",
            "give the stamps of reception instead, or repair the recording",
        )


def _write(writer: EpisodeWriter, recording: Recording) -> None:
    observations = iter(recording.observations)
    waiting = next(observations, None)
    for stamp, tokens in recording.labels:
        writer.record_label(stamp, tokens)
    for inputs, outputs in _ticks(recording):
        while waiting is not None and waiting.stamp_ns <= inputs.state.stamp_ns:
            writer.record_observation(waiting)
            waiting = next(observations, None)
        writer.record_tick(inputs, outputs, b"")
    while waiting is not None:
        writer.record_observation(waiting)
        waiting = next(observations, None)


def _ticks(recording: Recording) -> Iterator[tuple[TickInputs, TickOutputs]]:
    joints, commands = recording.joints, recording.commands
    nothing = frozen_array(unknown(recording.manifest.joints))
    playing = -1
    for index in range(len(joints.stamp_ns)):
        state = joints.state(index)
        arrivals = recording.chunks.get(index, ())
        accepted = tuple(int(arrival.chunk.chunk_id) for arrival, taken in arrivals if taken)
        playing = accepted[-1] if accepted else playing
        command = JointCommand(CommandMode.POSITION, nothing, float("nan"), 0)
        if commands is not None:
            values = frozen_array(commands.values[index])
            command = JointCommand(commands.mode, values, float(commands.gripper[index]), int(commands.stamp_ns[index]))
        position = command.values if command.mode is CommandMode.POSITION else nothing
        yield (
            TickInputs(index, int(joints.arrival_ns[index]), state, tuple(arrival for arrival, _ in arrivals)),
            TickOutputs(
                target=JointTarget(position, command.gripper_opening),
                command=command,
                safety=SafetyResult(command, SafetyStatus.OFF, (), 1.0, float("nan")),
                executor=ExecutorReport(
                    ExecutorStatus.EXECUTING if playing >= 0 else ExecutorStatus.WAITING,
                    playing,
                    float("nan"),
                    accepted=accepted,
                ),
                request_inference=False,
                commanded_pose=pose(joints.reference[index]),
            ),
        )
