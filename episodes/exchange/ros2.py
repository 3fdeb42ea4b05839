"""What a tick and an observation are as ROS 2 standard messages, serialized to CDR; needs no ROS.

Every value keeps its bits: float64 stays float64, nanosecond stamps stay whole numbers. Quaternions change their
order, for ROS puts the scalar last. The type definitions are those of ROS 2 Kilted, from the package ``rosbags``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import cv2
import numpy as np

from controllers.types import (
    NANOSECONDS,
    ActionChunk,
    CommandMode,
    FloatArray,
    ImageArray,
    IntArray,
    JointCommand,
    JointTarget,
    Observation,
    Pose,
    RobotState,
    SafetyResult,
    SafetyStatus,
    Target,
    TickOutputs,
    TwistTarget,
)
from episodes.errors import EpisodeError
from episodes.extras import load

EXTRA = "exchange"

JOINT_STATE = "sensor_msgs/msg/JointState"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
POSE = "geometry_msgs/msg/PoseStamped"
TWIST = "geometry_msgs/msg/TwistStamped"
WRENCH = "geometry_msgs/msg/WrenchStamped"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
FLOAT = "std_msgs/msg/Float64"
FLOATS = "std_msgs/msg/Float64MultiArray"
INTEGERS = "std_msgs/msg/Int64MultiArray"
STRING = "std_msgs/msg/String"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
TRAJECTORY_POINT = "trajectory_msgs/msg/JointTrajectoryPoint"

BASE_FRAME = "base"
WRIST_FRAME = "wrist"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and its message type."""

    name: str
    type: str


JOINT_STATES = Topic("/joint_states", JOINT_STATE)
GRIPPER = Topic("/gripper/opening", FLOAT)
EE_POSE = Topic("/ee_pose", POSE)
WRIST_WRENCH = Topic("/wrist/wrench", WRENCH)
TARGET_POSE = Topic("/target/pose", POSE)
TARGET_TWIST = Topic("/target/twist", TWIST)
TARGET_JOINTS = Topic("/target/joints", JOINT_STATE)
TARGET_GRIPPER = Topic("/target/gripper", FLOAT)
CANDIDATE = Topic("/command/candidate", JOINT_STATE)
APPLIED = Topic("/command/applied", JOINT_STATE)
APPLIED_GRIPPER = Topic("/command/gripper", FLOAT)
REFERENCE = Topic("/command/reference_pose", POSE)
SAFETY = Topic("/safety/status", DIAGNOSTICS)
TOKENS = Topic("/policy/tokens", INTEGERS)
INSTRUCTION = Topic("/policy/instruction", STRING)


def image_topic(camera: str, *, png: bool) -> Topic:
    """Topic of a camera; compressed pictures go where ``image_transport`` looks for them."""
    name = f"/camera/{camera}/image_raw"
    return Topic(f"{name}/compressed", COMPRESSED_IMAGE) if png else Topic(name, IMAGE)


@dataclass(frozen=True, slots=True)
class Message:
    """One serialized message.

    Attributes:
        topic: Where it goes.
        stamp_ns: When it was sent.
        data: Its CDR bytes, with the encapsulation header.
    """

    topic: Topic
    stamp_ns: int
    data: bytes


# ------------------------------------------------------------------------------------------- the type store


@cache
def typestore() -> Any:
    """The message types of ROS 2 Kilted.

    Raises:
        EpisodeError: ``rosbags`` is not installed.
    """
    module = load("rosbags.typesys", EXTRA)
    return module.get_typestore(module.Stores.ROS2_KILTED)


@cache
def definition(kind: str) -> str:
    """The type's definition with those it uses, in the format that MCAP calls ``ros2msg``."""
    return str(typestore().generate_msgdef(kind, ros_version=2)[0])


@cache
def type_hash(kind: str) -> str:
    """The type's RIHS01 hash, as bag metadata carry it."""
    return str(typestore().hash_rihs01(kind))


@cache
def _new(kind: str) -> Any:
    return typestore().types[kind]


def serialize(kind: str, message: Any) -> bytes:
    """CDR bytes, little endian."""
    return bytes(typestore().serialize_cdr(message, kind))


def deserialize(kind: str, data: bytes) -> Any:
    """The message object; arrays of numbers are numpy arrays."""
    return typestore().deserialize_cdr(data, kind)


# ------------------------------------------------------------------------------------------ single messages


