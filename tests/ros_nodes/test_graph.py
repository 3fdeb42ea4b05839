"""The graph as real processes over real DDS."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from controllers.types import SafetyStatus
from ros_nodes import topics
from ros_nodes.client import GraphClient
from ros_nodes.control_node import ControlNode
from ros_nodes.graph import SIM, NodeName, Supervisor, nodes_of

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parents[2]
START_S = 280.0


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A domain of this test's own: workers beside it are not heard."""
    environment = {
        "ROS_DOMAIN_ID": str(random.SystemRandom().randrange(1, 100)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONPATH": str(ROOT),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def loaded(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.gl
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_instruction_drives_the_model_and_both_halves_replay(domain: dict[str, str], tmp_path: Path) -> None:
    own = {
        NodeName.ROBOT_SIM: {"task": "press_button", "seed": 1_000_000, "camera_rate_hz": 20.0},
        NodeName.RECORDER: {"out": str(tmp_path), "task": "press_button"},
    }
    # Half the usual rate, so that five processes fit beside whatever else runs here.
    graph = nodes_of(SIM, {"use_sim_time": True, "rate_hz": 100}, own=own)
    with GraphClient() as client, Supervisor(graph, domain) as supervisor:
        supervisor.wait_active(START_S)
        client.wait(lambda: bool(client.instruction), 60.0, "the scene's instruction")
        assert not client.succeeded
        client.say(client.instruction)
        client.wait(lambda: client.succeeded, 120.0, "a pressed button")
        assert "torch" in loaded(supervisor.pid(NodeName.POLICY))
        for name in (NodeName.SAFETY, NodeName.CONTROL):
            assert "torch" not in loaded(supervisor.pid(name))

        client.trigger(topics.EMERGENCY_STOP)
        client.wait(lambda: _status(client) is SafetyStatus.EMERGENCY_STOP, 10.0, "an emergency stop")
        client.trigger(topics.RESUME)
        assert _status(client) is SafetyStatus.EMERGENCY_STOP
        client.wait(lambda: _is_reset(client), 20.0, "the stop's end after its reset")

        os.kill(supervisor.pid(NodeName.CONTROL), signal.SIGKILL)
        client.wait(lambda: _status(client) is SafetyStatus.HOLD, 10.0, "a hold without controller")
        client.wait(
            lambda: any("command_watchdog" in item.words or "command_stale" in item.words for item in client.heard),
            10.0,
            "words that name the missing commands",
        )
    episodes = sorted(tmp_path.glob("*.zarr"))
    assert {path.stem.rpartition("-")[2] for path in episodes} == {"control", "safety"}
    for path in episodes:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "replay", str(path), "--json"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["identical"], result
        assert result["ticks"] > 100


def _is_reset(client: GraphClient) -> bool:
    """Ask for the reset, again and again as an operator would: it is refused until the arm is seen at rest."""
    client.trigger(topics.RESET)
    time.sleep(0.2)
    return _status(client) is not SafetyStatus.EMERGENCY_STOP


def _status(client: GraphClient) -> SafetyStatus | None:
    return client.safety[-1].result.status if client.safety else None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_life_cycles_leak_neither_threads_nor_entities(domain: dict[str, str]) -> None:
    rclpy.init()
    node = ControlNode()
    try:
        counts = []
        for _ in range(10):
            for step in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
                assert step() == TransitionCallbackReturn.SUCCESS
            gc.collect()
            entities = (list(node.publishers), list(node.subscriptions), list(node.services), list(node.timers))
            counts.append((threading.active_count(), *(len(kind) for kind in entities)))
        assert len(set(counts[1:])) == 1, counts
    finally:
        node.destroy_node()
        rclpy.shutdown()


def test_a_node_refuses_a_parameter_out_of_range_in_words(domain: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ros_nodes.safety_node", "--ros-args", "-p", "rate_hz:=5000"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "parameter rate_hz: expected int from 10 to 1000" in done.stderr


def test_a_graph_needs_exactly_one_kind() -> None:
    from cli.main import run

    assert run(["up"]) == 2
    assert run(["up", "--sim", "--replay", "/nowhere"]) == 2
