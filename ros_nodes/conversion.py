"""Between our types and ROS 2 messages: pure functions. Poses change their quaternion's order, stamps their split.

ROS writes quaternions ``x y z w``, we write ``w x y z``. Everything else is SI on both sides. Nothing is clipped or
guessed: a message that does not fit raises :class:`~ros_nodes.errors.MessageError`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import astuple, fields

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, WrenchStamped
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Header, Int64MultiArray, MultiArrayDimension, MultiArrayLayout, UInt8MultiArray

from controllers.doubt import ChunkDoubt
from controllers.types import (
    NANOSECONDS,
    ActionChunk,
    ChunkArrival,
    CommandMode,
    FloatArray,
    ImageArray,
    IntArray,
    JointCommand,
    Pose,
    RobotState,
    frozen_array,
)
from ros_nodes.errors import MessageError
from ros_nodes.joints import JointIndex, JointNames, command_mode

_DOUBT_WORDS = len(fields(ChunkDoubt))
_HEADER_WORDS = 5 + _DOUBT_WORDS  # chunk id, observation stamp, inference time, end of inference, forced rows, doubt
_TOKENIZER, _SPEC = "tokenizer=", "action_spec="
_MAX_CHUNK_DIMS = 8

# ------------------------------------------------------------------------------------------------- stamps


def time_message(stamp_ns: int) -> Time:
    """A stamp in ns as a message."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def stamp_ns(time: Time) -> int:
    """A message's stamp in ns."""
    return time.sec * NANOSECONDS + time.nanosec


def header(stamp: int, frame: str = "") -> Header:
    """A header with a stamp in ns."""
    return Header(stamp=time_message(stamp), frame_id=frame)


# ------------------------------------------------------------------------------------------------- joints


def joint_state_message(state: RobotState, names: JointNames) -> JointState:
    """Arm joints and gripper of a sensed state; the gripper's velocity and effort are not sensed and read 0."""
    opening = names.gripper_position(state.gripper_opening)
    return JointState(
        header=header(state.stamp_ns),
        name=list(names.all),
        position=array("d", (*state.joint_position.tolist(), opening)),
        velocity=array("d", (*state.joint_velocity.tolist(), 0.0)),
        effort=array("d", (*state.joint_effort.tolist(), 0.0)),
    )


def robot_state(
    message: JointState, index: JointIndex, wrench: FloatArray, pose_of: Callable[[FloatArray], Pose]
) -> RobotState:
    """A sensed state.

    Args:
        message: Joint states; more joints than ours may be in it, in any order. Missing efforts read 0.
        index: Finds our joints.
        wrench: (6,) newest wrench, N and N m, sensor frame.
        pose_of: Forward kinematics, (n,) rad to the end effector's pose in the base frame.

    Raises:
        MessageError: Names, lengths, a missing array, or no stamp.
    """
    values = index.read(list(message.name), message.position, message.velocity, message.effort)
    if values.position is None or values.velocity is None:
        raise MessageError("expected joint positions and velocities, found no velocities")
    stamp = stamp_ns(message.header.stamp)
    if stamp <= 0:
        raise MessageError("expected a stamp of the moment of sensing, found 0; the driver must fill in header.stamp")
    finite = bool(np.isfinite(values.position).all())
    return RobotState(
        joint_position=values.position,
        joint_velocity=values.velocity,
        joint_effort=values.effort if values.effort is not None else frozen_array(np.zeros_like(values.position)),
        ee_pose=pose_of(values.position) if finite else _NOWHERE,
        wrench=wrench,
        gripper_opening=values.gripper_opening,
        stamp_ns=stamp,
    )


def command_message(command: JointCommand, names: JointNames) -> JointState:
    """A joint command; see :func:`ros_nodes.joints.command_mode` for what is where."""
    values, gripper = command.values.tolist(), names.gripper_position(command.gripper_opening)
    message = JointState(header=header(command.stamp_ns), name=list(names.all))
    if command.mode is CommandMode.POSITION:
        message.position = array("d", (*values, gripper))
        return message
    message.position = array("d", (*(float("nan"),) * len(values), gripper))
    if command.mode is CommandMode.VELOCITY:
        message.velocity = array("d", (*values, 0.0))
    else:
        message.effort = array("d", (*values, 0.0))
    return message


def joint_command(message: JointState, index: JointIndex, mode: CommandMode) -> JointCommand:
    """A joint command of the mode that both sides agreed on. NaN passes: the filter names it.

    Raises:
        MessageError: Names, lengths, another mode, or no stamp.
    """
    values = index.read(list(message.name), message.position, message.velocity, message.effort)
    stamp = stamp_ns(message.header.stamp)
    if stamp <= 0:
        raise MessageError("expected a stamp of the command, found 0")
    return JointCommand(mode, command_mode(values, mode), values.gripper_opening, stamp)


