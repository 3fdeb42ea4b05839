"""Ticks to packed rows and event bytes. The recorder and replay share it, so that both compare bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from controllers.doubt import DoubtLevel, DoubtMeasure, DoubtTransition
from controllers.types import FloatArray, JointTarget, OperatorEvent, PoseTarget, Target, TickInputs, TickOutputs
from episodes.schema import (
    DIGEST_BYTES,
    ENUMERATIONS,
    UNKNOWN_STAMP,
    EventKind,
    RowArray,
    TargetKind,
    row_dtype,
    row_layout,
)

_EVENT = struct.Struct("<qqdHIB")  # tick, chunk id, value, length of name, length of message, kind
_MAX_NAME = 0xFFFF
_MAX_INT64 = (1 << 63) - 1


def _codes(key: str) -> dict[Enum, int]:
    return {member: code for code, member in enumerate(ENUMERATIONS[key])}


_MODE = _codes("command_mode")
_STATUS = _codes("safety_status")
_EXECUTOR = _codes("executor_status")
_EVENT_KIND = _codes("kind")
_REASON = _EVENT_KIND[EventKind.SAFETY_REASON]
_JOINT, _POSE, _TWIST = (_codes("target_kind")[kind] for kind in TargetKind)
_EVENT_BIT: dict[Enum, int] = {event: 1 << code for event, code in _codes("events").items()}
_NO_DIGEST = bytes(DIGEST_BYTES)
_NAN3 = np.full(3, np.nan)
_NAN4 = np.full(4, np.nan)
_NAN6 = np.full(6, np.nan)

# Everything of a row that is not a float array is written by one struct call, in the order of the layout.
_SCALARS = [(name, column) for name, column in row_layout() if not (column.shape and column.dtype == "<f8")]
_TAIL = struct.Struct(
    "<" + "".join(f"{DIGEST_BYTES}s" if c.shape else {"<f8": "d", "<i8": "q", "|u1": "B"}[c.dtype] for _, c in _SCALARS)
)


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of the events table, decoded."""

    tick: int
    kind: EventKind
    name: str
    value: float
    chunk_id: int
    message: str


def encode_event(row: EventRow) -> bytes:
    """The event's bytes in the journal and in the hash chain."""
    return _encoded(row.tick, _EVENT_KIND[row.kind], row.name, row.value, clamp_int64(row.chunk_id), row.message)


def _encoded(tick: int, kind: int, name: str, value: float, chunk_id: int, message: str) -> bytes:
    words, text = name.encode()[:_MAX_NAME], message.encode("utf-8", "replace")
    return _EVENT.pack(tick, chunk_id, value, len(words), len(text), kind) + words + text


def decode_events(data: bytes | memoryview) -> Iterator[EventRow]:
    """Decode consecutive events."""
    kinds = tuple(EventKind)
    offset = 0
    while offset < len(data):
        tick, chunk_id, value, name_length, message_length, kind = _EVENT.unpack_from(data, offset)
        start = offset + _EVENT.size
        middle, offset = start + name_length, start + name_length + message_length
        yield EventRow(
            int(tick),
            kinds[int(kind)],
            bytes(data[start:middle]).decode("utf-8", "replace"),
            value,
            chunk_id,
            bytes(data[middle:offset]).decode("utf-8", "replace"),
        )


def encode_block(events: bytes, rows: memoryview) -> bytes:
    """A block of ticks as a record of the journal."""
    return b"".join((len(events).to_bytes(4, "little"), events, rows))


def block_span(block: bytes | bytearray | memoryview, layout: np.dtype[np.void]) -> tuple[int, int]:
    """First tick of a block and number of its ticks, -1 and 0 for an empty one; ``layout`` is that of a packed row."""
    start = 4 + int.from_bytes(block[:4], "little")
    rows: RowArray = np.frombuffer(memoryview(block)[start:], layout)
    return (int(rows["tick"][0]), len(rows)) if len(rows) else (-1, 0)


def clamp_int64(value: int) -> int:
    """``value`` limited to int64, so that a stranger's number cannot break the log."""
    return max(-_MAX_INT64 - 1, min(_MAX_INT64, value))


_Pending = tuple[TickInputs, TickOutputs, bytes, int, int]


