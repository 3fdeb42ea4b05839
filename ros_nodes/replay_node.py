"""A recorded episode as if it happened again: published with its true timing, or fed to the nodes under test.

``publish``: joint states, wrench, candidates, safe commands and pictures, for people and programs that look at them.
``feed``: only what came from outside the loop, joint states, wrench and chunks: a control node and a safety node beside
it run as they did. Stamps are moved to now, so that nothing is stale. Bit-for-bit re-execution is ``vla replay``'s: DDS
does not deliver at the same instant twice.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geometry_msgs.msg import WrenchStamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Int64MultiArray, String

from controllers.names import unknown_name
from controllers.robot import load_robot
from controllers.types import ChunkArrival
from episodes.reader import open_episode
from ros_nodes import topics
from ros_nodes.conversion import (
    chunk_message,
    command_message,
    image_message,
    joint_state_message,
    time_message,
    wrench_message,
)
from ros_nodes.hardware import HardwareOptions
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import declare, option
from ros_nodes.statistics import Statistics

_MODES = ("publish", "feed")


@dataclass(frozen=True)
class ReplayOptions(HardwareOptions):
    """Parameters of the replay."""

    episode: str = option("", "folder NAME.zarr")
    mode: str = option("publish", "publish: all of it; feed: what came from outside the loop")
    speed: float = option(1.0, "1 is the true timing", low=0.01, high=100.0)


class ReplayNode(GraphNode):
    """Publishes tick after tick at the times at which they happened."""

    is_clock_source = True

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("replay_node")
        self._options = declare(self, ReplayOptions)

    def setup(self) -> None:
        """Open the episode."""
        options = self._options
        if options.mode not in _MODES:
            raise ValueError(f"parameter mode: {unknown_name('mode', options.mode, _MODES)}")
        self._episode = episode = open_episode(Path(options.episode))
        self._decoder = episode.decoder
        if not len(self._decoder):
            raise ValueError(f"{options.episode}: expected an episode with ticks, found none")
        description = load_robot(episode.manifest.robot)
        self._names = options.names(description)
        self._frame = description.wrench_site
        self._feeding = options.mode == "feed"
        self._states = self.publish_on(topics.JOINT_STATES, JointState)
        self._wrench = self.publish_on(topics.WRENCH, WrenchStamped)
        self._clock_out = self.publish_on(topics.CLOCK, Clock)
        self._words = self.publish_on(topics.INSTRUCTION, String)
        self._chunks = self.publish_on(topics.ACTION_CHUNK, Int64MultiArray)
        if not self._feeding:
            self._candidates = self.publish_on(topics.CANDIDATE, JointState)
            self._commands = self.publish_on(topics.SAFE_COMMAND, JointState)
            self._cameras = {
                name: self.publish_on(topics.CAMERA, Image, topics.CAMERA.named(name)) for name in episode.cameras
            }
            self._seen: list[int] = episode.observations.stamp_ns.tolist()
        self._forget()

    def start(self) -> None:
        """Begin at the first tick."""
        self._forget()

    def _forget(self) -> None:
        self._index = 0
        self._picture = 0
        self._started = time.monotonic_ns()
        self._first = self._decoder.now_ns(0)
        self._lateness = Statistics()
        self._said = ""

    def _due(self, index: int) -> int:
        return self._started + round((self._decoder.now_ns(index) - self._first) / self._options.speed)

    def wake_ns(self) -> int | None:
        """When the next tick happened."""
        if not self.ready or self._index >= len(self._decoder):
            return None
        return self._due(self._index)

    def work(self) -> None:
        """Publish one tick."""
        index, decoder = self._index, self._decoder
        due = self._due(index)
        self._lateness.add(time.monotonic_ns() - due)
        now = self.clock.at(due)
        shift = now - decoder.now_ns(index)
        state = decoder.state(index)
        stamp = state.stamp_ns + shift
        self._clock_out.publish(Clock(clock=time_message(now)))
        self._wrench.publish(wrench_message(state.wrench, stamp, self._frame))
        self._states.publish(joint_state_message(replace(state, stamp_ns=stamp), self._names))
        self._say_once()
        for arrival in decoder.arrivals(index):
            moved = replace(arrival.chunk, observation_stamp_ns=arrival.chunk.observation_stamp_ns + shift)
            inferred = arrival.inferred_ns + shift if arrival.inferred_ns >= 0 else -1
            self._chunks.publish(chunk_message(ChunkArrival(moved, arrival.inference_ns, inferred)))
        if not self._feeding:
            self._publish_inside(index, shift)
        self._index += 1

    def _publish_inside(self, index: int, shift: int) -> None:
        outputs: Any = self._decoder.outputs(index)
        for publisher, command in ((self._candidates, outputs.command), (self._commands, outputs.safety.command)):
            publisher.publish(command_message(replace(command, stamp_ns=command.stamp_ns + shift), self._names))
        reached = bisect_right(self._seen, self._decoder.stamp_ns(index))
        for number in range(self._picture, reached):
            for camera, publisher in self._cameras.items():
                picture = self._episode.image(camera, number)
                if picture is not None:
                    publisher.publish(image_message(picture, self._seen[number] + shift, camera))
        self._picture = max(reached, self._picture)

    def _say_once(self) -> None:
        words = self._episode.manifest.instruction
        if words and words != self._said:
            self._said = words
            self._words.publish(String(data=words))

    def diagnose(self) -> Diagnosis:
        """How far it is, and how late."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        count = len(self._decoder)
        words = "at the end" if self._index >= count else "replaying"
        return Diagnosis(Level.OK, words, {"tick": f"{self._index}/{count}", "lateness_ms": self._lateness.words(1e-6)})


def main() -> None:
    """Run the node."""
    sys.exit(run(ReplayNode))


if __name__ == "__main__":
    main()