_NOWHERE = Pose(frozen_array(np.full(3, np.nan)), frozen_array(np.full(4, np.nan)))

# ------------------------------------------------------------------------------------------ poses, wrenches


def pose_message(pose: Pose, stamp: int, frame: str = "base") -> PoseStamped:
    """A pose in ``frame``."""
    message = PoseStamped(header=header(stamp, frame))
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = pose.position.tolist()
    q.w, q.x, q.y, q.z = pose.quaternion.tolist()
    return message


def pose_from_message(message: PoseStamped, frame: str = "base") -> Pose:
    """A pose; its quaternion must be of unit length.

    Raises:
        MessageError: Another frame, or a quaternion that is none.
    """
    if message.header.frame_id != frame:
        raise MessageError(f"expected a pose in the frame {frame!r}, found {message.header.frame_id!r}")
    p, q = message.pose.position, message.pose.orientation
    quaternion = np.array((q.w, q.x, q.y, q.z))
    if not abs(float(quaternion.dot(quaternion)) - 1.0) < 1e-3:
        raise MessageError(f"expected a unit quaternion, found x y z w = {q.x} {q.y} {q.z} {q.w}")
    return Pose(frozen_array((p.x, p.y, p.z)), frozen_array(quaternion))


def wrench_message(wrench: FloatArray, stamp: int, frame: str) -> WrenchStamped:
    """A wrench (6,), force N before torque N m, in the sensor's frame."""
    message = WrenchStamped(header=header(stamp, frame))
    f, t = message.wrench.force, message.wrench.torque
    f.x, f.y, f.z, t.x, t.y, t.z = wrench.tolist()
    return message


def wrench_from_message(message: WrenchStamped) -> FloatArray:
    """(6,) force N, torque N m; what the environment exerts on the hand. NaN passes: the filter names it."""
    f, t = message.wrench.force, message.wrench.torque
    return frozen_array((f.x, f.y, f.z, t.x, t.y, t.z))


# ------------------------------------------------------------------------------------------------ pictures

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