class TickPacker:
    """Packs ticks into a preallocated block of rows, and their ragged parts into event bytes.

    Ticks are immutable, so they are only kept at first and packed a few at a time: one call of numpy for many arrays,
    on caches that the first of them has warmed.
    """

    def __init__(self, joints: int, capacity: int, batch: int = 64, known_frames: Sequence[str] = ()) -> None:
        """Allocate a block.

        Args:
            joints: Number of arm joints.
            capacity: Ticks in a full block.
            batch: Ticks to pack at a time.
            known_frames: Target frames that earlier ticks have introduced, by code.
        """
        dtype = row_dtype(joints)
        layout = row_layout()
        width = sum(c.entry_shape(joints)[0] for _, c in layout if c.shape and c.dtype == "<f8")
        self._rows: RowArray = np.zeros(capacity, dtype)
        self._packed = 0
        self._pending: list[_Pending] = []
        self._events: list[bytes] = []
        self._joints = joints
        self._batch = batch
        self._capacity = capacity
        self._itemsize = dtype.itemsize
        self._bytes = memoryview(self._rows.view(np.uint8))
        self._width = width
        strides = (dtype.itemsize, 8)
        self._floats: FloatArray = np.ndarray((capacity, width), np.float64, self._rows.view(np.uint8), strides=strides)
        self._scratch = np.empty(batch * width)
        self._tail_offset = width * 8
        self._nan_joints = np.full(joints, np.nan)
        self._frames: dict[str, int] = {name: code for code, name in enumerate(known_frames)}

    @property
    def count(self) -> int:
        """Ticks taken since the last :meth:`clear`."""
        return self._packed + len(self._pending)

    @property
    def full(self) -> bool:
        """Whether the block must be taken before the next tick."""
        return self._packed + len(self._pending) == self._capacity

    @property
    def frames(self) -> list[str]:
        """Target frames seen so far, by code."""
        self._settle()
        return list(self._frames)

    @property
    def rows(self) -> RowArray:
        """The rows packed since the last :meth:`clear`; valid until then."""
        self._settle()
        return self._rows[: self._packed]

    @property
    def events(self) -> list[bytes]:
        """The events of these ticks."""
        self._settle()
        return self._events

    def block(self) -> memoryview:
        """Bytes of the rows packed since the last :meth:`clear`; valid until then."""
        self._settle()
        return self._bytes[: self._packed * self._itemsize]

    def clear(self) -> None:
        """Start a new block in the same memory."""
        self._packed = 0
        self._pending = []
        self._events = []

    def pack(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = UNKNOWN_STAMP,
        applied_ns: int = UNKNOWN_STAMP,
    ) -> None:
        """Take one tick.

        Raises:
            ValueError: The arm's arrays do not have the shape that the layout declares.
        """
        joints = inputs.state.joint_position.size
        if joints != self._joints or outputs.safety.command.values.size != joints:
            raise ValueError(
                f"tick {inputs.tick}: expected joint arrays of shape ({self._joints},), found ({joints},) sensed and "
                f"({outputs.safety.command.values.size},) applied"
            )
        pending = self._pending
        pending.append((inputs, outputs, physics_digest, sent_ns, applied_ns))
        if len(pending) >= self._batch:
            self._settle()

    def _settle(self) -> None:
        """Pack what has been taken."""
        pending = self._pending
        if not pending:
            return
        arrays: list[Any] = []
        for item in pending:
            self._gather(item[0], item[1], arrays)
        start, stop = self._packed, self._packed + len(pending)
        flat = self._scratch[: len(pending) * self._width]
        try:
            np.concatenate(arrays, out=flat)
        except ValueError:
            self._pending = [item for item in pending if self._width_of(item) == self._width]
            bad = next(item for item in pending if self._width_of(item) != self._width)
            raise ValueError(
                f"tick {bad[0].tick}: expected arrays of the layout's shapes, {self._width} numbers, found "
                f"{self._width_of(bad)}; compare its state, target and commands with episodes/schema.py"
            ) from None
        self._floats[start:stop] = flat.reshape(len(pending), self._width)
        for index, item in enumerate(pending, start):
            self._pack_rest(index, *item)
        self._packed = stop
        self._pending = []

    def _width_of(self, item: _Pending) -> int:
        arrays: list[Any] = []
        self._gather(item[0], item[1], arrays)
        return sum(array.size for array in arrays)

    def _gather(self, inputs: TickInputs, outputs: TickOutputs, arrays: list[Any]) -> None:
        """Add the tick's float arrays in the order of the layout."""
        state, target, applied = inputs.state, outputs.target, outputs.safety.command
        pose, commanded = state.ee_pose, outputs.commanded_pose
        twist, joint_target = _NAN6, self._nan_joints
        target_position, target_quaternion = _NAN3, _NAN4
        if isinstance(target, PoseTarget):
            twist = target.twist
            target_position, target_quaternion = target.pose.position, target.pose.quaternion
        elif isinstance(target, JointTarget):
            joint_target = target.position
        else:
            twist = target.twist
        arrays += (
            state.joint_position,
            state.joint_velocity,
            state.joint_effort,
            pose.position,
            pose.quaternion,
            state.wrench,
            target_position,
            target_quaternion,
            twist,
            joint_target,
            outputs.command.values,
            applied.values,
            commanded.position,
            commanded.quaternion,
        )

    def _pack_rest(
        self, index: int, inputs: TickInputs, outputs: TickOutputs, digest: bytes, sent_ns: int, applied_ns: int
    ) -> None:
        """Pack all that is no array of floats."""
        state, target, candidate, safety = inputs.state, outputs.target, outputs.command, outputs.safety
        applied, executor = safety.command, outputs.executor
        first_event = len(self._events)
        mask = 0
        frame = self._frames.get(target.frame)
        if frame is None:
            frame = self._new_frame(inputs.tick, target)
        if inputs.events or executor.rejections or executor.accepted or safety.reasons or executor.doubt:
            mask = self._pack_events(inputs, outputs)
        _TAIL.pack_into(
            self._bytes,
            index * self._itemsize + self._tail_offset,
            state.gripper_opening,
            executor.phase,
            target.gripper_opening,
            candidate.gripper_opening,
            safety.speed_scale,
            safety.min_margin,
            applied.gripper_opening,
            inputs.tick,
            inputs.now_ns,
            len(inputs.arrivals),
            state.stamp_ns,
            executor.chunk_id,
            candidate.stamp_ns,
            applied.stamp_ns,
            len(self._events) - first_event,
            sent_ns,
            applied_ns,
            mask,
            _EXECUTOR[executor.status],
            _POSE if isinstance(target, PoseTarget) else _JOINT if isinstance(target, JointTarget) else _TWIST,
            frame,
            _MODE[candidate.mode],
            _STATUS[safety.status],
            _MODE[applied.mode],
            outputs.request_inference,
            digest or _NO_DIGEST,
        )

    def _new_frame(self, tick: int, target: Target) -> int:
        code = len(self._frames)
        if code > 255:
            raise ValueError(f"expected at most 256 target frames in an episode, found one more: {target.frame!r}")
        self._frames[target.frame] = code
        row = EventRow(tick, EventKind.TARGET_FRAME, target.frame, math.nan, code, "")
        self._events.append(encode_event(row))
        return code

    def _pack_events(self, inputs: TickInputs, outputs: TickOutputs) -> int:
        tick, executor, add = inputs.tick, outputs.executor, self._events.append
        mask = 0
        for event in inputs.events:
            mask |= _EVENT_BIT[event]
            add(encode_event(EventRow(tick, EventKind.OPERATOR, _name(event), math.nan, -1, "")))
        for chunk_id in executor.accepted:
            add(encode_event(EventRow(tick, EventKind.ACCEPTED, "", math.nan, chunk_id, "")))
        for change in executor.doubt:
            row = EventRow(tick, EventKind.DOUBT, change.level.value, change.value, change.chunk_id, doubt_text(change))
            add(encode_event(row))
        for refused in executor.rejections:
            name = str(refused.reason.value)
            add(encode_event(EventRow(tick, EventKind.REJECTION, name, math.nan, refused.chunk_id, refused.message)))
        for reason in outputs.safety.reasons:
            add(_encoded(tick, _REASON, reason.limit, reason.margin, -1, reason.message))
        return mask


def doubt_text(change: DoubtTransition) -> str:
    """What was compared with what: the message of a doubt event, from which :func:`doubt_transition` reads it back."""
    relation = "above" if change.value > change.threshold else "at most"
    return f"{change.measure.value} {relation} {change.threshold!r}"


def doubt_transition(row: EventRow) -> DoubtTransition:
    """The change of level that a doubt event tells."""
    measure, _, rest = row.message.partition(" ")
    threshold = float(rest.rpartition(" ")[2])
    return DoubtTransition(DoubtLevel(row.name), DoubtMeasure(measure), row.value, threshold, row.chunk_id)


def _name(event: OperatorEvent) -> str:
    return str(event.value)
