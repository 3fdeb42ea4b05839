"""Packed rows back to the typed inputs and outputs of a tick."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from controllers.types import (
    ChunkArrival,
    CommandMode,
    ExecutorReport,
    ExecutorStatus,
    FloatArray,
    JointCommand,
    JointTarget,
    OperatorEvent,
    Pose,
    PoseTarget,
    Rejection,
    RejectionReason,
    RobotState,
    SafetyReason,
    SafetyResult,
    SafetyStatus,
    Target,
    TickInputs,
    TickOutputs,
    TwistTarget,
)
from episodes.chunks import ChunkRecord
from episodes.errors import EpisodeError
from episodes.jsontypes import as_list, as_mapping
from episodes.packing import EventRow, doubt_transition
from episodes.schema import ENUMERATIONS, EventKind, TargetKind, TickTable

_MODES = tuple(CommandMode)
_STATUSES = tuple(SafetyStatus)
_EXECUTOR = tuple(ExecutorStatus)
_KINDS = tuple(TargetKind)
_NO_DIGEST = bytes(16)


def check_enumerations(where: str, recorded: object) -> None:
    """Make sure that codes still mean what they meant.

    Raises:
        EpisodeError: A list of names is not a beginning of ours.
    """
    names = as_mapping(recorded)
    for key, members in ENUMERATIONS.items():
        ours = [str(member.value) for member in members]
        theirs = as_list(names.get(key))
        if theirs is None or theirs != ours[: len(theirs)]:
            raise EpisodeError(
                f"{where}: codes of {key}", str(ours), str(theirs), "use the release that wrote the episode"
            )


class TickDecoder:
    """Rebuilds what one tick saw and did, bit for bit."""

    def __init__(
        self,
        table: TickTable,
        events: Sequence[EventRow],
        chunks: Sequence[tuple[int, ChunkRecord]],
        target_frames: Sequence[str],
    ) -> None:
        """Index the ragged tables by tick."""
        self._table = table
        self._events = {tick: list(rows) for tick, rows in groupby(events, key=lambda event: event.tick)}
        self._chunks: dict[int, list[ChunkRecord]] = {}
        for tick, chunk in chunks:
            self._chunks.setdefault(tick, []).append(chunk)
        self._frames = target_frames
        # Plain Python lists: scalar access is several times faster than on numpy arrays.
        self._ticks: list[int] = table.tick.tolist()
        self._now: list[int] = table.now_ns.tolist()
        self._gripper: list[float] = table.state_gripper_opening.tolist()
        self._stamps: list[int] = table.state_stamp_ns.tolist()
        self._sent: list[int] = table.sent_ns.tolist()
        self._applied: list[int] = table.applied_ns.tolist()

    def __len__(self) -> int:
        """Number of ticks."""
        return len(self._ticks)

    def stamp_ns(self, index: int) -> int:
        """Stamp of the sensed state."""
        return self._stamps[index]

    def write_stamps(self, index: int) -> tuple[int, int]:
        """When the command was handed to the robot and when the robot had taken it, ns; -1 if unknown."""
        return self._sent[index], self._applied[index]

    def now_ns(self, index: int) -> int:
        """The tick's clock."""
        return self._now[index]

    def tick(self, index: int) -> int:
        """The tick's number."""
        return self._ticks[index]

    def state(self, index: int) -> RobotState:
        """The sensed state."""
        table = self._table
        return RobotState(
            joint_position=_copy(table.state_joint_position[index]),
            joint_velocity=_copy(table.state_joint_velocity[index]),
            joint_effort=_copy(table.state_joint_effort[index]),
            ee_pose=_pose(table.state_ee_pose[index]),
            wrench=_copy(table.state_wrench[index]),
            gripper_opening=self._gripper[index],
            stamp_ns=self._stamps[index],
        )

    def events(self, index: int) -> tuple[OperatorEvent, ...]:
        """Operator events, in order."""
        rows = self._events.get(self._ticks[index])
        if rows is None:
            return ()
        return tuple(OperatorEvent(row.name) for row in rows if row.kind is EventKind.OPERATOR)

    def arrivals(self, index: int) -> tuple[ChunkArrival, ...]:
        """Chunks that arrived, in order.

        Raises:
            EpisodeError: A chunk was too large to log.
        """
        chunks = self._chunks.get(self._ticks[index])
        return () if chunks is None else tuple(chunk.to_arrival() for chunk in chunks)

    def inputs(self, index: int) -> TickInputs:
        """All that entered the tick."""
        return TickInputs(
            self._ticks[index],
            self._now[index],
            self.state(index),
            self.arrivals(index),
            self.events(index),
        )

    def physics_digest(self, index: int) -> bytes:
        """Digest of the physics state, empty where there was none."""
        digest = self._table.physics_digest[index].tobytes()
        return b"" if digest == _NO_DIGEST else digest

    def outputs(self, index: int) -> TickOutputs:
        """All that left the tick."""
        table = self._table
        events = self._events.get(self._ticks[index], [])
        return TickOutputs(
            target=self._target(index),
            command=JointCommand(
                _MODES[int(table.command_mode[index])],
                _copy(table.command_values[index]),
                float(table.command_gripper_opening[index]),
                int(table.command_stamp_ns[index]),
            ),
            safety=SafetyResult(
                command=JointCommand(
                    _MODES[int(table.applied_mode[index])],
                    _copy(table.applied_values[index]),
                    float(table.applied_gripper_opening[index]),
                    int(table.applied_stamp_ns[index]),
                ),
                status=_STATUSES[int(table.safety_status[index])],
                reasons=tuple(
                    SafetyReason(row.name, row.value, row.message)
                    for row in events
                    if row.kind is EventKind.SAFETY_REASON
                ),
                speed_scale=float(table.safety_speed_scale[index]),
                min_margin=float(table.safety_min_margin[index]),
            ),
            executor=ExecutorReport(
                status=_EXECUTOR[int(table.executor_status[index])],
                chunk_id=int(table.executor_chunk_id[index]),
                phase=float(table.executor_phase[index]),
                rejections=tuple(
                    Rejection(row.chunk_id, RejectionReason(row.name), row.message)
                    for row in events
                    if row.kind is EventKind.REJECTION
                ),
                accepted=tuple(row.chunk_id for row in events if row.kind is EventKind.ACCEPTED),
                doubt=tuple(doubt_transition(row) for row in events if row.kind is EventKind.DOUBT),
            ),
            request_inference=bool(table.request_inference[index]),
            commanded_pose=_pose(table.commanded_pose[index]),
        )

    def _target(self, index: int) -> Target:
        table = self._table
        gripper = float(table.target_gripper_opening[index])
        frame = self._frames[int(table.target_frame[index])]
        match _KINDS[int(table.target_kind[index])]:
            case TargetKind.JOINT:
                return JointTarget(_copy(table.target_joint_position[index]), gripper, frame)
            case TargetKind.POSE:
                pose, twist = _pose(table.target_pose[index]), _copy(table.target_twist[index])
                return PoseTarget(pose, twist, gripper, frame)
            case TargetKind.TWIST:
                return TwistTarget(_copy(table.target_twist[index]), gripper, frame)


def _copy(values: FloatArray) -> FloatArray:
    if not values.flags.writeable:
        return values  # a row of a table that nobody can change
    array = np.array(values)
    array.flags.writeable = False
    return array


def _pose(values: FloatArray) -> Pose:
    return Pose(_copy(values[:3]), _copy(values[3:]))
