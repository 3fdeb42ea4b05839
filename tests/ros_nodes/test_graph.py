"""The graph as real processes over real DDS."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rosbags.highlevel import AnyReader

from controllers.types import OperatorEvent, SafetyStatus
from episodes.reader import open_episode
from ros_nodes import topics
from ros_nodes.client import GraphClient
from ros_nodes.control_node import ControlNode
from ros_nodes.graph import SIM, NodeName, Supervisor, nodes_of
from ros_nodes.node import GraphNode
from ros_nodes.safety_node import SafetyNode

pytestmark = pytest.mark.realtime

ROOT = Path(__file__).parents[2]
START_S = 280.0


def loaded(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.gl
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_instruction_drives_the_model_and_both_halves_replay(domain: dict[str, str], tmp_path: Path) -> None:
    own = {
        NodeName.ROBOT_SIM: {"task": "press_button", "seed": 1_000_000, "camera_rate_hz": 20.0, "compressed": True},
        NodeName.POLICY: {"image_transport": "compressed"},
        NodeName.RECORDER: {"out": str(tmp_path), "task": "press_button", "mcap": True},
    }
    # Half the usual rate, so that five processes fit beside whatever else runs here.
    graph = nodes_of(SIM, {"use_sim_time": True, "rate_hz": 100}, own=own)
    # Bags are written at the end.
    with GraphClient() as client, Supervisor(graph, domain, stop_timeout_s=120.0) as supervisor:
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
        with AnyReader([path.with_suffix("")]) as bag:
            assert bag.topics["/joint_states"].msgcount == result["ticks"]
            pictures = [name for name in bag.topics if name.endswith("/image_raw/compressed")]
            assert bool(pictures) is (path.stem.endswith("control"))


def _is_reset(client: GraphClient) -> bool:
    """Ask for the reset, again and again as an operator would: it is refused until the arm is seen at rest."""
    client.trigger(topics.RESET)
    time.sleep(0.2)
    return _status(client) is not SafetyStatus.EMERGENCY_STOP


def _status(client: GraphClient) -> SafetyStatus | None:
    return client.safety[-1].result.status if client.safety else None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("make", [ControlNode, SafetyNode], ids=["control_node", "safety_node"])
def test_a_hundred_life_cycles_leak_neither_threads_nor_entities_nor_memory(
    make: Callable[[], GraphNode], domain: dict[str, str]
) -> None:
    rclpy.init()
    node = make()
    try:
        counts, memory = [], []
        for _ in range(100):
            for step in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
                assert step() == TransitionCallbackReturn.SUCCESS
            gc.collect()
            entities = (node.publishers, node.subscriptions, node.services, node.timers)
            held = (len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
            counts.append((threading.active_count(), *held, *(len(list(kind)) for kind in entities)))
            memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        assert len(set(counts[5:])) == 1, counts
        assert memory[-1] - memory[10] < 10_000_000, memory
    finally:
        node.destroy_node()
        rclpy.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_silent_recorder_holds_the_arm_until_it_is_back(domain: dict[str, str], tmp_path: Path) -> None:
    names = (NodeName.RECORDER, NodeName.ROBOT_SIM, NodeName.SAFETY, NodeName.CONTROL)
    own = {
        NodeName.ROBOT_SIM: {"task": "reach", "camera_rate_hz": 0.0},
        NodeName.RECORDER: {"out": str(tmp_path), "log_failure": "hold"},
        # Wide, so that a busy machine's pauses are none of the recorder's.
        NodeName.SAFETY: {"log_timeout_ms": 3000.0},
    }
    graph = nodes_of(names, {"rate_hz": 100}, own=own)
    with GraphClient() as client, Supervisor(graph, domain) as supervisor:
        supervisor.wait_active(START_S)

        def named() -> bool:
            recent = [item for item in client.heard if item.node == NodeName.SAFETY.value]
            return bool(recent) and "log_silent" in recent[-1].words

        def holds() -> bool:
            return any(OperatorEvent.HOLD in tick.inputs.events for tick in client.safety)

        client.wait(lambda: len(client.safety) > 50 and not named(), 60.0, "a graph whose recorder speaks")
        client.safety.clear()
        os.kill(supervisor.pid(NodeName.RECORDER), signal.SIGKILL)
        client.wait(holds, 30.0, "a hold for want of a log")
        client.wait(named, 10.0, "words that name the silent recorder")
        client.safety.clear()
        supervisor.restart(NodeName.RECORDER)
        supervisor.wait_active(START_S)
        client.wait(
            lambda: any(OperatorEvent.RESUME in tick.inputs.events for tick in client.safety), 60.0, "the hold's end"
        )
    manifests = [open_episode(path).manifest for path in sorted(tmp_path.glob("*.zarr"))]
    assert manifests
    assert {manifest.log_failure for manifest in manifests} == {"hold"}


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