def time(stamp_ns: int) -> Any:
    """``builtin_interfaces/Time``.

    Raises:
        EpisodeError: The stamp does not fit 32 bits of seconds.
    """
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    if not -(1 << 31) <= seconds < 1 << 31:
        raise EpisodeError(
            "a stamp", "seconds that fit 32 bits", f"{stamp_ns} ns", "ROS 2 cannot express it; export to another format"
        )
    return _new("builtin_interfaces/msg/Time")(seconds, nanoseconds)


def stamp_ns(message_time: Any) -> int:
    """Nanoseconds of a ``builtin_interfaces/Time``."""
    return int(message_time.sec) * NANOSECONDS + int(message_time.nanosec)


def _header(when: int, frame: str = "") -> Any:
    return _new("std_msgs/msg/Header")(time(when), frame)


_NOTHING: FloatArray = np.zeros(0)


def joint_state(
    when: int, names: Sequence[str], position: FloatArray, velocity: FloatArray, effort: FloatArray
) -> bytes:
    """``sensor_msgs/JointState``: (n,) rad, rad/s, N m; empty where unknown."""
    message = _new(JOINT_STATE)(_header(when), list(names), position, velocity, effort)
    return serialize(JOINT_STATE, message)


def pose_stamped(when: int, pose: Pose, frame: str) -> bytes:
    """``geometry_msgs/PoseStamped`` of a pose with a scalar-first quaternion."""
    x, y, z = pose.position.tolist()
    qw, qx, qy, qz = pose.quaternion.tolist()
    inner = _new("geometry_msgs/msg/Pose")(
        _new("geometry_msgs/msg/Point")(x, y, z), _new("geometry_msgs/msg/Quaternion")(qx, qy, qz, qw)
    )
    return serialize(POSE, _new(POSE)(_header(when, frame), inner))


def _vector(values: FloatArray) -> Any:
    return _new("geometry_msgs/msg/Vector3")(*values.tolist())


def twist_stamped(when: int, twist: FloatArray, frame: str) -> bytes:
    """``geometry_msgs/TwistStamped`` of (6,) m/s, rad/s, linear first."""
    inner = _new("geometry_msgs/msg/Twist")(_vector(twist[:3]), _vector(twist[3:]))
    return serialize(TWIST, _new(TWIST)(_header(when, frame), inner))


def wrench_stamped(when: int, wrench: FloatArray, frame: str) -> bytes:
    """``geometry_msgs/WrenchStamped`` of (6,) N, N m, force first."""
    inner = _new("geometry_msgs/msg/Wrench")(_vector(wrench[:3]), _vector(wrench[3:]))
    return serialize(WRENCH, _new(WRENCH)(_header(when, frame), inner))


def float64(value: float) -> bytes:
    """``std_msgs/Float64``."""
    return serialize(FLOAT, _new(FLOAT)(value))


def string(text: str) -> bytes:
    """``std_msgs/String``."""
    return serialize(STRING, _new(STRING)(text))


def integers(values: IntArray, labels: Sequence[str]) -> bytes:
    """``std_msgs/Int64MultiArray`` of any shape, row-major, one label a dimension."""
    strides = [int(np.prod(values.shape[axis:], dtype=np.int64)) for axis in range(values.ndim)]
    dimension = _new("std_msgs/msg/MultiArrayDimension")
    dims = [dimension(label, size, stride) for label, size, stride in zip(labels, values.shape, strides, strict=True)]
    layout = _new("std_msgs/msg/MultiArrayLayout")(dims, 0)
    return serialize(INTEGERS, _new(INTEGERS)(layout, np.ascontiguousarray(values).reshape(-1)))


def image(when: int, picture: ImageArray, frame: str) -> bytes:
    """``sensor_msgs/Image`` of (H, W, 3) uint8 RGB."""
    height, width, _ = picture.shape
    pixels = np.ascontiguousarray(picture).reshape(-1)
    return serialize(IMAGE, _new(IMAGE)(_header(when, frame), height, width, "rgb8", 0, 3 * width, pixels))


def png_image(when: int, picture: ImageArray, frame: str) -> bytes:
    """``sensor_msgs/CompressedImage`` with a PNG, lossless, of (H, W, 3) uint8 RGB."""
    done, data = cast(Any, cv2).imencode(".png", picture[..., ::-1])
    if not done:
        raise ValueError(f"OpenCV could not encode a PNG of shape {picture.shape}")
    message = _new(COMPRESSED_IMAGE)(_header(when, frame), "rgb8; png compressed bgr8", data.reshape(-1))
    return serialize(COMPRESSED_IMAGE, message)


