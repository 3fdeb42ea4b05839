"""Entry points of the nodes' executables: say clearly what is missing where ROS 2 is."""

from __future__ import annotations

import importlib
import sys

from ros_nodes.errors import MissingRosError, require_rclpy
from ros_nodes.graph import NodeName


def _run(name: NodeName) -> None:
    try:
        require_rclpy()
    except MissingRosError as error:
        print(f"{name.value}: {error}", file=sys.stderr)
        sys.exit(2)
    importlib.import_module(name.module).main()


def recorder_node() -> None:
    """Run the recorder."""
    _run(NodeName.RECORDER)


def robot_sim_node() -> None:
    """Run the simulated robot."""
    _run(NodeName.ROBOT_SIM)


def safety_node() -> None:
    """Run the safety node."""
    _run(NodeName.SAFETY)


def control_node() -> None:
    """Run the control node."""
    _run(NodeName.CONTROL)


def policy_node() -> None:
    """Run the policy node."""
    _run(NodeName.POLICY)


def replay_node() -> None:
    """Run the replay."""
    _run(NodeName.REPLAY)
