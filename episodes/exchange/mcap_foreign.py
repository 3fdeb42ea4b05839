"""Bags recorded by other tools: joint states become ticks, pictures observations, commands what was applied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controllers.types import NANOSECONDS, CommandMode, FloatArray, IntArray, Observation
from episodes.compression import compress, decompress
from episodes.errors import EpisodeError
from episodes.exchange import ros2
from episodes.exchange.bag_file import BagFile, BagMessage, picture_of
from episodes.exchange.foreign import (
    JointCommands,
    JointReadings,
    Recording,
    foreign_manifest,
    median_rate_hz,
    pose,
    unknown,
    write_recording,
)
from episodes.exchange.mcap_options import McapImportOptions, Topics, array_mode, choose_topics
from episodes.provenance import Provenance

_NOT_ARM = ("gripper", "finger")


@dataclass(frozen=True, slots=True)
class ForeignEpisode:
    """What became of one bag.

    Attributes:
        path: The new store.
        lacks: What the bag does not hold.
    """

    path: Path
    lacks: tuple[str, ...]


def read_foreign(path: Path, options: McapImportOptions, out: Path) -> ForeignEpisode:
    """Make an episode of the messages of one bag.

    Raises:
        EpisodeError: There are no joint states, or a chosen topic does not fit.
    """
    bag = BagFile(path)
    topics = choose_topics(bag.topics(), options, str(path))
    if not topics.joint_states:
        raise EpisodeError(
            str(path),
            f"a topic of {ros2.JOINT_STATE}",
            f"only {', '.join(f'{topic} ({kind})' for topic, kind in bag.topics().items()) or 'no topics'}",
            "a tick is a reading of the joints; record them, too",
        )
    content = _Content(str(path), topics, options)
    for message in bag.messages(content.wanted()):
        content.take(message)
    recording = content.recording(path)
    stored = write_recording(out / f"{path.stem}.zarr", recording)
    return ForeignEpisode(stored, recording.provenance.lacks)


@dataclass
class _Series:
    """Stamped values of one topic."""

    stamps: list[int] = field(default_factory=list[int])
    values: list[FloatArray] = field(default_factory=list[FloatArray])

    def add(self, stamp: int, values: Sequence[float] | FloatArray) -> None:
        self.stamps.append(stamp)
        self.values.append(np.asarray(values, np.float64))

    def held(self, at: IntArray, size: int) -> tuple[FloatArray, IntArray]:
        """The last value (T, size) at or before each moment, NaN before the first; and its stamp, 0 before."""
        found, when = unknown(len(at), size), np.zeros(len(at), np.int64)
        if self.stamps:
            order = np.argsort(np.array(self.stamps), kind="stable")
            stamps, values = np.array(self.stamps, np.int64)[order], np.stack(self.values)[order]
            place = np.searchsorted(stamps, at, "right") - 1
            known = place >= 0
            found[known], when[known] = values[place[known]], stamps[place[known]]
        return found, when


@dataclass(frozen=True, slots=True)
class _Picture:
    shape: tuple[int, ...]
    data: bytes


@dataclass
class _Content:
    """Collects what the messages say."""

    where: str
    topics: Topics
    options: McapImportOptions
    names: tuple[str, ...] = ()
    joints: _Series = field(default_factory=_Series)
    arrivals: list[int] = field(default_factory=list[int])
    grip: _Series = field(default_factory=_Series)
    wrench: _Series = field(default_factory=_Series)
    pose: _Series = field(default_factory=_Series)
    commands: _Series = field(default_factory=_Series)
    mode: CommandMode = CommandMode.POSITION
    said: str = ""
    pictures: dict[int, dict[str, _Picture]] = field(default_factory=dict[int, dict[str, _Picture]])
    partial: int = 0

    def wanted(self) -> list[str]:
        """Topics to read."""
        t = self.topics
        single = (t.joint_states, t.command, t.wrench, t.pose, t.gripper, t.instruction)
        return [topic for topic in (*single, *t.cameras.values()) if topic]

    def take(self, message: BagMessage) -> None:
        """Take in one message."""
        decoded, topics = message.decoded(), self.topics
        stamp = self._stamp(message, decoded)
        if message.topic == topics.joint_states:
            self._take_joints(message, decoded, stamp)
        elif message.topic == topics.command:
            self._take_command(message, decoded, stamp)
        elif message.topic == topics.wrench:
            f, t = decoded.wrench.force, decoded.wrench.torque
            self.wrench.add(stamp, (f.x, f.y, f.z, t.x, t.y, t.z))
        elif message.topic == topics.pose:
            p, q = decoded.pose.position, decoded.pose.orientation
            self.pose.add(stamp, (p.x, p.y, p.z, q.w, q.x, q.y, q.z))
        elif message.topic == topics.gripper:
            self.grip.add(stamp, (decoded.data,))
        elif message.topic == topics.instruction:
            self.said = self.said or str(decoded.data)
        else:
            camera = next(name for name, topic in topics.cameras.items() if topic == message.topic)
            picture = picture_of(message, decoded)
            self.pictures.setdefault(stamp, {})[camera] = _Picture(picture.shape, compress(picture.tobytes()))

    def _stamp(self, message: BagMessage, decoded: Any) -> int:
        header = getattr(decoded, "header", None)
        if self.options.stamps == "log" or header is None:
            return message.log_time_ns
        stamp = ros2.stamp_ns(header.stamp)
        return stamp if stamp != 0 else message.log_time_ns  # an unset header

    def _take_joints(self, message: BagMessage, decoded: Any, stamp: int) -> None:
        names = list(decoded.name)
        if not self.names:
            given = self.options.joints
            self.names = given or tuple(n for n in names if not any(word in n.lower() for word in _NOT_ARM))
            missing = [name for name in self.names if name not in names]
            if missing or not self.names:
                raise EpisodeError(
                    f"{self.where}: joints of {message.topic}",
                    f"{', '.join(self.names) or 'at least one joint'}",
                    f"{', '.join(names)}",
                    "name the arm's joints with --mcap.joints",
                )
        if any(name not in names for name in self.names):
            self.partial += 1
            return
        order = [names.index(name) for name in self.names]
        row = [_ordered(values, order) for values in (decoded.position, decoded.velocity, decoded.effort)]
        self.joints.add(stamp, np.concatenate(row))
        self.arrivals.append(message.log_time_ns)
        fingers = [names.index(name) for name in self.options.gripper_joints if name in names]
        if fingers:
            self.grip.add(stamp, (float(sum(decoded.position[index] for index in fingers)),))

    def _take_command(self, message: BagMessage, decoded: Any, stamp: int) -> None:
        if not self.names:
            return  # before the first reading there is no tick to command
        if message.type == ros2.FLOATS:
            self.mode = array_mode(message.topic, self.options.command_mode)
            self._check_width(message, len(decoded.data))
            self.commands.add(stamp, decoded.data)
        elif message.type == ros2.TRAJECTORY:
            self._take_trajectory(message, decoded, stamp)
        else:
            names = list(decoded.name) or list(self.names)
            fields = (decoded.position, decoded.velocity, decoded.effort)
            for mode, values in zip(CommandMode, fields, strict=True):
                if len(values) and all(name in names for name in self.names):
                    self.mode = mode
                    self.commands.add(stamp, _ordered(values, [names.index(name) for name in self.names]))
                    return

    def _take_trajectory(self, message: BagMessage, decoded: Any, stamp: int) -> None:
        """Each point is in force from when the one before it is due; a new trajectory replaces the rest of the old."""
        names = list(decoded.joint_names)
        if any(name not in names for name in self.names):
            return
        order = [names.index(name) for name in self.names]
        keep = [index for index, when in enumerate(self.commands.stamps) if when < stamp]
        self.commands.stamps = [self.commands.stamps[index] for index in keep]
        self.commands.values = [self.commands.values[index] for index in keep]
        begin = stamp
        for point in decoded.points:
            self._check_width(message, len(point.positions), len(names))
            self.commands.add(begin, _ordered(point.positions, order))
            duration = point.time_from_start
            begin = stamp + int(duration.sec) * NANOSECONDS + int(duration.nanosec)

    def _check_width(self, message: BagMessage, found: int, expected: int | None = None) -> None:
        wanted = len(self.names) if expected is None else expected
        if found != wanted:
            raise EpisodeError(
                f"{self.where}: {message.topic}",
                f"{wanted} values, one a joint",
                str(found),
                "choose another topic with --mcap.command or other joints with --mcap.joints",
            )

    # ------------------------------------------------------------------------------------------ tables

    def recording(self, path: Path) -> Recording:
        """Everything, as an episode."""
        n, stamps = len(self.names), np.array(self.joints.stamps, np.int64)
        rows = np.stack(self.joints.values) if len(stamps) else unknown(0, 3 * n)
        joints = JointReadings(
            stamp_ns=stamps,
            arrival_ns=np.array(self.arrivals, np.int64),
            position=rows[:, :n],
            velocity=rows[:, n : 2 * n],
            effort=rows[:, 2 * n :],
            ee_pose=self.pose.held(stamps, 7)[0],
            wrench=self.wrench.held(stamps, 6)[0],
            gripper=self.grip.held(stamps, 1)[0][:, 0],
            reference=unknown(len(stamps), 7),
        )
        commands = None
        if self.commands.stamps:
            values, when = self.commands.held(stamps, n)
            commands = JointCommands(mode=self.mode, values=values, gripper=unknown(len(stamps)), stamp_ns=when)
        words = self.options.instruction or self.said
        manifest = foreign_manifest(
            path.stem, self.options.robot or "unknown", self.names, median_rate_hz(stamps), words
        )
        provenance = Provenance("mcap", path.name, self.names, tuple(self._lacks(joints, commands)))
        return Recording(
            manifest=manifest,
            provenance=provenance,
            joints=joints,
            commands=commands,
            observations=self._observations(joints, words),
            chunks={},
        )

    def _observations(self, joints: JointReadings, words: str) -> Iterator[Observation]:
        for stamp in sorted(self.pictures):
            index = max(0, int(np.searchsorted(joints.stamp_ns, stamp, "right")) - 1)
            images = {camera: _unpacked(picture) for camera, picture in sorted(self.pictures[stamp].items())}
            yield Observation(images, joints.state(index), pose(joints.reference[index]), words, stamp)

    def _lacks(self, joints: JointReadings, commands: JointCommands | None) -> Iterator[str]:
        yield "physics and scene"
        yield "action tokens and the policy's chunks"
        yield "targets and safety verdicts"
        if commands is None:
            yield "joint commands"
        else:
            between = len(self.commands.stamps) - len(np.unique(commands.stamp_ns[commands.stamp_ns != 0]))
            if between:
                yield f"{between} of {len(self.commands.stamps)} commands, which no reading of the joints follows"
        for name, values in (
            ("joint velocities", joints.velocity),
            ("joint efforts", joints.effort),
            ("the wrist wrench", joints.wrench),
            ("the end effector's pose", joints.ee_pose),
            ("the gripper's opening", joints.gripper),
        ):
            if np.isnan(values).all():
                yield name
        if not self.pictures:
            yield "pictures"
        if self.partial:
            yield f"{self.partial} joint states that do not name all {len(self.names)} joints"


def _ordered(values: npt.NDArray[np.float64], order: list[int]) -> FloatArray:
    """Values in the order of our joints; unknown where the message leaves them out."""
    return np.asarray(values[order], np.float64) if len(values) > max(order) else unknown(len(order))


def _unpacked(picture: _Picture) -> npt.NDArray[np.uint8]:
    return np.frombuffer(decompress(picture.data), np.uint8).reshape(picture.shape)
