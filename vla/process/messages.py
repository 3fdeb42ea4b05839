"""What travels between the loop and the policy process: a short JSON header, then raw numbers and pixels.

The loop's side trusts nothing that it reads: a reply either has exactly this form or is a typed error.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from controllers.doubt import ChunkDoubt
from controllers.types import (
    ActionChunk,
    ActionSpec,
    FloatArray,
    Observation,
    Pose,
    RobotState,
    TokenPrefix,
    frozen_array,
)
from vla.process.account import BoundaryAccount
from vla.process.errors import MalformedMessageError
from vla.process.mailbox import Buffer
from vla.process.timing import RequestTiming

_LENGTH = struct.Struct("=I")
_LONGEST_TEXT = 16_000  # characters of a traceback that are worth sending
_MOST_DIMENSIONS = 8
_TOKEN_KINDS = "iufb"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Ready:
    """The policy is built and warm."""

    spec: ActionSpec
    tokenizer_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A chunk for observation ``number``, inferred in ``inference_ns`` until ``ended_ns`` (CLOCK_MONOTONIC).

    ``account`` is that of a policy that discretizes continuous actions, ``timing`` that of one that says where the time
    went; None for others.
    """

    number: int
    chunk: ActionChunk
    inference_ns: int
    ended_ns: int
    account: BoundaryAccount | None = None
    timing: RequestTiming | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Building (number 0) or inferring observation ``number`` failed; carries the traceback."""

    number: int
    message: str


Reply = Ready | Answer | Failure


# ---------------------------------------------------------------------------------------- observations


def encode_observation(observation: Observation, episode: int) -> list[Buffer]:
    """Parts of a message; pixels are not copied."""
    state, commanded = observation.state, observation.commanded_pose
    images = {name: np.ascontiguousarray(image, np.uint8) for name, image in observation.images.items()}
    header = {
        "stamp": observation.stamp_ns,
        "state_stamp": state.stamp_ns,
        "instruction": observation.instruction,
        "cameras": [[name, *image.shape] for name, image in images.items()],
        "joints": len(state.joint_position),
        "episode": episode,
        "prefix": None if observation.prefix is None else observation.prefix.tokens.tolist(),
    }
    numbers = np.concatenate(
        (
            state.joint_position,
            state.joint_velocity,
            state.joint_effort,
            state.ee_pose.position,
            state.ee_pose.quaternion,
            state.wrench,
            (state.gripper_opening,),
            commanded.position,
            commanded.quaternion,
        ),
        dtype=np.float64,
    )
    return [*_head(header), numbers.tobytes(), *(memoryview(image).cast("B") for image in images.values())]


def decode_observation(payload: bytearray) -> tuple[Observation, int]:
    """The observation and the number of its episode; its arrays are views into ``payload``."""
    header, body = _split(payload)
    joints = header["joints"]
    numbers = np.frombuffer(payload, np.float64, 3 * joints + 21, offset=body)
    at = 3 * joints
    joint = numbers[:at].reshape(3, joints)
    state = RobotState(
        joint_position=frozen_array(joint[0]),
        joint_velocity=frozen_array(joint[1]),
        joint_effort=frozen_array(joint[2]),
        ee_pose=Pose(frozen_array(numbers[at : at + 3]), frozen_array(numbers[at + 3 : at + 7])),
        wrench=frozen_array(numbers[at + 7 : at + 13]),
        gripper_opening=float(numbers[at + 13]),
        stamp_ns=header["state_stamp"],
    )
    commanded = Pose(frozen_array(numbers[at + 14 : at + 17]), frozen_array(numbers[at + 17 : at + 21]))
    position = body + numbers.nbytes
    images = {}
    for name, *shape in header["cameras"]:
        image = np.frombuffer(payload, np.uint8, math.prod(shape), offset=position).reshape(shape)
        position += image.nbytes
        image.flags.writeable = False
        images[name] = image
    prefix: TokenPrefix | None = None
    if header["prefix"] is not None:
        rows = np.array(header["prefix"], np.int64)
        rows.flags.writeable = False
        prefix = TokenPrefix(rows)
    observation = Observation(images, state, commanded, header["instruction"], header["stamp"], prefix)
    return observation, header["episode"]


# --------------------------------------------------------------------------------------------- replies


def encode_reply(reply: Reply) -> list[Buffer]:
    """Parts of a message.

    Raises:
        TypeError: The chunk's tokens are no numbers.
    """
    if isinstance(reply, Ready):
        return _head({"kind": "ready", "spec": reply.spec.to_json(), "tokenizer": reply.tokenizer_id})
    if isinstance(reply, Failure):
        return _head({"kind": "failure", "number": reply.number, "message": reply.message[-_LONGEST_TEXT:]})
    chunk = reply.chunk
    if not isinstance(chunk, ActionChunk):
        raise TypeError(f"expected an ActionChunk from the policy, found {type(chunk).__name__}")
    tokens = np.asarray(chunk.tokens)
    if tokens.dtype.kind not in _TOKEN_KINDS:
        raise TypeError(f"expected tokens that are numbers, found an array of {tokens.dtype}")
    stamp = chunk.observation_stamp_ns
    likely, spread = (
        None if values is None else np.ascontiguousarray(values, np.float64)
        for values in (chunk.log_probability, chunk.entropy)
    )
    header = {
        "kind": "answer",
        "number": reply.number,
        "inference_ns": reply.inference_ns,
        "ended_ns": reply.ended_ns,
        "tokenizer": str(chunk.tokenizer_id),
        "spec": str(chunk.spec_hash),
        # A stamp of another type is the executor's to refuse.
        "stamp": int(stamp) if isinstance(stamp, (int, np.integer)) else str(stamp),
        "forced_rows": int(chunk.forced_rows),
        "dtype": tokens.dtype.str,
        "shape": list(tokens.shape),
        "log_probability": None if likely is None else list(likely.shape),
        "entropy": None if spread is None else list(spread.shape),
        "doubt": None if chunk.doubt is None else asdict(chunk.doubt),
        "account": None if reply.account is None else asdict(reply.account),
        "timing": None if reply.timing is None else asdict(reply.timing),
    }
    # What needs the wider alignment goes first.
    certainty = [b"" if values is None else values.tobytes() for values in (likely, spread)]
    return [*_head(header), *certainty, tokens.tobytes()]


def decode_reply(payload: bytearray, chunk_id: int) -> Reply:
    """Read a reply.

    Args:
        payload: Any bytes.
        chunk_id: Id that the client gives to a chunk.

    Raises:
        MalformedMessageError: This is no reply.
    """
    try:
        header, body = _split(payload)
        kind = header["kind"]
        if kind == "ready":
            return Ready(ActionSpec.from_json(header["spec"]), str(header["tokenizer"]))
        if kind == "failure":
            return Failure(_integer(header["number"]), str(header["message"]))
        if kind == "answer":
            return _answer(header, payload, body, chunk_id)
        raise ValueError(f"expected the kind ready, failure or answer, found {kind!r}")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        raise MalformedMessageError(f"{type(error).__name__}: {error}") from error


def _answer(header: dict[str, Any], payload: bytearray, body: int, chunk_id: int) -> Answer:
    likely: FloatArray | None = None
    spread: FloatArray | None = None
    if header["log_probability"] is not None:
        likely, body = _array(payload, body, np.dtype(np.float64), header["log_probability"])
    if header["entropy"] is not None:
        spread, body = _array(payload, body, np.dtype(np.float64), header["entropy"])
    dtype = np.dtype(str(header["dtype"]))
    if dtype.kind not in _TOKEN_KINDS:
        raise ValueError(f"expected numbers as tokens, found {dtype}")
    tokens, body = _array(payload, body, dtype, header["shape"])
    if body != len(payload):
        raise ValueError(f"expected {body} bytes, found {len(payload)}")
    chunk = ActionChunk(
        tokens=tokens,
        tokenizer_id=str(header["tokenizer"]),
        spec_hash=str(header["spec"]),
        observation_stamp_ns=header["stamp"],
        chunk_id=chunk_id,
        forced_rows=_integer(header["forced_rows"]),
        log_probability=likely,
        entropy=spread,
        doubt=None if header["doubt"] is None else ChunkDoubt(**header["doubt"]),
    )
    account = None if header["account"] is None else BoundaryAccount.from_json(header["account"])
    timing = None if header["timing"] is None else RequestTiming.from_json(header["timing"])
    number, inference_ns, ended_ns = (_integer(header[name]) for name in ("number", "inference_ns", "ended_ns"))
    return Answer(number, chunk, inference_ns, ended_ns, account, timing)


def _array(payload: bytearray, at: int, dtype: np.dtype, sizes: list[Any]) -> tuple[np.ndarray, int]:
    """A read-only array of the payload, and where it ends."""
    shape = [_integer(size) for size in sizes]
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(f"expected the shape of an array, found {shape}")
    count = math.prod(shape)
    end = at + count * dtype.itemsize
    if end > len(payload):
        raise ValueError(f"expected {shape} {dtype} in {len(payload) - at} bytes")
    array = np.frombuffer(payload, dtype, count, at).reshape(shape) if count else np.zeros(shape, dtype)
    array.flags.writeable = False
    return array, end


def unreadable_chunk(payload: bytes | bytearray, stamp_ns: int, chunk_id: int) -> ActionChunk:
    """Garbage as a chunk that every executor refuses and every episode logs, up to 4 KiB of it."""
    tokens = np.frombuffer(bytes(payload[:4096]), np.uint8)
    return ActionChunk(tokens, UNREADABLE, "", stamp_ns, chunk_id)  # pyright: ignore[reportArgumentType]


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise ValueError(f"expected an integer of 64 bits, found {value!r:.40}")
    return value


def _head(header: dict[str, Any]) -> list[Buffer]:
    """Length and JSON, padded so that numbers behind it are aligned."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + _LENGTH.size) % 8)
    return [_LENGTH.pack(len(text)), text]


def _split(payload: bytearray) -> tuple[dict[str, Any], int]:
    """Header, and where the body begins."""
    if len(payload) < _LENGTH.size:
        raise ValueError(f"expected at least {_LENGTH.size} bytes, found {len(payload)}")
    (length,) = _LENGTH.unpack_from(payload)
    body = _LENGTH.size + length
    if body > len(payload):
        raise ValueError(f"expected a header of {length} bytes, found {len(payload) - _LENGTH.size} bytes in all")
    header = json.loads(payload[_LENGTH.size : body])
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object, found {type(header).__name__}")
    return header, body