def image_message(image: ImageArray, stamp: int, frame: str) -> Image:
    """A picture (H, W, 3) uint8 RGB."""
    height, width, _ = image.shape
    return Image(
        header=header(stamp, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=array("B", np.ascontiguousarray(image).tobytes()),
    )


def image_from_message(message: Image) -> ImageArray:
    """A picture (H, W, 3) uint8 RGB, read-only. Rows may be padded.

    Raises:
        MessageError: An encoding that we do not read, or data that do not fill the picture.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise MessageError(f"expected an encoding of {', '.join(_CHANNELS)}; found {message.encoding!r}")
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * channels or len(message.data) != step * height:
        raise MessageError(
            f"expected {height} rows of {step} bytes, {width * channels} of them pixels, "
            f"found {len(message.data)} bytes"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    if message.encoding == "mono8":
        pixels = np.repeat(pixels, 3, axis=2)
    elif message.encoding.startswith("bgr"):
        pixels = pixels[:, :, 2::-1]
    else:
        pixels = pixels[:, :, :3]
    return _read_only(pixels)


def compressed_image_message(image: ImageArray, stamp: int, frame: str, kind: str = "png") -> CompressedImage:
    """A picture (H, W, 3) uint8 RGB as ``png`` (lossless) or ``jpeg``."""
    done, data = cv2.imencode(f".{kind}", image[:, :, ::-1])
    if not done:
        raise MessageError(f"expected png or jpeg, found {kind!r}")
    return CompressedImage(header=header(stamp, frame), format=f"rgb8; {kind} compressed bgr8", data=data.tobytes())


def image_from_compressed(message: CompressedImage) -> ImageArray:
    """A picture (H, W, 3) uint8 RGB, read-only.

    Raises:
        MessageError: The data are no picture that OpenCV reads.
    """
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if pixels is None:
        raise MessageError(
            f"expected a compressed picture (jpeg, png), found {data.size} bytes of format {message.format!r}"
        )
    return _read_only(pixels[:, :, ::-1])


def resized(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """The picture at (height, width), as a policy expects it; area-averaged where it shrinks."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return _read_only(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _read_only(pixels: np.ndarray) -> ImageArray:
    image = np.array(pixels, np.uint8, order="C")
    image.flags.writeable = False
    return image


# ------------------------------------------------------------------------------------------------- chunks


def chunk_message(arrival: ChunkArrival) -> Int64MultiArray:
    """A chunk of tokens.

    ``layout.dim`` is horizon, action, and two dimensions of size 1 whose labels name the tokenizer and the hash of the
    action spec. ``layout.data_offset`` words come before the tokens: chunk id, observation stamp in ns, inference time
    in ns, end of inference in ns (-1 where unknown), how many rows of a prefix it honoured, and the float64 bits of
    the numbers of its doubt, NaN for what is not told. Log-probabilities and entropies stay behind.
    """
    chunk = arrival.chunk
    horizon, dims = chunk.tokens.shape
    layout = MultiArrayLayout(
        dim=[
            MultiArrayDimension(label="horizon", size=horizon, stride=horizon * dims),
            MultiArrayDimension(label="action", size=dims, stride=dims),
            MultiArrayDimension(label=_TOKENIZER + chunk.tokenizer_id, size=1, stride=1),
            MultiArrayDimension(label=_SPEC + chunk.spec_hash, size=1, stride=1),
        ],
        data_offset=_HEADER_WORDS,
    )
    words = (
        chunk.chunk_id,
        chunk.observation_stamp_ns,
        arrival.inference_ns,
        arrival.inferred_ns,
        chunk.forced_rows,
        *_doubt_words(chunk.doubt),
    )
    return Int64MultiArray(layout=layout, data=array("q", (*words, *chunk.tokens.ravel().tolist())))


def _doubt_words(doubt: ChunkDoubt | None) -> list[int]:
    """The numbers of a doubt as the bits of float64, NaN for what is not told."""
    told = (None,) * _DOUBT_WORDS if doubt is None else astuple(doubt)
    return np.array([np.nan if number is None else number for number in told], np.float64).view(np.int64).tolist()


def _doubt_back(words: IntArray) -> ChunkDoubt | None:
    numbers = [None if math.isnan(number) else number for number in words.view(np.float64).tolist()]
    if numbers[0] is None or numbers[1] is None:
        return None
    try:
        return ChunkDoubt(numbers[0], numbers[1], *numbers[2:])
    except ValueError as error:
        raise MessageError(f"a chunk's doubt: {error}") from error


def chunk_from_message(message: Int64MultiArray) -> ChunkArrival:
    """A chunk as it came: whether its tokenizer, spec, shape and tokens fit is the executor's to judge.

    Raises:
        MessageError: The layout is not that of :func:`chunk_message`.
    """
    layout = message.layout
    dim = list(layout.dim)
    labels = [dimension.label for dimension in dim[:_MAX_CHUNK_DIMS]]
    fits = (
        len(dim) == 4
        and labels[:2] == ["horizon", "action"]
        and labels[2].startswith(_TOKENIZER)
        and labels[3].startswith(_SPEC)
        and dim[2].size == dim[3].size == 1
        and layout.data_offset == _HEADER_WORDS
    )
    if not fits:
        raise MessageError(
            f"expected the dimensions horizon, action, {_TOKENIZER}ID, {_SPEC}HASH and {_HEADER_WORDS} words before "
            f"the tokens; found {', '.join(labels) or 'no dimensions'} and {layout.data_offset}"
        )
    horizon, dims = dim[0].size, dim[1].size
    if len(message.data) != _HEADER_WORDS + horizon * dims:
        raise MessageError(
            f"expected {_HEADER_WORDS} + {horizon} x {dims} words, found {len(message.data)}; layout and data disagree"
        )
    words = np.array(message.data, np.int64)
    tokens = words[_HEADER_WORDS:].reshape(horizon, dims)
    tokens.flags.writeable = False
    chunk = ActionChunk(
        tokens=tokens,
        tokenizer_id=labels[2].removeprefix(_TOKENIZER),
        spec_hash=labels[3].removeprefix(_SPEC),
        observation_stamp_ns=int(words[1]),
        chunk_id=int(words[0]),
        forced_rows=int(words[4]),
        doubt=_doubt_back(words[5:_HEADER_WORDS]),
    )
    return ChunkArrival(chunk, int(words[2]), int(words[3]))


# ------------------------------------------------------------------------------------------------ records


def record_message(data: bytes, label: str) -> UInt8MultiArray:
    """A packed record (:mod:`ros_nodes.records`) under its label, which names kind and version."""
    layout = MultiArrayLayout(dim=[MultiArrayDimension(label=label, size=len(data), stride=len(data))], data_offset=0)
    return UInt8MultiArray(layout=layout, data=array("B", data))


def record_data(message: UInt8MultiArray, label: str) -> bytes:
    """The bytes of a record.

    Raises:
        MessageError: Another kind or version.
    """
    found = [dimension.label for dimension in list(message.layout.dim)[:2]]
    if found != [label]:
        raise MessageError(f"expected a record {label!r}, found {found}; both sides must run the same release")
    return bytes(message.data)
