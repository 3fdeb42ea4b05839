"""A recorded motion sent to the robot of a running graph: real processes, real DDS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import rclpy
from sensor_msgs.msg import JointState

from ros_nodes import topics
from ros_nodes.client import GraphClient
from ros_nodes.graph import NodeName, Supervisor, nodes_of
from ros_nodes.qos import profile
from sim.assembly import default_config
from sim.rollout import ExpertSource, run_episode

pytestmark = [pytest.mark.realtime, pytest.mark.slow, pytest.mark.gl, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
TASK, SEED, RATE_HZ = "reach", 1_000_000, 100


@pytest.fixture
def episode(tmp_path: Path) -> Path:
    config = replace(default_config(), control_rate_hz=RATE_HZ, cameras={})
    return tmp_path / run_episode(TASK, SEED, ExpertSource(), config, out_dir=tmp_path).episode


def _send(episode: Path, *more: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "replay", str(episode), "--robot", "ros2", "--json", *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        check=False,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_recorded_motion_reaches_the_robot_of_a_graph(domain: dict[str, str], episode: Path) -> None:
    own = {NodeName.ROBOT_SIM: {"task": TASK, "seed": SEED}}
    graph = nodes_of((NodeName.ROBOT_SIM, NodeName.SAFETY), {"use_sim_time": True, "rate_hz": RATE_HZ}, own=own)
    with GraphClient() as client, Supervisor(graph, domain) as supervisor:
        supervisor.wait_active(280.0)
        code, found = _send(episode, "--speed", "0.5")
        assert code == 0, found
        assert found["mode"] == "robot"
        assert isinstance(found["max_tracking_error_rad"], float)
        assert found["max_tracking_error_rad"] < 0.15
        assert client.succeeded, "the recorded motion did the task on the graph's robot"

        client.trigger(topics.EMERGENCY_STOP)
        code, found = _send(episode)
        assert code == 1
        assert "the safety node stopped the arm: emergency_stop" in str(found["error"])


def test_a_graph_in_which_something_else_commands_is_refused(domain: dict[str, str], episode: Path) -> None:
    own = {NodeName.ROBOT_SIM: {"task": TASK, "seed": SEED}}
    graph = nodes_of((NodeName.ROBOT_SIM, NodeName.SAFETY), {"use_sim_time": True, "rate_hz": RATE_HZ}, own=own)
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("someone", context=context)
    node.create_publisher(JointState, topics.CANDIDATE.name, profile(topics.CANDIDATE.offered))
    try:
        with Supervisor(graph, domain) as supervisor:
            supervisor.wait_active(280.0)
            code, found = _send(episode)
        assert code == 1
        assert "found 1 other publisher(s) of candidate_command" in str(found["error"])
    finally:
        node.destroy_node()
        context.try_shutdown()
