"""The messages between our own client and server: typed objects on one side, maps of the openpi protocol on the other.

An openpi client sends a map of observations and gets a map with ``actions``. Ours sends the same kind of frame with
the entry ``vla/request`` and gets tokens. Number, spec hash and tokenizer travel with every request, so that nothing
depends on what was agreed before a reconnection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from controllers.doubt import ChunkDoubt
from controllers.types import (
    ActionChunk,
    ActionSpec,
    FloatArray,
    IntArray,
    Observation,
    Pose,
    RobotState,
    TokenPrefix,
    frozen_array,
)
from vla.serving.wire import WireError

PROTOCOL_VERSION = 1
REQUEST, REPLY, RESET, ERROR, PROTOCOL = "vla/request", "vla/reply", "vla/reset", "vla/error", "vla/protocol"
MAX_JOINTS = 64
MAX_NUMBER = 2**62
_REQUEST_ENTRIES = (REQUEST, "number", "spec_hash", "tokenizer_id", "instruction", "stamp_ns", "images",
                    "commanded_pose", "state")  # fmt: skip


@dataclass(frozen=True)
class ServerMetadata:
    """What a server says first on every connection.

    Attributes:
        policy: Name of the policy.
        weights_sha256: Hash of its weights, empty where it has none.
        tokenizer_id: Tokenizer of its chunks.
        spec: Contract of its actions.
        observation: The entries that openpi clients must send, see ``ObservationMapping.to_json``.
        software: Name and version of the server.
        max_message_bytes: Largest message that it takes.
    """

    policy: str
    weights_sha256: str
    tokenizer_id: str
    spec: ActionSpec
    observation: Mapping[str, Any]
    software: str
    max_message_bytes: int

    def to_message(self) -> dict[str, Any]:
        """The map on the wire."""
        return {
            PROTOCOL: PROTOCOL_VERSION,
            "server": self.software,
            "policy": self.policy,
            "weights_sha256": self.weights_sha256,
            "tokenizer_id": self.tokenizer_id,
            "spec_hash": self.spec.hash,
            "action_spec": self.spec.to_json(),
            "observation": dict(self.observation),
            "max_message_bytes": self.max_message_bytes,
        }

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> ServerMetadata | None:
        """Read the map; None where it comes from a foreign server of the openpi protocol.

        Raises:
            WireError: Another protocol version, or a spec that is damaged.
        """
        if PROTOCOL not in message:
            return None
        if message[PROTOCOL] != PROTOCOL_VERSION:
            raise WireError(
                f"expected protocol version {PROTOCOL_VERSION}, found {message[PROTOCOL]!r}; "
                "install the same release of vla-stack on both machines"
            )
        try:
            spec = ActionSpec.from_json(message["action_spec"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WireError(f"the server's action spec cannot be read: {error!r}") from error
        if spec.hash != message.get("spec_hash"):
            raise WireError(f"expected the action spec {message.get('spec_hash')!r} of the server, found {spec.hash}")
        return ServerMetadata(
            policy=_text(message, "policy"),
            weights_sha256=_text(message, "weights_sha256"),
            tokenizer_id=_text(message, "tokenizer_id"),
            spec=spec,
            observation=_map(message, "observation"),
            software=_text(message, "server"),
            max_message_bytes=_integer(message, "max_message_bytes"),
        )


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One observation of our client.

    Attributes:
        number: Increasing on one connection; a reply to it settles every smaller number too.
        spec_hash: Contract that the client executes.
        tokenizer_id: Tokenizer that the client decodes.
        observation: What the policy is to see.
    """

    number: int
    spec_hash: str
    tokenizer_id: str
    observation: Observation

    def to_message(self) -> dict[str, Any]:
        """The map on the wire."""
        seen, state = self.observation, self.observation.state
        prefix = {} if seen.prefix is None else {"prefix": seen.prefix.tokens}
        return {
            **prefix,
            REQUEST: PROTOCOL_VERSION,
            "number": self.number,
            "spec_hash": self.spec_hash,
            "tokenizer_id": self.tokenizer_id,
            "instruction": seen.instruction,
            "stamp_ns": seen.stamp_ns,
            "images": dict(seen.images),
            "commanded_pose": _pose_message(seen.commanded_pose),
            "state": {
                "joint_position": state.joint_position,
                "joint_velocity": state.joint_velocity,
                "joint_effort": state.joint_effort,
                "ee_pose": _pose_message(state.ee_pose),
                "wrench": state.wrench,
                "gripper_opening": float(state.gripper_opening),
                "stamp_ns": state.stamp_ns,
            },
        }

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> InferRequest:
        """Read the map.

        Raises:
            WireError: A missing, unknown or mistyped entry.
        """
        _only(message, "request", _REQUEST_ENTRIES, optional=("prefix",))
        if message[REQUEST] != PROTOCOL_VERSION:
            raise WireError(f"expected protocol version {PROTOCOL_VERSION}, found {message[REQUEST]!r}")
        images = {}
        for name, image in _map(message, "images").items():
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise WireError(f"images.{name}: expected an RGB picture (height, width, 3) of uint8")
            images[name] = image
        observation = Observation(
            images=images,
            state=_state(_map(message, "state")),
            commanded_pose=_pose("commanded_pose", _map(message, "commanded_pose")),
            instruction=_text(message, "instruction"),
            stamp_ns=_integer(message, "stamp_ns"),
            prefix=TokenPrefix(_tokens(message, "prefix")) if "prefix" in message else None,
        )
        return InferRequest(
            _integer(message, "number"), _text(message, "spec_hash"), _text(message, "tokenizer_id"), observation
        )


