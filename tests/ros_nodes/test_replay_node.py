"""A recorded episode published again, and fed to nodes under test: real processes, real DDS."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState

from controllers.types import SafetyStatus
from episodes.episode import Episode
from episodes.reader import open_episode
from ros_nodes import topics
from ros_nodes.client import GraphClient
from ros_nodes.conversion import stamp_ns
from ros_nodes.graph import NodeName, State, Supervisor, nodes_of
from ros_nodes.qos import profile
from sim.assembly import default_config
from sim.rollout import ExpertSource, run_episode

pytestmark = [pytest.mark.realtime, pytest.mark.slow, pytest.mark.gl, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
RATE_HZ = 100
START_S = 280.0


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Episode:
    folder = tmp_path_factory.mktemp("recorded")
    config = replace(default_config(), control_rate_hz=RATE_HZ)
    return open_episode(folder / run_episode("reach", 1_000_000, ExpertSource(), config, out_dir=folder).episode)


class Listener:
    """What a plain program hears of joint states and pictures."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = node = rclpy.create_node("listener", context=self._context)
        self.stamps: list[int] = []
        self.positions: list[list[float]] = []
        self.pictures: list[np.ndarray] = []
        node.create_subscription(
            JointState, topics.JOINT_STATES.name, self._on_joints, profile(topics.JOINT_STATES.requested)
        )
        camera = topics.CAMERA.named("wrist")
        node.create_subscription(Image, camera, self._on_image, profile(topics.CAMERA.requested))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while self._context.ok():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._context.try_shutdown()
        self._thread.join(5.0)

    def _on_joints(self, message: JointState) -> None:
        self.stamps.append(stamp_ns(message.header.stamp))
        self.positions.append(list(message.position))

    def _on_image(self, message: Image) -> None:
        shape = (message.height, message.width, 3)
        self.pictures.append(np.frombuffer(bytes(message.data), np.uint8).reshape(shape))


@pytest.fixture
def listener(domain: dict[str, str]) -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def _activate(client: GraphClient) -> None:
    client.change(NodeName.REPLAY, "configure")
    client.change(NodeName.REPLAY, "activate")


def _replaying(client: GraphClient) -> bool:
    words = [item.words for item in client.heard if item.node == NodeName.REPLAY.value]
    return not words or "at the end" not in words[-1]


def test_an_episode_is_published_with_its_own_numbers_and_times(
    domain: dict[str, str], episode: Episode, listener: Listener
) -> None:
    own = {NodeName.REPLAY: {"episode": str(episode.path.resolve()), "autostart": False}}
    with GraphClient() as client, Supervisor(nodes_of((NodeName.REPLAY,), {}, own=own), domain):
        _activate(client)
        client.wait(lambda: not _replaying(client), 60.0, "the episode's end")
        time.sleep(0.5)
    recorded = {tuple(row) for row in np.array(episode.ticks.state_joint_position).tolist()}
    assert len(listener.positions) > 0.3 * len(episode)  # best effort: a busy machine loses some
    assert all(tuple(row[:7]) in recorded for row in listener.positions)
    first = np.array(episode.ticks.state_joint_position)[:, :].tolist().index(listener.positions[0][:7])
    times = np.array(episode.ticks.state_stamp_ns)
    assert set(np.diff(listener.stamps)) <= {
        int(b - a) for skipped in range(1, 60) for a, b in zip(times[first:], times[first + skipped :], strict=False)
    }
    shown = {
        image.tobytes()
        for image in (episode.image("wrist", i) for i in range(len(episode.observations.tick)))
        if image is not None
    }
    assert listener.pictures
    assert all(picture.tobytes() in shown for picture in listener.pictures)


def test_nodes_under_test_are_fed_what_came_from_outside(domain: dict[str, str], episode: Episode) -> None:
    own = {NodeName.REPLAY: {"episode": str(episode.path.resolve()), "mode": "feed", "autostart": False}}
    nodes = (NodeName.SAFETY, NodeName.CONTROL, NodeName.REPLAY)
    graph = nodes_of(nodes, {"rate_hz": RATE_HZ}, own=own)
    with GraphClient(control=True) as client, Supervisor(graph, domain) as supervisor:
        tested = nodes[:2]
        client.wait(lambda: all(supervisor.state(n) is State.ACTIVE for n in tested), START_S, "nodes under test")
        _activate(client)
        client.wait(lambda: not _replaying(client), 120.0, "the episode's end")
        control, safety = list(client.control), list(client.safety)
    assert any(tick.inputs.arrivals for tick in control)
    assert any(tick.result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING) for tick in safety)
    recorded = np.array(episode.ticks.commanded_pose)[:, :3]
    reached = np.array([tick.outputs.commanded_pose.position for tick in control])
    way, went = recorded[-1] - recorded[0], reached[-1] - reached[0]
    assert np.linalg.norm(way) > 0.05
    # Deltas start from where the reference is, so a chunk that came too late on a busy machine is a piece of the way.
    assert way @ went > 0.5 * (way @ way), "the control node took the recorded chunks the same way"
    assert np.linalg.norm(went) < 1.2 * np.linalg.norm(way)
