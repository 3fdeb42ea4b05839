"""`vla up --robot` on a robot that speaks as ros2_control does: forward controllers, names and units of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import WrenchStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from controllers.robot import load_robot
from ros_nodes import topics
from ros_nodes.client import GraphClient
from ros_nodes.qos import profile
from sim.assembly import default_config
from sim.rollout import ExpertSource, run_episode

pytestmark = [pytest.mark.realtime, pytest.mark.slow, pytest.mark.gl, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "launch" / "robot.yaml"
RATE_HZ = 200
ARM = tuple(f"fr3_joint{number}" for number in range(1, 8))
FINGER = "fr3_finger_joint1"


class Arm:
    """Drives that follow what they are told, behind the topics of two forward controllers and two broadcasters.

    They tell no efforts, so they accelerate gently: what the arm's inertia needs would pass for a contact.
    """

    def __init__(self, position: np.ndarray) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("drives", context=self._context)
        self.position, self.velocity, self.finger = position.copy(), np.zeros(7), 0.04
        self.commands = 0
        self.path: list[np.ndarray] = [position]
        self._states = self._node.create_publisher(JointState, "joint_states", 10)
        self._wrench = self._node.create_publisher(WrenchStamped, "wrench", 10)
        qos = profile(topics.SAFE_COMMAND.requested)
        self._node.create_subscription(Float64MultiArray, "/forward_position_controller/commands", self._on_arm, qos)
        self._node.create_subscription(Float64MultiArray, "/gripper_position_controller/commands", self._on_finger, qos)
        self._node.create_timer(1.0 / RATE_HZ, self._step)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, daemon=True)

    def __enter__(self) -> Arm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.try_shutdown()
        self._thread.join(5.0)

    def _spin(self) -> None:
        try:
            while self._context.ok():
                self._executor.spin_once(timeout_sec=0.1)
        except (ExternalShutdownException, RuntimeError):
            if self._context.ok():
                raise

    def _on_arm(self, message: Float64MultiArray) -> None:
        self.commands += 1
        self.path.append(np.array(message.data))

    def _on_finger(self, message: Float64MultiArray) -> None:
        (self.finger,) = message.data

    def _step(self) -> None:
        stamp = self._node.get_clock().now().to_msg()
        wanted = np.clip(20.0 * (self.path[-1] - self.position), -1.0, 1.0)
        self.velocity = self.velocity + np.clip(wanted - self.velocity, -0.01, 0.01)
        self.position = self.position + self.velocity / RATE_HZ
        # The fingers first and a stranger's joint between: joints are found by name.
        state = JointState(name=[FINGER, ARM[0], "lift", *ARM[1:]])
        state.header.stamp = stamp
        state.position = array("d", (self.finger, self.position[0], 1.0, *self.position[1:]))
        state.velocity = array("d", (0.0, self.velocity[0], 0.0, *self.velocity[1:]))
        self._states.publish(state)
        wrench = WrenchStamped()
        wrench.header.stamp = stamp
        self._wrench.publish(wrench)


def test_a_recorded_motion_goes_through_the_graph_to_forward_controllers(
    domain: dict[str, str], tmp_path: Path
) -> None:
    config = replace(default_config(), control_rate_hz=RATE_HZ, cameras={})
    episode = tmp_path / run_episode("reach", 1_000_000, ExpertSource(), config, out_dir=tmp_path).episode
    everything = {**os.environ, **domain}
    vla = (sys.executable, "-m", "cli.main")
    up = subprocess.Popen(
        [*vla, "up", "--robot", str(CONFIG), "--without-policy", "--record", str(tmp_path / "robot"), "--json"],
        cwd=ROOT,
        env=everything,
        stdout=subprocess.PIPE,
        text=True,
    )
    home = np.array(load_robot("panda").home)
    with Arm(home) as arm, GraphClient() as client:
        try:
            client.wait(lambda: len(client.safety) > 100, 120.0, "a safety node that sees the arm")
            command = [*vla, "replay", str(episode), "--robot", "ros2", "--json", "--robot-params", str(CONFIG)]
            command += ["--speed", "0.1"]
            done = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, check=False)
            found = json.loads(done.stdout.splitlines()[-1])
            assert done.returncode == 0, found
            time.sleep(0.5)
        finally:
            up.send_signal(signal.SIGINT)
            said, _ = up.communicate(timeout=60.0)
    assert json.loads(said.splitlines()[-1])["nodes"] == ["recorder_node", "safety_node"]
    assert arm.commands > found["ticks"] / 2
    from episodes.reader import open_episode

    recorded = np.array(open_episode(episode).ticks.state_joint_position)
    assert np.abs(arm.position - recorded[-1]).max() < 0.05, "the drives ended where the recorded arm did"
    steps = np.abs(np.diff(np.stack(arm.path), axis=0)).max()
    assert steps * RATE_HZ < 2.2, "no joint was ever told to be faster than it may"
    assert 0.0 <= arm.finger <= 0.045, "half the opening: the unit of one finger"
