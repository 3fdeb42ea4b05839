"""Packed records of what a tick saw and did, for the recorder and the other half of the loop. Bit for bit, no ROS.

msgpack of plain lists in a fixed order; arrays travel as their bytes. A label names kind and version.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import msgpack
import numpy as np

from controllers.doubt import ChunkDoubt, DoubtLevel, DoubtMeasure, DoubtTransition
from controllers.types import (
    ActionChunk,
    ChunkArrival,
    CommandMode,
    ExecutorReport,
    ExecutorStatus,
    FloatArray,
    ImageArray,
    IntArray,
    JointCommand,
    JointTarget,
    Observation,
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
    TokenPrefix,
    TwistTarget,
)
from ros_nodes.errors import MessageError

CONTROL_LABEL = "vla.control_tick.3"
SAFETY_LABEL = "vla.safety_tick.2"
OBSERVATION_LABEL = "vla.observation.2"


@dataclass(frozen=True, slots=True)
class SafetyTick:
    """One tick of the safety node.

    Attributes:
        inputs: Its clock, the state that it sensed, and the events that it acted on.
        candidate: The command as it was judged.
        fresh: Whether the candidate came since the last tick.
        received_ns: When it came, on the node's clock.
        published_ns: When the safe command was handed to the middleware.
        result: The verdict.
    """

    inputs: TickInputs
    candidate: JointCommand
    fresh: bool
    received_ns: int
    published_ns: int
    result: SafetyResult


@dataclass(frozen=True, slots=True)
class ControlTick:
    """One tick of the control node.

    Attributes:
        inputs: All that entered.
        outputs: All that left; ``safety`` is the verdict on this tick's command as it was known at the next tick.
        heard: Whether that verdict came from the safety node; otherwise it was assumed.
        lateness_ns: Start of the tick after its deadline.
        published_ns: When the command was handed to the middleware.
    """

    inputs: TickInputs
    outputs: TickOutputs
    heard: bool
    lateness_ns: int
    published_ns: int


def pack_safety_tick(tick: SafetyTick) -> bytes:
    """To bytes."""
    return _dump(
        (
            _inputs(tick.inputs),
            _command(tick.candidate),
            tick.fresh,
            tick.received_ns,
            tick.published_ns,
            _result(tick.result),
        )
    )


def unpack_safety_tick(data: bytes) -> SafetyTick:
    """From bytes.

    Raises:
        MessageError: They are none.
    """
    inputs, candidate, fresh, received, published, result = _load(data, 6)
    return SafetyTick(
        _inputs_back(inputs), _command_back(candidate), bool(fresh), received, published, _result_back(result)
    )


def pack_control_tick(tick: ControlTick) -> bytes:
    """To bytes."""
    outputs = tick.outputs
    return _dump(
        (
            _inputs(tick.inputs),
            _target(outputs.target),
            _command(outputs.command),
            _result(outputs.safety),
            _report(outputs.executor),
            outputs.request_inference,
            _pose(outputs.commanded_pose),
            tick.heard,
            tick.lateness_ns,
            tick.published_ns,
        )
    )


def unpack_control_tick(data: bytes) -> ControlTick:
    """From bytes.

    Raises:
        MessageError: They are none.
    """
    inputs, target, command, result, report, request, commanded, heard, lateness, published = _load(data, 10)
    outputs = TickOutputs(
        target=_target_back(target),
        command=_command_back(command),
        safety=_result_back(result),
        executor=_report_back(report),
        request_inference=bool(request),
        commanded_pose=_pose_back(commanded),
    )
    return ControlTick(_inputs_back(inputs), outputs, bool(heard), lateness, published)


def pack_observation(observation: Observation) -> bytes:
    """To bytes, pictures included."""
    images = [(name, image.shape, image.tobytes()) for name, image in observation.images.items()]
    state, pose = _state(observation.state), _pose(observation.commanded_pose)
    prefix = None if observation.prefix is None else _tokens(observation.prefix.tokens)
    return _dump((images, state, pose, observation.instruction, observation.stamp_ns, prefix))


def unpack_observation(data: bytes) -> Observation:
    """From bytes.

    Raises:
        MessageError: They are none.
    """
    images, state, pose, instruction, stamp, prefix = _load(data, 6)
    pictures: dict[str, ImageArray] = {
        name: np.frombuffer(pixels, np.uint8).reshape(shape) for name, shape, pixels in images
    }
    committed = None if prefix is None else TokenPrefix(_tokens_back(prefix))
    return Observation(pictures, _state_back(state), _pose_back(pose), instruction, stamp, committed)


def _dump(value: object) -> bytes:
    packed = msgpack.packb(value)
    assert packed is not None
    return packed


def _load(data: bytes, length: int) -> list[Any]:
    try:
        value = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"expected a packed record, found {len(data)} bytes that are none: {error}") from error
    if not isinstance(value, list) or len(value) != length:
        raise MessageError(f"expected a record of {length} parts, found {type(value).__name__}")
    return value


def _array(values: FloatArray) -> bytes:
    return values.astype(np.float64, copy=False).tobytes()


def _array_back(data: bytes) -> FloatArray:
    return np.frombuffer(data, np.float64)  # read-only, since bytes are


def _pose(pose: Pose) -> tuple[bytes, bytes]:
    return _array(pose.position), _array(pose.quaternion)


def _pose_back(data: Any) -> Pose:
    return Pose(_array_back(data[0]), _array_back(data[1]))


def _state(state: RobotState) -> tuple[object, ...]:
    return (
        _array(state.joint_position),
        _array(state.joint_velocity),
        _array(state.joint_effort),
        _pose(state.ee_pose),
        _array(state.wrench),
        float(state.gripper_opening),
        state.stamp_ns,
    )


def _state_back(data: Any) -> RobotState:
    q, qd, effort, pose, wrench, opening, stamp = data
    return RobotState(
        _array_back(q), _array_back(qd), _array_back(effort), _pose_back(pose), _array_back(wrench), opening, stamp
    )


def _command(command: JointCommand) -> tuple[object, ...]:
    return command.mode.value, _array(command.values), float(command.gripper_opening), command.stamp_ns


def _command_back(data: Any) -> JointCommand:
    mode, values, opening, stamp = data
    return JointCommand(CommandMode(mode), _array_back(values), opening, stamp)


def _result(result: SafetyResult) -> tuple[object, ...]:
    reasons = [(item.limit, float(item.margin), item.message) for item in result.reasons]
    scale, margin = float(result.speed_scale), float(result.min_margin)
    return _command(result.command), result.status.value, reasons, scale, margin


def _result_back(data: Any) -> SafetyResult:
    command, status, reasons, scale, margin = data
    found = tuple(SafetyReason(*item) for item in reasons)
    return SafetyResult(_command_back(command), SafetyStatus(status), found, scale, margin)


def _tokens(tokens: IntArray) -> tuple[object, ...]:
    return tokens.shape, tokens.astype(np.int64, copy=False).tobytes()


def _tokens_back(data: Any) -> IntArray:
    shape, tokens = data
    return np.frombuffer(tokens, np.int64).reshape(shape)  # read-only, since bytes are


def _chunk(arrival: ChunkArrival) -> tuple[object, ...]:
    chunk = arrival.chunk
    likely, spread, doubt = chunk.log_probability, chunk.entropy, chunk.doubt
    return (
        _tokens(chunk.tokens),
        chunk.tokenizer_id,
        chunk.spec_hash,
        chunk.observation_stamp_ns,
        chunk.chunk_id,
        chunk.forced_rows,
        None if likely is None else _array(likely),
        None if spread is None else _array(spread),
        None if doubt is None else astuple(doubt),
        arrival.inference_ns,
        arrival.inferred_ns,
    )


def _chunk_back(data: Any) -> ChunkArrival:
    packed, tokenizer, spec, stamp, identifier, forced, *certainty, doubt, inference, inferred = data
    tokens = _tokens_back(packed)
    likely, spread = (None if values is None else _array_back(values).reshape(tokens.shape) for values in certainty)
    told = None if doubt is None else ChunkDoubt(*doubt)
    chunk = ActionChunk(tokens, tokenizer, spec, stamp, identifier, forced, likely, spread, told)
    return ChunkArrival(chunk, inference, inferred)


def _inputs(inputs: TickInputs) -> tuple[object, ...]:
    return (
        inputs.tick,
        inputs.now_ns,
        _state(inputs.state),
        [_chunk(arrival) for arrival in inputs.arrivals],
        [event.value for event in inputs.events],
    )


def _inputs_back(data: Any) -> TickInputs:
    tick, now, state, arrivals, events = data
    return TickInputs(
        tick,
        now,
        _state_back(state),
        tuple(_chunk_back(item) for item in arrivals),
        tuple(OperatorEvent(item) for item in events),
    )


def _target(target: Target) -> tuple[object, ...]:
    if isinstance(target, JointTarget):
        return "joint", _array(target.position), target.gripper_opening, target.frame
    if isinstance(target, PoseTarget):
        return "pose", _pose(target.pose), _array(target.twist), target.gripper_opening, target.frame
    return "twist", _array(target.twist), target.gripper_opening, target.frame


def _target_back(data: Any) -> Target:
    kind = data[0]
    if kind == "joint":
        return JointTarget(_array_back(data[1]), data[2], data[3])
    if kind == "pose":
        return PoseTarget(_pose_back(data[1]), _array_back(data[2]), data[3], data[4])
    return TwistTarget(_array_back(data[1]), data[2], data[3])


def _report(report: ExecutorReport) -> tuple[object, ...]:
    rejections = [(item.chunk_id, item.reason.value, item.message) for item in report.rejections]
    doubt = [(item.level.value, item.measure.value, item.value, item.threshold, item.chunk_id) for item in report.doubt]
    return report.status.value, report.chunk_id, float(report.phase), rejections, list(report.accepted), doubt


def _report_back(data: Any) -> ExecutorReport:
    status, chunk_id, phase, rejections, accepted, doubt = data
    refused = tuple(Rejection(chunk, RejectionReason(why), message) for chunk, why, message in rejections)
    changes = tuple(DoubtTransition(DoubtLevel(level), DoubtMeasure(by), *rest) for level, by, *rest in doubt)
    return ExecutorReport(ExecutorStatus(status), chunk_id, phase, refused, tuple(accepted), changes)
