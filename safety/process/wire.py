"""Messages as bytes: fixed layouts, no pickle. Every field is checked again by whoever reads it.

A message carries what the controller sent even if it is no fit command (another shape, another type, an unknown mode):
the filter then says what is wrong with it, as it would in the controller's own process.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np

from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    OperatorEvent,
    Pose,
    RobotState,
    SafetyReason,
    SafetyResult,
)
from safety.process.contract import EVENTS, MODES, STATUSES
from safety.process.records import EventKind, KernelCounters, KernelEvent, KernelTick

CAPACITY = 16  # values of a command
_REASONS = 6
_NO_ARRAY, _NO_VECTOR = -1, -2
_INT64 = 1 << 63
_KINDS = tuple(EventKind)

_COMMAND = struct.Struct(f"=qqqd{8 * CAPACITY}s")  # mode, count, stamp, gripper, values
_REASON = struct.Struct("=48sd152s")  # limit, margin, message
_VERDICT = struct.Struct("=qddq")  # status, speed scale, smallest margin, number of reasons
_MESSAGE = struct.Struct("=QQ5Q")  # session, number, how often each event was sent
_TICK = struct.Struct("=qqq????16s5?")  # tick, now, lateness, fresh and written flags, digest, events
_EVENT = struct.Struct("=qqqqqq48sd256s")  # index, kind, tick, now, before, after, limit, margin, message

MESSAGE_SIZE = _MESSAGE.size + _COMMAND.size
EVENT_SIZE = _EVENT.size


# --------------------------------------------------------------------------------------------- commands


def pack_command(command: JointCommand) -> bytes:
    """A command, fit or not, as bytes. Never raises."""
    values, opening, stamp = cast(object, command.values), cast(object, command.gripper_opening), command.stamp_ns
    count, blob = _NO_ARRAY, b""
    numbers = isinstance(opening, (int, float)) and isinstance(cast(object, stamp), int)
    if numbers and isinstance(values, np.ndarray) and cast(FloatArray, values).dtype == np.float64:
        array = cast(FloatArray, values)
        count = _NO_VECTOR
        if array.ndim == 1 and len(array) <= CAPACITY:
            count, blob = len(array), array.tobytes()
    mode = cast(object, command.mode)
    code = MODES.index(mode) if isinstance(mode, CommandMode) else -1
    return _COMMAND.pack(
        code,
        count,
        max(-_INT64, min(stamp, _INT64 - 1)) if numbers else 0,
        _double(opening) if numbers else 0.0,
        blob,
    )


def _double(number: object) -> float:
    try:
        return float(cast(float, number))
    except OverflowError:
        return float("inf")


def unpack_command(raw: tuple[Any, ...]) -> JointCommand:
    """A command from the fields of its layout; unfit parts stay unfit."""
    code, count, stamp, gripper, blob = cast(tuple[int, int, int, float, bytes], raw)
    if 0 <= count <= CAPACITY:
        values = np.frombuffer(blob, dtype=np.float64, count=count)
    else:
        values = cast(FloatArray, None) if count == _NO_ARRAY else np.empty((0,))
    mode = MODES[code] if 0 <= code < len(MODES) else cast(CommandMode, f"mode {code}")
    return JointCommand(mode, values, gripper, stamp)


@dataclass(frozen=True, slots=True)
class CommandMessage:
    """What a controller sends.

    Attributes:
        session: Random identity of the controller's attachment.
        number: Counts the messages of a session, from 1.
        events: How often each of :data:`~safety.process.contract.EVENTS` was sent so far: a message that replaces an
            unread one loses no event.
        command: The candidate.
    """

    session: int
    number: int
    events: tuple[int, ...]
    command: JointCommand

    def pack(self) -> bytes:
        """As bytes."""
        return _MESSAGE.pack(self.session, self.number, *self.events) + pack_command(self.command)

    @staticmethod
    def unpack(raw: bytes) -> CommandMessage:
        """From bytes."""
        session, number, *events = _MESSAGE.unpack_from(raw, 0)
        command = unpack_command(_COMMAND.unpack_from(raw, _MESSAGE.size))
        return CommandMessage(session, number, tuple(events), command)


# ------------------------------------------------------------------------------------------------ ticks


class TickCodec:
    """Ticks of an arm with ``n`` joints as bytes of one size."""

    def __init__(self, joints: int) -> None:
        """Fix the layout."""
        vector = f"{8 * joints}s"
        # joint position, velocity and effort; pose; wrench; gripper opening; stamp
        self._state = struct.Struct(f"={vector}{vector}{vector}24s32s48sdq")
        self._zeros = bytes(8 * joints)
        self._parts = (self._state.size, _COMMAND.size, _COMMAND.size, _VERDICT.size)
        self.size = _TICK.size + sum(self._parts) + _REASONS * _REASON.size

    def pack(self, tick: KernelTick) -> bytes:
        """As bytes. Reasons beyond the sixth are left out, words beyond their room are cut."""
        state, result = tick.state, tick.result
        reasons = result.reasons[:_REASONS]
        return b"".join(
            (
                _TICK.pack(
                    tick.tick,
                    tick.now_ns,
                    tick.lateness_ns,
                    tick.state_fresh,
                    tick.candidate_fresh,
                    tick.written,
                    bool(tick.physics_digest),
                    tick.physics_digest,
                    *(event in tick.events for event in EVENTS),
                ),
                self._state.pack(
                    self._bytes(state.joint_position),
                    self._bytes(state.joint_velocity),
                    self._bytes(state.joint_effort),
                    self._bytes(state.ee_pose.position),
                    self._bytes(state.ee_pose.quaternion),
                    self._bytes(state.wrench),
                    state.gripper_opening,
                    max(-_INT64, min(state.stamp_ns, _INT64 - 1)),
                ),
                pack_command(tick.candidate),
                pack_command(result.command),
                _VERDICT.pack(STATUSES.index(result.status), result.speed_scale, result.min_margin, len(reasons)),
                *(_REASON.pack(_raw(r.limit, 48), r.margin, _raw(r.message, 152)) for r in reasons),
                bytes((_REASONS - len(reasons)) * _REASON.size),
            )
        )

    @staticmethod
    def _bytes(array: FloatArray) -> bytes:
        return np.ascontiguousarray(array, dtype=np.float64).tobytes()

    def unpack(self, raw: bytes) -> KernelTick:
        """From bytes; arrays are read-only views of ``raw``."""
        tick, now, late, state_fresh, fresh, written, has_digest, digest, *flags = _TICK.unpack_from(raw, 0)
        offset = _TICK.size
        q, qd, effort, position, quaternion, wrench, opening, stamp = self._state.unpack_from(raw, offset)
        offset += self._state.size
        candidate = unpack_command(_COMMAND.unpack_from(raw, offset))
        offset += _COMMAND.size
        command = unpack_command(_COMMAND.unpack_from(raw, offset))
        offset += _COMMAND.size
        status, scale, margin, count = _VERDICT.unpack_from(raw, offset)
        offset += _VERDICT.size
        reasons: list[SafetyReason] = []
        for index in range(count):
            limit, value, message = _REASON.unpack_from(raw, offset + index * _REASON.size)
            reasons.append(SafetyReason(_text(limit), value, _text(message)))
        pose = Pose(np.frombuffer(position), np.frombuffer(quaternion))
        state = RobotState(
            np.frombuffer(q), np.frombuffer(qd), np.frombuffer(effort), pose, np.frombuffer(wrench), opening, stamp
        )
        events = tuple(event for event, flag in zip(EVENTS, flags, strict=True) if flag)
        result = SafetyResult(command, STATUSES[int(status)], tuple(reasons), scale, margin)
        return KernelTick(
            tick,
            now,
            late,
            state,
            state_fresh,
            candidate,
            fresh,
            events,
            result,
            written,
            digest if has_digest else b"",
        )


# ------------------------------------------------------------------------------------ events, statistics


def pack_event(index: int, event: KernelEvent) -> bytes:
    """An event and its number as bytes."""
    before, after = STATUSES.index(event.before), STATUSES.index(event.after)
    return _EVENT.pack(
        index,
        _KINDS.index(event.kind),
        event.tick,
        event.now_ns,
        before,
        after,
        _raw(event.limit, 48),
        event.margin,
        _raw(event.message, 256),
    )


def unpack_event(raw: bytes) -> tuple[int, KernelEvent]:
    """An event and its number."""
    index, kind, tick, now, before, after, limit, margin, message = _EVENT.unpack(raw)
    event = KernelEvent(
        _KINDS[int(kind)], tick, now, STATUSES[int(before)], STATUSES[int(after)], _text(limit), margin, _text(message)
    )
    return index, event


BINS = 112
_FIRST_BIN_NS = 1000.0
_BINS_PER_OCTAVE = 4.0
_COUNTER_NAMES = tuple(field.name for field in fields(KernelCounters))
_STATISTICS = struct.Struct(f"={len(_COUNTER_NAMES)}q{BINS}q")
STATISTICS_SIZE = _STATISTICS.size


def lateness_bin(lateness_ns: int) -> int:
    """Place of a lateness in the histogram: quarter octaves from 1 us."""
    if lateness_ns <= _FIRST_BIN_NS:
        return 0
    return min(BINS - 1, 1 + int(_BINS_PER_OCTAVE * np.log2(lateness_ns / _FIRST_BIN_NS)))


def lateness_percentile_ms(histogram: Sequence[int], percent: float) -> float:
    """Upper edge of the bin in which the percentile lies, ms."""
    wanted = percent / 100.0 * sum(histogram)
    seen = 0
    for index, count in enumerate(histogram):
        seen += count
        if seen >= wanted and seen > 0:
            return _FIRST_BIN_NS * 2.0 ** (index / _BINS_PER_OCTAVE) * 1e-6
    return 0.0


def pack_statistics(counters: KernelCounters, histogram: Sequence[int]) -> bytes:
    """Counters and the histogram of latenesses as bytes."""
    return _STATISTICS.pack(*(getattr(counters, name) for name in _COUNTER_NAMES), *histogram)


def unpack_statistics(raw: bytes) -> tuple[KernelCounters, tuple[int, ...]]:
    """Counters and the histogram of latenesses."""
    numbers = _STATISTICS.unpack(raw)
    split = len(_COUNTER_NAMES)
    return KernelCounters(*numbers[:split]), numbers[split:]


def events_of(before: Sequence[int], after: Sequence[int]) -> tuple[OperatorEvent, ...]:
    """The events whose count has risen."""
    return tuple(event for event, old, new in zip(EVENTS, before, after, strict=True) if new > old)


def _raw(text: str, room: int) -> bytes:
    raw = text.encode(errors="replace")
    # A cut must not split a character.
    return raw if len(raw) <= room else raw[:room].decode(errors="ignore").encode()


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
