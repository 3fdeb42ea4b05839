"""Ticks to packed rows and event bytes. The recorder and replay share it, so that both compare bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from controllers.types import FloatArray, JointTarget, OperatorEvent, PoseTarget, Target, TickInputs, TickOutputs
from episodes.schema import (
    DIGEST_BYTES,
    ENUMERATIONS,
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
_JOINT, _POSE, _TWIST = (_codes("target_kind")[kind] for kind in TargetKind)
_EVENT_BIT: dict[Enum, int] = {event: 1 << code for event, code in _codes("events").items()}
_NO_DIGEST = bytes(DIGEST_BYTES)
_NAN7 = np.full(7, np.nan)
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
    name = row.name.encode()[:_MAX_NAME]
    message = row.message.encode("utf-8", "replace")
    header = _EVENT.pack(row.tick, clamp_int64(row.chunk_id), row.value, len(name), len(message), _EVENT_KIND[row.kind])
    return header + name + message


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


def clamp_int64(value: int) -> int:
    """``value`` limited to int64, so that a stranger's number cannot break the log."""
    return max(-_MAX_INT64 - 1, min(_MAX_INT64, value))


class TickPacker:
    """Packs ticks into a preallocated block of rows, and their ragged parts into event bytes."""

    def __init__(self, joints: int, capacity: int) -> None:
        """Allocate a block.

        Args:
            joints: Number of arm joints.
            capacity: Ticks in a full block.
        """
        dtype = row_dtype(joints)
        layout = row_layout()
        float_arrays = [c.entry_shape(joints)[0] for _, c in layout if c.shape and c.dtype == "<f8"]
        self.rows: RowArray = np.zeros(capacity, dtype)
        self.count = 0
        self.events: list[bytes] = []
        self._capacity = capacity
        self._itemsize = dtype.itemsize
        self._bytes = memoryview(self.rows.view(np.uint8))
        width = sum(float_arrays)
        strides = (dtype.itemsize, 8)
        flat: FloatArray = np.ndarray((capacity, width), np.float64, self.rows.view(np.uint8), strides=strides)
        self._floats: list[FloatArray] = list(flat)
        self._tail_offset = width * 8
        self._nan_joints = np.full(joints, np.nan)
        self._frames: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether the block must be taken before the next tick."""
        return self.count == self._capacity

    @property
    def frames(self) -> list[str]:
        """Target frames seen so far, by code."""
        return list(self._frames)

    def block(self) -> memoryview:
        """Bytes of the rows packed since the last :meth:`clear`; valid until then."""
        return self._bytes[: self.count * self._itemsize]

    def clear(self) -> None:
        """Start a new block in the same memory."""
        self.count = 0
        self.events = []

    def pack(self, inputs: TickInputs, outputs: TickOutputs, physics_digest: bytes) -> None:
        """Pack one tick.

        Raises:
            ValueError: An array does not have the shape that the layout declares.
        """
        index = self.count
        state, target, candidate, safety = inputs.state, outputs.target, outputs.command, outputs.safety
        applied, executor = safety.command, outputs.executor
        pose, commanded = state.ee_pose, outputs.commanded_pose
        twist, joint_target = _NAN6, self._nan_joints
        if isinstance(target, PoseTarget):
            kind, twist = _POSE, target.twist
            target_position, target_quaternion = target.pose.position, target.pose.quaternion
        else:
            target_position, target_quaternion = _NAN7[:3], _NAN7[:4]
            if isinstance(target, JointTarget):
                kind, joint_target = _JOINT, target.position
            else:
                kind, twist = _TWIST, target.twist
        np.concatenate(
            (
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
                candidate.values,
                applied.values,
                commanded.position,
                commanded.quaternion,
            ),
            out=self._floats[index],
        )
        first_event = len(self.events)
        mask = 0
        frame = self._frames.get(target.frame)
        if frame is None:
            frame = self._new_frame(inputs.tick, target)
        if inputs.events or executor.rejections or executor.accepted or safety.reasons:
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
            len(self.events) - first_event,
            mask,
            _EXECUTOR[executor.status],
            kind,
            frame,
            _MODE[candidate.mode],
            _STATUS[safety.status],
            _MODE[applied.mode],
            outputs.request_inference,
            physics_digest or _NO_DIGEST,
        )
        self.count = index + 1

    def _new_frame(self, tick: int, target: Target) -> int:
        code = len(self._frames)
        if code > 255:
            raise ValueError(f"expected at most 256 target frames in an episode, found one more: {target.frame!r}")
        self._frames[target.frame] = code
        row = EventRow(tick, EventKind.TARGET_FRAME, target.frame, math.nan, code, "")
        self.events.append(encode_event(row))
        return code

    def _pack_events(self, inputs: TickInputs, outputs: TickOutputs) -> int:
        tick, executor, add = inputs.tick, outputs.executor, self.events.append
        mask = 0
        for event in inputs.events:
            mask |= _EVENT_BIT[event]
            add(encode_event(EventRow(tick, EventKind.OPERATOR, _name(event), math.nan, -1, "")))
        for chunk_id in executor.accepted:
            add(encode_event(EventRow(tick, EventKind.ACCEPTED, "", math.nan, chunk_id, "")))
        for refused in executor.rejections:
            name = str(refused.reason.value)
            add(encode_event(EventRow(tick, EventKind.REJECTION, name, math.nan, refused.chunk_id, refused.message)))
        for reason in outputs.safety.reasons:
            add(encode_event(EventRow(tick, EventKind.SAFETY_REASON, reason.limit, reason.margin, -1, reason.message)))
        return mask


def _name(event: OperatorEvent) -> str:
    return str(event.value)