# DiagnosticStatus.OK, WARN, ERROR
_LEVELS = {
    SafetyStatus.RUN: 0,
    SafetyStatus.LIMITING: 1,
    SafetyStatus.OFF: 1,
    SafetyStatus.HOLD: 1,
    SafetyStatus.PROTECTIVE_STOP: 2,
    SafetyStatus.EMERGENCY_STOP: 2,
}


def safety_diagnostics(when: int, result: SafetyResult, robot: str) -> bytes:
    """``diagnostic_msgs/DiagnosticArray``: the verdict as level and message, scale, margins and reasons as values."""
    value = _new("diagnostic_msgs/msg/KeyValue")
    values = [value("speed_scale", repr(result.speed_scale)), value("min_margin", repr(result.min_margin))]
    values += [value(reason.limit, f"{reason.margin!r} {reason.message}".strip()) for reason in result.reasons]
    status = _new("diagnostic_msgs/msg/DiagnosticStatus")(
        _LEVELS[result.status], "safety", result.status.value, robot, values
    )
    return serialize(DIAGNOSTICS, _new(DIAGNOSTICS)(_header(when), [status]))


# --------------------------------------------------------------------------------- our types as messages


class MessageEncoder:
    """Turns the stack's own types into messages on this module's topics."""

    def __init__(self, robot: str, joint_names: Sequence[str]) -> None:
        """Encode for a robot.

        Args:
            robot: Its name, the hardware id of diagnostics.
            joint_names: (n,) in the order of every joint array.
        """
        self._robot = robot
        self._names = list(joint_names)

    def state(self, now_ns: int, state: RobotState) -> list[Message]:
        """What the robot sensed; headers carry the time of the reading."""
        when = state.stamp_ns
        joints = joint_state(when, self._names, state.joint_position, state.joint_velocity, state.joint_effort)
        return [
            Message(JOINT_STATES, now_ns, joints),
            Message(GRIPPER, now_ns, float64(state.gripper_opening)),
            Message(EE_POSE, now_ns, pose_stamped(when, state.ee_pose, BASE_FRAME)),
            Message(WRIST_WRENCH, now_ns, wrench_stamped(when, state.wrench, WRIST_FRAME)),
        ]

    def outputs(self, now_ns: int, outputs: TickOutputs) -> list[Message]:
        """What the tick asked for, what was commanded and what the safety filter made of it."""
        safety = outputs.safety
        reference = pose_stamped(now_ns, outputs.commanded_pose, BASE_FRAME)
        return [
            *self._target(now_ns, outputs.target),
            Message(CANDIDATE, now_ns, self._command(outputs.command)),
            Message(APPLIED, now_ns, self._command(safety.command)),
            Message(APPLIED_GRIPPER, now_ns, float64(safety.command.gripper_opening)),
            Message(REFERENCE, now_ns, reference),
            Message(SAFETY, now_ns, safety_diagnostics(now_ns, safety, self._robot)),
        ]

    def _target(self, now_ns: int, target: Target) -> list[Message]:
        gripper = Message(TARGET_GRIPPER, now_ns, float64(target.gripper_opening))
        if isinstance(target, JointTarget):
            joints = joint_state(now_ns, self._names, target.position, _NOTHING, _NOTHING)
            return [Message(TARGET_JOINTS, now_ns, joints), gripper]
        twist = Message(TARGET_TWIST, now_ns, twist_stamped(now_ns, target.twist, target.frame))
        if isinstance(target, TwistTarget):
            return [twist, gripper]
        return [Message(TARGET_POSE, now_ns, pose_stamped(now_ns, target.pose, target.frame)), twist, gripper]

    def _command(self, command: JointCommand) -> bytes:
        values = [command.values if command.mode is mode else _NOTHING for mode in CommandMode]
        return joint_state(command.stamp_ns, self._names, *values)

    def chunk(self, now_ns: int, chunk: ActionChunk) -> Message:
        """The tokens of a regular chunk (horizon, dims) int64."""
        return Message(TOKENS, now_ns, integers(chunk.tokens, ("horizon", "dims")))

    def observation(self, now_ns: int, observation: Observation, *, png: bool) -> list[Message]:
        """The pictures that the policy saw; headers carry the time of the observation."""
        encode = png_image if png else image
        return [
            Message(image_topic(camera, png=png), now_ns, encode(observation.stamp_ns, picture, camera))
            for camera, picture in observation.images.items()
        ]
