"""Pictures and an instruction in, action chunks out. The only node that loads a deep-learning framework."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, Int64MultiArray, String, UInt8MultiArray

from controllers.names import unknown_name
from controllers.protocols import Policy
from controllers.robot import load_robot
from controllers.types import ChunkArrival, ImageArray, Observation, Pose, RobotState
from ros_nodes import topics
from ros_nodes.conversion import (
    chunk_message,
    header,
    image_from_compressed,
    image_from_message,
    pose_from_message,
    record_message,
    resized,
    stamp_ns,
)
from ros_nodes.errors import MessageError
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import declare, option
from ros_nodes.records import OBSERVATION_LABEL, pack_observation
from ros_nodes.sensing import StateListener
from ros_nodes.stack_options import StackParameters
from ros_nodes.statistics import Statistics
from vla.catalog import build_policy

_HISTORY = 200  # states and reference poses kept, to find those of a picture's moment
_HEARTBEAT_NS = 100_000_000
_TRANSPORTS = ("raw", "compressed")


@dataclass(frozen=True)
class PolicyOptions(StackParameters):
    """Parameters of the policy node."""

    policy: str = option("compact", "policy of the catalog")
    weights: str = option("", "folder of its weights; empty for those that come with the package")
    device: str = option("cpu", "cpu or cuda")
    image_transport: str = option("raw", "raw or compressed")
    camera_skew_ms: float = option(20.0, "largest difference of the cameras' stamps", low=0.0, high=1000.0)
    instruction: str = option("", "words until something comes on the topic")


class PolicyNode(GraphNode):
    """Answers the control node's requests, from the first pictures that are new enough."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("policy_node")
        self._options = declare(self, PolicyOptions)
        self._instruction = self._options.instruction
        self._policy: Policy | None = None

    def setup(self) -> None:
        """Load the model and warm it up."""
        options = self._options
        if options.image_transport not in _TRANSPORTS:
            raise ValueError(
                f"parameter image_transport: {unknown_name('transport', options.image_transport, _TRANSPORTS)}"
            )
        config = options.stack()
        self._sizes = dict(config.cameras)
        self._policy = _load(options)
        if self._policy.spec.hash != config.action_spec.hash:
            raise ValueError(
                f"expected a policy for action spec {config.action_spec.hash}, found {self._policy.spec.hash}: the "
                "control node would refuse its chunks; choose the stack that it was trained on"
            )
        self._chunks = self.publish_on(topics.ACTION_CHUNK, Int64MultiArray)
        self._observations = self.publish_on(topics.OBSERVATION, UInt8MultiArray)
        self._heartbeat = self.publish_on(topics.POLICY_HEARTBEAT, Header)
        self._listen_to_cameras()
        self.subscribe_to(topics.INSTRUCTION, String, self._on_instruction)
        self.subscribe_to(topics.OBSERVATION_REQUEST, Header, self._on_request)
        self.subscribe_to(topics.COMMANDED_POSE, PoseStamped, self._on_pose)
        description = load_robot(options.robot)
        names = options.names(description)
        self._sensing = StateListener(
            self,
            description,
            names,
            wrench=options.wrench,
            max_rate_hz=0.0,
            heard=self._on_state,
            wanted=lambda: self._wanted_ns >= 0,
        )
        self._forget()

    def start(self) -> None:
        """Begin a new episode."""
        assert self._policy is not None
        self._policy.reset()
        self._forget()

    def teardown(self) -> None:
        """Let the model go."""
        self._policy = None

    def _forget(self) -> None:
        self._states: deque[RobotState] = deque(maxlen=_HISTORY)
        self._poses: deque[tuple[int, Pose]] = deque(maxlen=_HISTORY)
        self._pictures: dict[str, tuple[int, ImageArray]] = {}
        self._wanted_ns = -1
        self._chunk_id = 0
        self._next_heartbeat = time.monotonic_ns()
        self._fault = ""
        self._latency, self._age = Statistics(100), Statistics(100)

    def _listen_to_cameras(self) -> None:
        raw = self._options.image_transport == "raw"
        topic, kind = (topics.CAMERA, Image) if raw else (topics.CAMERA_COMPRESSED, CompressedImage)
        for camera in self._sizes:
            self.subscribe_to(topic, kind, self._on_picture(camera, raw), topic.named(camera))

    # ------------------------------------------------------------------------------------------- what comes in

    def _on_picture(self, camera: str, raw: bool) -> Callable[[Any], None]:
        read = image_from_message if raw else image_from_compressed
        size = self._sizes[camera]

        def on_message(message: Any) -> None:
            stamp = stamp_ns(message.header.stamp)
            if not self.active or self._wanted_ns < 0 or stamp < self._wanted_ns:
                return  # nobody asked for it: not even decoded
            try:
                self._pictures[camera] = stamp, resized(read(message), size)
            except MessageError as error:
                self._fault = f"{camera}: {error}"
                return
            self._try_to_answer()

        return on_message

    def _on_instruction(self, message: String) -> None:
        if message.data != self._instruction:
            self._instruction = message.data
            self.get_logger().info(f"instruction: {message.data!r}")

    def _on_request(self, message: Header) -> None:
        self._wanted_ns = stamp_ns(message.stamp)
        self._pictures = {name: found for name, found in self._pictures.items() if found[0] >= self._wanted_ns}

    def _on_pose(self, message: PoseStamped) -> None:
        try:
            self._poses.append((stamp_ns(message.header.stamp), pose_from_message(message)))
        except MessageError as error:
            self._fault = f"{topics.COMMANDED_POSE.name}: {error}"

    def _on_state(self, state: RobotState) -> None:
        self._states.append(state)

    # ----------------------------------------------------------------------------------------------- inference

    def _try_to_answer(self) -> None:
        if self._wanted_ns < 0 or not self._instruction or not self.ready or len(self._pictures) < len(self._sizes):
            return
        stamps = [stamp for stamp, _ in self._pictures.values()]
        if max(stamps) - min(stamps) > self._options.camera_skew_ms * 1e6:
            return
        observation = self._observe(min(stamps))
        if observation is None:
            return
        self._wanted_ns = -1
        self._pictures = {}
        self._infer(observation)

    def _observe(self, stamp: int) -> Observation | None:
        """What the model sees: the pictures, and state and reference pose of the same moment."""
        state = next((state for state in reversed(self._states) if state.stamp_ns <= stamp), None)
        pose = next((pose for when, pose in reversed(self._poses) if when <= stamp), None)
        if state is None or pose is None:
            return None
        images = {camera: image for camera, (_, image) in self._pictures.items()}
        return Observation(images, state, pose, self._instruction, state.stamp_ns)

    def _infer(self, observation: Observation) -> None:
        assert self._policy is not None
        started = time.perf_counter_ns()
        try:
            chunk = self._policy.infer(observation)
        except (ValueError, RuntimeError) as error:
            self._fault = f"the policy failed: {error}"
            self.diagnose_soon()
            return
        took = time.perf_counter_ns() - started
        self._chunk_id += 1
        chunk = replace(chunk, chunk_id=self._chunk_id, observation_stamp_ns=observation.stamp_ns)
        self._chunks.publish(chunk_message(ChunkArrival(chunk, took, self.clock.now_ns())))
        self._observations.publish(record_message(pack_observation(observation), OBSERVATION_LABEL))
        self._latency.add(took)
        self._age.add(self.clock.now_ns() - observation.stamp_ns)

    # ------------------------------------------------------------------------------------------------ heartbeat

    def wake_ns(self) -> int | None:
        """The next heartbeat."""
        return self._next_heartbeat if self.ready else None

    def work(self) -> None:
        """Say that the model is alive. A hanging inference is silent, as it should be."""
        self._next_heartbeat = time.monotonic_ns() + _HEARTBEAT_NS
        self._heartbeat.publish(header(self.clock.now_ns()))

    def diagnose(self) -> Diagnosis:
        """What it is told, and how long it takes."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        fault, self._fault = self._fault, ""
        words = fault or ("answering" if self._instruction else f"waiting for {topics.INSTRUCTION.name}")
        values = {
            "instruction": self._instruction,
            "chunks": str(self._chunk_id),
            "inference_ms": self._latency.words(1e-6),
            "observation_age_ms": self._age.words(1e-6),
        }
        return Diagnosis(Level.WARN if fault or not self._instruction else Level.OK, words, values)


def _load(options: PolicyOptions) -> Policy:
    extra = {"weights": options.weights} if options.weights else {}
    policy = build_policy(options.policy, device=options.device, **extra)
    warm_up = getattr(policy, "warm_up", None)
    if warm_up is not None:
        warm_up()
    return policy


def main() -> None:
    """Run the node."""
    sys.exit(run(PolicyNode))


if __name__ == "__main__":
    main()
