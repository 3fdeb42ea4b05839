"""The layout of an episode store, version 3: every table, column, shape and unit, in one place.

A table is a frozen dataclass of arrays; each field's metadata holds its :class:`Column`. The packed tick row, the
zarr arrays, the documentation and the order in which replay looks for the first divergence all follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from controllers.types import (
    CommandMode,
    ExecutorStatus,
    FloatArray,
    IntArray,
    OperatorEvent,
    RejectionReason,
    SafetyStatus,
)

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
UNKNOWN_STAMP = -1
DIGEST_BYTES = 16

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
RowArray = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        dtype: numpy type string, little endian.
        shape: Shape of one entry; ``"n"`` stands for the number of arm joints.
        unit: SI unit, or the meaning of a code.
        doc: What it holds.
        since: Format version that brought it.
    """

    dtype: str
    shape: tuple[int | str, ...]
    unit: str
    doc: str
    since: int = 1

    def entry_shape(self, joints: int) -> tuple[int, ...]:
        """Shape of one entry for ``joints`` arm joints."""
        return tuple(joints if size == "n" else int(size) for size in self.shape)


def _column(dtype: str, shape: tuple[int | str, ...], unit: str, doc: str, since: int = 1) -> Any:
    return field(metadata={"column": Column(dtype, shape, unit, doc, since)})


def _float(unit: str, doc: str, *shape: int | str, since: int = 1) -> Any:
    return _column("<f8", shape, unit, doc, since)


def _int(unit: str, doc: str, *shape: int | str, since: int = 1) -> Any:
    return _column("<i8", shape, unit, doc, since)


def _code(unit: str, doc: str) -> Any:
    return _column("|u1", (), unit, doc)


class TargetKind(Enum):
    """Which member of the ``Target`` union a tick carried."""

    JOINT = "joint"
    POSE = "pose"
    TWIST = "twist"


class EventKind(Enum):
    """What a row of the events table tells about its tick."""

    OPERATOR = "operator"  # an operator event; `name` is the event
    ACCEPTED = "accepted"  # the executor took chunk `chunk_id`
    REJECTION = "rejection"  # the executor refused chunk `chunk_id`; `name` is the reason
    SAFETY_REASON = "safety_reason"  # the filter intervened; `name` is the limit, `value` the margin
    TARGET_FRAME = "target_frame"  # `name` is a target frame seen for the first time; `chunk_id` is its code
    DOUBT = "doubt"  # the doubt of chunk `chunk_id`, `value`, passed a threshold; `name` is what it now asks for


# Codes are positions in these lists; each list is written into the store, so that a code is never guessed.
ENUMERATIONS: Mapping[str, type[Enum]] = {
    "events": OperatorEvent,
    "target_kind": TargetKind,
    "command_mode": CommandMode,
    "applied_mode": CommandMode,
    "safety_status": SafetyStatus,
    "executor_status": ExecutorStatus,
    "kind": EventKind,
    "rejection": RejectionReason,
}


def enumeration_names() -> dict[str, list[str]]:
    """Names by code of every coded column, as stored in the attributes."""
    return {key: [str(member.value) for member in members] for key, members in ENUMERATIONS.items()}


@dataclass(frozen=True, slots=True)
class TickTable:
    """Everything that entered and left each tick, in causal order. First axis: tick."""

    tick: IntArray = _int("1", "number of the tick")
    now_ns: IntArray = _int("ns", "clock at the start of the tick")
    events: ByteArray = _code("bit mask", "operator events; their order is in the events table")
    arrivals: IntArray = _int("1", "chunks that arrived on this tick")
    state_joint_position: FloatArray = _float("rad", "sensed joint position", "n")
    state_joint_velocity: FloatArray = _float("rad/s", "sensed joint velocity", "n")
    state_joint_effort: FloatArray = _float("N m", "sensed joint torque", "n")
    state_ee_pose: FloatArray = _float("m, 1", "sensed end-effector pose xyz wxyz, base frame", 7)
    state_wrench: FloatArray = _float("N, N m", "wrench at the wrist, sensor frame", 6)
    state_gripper_opening: FloatArray = _float("m", "sensed gripper opening")
    state_stamp_ns: IntArray = _int("ns", "time of the reading")
    physics_digest: ByteArray = _column(
        "|u1", (DIGEST_BYTES,), "bytes", "digest of the physics state that was sensed; zeros where there is none"
    )
    executor_status: ByteArray = _code("code", "what the executor did")
    executor_chunk_id: IntArray = _int("1", "chunk being played, -1 for none")
    executor_phase: FloatArray = _float("rows", "place in the chunk")
    target_kind: ByteArray = _code("code", "which kind of target")
    target_frame: ByteArray = _code("code", "frame of the target, a code into the attribute target_frames")
    target_pose: FloatArray = _float("m, 1", "pose target xyz wxyz, else NaN", 7)
    target_twist: FloatArray = _float("m/s, rad/s", "target twist, else NaN", 6)
    target_joint_position: FloatArray = _float("rad", "joint target, else NaN", "n")
    target_gripper_opening: FloatArray = _float("m", "gripper target")
    command_mode: ByteArray = _code("code", "mode of the controller's candidate")
    command_values: FloatArray = _float("rad, rad/s or N m", "the controller's candidate", "n")
    command_gripper_opening: FloatArray = _float("m", "gripper opening of the candidate")
    command_stamp_ns: IntArray = _int("ns", "stamp of the candidate")
    safety_status: ByteArray = _code("code", "verdict")
    safety_speed_scale: FloatArray = _float("1", "speed scale in [0, 1]")
    safety_min_margin: FloatArray = _float("1", "smallest margin over all limits")
    applied_mode: ByteArray = _code("code", "mode of the applied command")
    applied_values: FloatArray = _float("rad, rad/s or N m", "the applied command", "n")
    applied_gripper_opening: FloatArray = _float("m", "gripper opening of the applied command")
    applied_stamp_ns: IntArray = _int("ns", "stamp of the applied command")
    request_inference: ByteArray = _code("0 or 1", "an observation and a chunk were asked for")
    commanded_pose: FloatArray = _float("m, 1", "reference pose after the tick xyz wxyz, base frame", 7)
    event_rows: IntArray = _int("1", "rows of this tick in the events table")
    sent_ns: IntArray = _int("ns", "clock when the command was handed to the robot, -1 if unknown", since=2)
    applied_ns: IntArray = _int("ns", "clock when the robot had taken it, -1 if unknown", since=2)


