"""Writes what the graph does into episodes: one of the control half, one of the safety half, for each activation.

Recording begins at the first tick after activation of control or safety node, and ends with the recorder's
deactivation or with the next first tick. Each half is complete in itself, so the safety node's record also survives a
dead controller.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from std_msgs.msg import Header, String, UInt8MultiArray

from controllers.robot import load_robot
from controllers.types import TickInputs, TickOutputs
from episodes.errors import EpisodeError, LogLossError
from episodes.exchange.mcap_export import write_bag
from episodes.manifest import Manifest, Outcome, PolicyIdentity
from episodes.reader import open_episode
from episodes.schema import UNKNOWN_STAMP
from episodes.writer import EpisodeWriter
from ros_nodes import topics
from ros_nodes.conversion import header, record_data
from ros_nodes.errors import MessageError
from ros_nodes.loops import HALF, Half, safety_outputs
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import current, declare, option
from ros_nodes.records import (
    CONTROL_LABEL,
    OBSERVATION_LABEL,
    SAFETY_LABEL,
    unpack_control_tick,
    unpack_observation,
    unpack_safety_tick,
)
from ros_nodes.stack_options import StackParameters
from sim.stack import StackConfig, options_to_json

_HEARTBEAT_NS = 100_000_000


@dataclass(frozen=True)
class RecorderOptions(StackParameters):
    """Parameters of the recorder."""

    out: str = option("runs/ros", "folder for the episodes; read at activate", live=True)
    task: str = option("", "name of the task, for the manifest; read at activate", live=True)
    seed: int = option(0, "seed of the scene, for the manifest; read at activate", low=0, high=2**53, live=True)
    policy: str = option("compact", "name of the policy, for the manifest")
    log_failure: str = option(
        "continue", "continue or hold while the log cannot be written, for the manifest; `log_timeout_ms` makes it so"
    )
    mcap: bool = option(False, "also write each finished episode as a ROS 2 bag; needs the extra 'exchange'")


class HalfRecorder:
    """Records one half; a new episode for each first tick.

    Attributes:
        half: Which.
        lost: Why an episode ended early, empty while all is well.
        finished: Episodes written.
    """

    def __init__(self, half: Half, config: StackConfig) -> None:
        """Record with the stack's configuration in the manifest."""
        self.half, self._config = half, config
        self._writer: EpisodeWriter | None = None
        self._next = 0
        self.lost = ""
        self.finished: list[Path] = []

    @property
    def writer(self) -> EpisodeWriter | None:
        """The open episode."""
        return self._writer

    @property
    def ticks(self) -> int:
        """Ticks of the open episode."""
        return self._next

    def open(self, path: Path, options: RecorderOptions, instruction: str) -> None:
        """Begin an episode at ``path``."""
        self.close("another episode began")
        config, safety = self._config, self._config.safety
        assert safety is not None
        manifest = Manifest(
            episode_id=path.stem,
            task=options.task,
            instruction=instruction,
            seed=options.seed,
            robot=config.robot,
            robot_hash=load_robot(config.robot).content_hash,
            joints=load_robot(config.robot).n,
            controller={
                "name": config.controller_name,
                "options": options_to_json(config.controller),
                HALF: self.half.value,
            },
            control_rate_hz=config.control_rate_hz,
            physics_timestep_s=None,
            action_spec=config.action_spec.to_json(),
            action_spec_hash=config.action_spec.hash,
            tokenizer_id=config.tokenizer_id,
            safety_profile=safety.to_json(),
            safety_profile_hash=safety.hash,
            policy=PolicyIdentity(options.policy),
            stack=config.to_json(),
            realtime=True,
            log_failure=options.log_failure,
        )
        self._writer = EpisodeWriter(path, manifest).open()
        self._next, self.lost = 0, ""

    @property
    def trouble(self) -> str:
        """Why ticks do not reach the disk, empty while they do."""
        if self._writer is None:
            return self.lost or "no episode is open"
        return self.lost or self._writer.trouble

    def take(self, inputs: TickInputs, outputs: TickOutputs, sent_ns: int = UNKNOWN_STAMP) -> None:
        """One tick, and when its command was handed to the middleware.

        What does not follow the last one ends the episode, for it could not be replayed.
        """
        if self._writer is None:
            return
        if inputs.tick != self._next:
            if self._next:
                self.lost = f"tick {inputs.tick} came after tick {self._next - 1}"
                self.close(f"records were lost: {self.lost}")
            else:
                self.lost = f"nothing is recorded: the first tick that came was {inputs.tick}, not 0"
            return
        self._writer.record_tick(inputs, outputs, b"", sent_ns)
        self._next += 1

    def close(self, reason: str) -> None:
        """End the episode; an empty one leaves nothing."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close(Outcome(None, reason))
        except LogLossError as error:
            self.lost = str(error)
        if self._next:
            self.finished.append(writer.path)
        else:
            shutil.rmtree(writer.path)


class RecorderNode(GraphNode):
    """Listens to the records of both halves and to what the model saw."""

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("recorder_node")
        declare(self, RecorderOptions)
        self._halves: tuple[HalfRecorder, ...] = ()
        self._listening = False
        self._instruction = ""
        self._observed = 0
        # How far each half was heard. Who subscribes anew gets the kept past again, which is recorded already.
        self._heard_ns = dict.fromkeys(Half, 0)

    def setup(self) -> None:
        """Subscribe."""
        options = current(self, RecorderOptions)
        config = options.stack()
        self._control, self._safety = (HalfRecorder(half, config) for half in (Half.CONTROL, Half.SAFETY))
        self._halves = (self._control, self._safety)
        self._heartbeat = self.publish_on(topics.LOG_HEARTBEAT, Header)
        self._next_heartbeat = time.monotonic_ns()

    def start(self) -> None:
        """Open both episodes before anybody can tick, so that no tick waits for a process to start."""
        for half in self._halves:
            self._begin(half)
        self._observed = 0
        self._next_heartbeat = time.monotonic_ns()
        # Only now: the history that the ticking nodes kept is read into open episodes. Until cleanup it stays so.
        if not self._listening:
            self._listening = True
            history = topics.SAFETY_TICK.offered
            self.subscribe_to(topics.CONTROL_TICK, UInt8MultiArray, self._on_control)
            self.subscribe_to(topics.SAFETY_TICK, UInt8MultiArray, self._on_safety, requested=history)
            self.subscribe_to(topics.OBSERVATION, UInt8MultiArray, self._on_observation)
            self.subscribe_to(topics.INSTRUCTION, String, self._on_instruction)

    def halt(self) -> None:
        """Close both episodes."""
        for half in self._halves:
            half.close("recorder deactivated")
            for path in half.finished:
                self.get_logger().info(f"episode: {path}")
                if current(self, RecorderOptions).mcap:
                    self._write_bag(path)
            half.finished.clear()

    def teardown(self) -> None:
        """Subscriptions end with this."""
        self._listening = False

    def _write_bag(self, path: Path) -> None:
        try:
            write_bag(open_episode(path), path.with_suffix(""), png=True)
        except (EpisodeError, OSError, ValueError) as error:
            self.get_logger().error(f"no bag of {path}: {error}")

    def _begin(self, half: HalfRecorder) -> None:
        options = current(self, RecorderOptions)
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{options.task or 'episode'}-{options.seed:06d}"
        number = 0
        while (path := folder / f"{name}-{number:03d}-{half.half.value.removesuffix('_node')}.zarr").exists():
            number += 1
        half.open(path, options, self._instruction)

    def _on_control(self, message: UInt8MultiArray) -> None:
        try:
            tick = unpack_control_tick(record_data(message, CONTROL_LABEL))
        except MessageError as error:
            self.note(topics.CONTROL_TICK.name, str(error))
            return
        self._take(self._control, tick.inputs, tick.outputs, tick.published_ns)

    def _on_safety(self, message: UInt8MultiArray) -> None:
        try:
            tick = unpack_safety_tick(record_data(message, SAFETY_LABEL))
        except MessageError as error:
            self.note(topics.SAFETY_TICK.name, str(error))
            return
        outputs = safety_outputs(tick.inputs.state, tick.candidate, tick.result)
        self._take(self._safety, tick.inputs, outputs, tick.published_ns)

    def _take(self, half: HalfRecorder, inputs: TickInputs, outputs: TickOutputs, sent_ns: int) -> None:
        if inputs.now_ns <= self._heard_ns[half.half]:
            return
        self._heard_ns[half.half] = inputs.now_ns
        if not self.active:
            return
        try:
            if inputs.tick == 0 and (half.writer is None or half.ticks):
                self._begin(half)
            half.take(inputs, outputs, sent_ns)
        except (EpisodeError, ValueError) as error:
            self.note(half.half.value, f"not recorded: {error}")

    def _on_observation(self, message: UInt8MultiArray) -> None:
        writer = self._control.writer
        if writer is None or not self.active:
            return
        try:
            writer.record_observation(unpack_observation(record_data(message, OBSERVATION_LABEL)))
            self._observed += 1
        except (MessageError, ValueError) as error:
            self.note(topics.OBSERVATION.name, str(error))

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    # ------------------------------------------------------------------------------------------------ heartbeat

    def wake_ns(self) -> int | None:
        """The next heartbeat."""
        return self._next_heartbeat if self.ready else None

    def work(self) -> None:
        """Say that every tick reaches the disk, or be silent."""
        self._next_heartbeat = time.monotonic_ns() + _HEARTBEAT_NS
        if not any(half.trouble for half in self._halves):
            self._heartbeat.publish(header(self.clock.now_ns()))

    def diagnose(self) -> Diagnosis:
        """What is being recorded, and what was lost."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        faults = [f"{half.half.value}: {half.trouble}" for half in self._halves if half.trouble]
        values = {f"{half.half.value} ticks": str(half.ticks) for half in self._halves}
        values["observations"] = str(self._observed)
        return Diagnosis(Level.ERROR if faults else Level.OK, "; ".join(faults) or "recording", values)


def main() -> None:
    """Run the node."""
    sys.exit(run(RecorderNode))


if __name__ == "__main__":
    main()
