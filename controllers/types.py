"""Core value types of the stack: frozen, SI units, monotonic nanosecond stamps, read-only arrays.

Conventions used everywhere:

* Poses and twists are expressed in the robot ``base`` frame unless a ``frame`` field says otherwise.
* Quaternions are unit, scalar first: ``(w, x, y, z)`` (MuJoCo's order).
* Twists and wrenches stack the linear part first: ``(3,) linear, (3,) angular``.
* Arrays held by these types are read-only; build them with :func:`frozen_array`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from controllers.doubt import ChunkDoubt, DoubtTransition

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ImageArray = npt.NDArray[np.uint8]

NANOSECONDS = 1_000_000_000
# Members of an enumeration are singletons. Their usual hash is Python code, and a tick looks a dozen of them up.
_BY_IDENTITY = object.__hash__


def frozen_array(values: npt.ArrayLike, shape: tuple[int, ...] | None = None) -> FloatArray:
    """Copy ``values`` into a read-only float64 array.

    Args:
        values: Anything numpy can convert to float64.
        shape: Required shape, or None for any.

    Raises:
        ValueError: The shape differs from the required one.
    """
    array = np.array(values, dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"expected an array of shape {shape}, found {array.shape}")
    array.setflags(write=False)  # twice as fast as by ``flags``
    return array


# --------------------------------------------------------------------------------------------- sensing


@dataclass(frozen=True, slots=True)
class Pose:
    """A rigid pose: ``position`` (3,) m and unit ``quaternion`` (4,) wxyz."""

    position: FloatArray
    quaternion: FloatArray


@dataclass(frozen=True, slots=True)
class RobotState:
    """What the robot's sensors say at one instant, for ``n`` arm joints.

    Attributes:
        joint_position: (n,) rad, in the order of the robot description.
        joint_velocity: (n,) rad/s.
        joint_effort: (n,) N m, measured or applied actuator torque.
        ee_pose: Pose of the end-effector site in the base frame.
        wrench: (6,) force N and torque N m that the environment exerts at the wrist sensor, in the sensor frame.
        gripper_opening: Distance between the fingers, m.
        stamp_ns: Monotonic (or virtual) time of the reading.
    """

    joint_position: FloatArray
    joint_velocity: FloatArray
    joint_effort: FloatArray
    ee_pose: Pose
    wrench: FloatArray
    gripper_opening: float
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class TokenPrefix:
    """First rows of the chunk that is asked for, already committed: they will be executed while the model thinks.

    A policy that honours it emits exactly these tokens as its first rows, decodes the others so that they continue
    them, and says so in :attr:`ActionChunk.forced_rows`.

    Attributes:
        tokens: (rows, dims) int64 token ids of rows 0 to ``rows - 1``, read-only; at least one row.
    """

    tokens: IntArray

    @property
    def rows(self) -> int:
        """How many rows are committed."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy sees.

    Attributes:
        images: Camera name -> (H, W, 3) uint8 RGB, read-only.
        state: Sensed robot state at the same instant.
        commanded_pose: The executor's reference pose in the base frame; delta actions start from it.
        instruction: The language goal.
        stamp_ns: Time of the observation; a chunk inferred from it carries the same stamp.
        prefix: Rows of the answer that are committed already, None for none.
    """

    images: Mapping[str, ImageArray]
    state: RobotState
    commanded_pose: Pose
    instruction: str
    stamp_ns: int
    prefix: TokenPrefix | None = None


# --------------------------------------------------------------------------------------------- actions


class ActionSpace(Enum):
    """What the action dimensions mean."""

    EE_DELTA = "ee_delta"  # dx dy dz (m), rotation vector drx dry drz (rad), gripper; per row, base frame
    EE_POSE = "ee_pose"  # x y z (m), rotation vector rx ry rz (rad), gripper; absolute, base frame
    JOINT_POSITION = "joint_position"  # n joint positions (rad), gripper; absolute


@dataclass(frozen=True, slots=True)
class NormalizationStatistics:
    """Quantile statistics that map actions to [-1, 1]: ``2 (a - q01) / (q99 - q01) - 1`` where ``mask``.

    Attributes:
        q01: (dims,) value mapped to -1.
        q99: (dims,) value mapped to +1.
        mask: (dims,) False marks dimensions that pass through unnormalized (OpenVLA's convention).
    """

    q01: FloatArray
    q99: FloatArray
    mask: tuple[bool, ...]


@dataclass(frozen=True)
class ActionSpec:
    """The contract of one action row. Two specs that differ never mix: chunks carry :attr:`hash`.

    Attributes:
        space: Meaning of the dimensions.
        frame: Frame of Cartesian quantities (``"base"``) or ``"joint"``.
        names: (dims,) name of each dimension.
        units: (dims,) unit of each dimension.
        lower: (dims,) smallest admissible decoded value; outside is a rejection, never a clip.
        upper: (dims,) largest admissible decoded value.
        rate_hz: Rows per second.
        horizon: Rows in a chunk.
        statistics: Normalization statistics.
    """

    space: ActionSpace
    frame: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    rate_hz: int
    horizon: int
    statistics: NormalizationStatistics

    @property
    def dims(self) -> int:
        """Number of action dimensions."""
        return len(self.names)

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description; equal specs give equal JSON."""
        return {
            "space": self.space.value,
            "frame": self.frame,
            "names": list(self.names),
            "units": list(self.units),
            "lower": self.lower.tolist(),
            "upper": self.upper.tolist(),
            "rate_hz": self.rate_hz,
            "horizon": self.horizon,
            "q01": self.statistics.q01.tolist(),
            "q99": self.statistics.q99.tolist(),
            "mask": list(self.statistics.mask),
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, first 16 hex digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        """Equal when the contracts are the same."""
        return isinstance(other, ActionSpec) and self.hash == other.hash

    def __hash__(self) -> int:
        """Consistent with equality."""
        return int(self.hash, 16)

    @staticmethod
    def from_json(data: Mapping[str, object]) -> ActionSpec:
        """Rebuild a spec from :meth:`to_json`."""
        return _action_spec_from_json(data)


def _action_spec_from_json(data: Mapping[str, object]) -> ActionSpec:
    def strings(key: str) -> tuple[str, ...]:
        return tuple(str(item) for item in _sequence(data, key))

    return ActionSpec(
        space=ActionSpace(data["space"]),
        frame=str(data["frame"]),
        names=strings("names"),
        units=strings("units"),
        lower=frozen_array(np.asarray(data["lower"], dtype=np.float64)),
        upper=frozen_array(np.asarray(data["upper"], dtype=np.float64)),
        rate_hz=int(str(data["rate_hz"])),
        horizon=int(str(data["horizon"])),
        statistics=NormalizationStatistics(
            q01=frozen_array(np.asarray(data["q01"], dtype=np.float64)),
            q99=frozen_array(np.asarray(data["q99"], dtype=np.float64)),
            mask=tuple(bool(item) for item in _sequence(data, "mask")),
        ),
    )


def _sequence(data: Mapping[str, object], key: str) -> Sequence[object]:
    value = data[key]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list under {key!r}, found {type(value).__name__}")
    return value  # pyright: ignore[reportUnknownVariableType]


@dataclass(frozen=True, slots=True)
class ActionChunk:
    """A chunk of discretized actions as a policy emits it.

    Attributes:
        tokens: (horizon, dims) int64 token ids, read-only. Row ``i`` is to be reached ``(i + 1) / rate_hz``
            seconds after the observation.
        tokenizer_id: Identity of the tokenizer that can decode them.
        spec_hash: :attr:`ActionSpec.hash` that the policy was built for.
        observation_stamp_ns: Stamp of the observation that the chunk answers.
        chunk_id: Increasing number given by the policy client.
        forced_rows: How many rows of the observation's :class:`TokenPrefix` it honoured; 0 without one.
        log_probability: (horizon, dims) the policy's own log-probability of each token, nat; None if it gives none.
            For the log and for people; nothing decides on it.
        entropy: (horizon, dims) entropy of the distribution that each token was chosen from, nat; None if it gives
            none. For the log and for people, too.
        doubt: How unsure the policy was, in the numbers that thresholds are compared with; None if it does not tell.
    """

    tokens: IntArray
    tokenizer_id: str
    spec_hash: str
    observation_stamp_ns: int
    chunk_id: int
    forced_rows: int = 0
    log_probability: FloatArray | None = None
    entropy: FloatArray | None = None
    doubt: ChunkDoubt | None = None


@dataclass(frozen=True, slots=True)
class ChunkArrival:
    """A chunk, and what only the log wants to know of it; nothing decides on that.

    Attributes:
        chunk: The chunk.
        inference_ns: How long inference took, by the wall clock.
        inferred_ns: When inference ended, by the loop's clock; -1 if unknown.
    """

    chunk: ActionChunk
    inference_ns: int = 0
    inferred_ns: int = -1


class RejectionReason(Enum):
    """Why a chunk was refused. A refused chunk never moves the arm."""

    UNKNOWN_TOKENIZER = "unknown_tokenizer"
    SPEC_MISMATCH = "spec_mismatch"
    WRONG_SHAPE = "wrong_shape"
    WRONG_TYPE = "wrong_type"
    TOKEN_OUT_OF_VOCABULARY = "token_out_of_vocabulary"
    NON_FINITE = "non_finite"
    OUT_OF_BOUNDS = "out_of_bounds"
    STALE = "stale"
    FUTURE_STAMP = "future_stamp"
    OUT_OF_ORDER = "out_of_order"
    PREFIX_MISMATCH = "prefix_mismatch"  # it does not begin with the rows that were committed
    MALFORMED_SEQUENCE = "malformed_sequence"  # tokens that are known, one by one, and together write no chunk
    UNKNOWN_DOUBT = "unknown_doubt"  # the stack has thresholds on doubt and the policy does not tell it
    DOUBTFUL = "doubtful"  # well formed, but above the threshold on doubt: what is being played goes on to a stand


@dataclass(frozen=True, slots=True)
class Rejection:
    """A typed refusal of one chunk."""

    chunk_id: int
    reason: RejectionReason
    message: str


# --------------------------------------------------------------------------------- targets and commands


@dataclass(frozen=True, slots=True)
class JointTarget:
    """Reach joint ``position`` (n,) rad."""

    position: FloatArray
    gripper_opening: float
    frame: str = "joint"


@dataclass(frozen=True, slots=True)
class PoseTarget:
    """Reach an end-effector ``pose`` given in ``frame``, moving through it with ``twist`` (6,) m/s, rad/s."""

    pose: Pose
    twist: FloatArray
    gripper_opening: float
    frame: str


@dataclass(frozen=True, slots=True)
class TwistTarget:
    """Move the end effector with ``twist`` (6,) m/s, rad/s given in ``frame``."""

    twist: FloatArray
    gripper_opening: float
    frame: str


Target = JointTarget | PoseTarget | TwistTarget


class CommandMode(Enum):
    """What the values of a joint command are."""

    __hash__ = _BY_IDENTITY

    POSITION = "position"  # rad
    VELOCITY = "velocity"  # rad/s
    TORQUE = "torque"  # N m, gravity included (the arm does not compensate by itself)


@dataclass(frozen=True, slots=True)
class JointCommand:
    """What is asked of the actuators: ``values`` (n,) in the unit of ``mode``; gripper opening in m."""

    mode: CommandMode
    values: FloatArray
    gripper_opening: float
    stamp_ns: int


# ---------------------------------------------------------------------------------------------- safety


class SafetyStatus(Enum):
    """State of the safety filter after a tick, in order of severity."""

    __hash__ = _BY_IDENTITY

    RUN = "run"  # the command passed unchanged
    LIMITING = "limiting"  # slowed or bent, still moving under limits
    HOLD = "hold"  # braking or at rest; recovers by itself when valid commands return
    PROTECTIVE_STOP = "protective_stop"  # needs acknowledgement
    EMERGENCY_STOP = "emergency_stop"  # latched; needs explicit reset
    OFF = "off"  # filter disabled by a logged, loud flag; the command passed unchecked

    @property
    def stop_category(self) -> int | None:
        """Stop category of IEC 60204-1 that the state asks for, None where the arm may move.

        Category 2 brakes under control and keeps the drives powered; category 1 brakes under control and removes power
        at rest. The filter brakes; a robot with brakes and contactors removes power once it stands.
        """
        if self in (SafetyStatus.HOLD, SafetyStatus.PROTECTIVE_STOP):
            return 2
        return 1 if self is SafetyStatus.EMERGENCY_STOP else None


@dataclass(frozen=True, slots=True)
class SafetyReason:
    """One cause of an intervention: the limit's name, its margin (in its own unit, < 0 violated), and words."""

    limit: str
    margin: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class SafetyResult:
    """The command to apply and its status, together.

    Attributes:
        command: What may be sent to the robot.
        status: State of the filter.
        reasons: Why, empty when status is RUN.
        speed_scale: In [0, 1]; the executor's clock runs at this rate on the next tick.
        min_margin: Smallest margin over all limits, each divided by its own scale (dimensionless).
    """

    command: JointCommand
    status: SafetyStatus
    reasons: tuple[SafetyReason, ...]
    speed_scale: float
    min_margin: float


class OperatorEvent(Enum):
    """An event that a person or a supervisor injects into a tick."""

    __hash__ = _BY_IDENTITY

    EMERGENCY_STOP = "emergency_stop"
    RESET = "reset"  # leave a latched emergency stop, once the robot is at rest
    ACKNOWLEDGE = "acknowledge"  # leave a protective stop
    HOLD = "hold"  # stop taking chunks and hold (Ctrl-C, pause)
    RESUME = "resume"
    REDUCED_SPEED = "reduced_speed"  # keep to the profile's reduced speed from now on; a restart lifts it
    POLICY_HEARTBEAT = "policy_heartbeat"  # the policy is alive; once heard, its silence is a fault


# -------------------------------------------------------------------------------------------- the tick


class ExecutorStatus(Enum):
    """What the chunk executor did on a tick."""

    __hash__ = _BY_IDENTITY

    WAITING = "waiting"  # no chunk yet: holding
    EXECUTING = "executing"  # playing a chunk
    EXHAUSTED = "exhausted"  # chunk played out and none new: holding
    HOLDING = "holding"  # told to hold
    DOUBTFUL = "doubtful"  # the newest chunk is too doubtful: coming to a stand, or standing, on the path


@dataclass(frozen=True, slots=True)
class ExecutorReport:
    """The executor's account of one tick.

    Attributes:
        status: What it did.
        chunk_id: Chunk being played, -1 for none.
        phase: Place in the chunk, in rows (0 = at the observation).
        rejections: Chunks refused on this tick.
        accepted: Ids of chunks taken on this tick.
        doubt: Changes of what the doubt of chunks asks for, in order.
    """

    status: ExecutorStatus
    chunk_id: int
    phase: float
    rejections: tuple[Rejection, ...] = ()
    accepted: tuple[int, ...] = ()
    doubt: tuple[DoubtTransition, ...] = ()


@dataclass(frozen=True, slots=True)
class TickInputs:
    """All that enters one tick; everything that is not deterministic is in here and nowhere else.

    Attributes:
        tick: Number of the tick, from 0.
        now_ns: The clock at the start of the tick.
        state: Sensed state.
        arrivals: Chunks that arrived since the last tick, in order of arrival.
        events: Operator events since the last tick.
    """

    tick: int
    now_ns: int
    state: RobotState
    arrivals: tuple[ChunkArrival, ...] = ()
    events: tuple[OperatorEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class TickOutputs:
    """All that leaves one tick.

    Attributes:
        target: What the executor asked of the controller.
        command: The controller's candidate command.
        safety: The verdict, with the command to apply.
        executor: The executor's report.
        request_inference: The driver should capture an observation on the next tick and ask for a chunk.
        commanded_pose: The executor's reference pose after this tick (base frame).
    """

    target: Target
    command: JointCommand
    safety: SafetyResult
    executor: ExecutorReport
    request_inference: bool
    commanded_pose: Pose = field(repr=False)