@dataclass(frozen=True, slots=True)
class EventTable:
    """What happened on single ticks, in order. First axis: event. Text is UTF-8 bytes with offsets."""

    tick: IntArray = _int("1", "tick it belongs to")
    kind: ByteArray = _code("code", "what it tells")
    name: IntArray = _int("code", "event, reason or limit, a code into the attribute names")
    value: FloatArray = _float("unit of the limit", "margin of a safety reason, doubt of a chunk, else NaN")
    chunk_id: IntArray = _int("1", "chunk of an acceptance, a rejection or a doubt, else -1")
    message_offset: IntArray = _int("bytes", "where the message starts in message_data")
    message_length: IntArray = _int("bytes", "length of the message")
    message_data: ByteArray = _column("|u1", (), "UTF-8", "all messages, one after the other (its own length)")


@dataclass(frozen=True, slots=True)
class ChunkTable:
    """Every chunk that arrived, accepted or not. First axis: arrival.

    ``tokens`` holds chunks of the declared shape and int64; anything else is marked ``malformed``, its row is -1, and
    shape, type and bytes are in the attribute ``malformed`` and in ``malformed_data``.
    """

    arrival_tick: IntArray = _int("1", "tick that took it in")
    chunk_id: IntArray = _int("1", "number given by the policy client")
    observation_stamp_ns: IntArray = _int("ns", "observation that it answers")
    inference_ns: IntArray = _int("ns", "how long inference took")
    inferred_ns: IntArray = _int("ns", "clock when inference ended, -1 if unknown", since=2)
    tokenizer_id: IntArray = _int("code", "a code into the attribute tokenizer_ids")
    spec_hash: IntArray = _int("code", "a code into the attribute spec_hashes")
    accepted: ByteArray = _code("0 or 1", "taken by the executor")
    malformed: ByteArray = _code("0 or 1", "not (horizon, dims) int64")
    tokens: IntArray = _int("token", "token ids", "horizon", "dims")
    log_probability: FloatArray = _float(
        "nat", "the policy's log-probability of each token, NaN if it gave none", "horizon", "dims", since=2
    )
    entropy: FloatArray = _float(
        "nat", "entropy of the distribution that each token was chosen from, NaN if unknown", "horizon", "dims", since=3
    )
    doubt_mean_probability: FloatArray = _float("1", "mean probability of the chosen tokens, NaN if unknown", since=3)
    doubt_min_probability: FloatArray = _float("1", "smallest of these probabilities, NaN if unknown", since=3)
    doubt_mean_entropy: FloatArray = _float("nat", "mean of the entropies, NaN if unknown", since=3)
    doubt_agreement: FloatArray = _float("1", "share of tokens that sampled decodes agree on, NaN if unknown", since=3)
    malformed_data: ByteArray = _column("|u1", (), "bytes", "raw tokens of malformed chunks (its own length)")


