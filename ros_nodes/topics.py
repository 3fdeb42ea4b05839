"""Every topic and service of the graph: name, type, quality of service, rate, frame and unit, as data.

Names are relative, so that namespaces and remapping work; `/clock` and `/diagnostics` are absolute by convention.
``docs/ros2.md`` shows this table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reliability(Enum):
    """Whether lost samples are sent again."""

    RELIABLE = "reliable"
    BEST_EFFORT = "best effort"


class Durability(Enum):
    """Whether late subscribers get the last sample."""

    VOLATILE = "volatile"
    TRANSIENT_LOCAL = "transient local"


@dataclass(frozen=True, slots=True)
class Qos:
    """One side's quality of service.

    Attributes:
        reliability: Whether lost samples are sent again.
        depth: Samples kept; always "keep last", so that no writer ever waits for a reader.
        durability: Whether late subscribers get the last sample.
        deadline_ms: Longest time between samples that is offered or expected, None for none.
        lease_ms: After how long without a sign of life a publisher counts as gone, None for the middleware's own.
    """

    reliability: Reliability = Reliability.RELIABLE
    depth: int = 1
    durability: Durability = Durability.VOLATILE
    deadline_ms: int | None = None
    lease_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic.

    Attributes:
        name: Relative name; ``{camera}`` stands for a camera's name.
        message: Type as ROS 2 writes it.
        offered: What publishers of ours offer.
        requested: What subscribers of ours ask for; never more than ``offered``.
        rate: Samples per second, in words.
        frame: Frame of what it carries, empty where there is none.
        unit: Unit of the numbers.
        purpose: From whom to whom, and why this quality of service.
    """

    name: str
    message: str
    offered: Qos
    requested: Qos
    rate: str
    frame: str
    unit: str
    purpose: str

    def named(self, camera: str) -> str:
        """The name for one camera."""
        return self.name.format(camera=camera)


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the safety node or the simulated robot."""

    name: str
    service: str
    purpose: str


_RELIABLE = Qos()
_SENSOR = Qos(Reliability.BEST_EFFORT)
_LATCHED = Qos(durability=Durability.TRANSIENT_LOCAL)
_HISTORY = Qos(depth=4000, durability=Durability.TRANSIENT_LOCAL)

JOINT_STATES = Topic(
    "joint_states", "sensor_msgs/msg/JointState", _RELIABLE, _SENSOR, "200 Hz (a robot: its own)", "",
    "rad, rad/s, N m; gripper: m",
    "robot to everyone. We ask for best effort, so that any driver's publisher fits and a late sample never delays a "
    "newer one",
)  # fmt: skip
WRENCH = Topic(
    "wrench", "geometry_msgs/msg/WrenchStamped", _RELIABLE, _SENSOR, "200 Hz", "wrist sensor", "N, N m",
    "robot to control and safety: what the environment exerts on the hand",
)  # fmt: skip
CAMERA = Topic(
    "camera/{camera}/image_raw", "sensor_msgs/msg/Image", _SENSOR, _SENSOR, "30 Hz", "camera", "rgb8",
    "robot to policy. Best effort: a lost picture is not worth waiting for; rgb8, bgr8, rgba8, bgra8, mono8 accepted",
)  # fmt: skip
CAMERA_COMPRESSED = Topic(
    "camera/{camera}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", _SENSOR, _SENSOR, "30 Hz", "camera",
    "jpeg, png",
    "robot to policy, instead of the raw picture, where `image_transport` is `compressed`",
)  # fmt: skip
CLOCK = Topic(
    "/clock", "rosgraph_msgs/msg/Clock", _SENSOR, _SENSOR, "50 Hz", "", "s, ns",
    "the simulated robot or the replay to nodes with `use_sim_time`",
)  # fmt: skip
INSTRUCTION = Topic(
    "instruction", "std_msgs/msg/String", _LATCHED, _RELIABLE, "on change", "", "words",
    "operator to policy. We ask for volatile, so that a plain `ros2 topic pub` fits",
)  # fmt: skip
COMMANDED_POSE = Topic(
    "commanded_pose", "geometry_msgs/msg/PoseStamped", _SENSOR, _SENSOR, "control rate", "base", "m, unit quaternion",
    "control to policy, while a chunk is asked for: the executor's reference when the state of that stamp was sensed; "
    "delta actions start from it",
)  # fmt: skip
OBSERVATION_REQUEST = Topic(
    "observation_request", "std_msgs/msg/Header", _RELIABLE, _RELIABLE, "as chunks are played", "", "",
    "control to policy: infer from the first pictures that are not older than this stamp",
)  # fmt: skip
ACTION_CHUNK = Topic(
    "action_chunk", "std_msgs/msg/Int64MultiArray", Qos(depth=8), Qos(depth=8), "1-10 Hz", "", "token ids",
    "policy to control. The layout names tokenizer and action spec; see below",
)  # fmt: skip
POLICY_HEARTBEAT = Topic(
    "policy_heartbeat", "std_msgs/msg/Header", _RELIABLE, _RELIABLE, "10 Hz", "", "",
    "policy to safety: once heard, its silence beyond the profile's `policy_timeout_ms` is a fault",
)  # fmt: skip
LOG_HEARTBEAT = Topic(
    "log_heartbeat", "std_msgs/msg/Header", _RELIABLE, _RELIABLE, "10 Hz", "", "",
    "recorder to safety, while every tick reaches the disk: where `log_timeout_ms` is set, its silence holds the arm",
)  # fmt: skip
CANDIDATE = Topic(
    "candidate_command", "sensor_msgs/msg/JointState",
    Qos(deadline_ms=40, lease_ms=1000), Qos(deadline_ms=40, lease_ms=1000),
    "control rate", "", "rad, rad/s or N m; gripper: m",
    "control to safety. Only the newest counts (depth 1). The deadline and the lease name a silent or a vanished "
    "controller in the diagnostics; what stops the arm is the filter's own watchdog",
)  # fmt: skip
SAFE_COMMAND = Topic(
    "safe_command", "sensor_msgs/msg/JointState", Qos(deadline_ms=40), _RELIABLE, "control rate", "",
    "rad, rad/s or N m; gripper: m",
    "safety to robot: the only command that a robot may follow",
)  # fmt: skip
CONTROL_TICK = Topic(
    "control/tick", "std_msgs/msg/UInt8MultiArray", _HISTORY, _HISTORY, "control rate", "", "record",
    "control to recorder: all that entered and left one control tick. The last seconds are kept, so that a recorder "
    "that joins late still gets the first tick",
)  # fmt: skip
SAFETY_TICK = Topic(
    "safety/tick", "std_msgs/msg/UInt8MultiArray", _HISTORY, Qos(depth=10), "control rate", "", "record",
    "safety to control and recorder: the command as it was judged, the verdict, and what it was based on. The recorder "
    "asks for the history as well",
)  # fmt: skip
OBSERVATION = Topic(
    "policy/observation", "std_msgs/msg/UInt8MultiArray", Qos(depth=10), Qos(depth=10), "1-10 Hz", "", "record",
    "policy to recorder: exactly what the model saw",
)  # fmt: skip
SAFETY_STATUS = Topic(
    "safety/status", "std_msgs/msg/String", _LATCHED, _LATCHED, "on change", "", "words",
    "safety to people: `run`, `limiting`, `hold`, ... and why",
)  # fmt: skip
TASK_INSTRUCTION = Topic(
    "task/instruction", "std_msgs/msg/String", _LATCHED, _LATCHED, "once", "", "words",
    "simulated robot to whoever gives instructions: what the scene was made for",
)  # fmt: skip
TASK_SUCCESS = Topic(
    "task/success", "std_msgs/msg/Bool", _RELIABLE, _RELIABLE, "10 Hz", "", "",
    "simulated robot to evaluation: the goal holds",
)  # fmt: skip
DIAGNOSTICS = Topic(
    "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", Qos(depth=10), Qos(depth=10), "5 Hz and on change", "", "",
    "every node to monitors: rates, lateness, margins, faults by name",
)  # fmt: skip

TOPICS: tuple[Topic, ...] = (
    JOINT_STATES, WRENCH, CAMERA, CAMERA_COMPRESSED, CLOCK, INSTRUCTION, COMMANDED_POSE, OBSERVATION_REQUEST,
    ACTION_CHUNK, POLICY_HEARTBEAT, LOG_HEARTBEAT, CANDIDATE, SAFE_COMMAND, CONTROL_TICK, SAFETY_TICK, OBSERVATION,
    SAFETY_STATUS, TASK_INSTRUCTION, TASK_SUCCESS, DIAGNOSTICS,
)  # fmt: skip

EMERGENCY_STOP = Service("safety_node/emergency_stop", "std_srvs/srv/Trigger", "latched emergency stop, at once")
RESET = Service("safety_node/reset", "std_srvs/srv/Trigger", "leave the emergency stop, once the arm is at rest")
ACKNOWLEDGE = Service("safety_node/acknowledge", "std_srvs/srv/Trigger", "leave a protective stop, once at rest")
HOLD = Service("safety_node/hold", "std_srvs/srv/Trigger", "brake, hold, and take no chunks")
RESUME = Service("safety_node/resume", "std_srvs/srv/Trigger", "go on after a hold")
REDUCED_SPEED = Service("safety_node/reduced_speed", "std_srvs/srv/Trigger", "reduced speed until the node restarts")
SERVICES: tuple[Service, ...] = (EMERGENCY_STOP, RESET, ACKNOWLEDGE, HOLD, RESUME, REDUCED_SPEED)
