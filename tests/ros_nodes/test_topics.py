"""What is declared, what the documents say and what the launch files name are the same."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from ros_nodes import topics
from ros_nodes.graph import ROBOT, SIM, NodeName
from ros_nodes.topics import SERVICES, TOPICS, Durability, Qos, Reliability

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "ros2.md").read_text()
STANDARD = {"sensor_msgs", "geometry_msgs", "std_msgs", "rosgraph_msgs", "diagnostic_msgs", "std_srvs"}
OPTIONS = {
    NodeName.RECORDER: "RecorderOptions",
    NodeName.ROBOT_SIM: "SimOptions",
    NodeName.SAFETY: "SafetyOptions",
    NodeName.CONTROL: "ControlOptions",
    NodeName.POLICY: "PolicyOptions",
    NodeName.REPLAY: "ReplayOptions",
}


def serves(offered: Qos, requested: Qos) -> bool:
    """Whether DDS matches the two."""
    return not (
        (requested.reliability is Reliability.RELIABLE and offered.reliability is Reliability.BEST_EFFORT)
        or (requested.durability is Durability.TRANSIENT_LOCAL and offered.durability is Durability.VOLATILE)
        or (requested.deadline_ms is not None and (offered.deadline_ms or 10**9) > requested.deadline_ms)
        or (requested.lease_ms is not None and (offered.lease_ms or 10**9) > requested.lease_ms)
    )


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_our_publishers_serve_our_subscribers(topic: topics.Topic) -> None:
    assert serves(topic.offered, topic.requested)
    assert topic.message.split("/")[0] in STANDARD


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_is_documented_as_it_is(topic: topics.Topic) -> None:
    kind = topic.message.replace("/msg/", "/")
    row = next((line for line in DOCUMENT.splitlines() if line.startswith(f"| `{topic.name}` | `{kind}` |")), "")
    assert row, f"{topic.name} has no row in docs/ros2.md"
    assert topic.rate in row
    assert topic.requested.reliability.value in row
    if topic.unit:
        assert topic.unit in row


def test_every_service_and_executable_is_documented() -> None:
    for service in SERVICES:
        assert f"`{service.name}`" in DOCUMENT
    for name in NodeName:
        assert f"`{name.value}`" in DOCUMENT


def test_every_executable_has_an_entry_point() -> None:
    scripts = (ROOT / "pyproject.toml").read_text()
    module = importlib.import_module("ros_nodes.executables")
    for name in NodeName:
        assert f'{name.value} = "ros_nodes.executables:{name.value}"' in scripts
        assert callable(getattr(module, name.value))


@pytest.mark.parametrize("name", ["sim", "robot", "replay"])
def test_parameter_files_name_parameters_that_exist_with_values_that_fit(name: str) -> None:
    pytest.importorskip("rclpy", reason="needs the extra 'ros'")
    data = yaml.safe_load((ROOT / "launch" / f"{name}.yaml").read_text())
    graph = {"sim": SIM, "robot": ROBOT, "replay": (NodeName.REPLAY,)}[name]
    shared = data.pop("/**")["ros__parameters"]
    assert set(data) <= {node.value for node in graph}
    for node in graph:
        kind = getattr(importlib.import_module(node.module), OPTIONS[node])
        known = set(kind.__dataclass_fields__) | {"autostart", "use_sim_time"}
        own = data.get(node.value, {"ros__parameters": {}})["ros__parameters"]
        assert set(own) <= known
        if name != "replay":
            for key, value in {**shared, **own}.items():
                if key in kind.__dataclass_fields__:
                    default = kind.__dataclass_fields__[key].default
                    assert isinstance(value, list if isinstance(default, tuple) else type(default)), key
    assert any(set(shared) & {"autostart"})


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda path: path.name)
def test_launch_files_name_executables_of_the_graph(path: Path) -> None:
    text = path.read_text()
    names = re.findall(r'"(\w+_node)"', text)
    assert names
    assert set(names) <= {name.value for name in NodeName}
    assert not (ROOT / "launch" / "__init__.py").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda path: path.name)
def test_launch_files_describe_a_graph_with_ros_2s_own_launch(path: Path) -> None:
    pytest.importorskip("launch_ros", reason="ROS 2's launch comes with a ROS 2 installation, not with the wheels")
    specification = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert len(module.generate_launch_description().entities) >= len(module.NODES)