@dataclass(frozen=True, slots=True)
class ObservationTable:
    """What was sent to the policy, without pictures. First axis: observation.

    Pictures are in ``observations/images/CAMERA`` (N, H, W, 3) uint8, with ``observations/present/CAMERA`` (N,) bool
    telling dropped frames and ``observations/image_digest/CAMERA`` (N, 16) their digests.
    """

    stamp_ns: IntArray = _int("ns", "time of the observation")
    tick: IntArray = _int("1", "tick whose sensed state it carries, -1 if none does")
    instruction: IntArray = _int("code", "a code into the attribute instructions")
    commanded_pose: FloatArray = _float("m, 1", "reference pose xyz wxyz, base frame", 7)
    ee_pose: FloatArray = _float("m, 1", "sensed end-effector pose xyz wxyz, base frame", 7)
    joint_position: FloatArray = _float("rad", "sensed joint position", "n")
    joint_velocity: FloatArray = _float("rad/s", "sensed joint velocity", "n")
    joint_effort: FloatArray = _float("N m", "sensed joint torque", "n")
    wrench: FloatArray = _float("N, N m", "wrench at the wrist, sensor frame", 6)
    gripper_opening: FloatArray = _float("m", "sensed gripper opening")


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Training labels: clean expert chunks for some observations. First axis: label."""

    stamp_ns: IntArray = _int("ns", "observation that it answers")
    tokens: IntArray = _int("token", "token ids", "horizon", "dims")


@dataclass(frozen=True, slots=True)
class PhysicsTable:
    """Full physics states (``mjSTATE_INTEGRATION``). First axis of key frames: key frame."""

    initial_state: FloatArray = _float("mixed", "state before tick 0 (its own length), empty where there is none")
    keyframe_tick: IntArray = _int("1", "tick of the key frame")
    keyframe_state: FloatArray = _float("mixed", "state that the tick sensed", "physics")


@dataclass(frozen=True, slots=True)
class LoopTable:
    """The control loop's whole memory before some ticks, as JSON (see ``loop_memory.py``). First axis: key frame."""

    keyframe_tick: IntArray = _int("1", "tick that the memory precedes", since=2)
    offset: IntArray = _int("bytes", "where its JSON starts in data", since=2)
    length: IntArray = _int("bytes", "length of its JSON", since=2)
    data: ByteArray = _column("|u1", (), "UTF-8", "all memories, one after the other (its own length)", 2)


TABLES: Mapping[str, type[Any]] = {
    "ticks": TickTable,
    "events": EventTable,
    "chunks": ChunkTable,
    "observations": ObservationTable,
    "labels": LabelTable,
    "physics": PhysicsTable,
    "loop": LoopTable,
}


@cache
def columns(table: type[Any]) -> Mapping[str, Column]:
    """Columns of a table class, in order."""
    return {item.name: cast(Column, item.metadata["column"]) for item in fields(table)}


_ROW_ORDER = {"f8-array": 0, "f8": 1, "i8": 2, "u1": 3, "u1-array": 4}


@cache
def row_layout(version: int = FORMAT_VERSION) -> tuple[tuple[str, Column], ...]:
    """Tick columns in the order of the packed row: float arrays, floats, integers, bytes, byte arrays."""

    def rank(item: tuple[str, Column]) -> int:
        column = item[1]
        return _ROW_ORDER[column.dtype[1:] + ("-array" if column.shape else "")]

    known = ((name, column) for name, column in columns(TickTable).items() if column.since <= version)
    return tuple(sorted(known, key=rank))


@cache
def row_dtype(joints: int, version: int = FORMAT_VERSION) -> np.dtype[np.void]:
    """The packed tick row of a format version for ``joints`` arm joints; its size is a multiple of 8 bytes."""
    names: list[str] = []
    formats: list[tuple[str, tuple[int, ...]]] = []
    offsets: list[int] = []
    offset = 0
    for name, column in row_layout(version):
        shape = column.entry_shape(joints)
        names.append(name)
        formats.append((column.dtype, shape))
        offsets.append(offset)
        offset += np.dtype(column.dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    size = -(-offset // 8) * 8
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


def table_from_rows(rows: RowArray) -> TickTable:
    """View packed rows as a table of columns (no copy). Columns that the rows' version did not know are filled in."""
    known = set(cast(tuple[str, ...], rows.dtype.names))
    values = {
        name: rows[name] if name in known else unknown_values(column, len(rows))
        for name, column in columns(TickTable).items()
    }
    return TickTable(**values)


def unknown_values(column: Column, count: int, *shape: int) -> npt.NDArray[Any]:
    """What a column holds in an episode that is older than the column: -1 or NaN."""
    fill = {"<f8": np.nan, "<i8": UNKNOWN_STAMP, "|u1": 0}[column.dtype]
    return np.full((count, *shape), fill, column.dtype)


def rows_from_table(table: TickTable, joints: int, version: int = FORMAT_VERSION) -> RowArray:
    """Pack a table of columns into rows of a format version."""
    rows: RowArray = np.zeros(table.tick.shape[0], row_dtype(joints, version))
    for name, _ in row_layout(version):
        rows[name] = getattr(table, name)
    return rows