@dataclass(frozen=True, slots=True)
class InferReply:
    """The chunk for one observation.

    Attributes:
        number: Of the request.
        chunk: Tokens; ``chunk_id`` is the client's to give.
        infer_ms: Inference, at the server.
        wait_ms: Time in the server's queue.
    """

    number: int
    chunk: ActionChunk
    infer_ms: float
    wait_ms: float

    def to_message(self) -> dict[str, Any]:
        """The map on the wire."""
        return {
            REPLY: PROTOCOL_VERSION,
            "number": self.number,
            "tokens": self.chunk.tokens,
            "tokenizer_id": self.chunk.tokenizer_id,
            "spec_hash": self.chunk.spec_hash,
            "stamp_ns": self.chunk.observation_stamp_ns,
            "forced_rows": self.chunk.forced_rows,
            **({} if self.chunk.doubt is None else {"doubt": asdict(self.chunk.doubt)}),
            "server_timing": {"infer_ms": self.infer_ms, "wait_ms": self.wait_ms},
        }

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> InferReply:
        """Read the map. What the tokens mean is the executor's to judge; here only their type is.

        Raises:
            WireError: A missing or mistyped entry.
        """
        timing = _map(message, "server_timing")
        chunk = ActionChunk(
            tokens=_tokens(message, "tokens"),
            tokenizer_id=_text(message, "tokenizer_id"),
            spec_hash=_text(message, "spec_hash"),
            observation_stamp_ns=_integer(message, "stamp_ns"),
            chunk_id=0,
            forced_rows=_integer(message, "forced_rows"),
            doubt=_doubt(message),
        )
        return InferReply(_integer(message, "number"), chunk, _float(timing, "infer_ms"), _float(timing, "wait_ms"))


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Why a request was not answered; the connection goes on.

    Attributes:
        number: Of the request.
        kind: ``refused`` (the observation), ``mismatch`` (spec or tokenizer), ``unavailable`` (no policy at the
            moment) or ``timeout``.
        message: Expected, found, what to change.
    """

    number: int
    kind: str
    message: str

    def to_message(self) -> dict[str, Any]:
        """The map on the wire."""
        return {ERROR: PROTOCOL_VERSION, "number": self.number, "kind": self.kind, "message": self.message}

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> ErrorReply:
        """Read the map.

        Raises:
            WireError: A missing or mistyped entry.
        """
        return ErrorReply(_integer(message, "number"), _text(message, "kind"), _text(message, "message"))


def describe_difference(expected: ActionSpec, found: ActionSpec) -> str:
    """Which entries of two action specs differ, each with both values; empty when none does."""
    ours, theirs = expected.to_json(), found.to_json()
    return "; ".join(
        f"{name}: expected {ours[name]}, found {theirs[name]}" for name in ours if ours[name] != theirs[name]
    )


# ------------------------------------------------------------------------------------------------ entries


def _pose_message(pose: Pose) -> dict[str, Any]:
    return {"position": pose.position, "quaternion": pose.quaternion}


def _pose(place: str, entries: Mapping[str, Any]) -> Pose:
    _only(entries, place, ("position", "quaternion"))
    return Pose(_vector(entries, "position", 3), _vector(entries, "quaternion", 4))


def _state(entries: Mapping[str, Any]) -> RobotState:
    _only(entries, "state", ("joint_position", "joint_velocity", "joint_effort", "ee_pose", "wrench",
                             "gripper_opening", "stamp_ns"))  # fmt: skip
    position = _vector(entries, "joint_position", None)
    return RobotState(
        joint_position=position,
        joint_velocity=_vector(entries, "joint_velocity", position.size),
        joint_effort=_vector(entries, "joint_effort", position.size),
        ee_pose=_pose("state.ee_pose", _map(entries, "ee_pose")),
        wrench=_vector(entries, "wrench", 6),
        gripper_opening=_float(entries, "gripper_opening"),
        stamp_ns=_integer(entries, "stamp_ns"),
    )


def _tokens(entries: Mapping[str, Any], name: str) -> IntArray:
    value = entries.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != np.int64 or value.ndim not in (1, 2) or value.size == 0:
        raise WireError(f"{name}: expected tokens of int64, (rows, dims) or a sequence")
    copy = value.astype(np.int64)
    copy.flags.writeable = False
    return copy


def _only(entries: Mapping[str, Any], place: str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    missing = [name for name in names if name not in entries]
    unknown = [str(name) for name in entries if name not in names + optional]
    if missing or unknown:
        raise WireError(
            f"{place}: expected the entries {', '.join(names)}; missing {', '.join(missing) or 'none'}, "
            f"unknown {', '.join(unknown[:5]) or 'none'}"
        )


def _vector(entries: Mapping[str, Any], name: str, size: int | None) -> FloatArray:
    value = entries.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim != 1:
        raise WireError(f"{name}: expected a vector of float64")
    if value.size != size if size is not None else value.size > MAX_JOINTS:
        raise WireError(f"{name}: expected {size if size is not None else f'at most {MAX_JOINTS}'} values, found "
                        f"{value.size}")  # fmt: skip
    return frozen_array(value)


def _text(entries: Mapping[str, Any], name: str) -> str:
    value = entries.get(name)
    if not isinstance(value, str):
        raise WireError(f"{name}: expected text, found {type(value).__name__}")
    return value


def _integer(entries: Mapping[str, Any], name: str) -> int:
    value = entries.get(name)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise WireError(f"{name}: expected a whole number from 0 to 2^62, found {value!r:.40}")
    return value


def _float(entries: Mapping[str, Any], name: str) -> float:
    value = entries.get(name)
    if not isinstance(value, float):
        raise WireError(f"{name}: expected a float, found {type(value).__name__}")
    return value


def _doubt(entries: Mapping[str, Any]) -> ChunkDoubt | None:
    """The policy's doubt, None where the server does not tell it."""
    if "doubt" not in entries:
        return None
    told = _map(entries, "doubt")
    try:
        return ChunkDoubt(**told)
    except (TypeError, ValueError) as error:
        raise WireError(f"doubt: expected the numbers of a chunk's doubt: {error}") from error


def _map(entries: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entries.get(name)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError(f"{name}: expected entries by name, found {type(value).__name__}")
    return value
