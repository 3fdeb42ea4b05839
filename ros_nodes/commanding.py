"""A running graph's robot as a ``Robot``: its joint states are read, and candidates for its safety node are written.

For programs that move a robot themselves, such as ``vla replay --robot ros2``. The safety node judges every candidate,
and its own watchdogs stop the arm when the program ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from controllers.kinematics import ArmModel
from controllers.robot import RobotDescription
from controllers.types import JointCommand, RobotState, SafetyStatus, frozen_array
from ros_nodes import topics
from ros_nodes.conversion import command_message, robot_state
from ros_nodes.errors import MessageError
from ros_nodes.graph import GraphError
from ros_nodes.hardware import HardwareOptions
from ros_nodes.joints import JointIndex
from ros_nodes.options import declare
from ros_nodes.qos import profile

_DISCOVERY_S = 15.0  # until robot and safety node are found
_SILENCE_S = 0.5  # without joint states
_HELD_S = 2.0  # a hold that lasts longer is not one that ends by itself
_EARLY = 0.9  # of a period: joint states that come faster than the control rate are passed over
_STOPPED = (SafetyStatus.PROTECTIVE_STOP.value, SafetyStatus.EMERGENCY_STOP.value)


class CommandedRobot:
    """The robot behind a graph's safety node; a context manager, entered once.

    Forces are not read: what watches them is the safety node, which measures them itself.
    """

    def __init__(
        self, description: RobotDescription, rate_hz: int, *, namespace: str = "", params: Path | None = None
    ) -> None:
        """Describe it; entering the context looks for it.

        Args:
            description: The robot.
            rate_hz: Candidates per second; the safety node's own rate.
            namespace: Of the graph.
            params: ROS parameter file that the graph runs with, for the robot's own joint names; None for ours.
        """
        self._description, self._period_ns = description, 1_000_000_000 // rate_hz
        self._namespace, self._params = namespace, params
        self._pose_of = ArmModel(description).end_effector_pose
        self._newest: JointState | None = None
        self._last_ns = 0
        self._status = ""
        self._held_since: float | None = None

    def __enter__(self) -> CommandedRobot:
        """Find the graph.

        Raises:
            GraphError: There is no safety node or no robot, or something else commands it.
        """
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        try:
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave; the safety node's watchdog holds the arm from here on."""
        self._context.try_shutdown()

    def _connect(self) -> None:
        words = [] if self._params is None else ["--ros-args", "--params-file", str(self._params)]
        self._node = node = rclpy.create_node(
            "replay", namespace=self._namespace, context=self._context, cli_args=words
        )
        self._names = declare(node, HardwareOptions).names(self._description)
        self._index = JointIndex(self._names)
        candidate = topics.CANDIDATE
        self._candidate = node.create_publisher(JointState, candidate.name, profile(candidate.offered))
        joints, status = topics.JOINT_STATES, topics.SAFETY_STATUS
        node.create_subscription(JointState, joints.name, self._on_joints, profile(joints.requested))
        node.create_subscription(String, status.name, self._on_status, profile(status.requested))
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._wait(
            lambda: self._newest is not None and self._candidate.get_subscription_count() > 0,
            _DISCOVERY_S,
            "a robot's joint states and a safety node; start them with `vla up --robot CFG --without-policy`",
        )
        others = node.count_publishers(candidate.name) - 1
        if others > 0:
            raise GraphError(
                f"expected nobody else to command the safety node, found {others} other publisher(s) of "
                f"{candidate.name}; start the graph with `vla up --without-policy`"
            )

    def read(self) -> RobotState:
        """The sensed state one control period after the last one; waits for it. Wrenches read zero.

        Raises:
            GraphError: The robot fell silent, or the safety node stopped it.
        """
        due = self._last_ns + int(_EARLY * self._period_ns)
        self._wait(lambda: self._newest_ns() >= due, _SILENCE_S, "joint states; the robot fell silent")
        self._check()
        assert self._newest is not None
        state = robot_state(self._newest, self._index, frozen_array(np.zeros(6)), self._pose_of)
        self._last_ns = state.stamp_ns
        return state

    def write(self, command: JointCommand) -> None:
        """Offer a command to the safety node."""
        self._candidate.publish(command_message(command, self._names))

    def physics_digest(self) -> bytes:
        """Nothing: nobody knows a real robot's physics."""
        return b""

    def _newest_ns(self) -> int:
        if self._newest is None:
            return -1
        stamp = self._newest.header.stamp
        return stamp.sec * 1_000_000_000 + stamp.nanosec

    def _check(self) -> None:
        status = self._status.partition(":")[0]
        if status in _STOPPED:
            raise GraphError(f"the safety node stopped the arm: {self._status}")
        holding = status == SafetyStatus.HOLD.value
        self._held_since = (self._held_since or time.monotonic()) if holding else None
        if self._held_since is not None and time.monotonic() - self._held_since > _HELD_S:
            raise GraphError(f"the safety node holds the arm: {self._status}")

    def _on_joints(self, message: JointState) -> None:
        if self._newest is None:
            try:
                self._index.read(list(message.name), message.position, message.velocity, message.effort)
            except MessageError as error:
                raise GraphError(f"{topics.JOINT_STATES.name}: {error}") from error
        self._newest = message

    def _on_status(self, message: String) -> None:
        self._status = message.data

    def _wait(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise GraphError(f"expected {what}: found none within {timeout_s:g} s")
            self._executor.spin_once(timeout_sec=0.01)
