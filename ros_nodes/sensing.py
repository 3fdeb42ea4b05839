"""From a robot's messages to the sensed state, for every node that needs one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import WrenchStamped
from sensor_msgs.msg import JointState

from controllers.kinematics import ArmModel
from controllers.robot import RobotDescription
from controllers.types import FloatArray, RobotState, frozen_array
from ros_nodes import topics
from ros_nodes.conversion import robot_state, stamp_ns, wrench_from_message
from ros_nodes.errors import MessageError
from ros_nodes.gate import Gate
from ros_nodes.joints import JointIndex, JointNames
from ros_nodes.node import GraphNode

_WRENCH_PATIENCE_NS = 100_000_000


class StateListener:
    """Keeps the newest sensed state.

    Attributes:
        state: The newest one, None before the first.
        fresh: One came since :meth:`take`.
        gate: Closed after messages that are none, or too many.
    """

    def __init__(
        self,
        node: GraphNode,
        description: RobotDescription,
        names: JointNames,
        *,
        wrench: bool,
        max_rate_hz: float,
        heard: Callable[[RobotState], None] | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        """Subscribe.

        Args:
            node: Whose subscriptions they are.
            description: The robot.
            names: Its joints on the wire.
            wrench: Whether it measures one; without it the wrench reads zero, and no force is watched.
            max_rate_hz: More joint states than this are babble; 0 for no bound.
            heard: Called with each state.
            wanted: Whether states are of interest now; others are not even converted.
        """
        self._node, self._heard, self._wanted = node, heard, wanted
        self._index = JointIndex(names)
        self._pose_of = ArmModel(description).end_effector_pose
        self._wrench: FloatArray = frozen_array(np.zeros(6))
        self._wrench_stamp = 0
        self._has_wrench = wrench
        self.state: RobotState | None = None
        self.fresh = False
        self.gate = Gate(topics.JOINT_STATES.name, max_rate_hz)
        node.subscribe_to(topics.JOINT_STATES, JointState, self._on_joints)
        if wrench:
            node.subscribe_to(topics.WRENCH, WrenchStamped, self._on_wrench)

    def take(self) -> RobotState | None:
        """The newest state; no longer fresh."""
        self.fresh = False
        return self.state

    def _on_wrench(self, message: WrenchStamped) -> None:
        self._wrench = wrench_from_message(message)
        self._wrench_stamp = stamp_ns(message.header.stamp)

    def _on_joints(self, message: JointState) -> None:
        if self._wanted is not None and not self._wanted():
            return
        now = self._node.clock.now_ns()
        if not self.gate.arrived(now):
            return
        try:
            state = robot_state(message, self._index, self._sensed_wrench(message), self._pose_of)
        except MessageError as error:
            self.gate.refuse(now, f"{topics.JOINT_STATES.name}: {error}")
            return
        if not np.isfinite(state.joint_position).all() or not np.isfinite(state.joint_velocity).all():
            self.gate.refuse(now, f"{topics.JOINT_STATES.name}: NaN or infinity")
            return
        if self.state is not None and state.stamp_ns <= self.state.stamp_ns:
            self.gate.refuse(now, f"{topics.JOINT_STATES.name}: stale stamp, not newer than the last")
            return
        self.state, self.fresh = state, True
        if self._heard is not None:
            self._heard(state)

    def _sensed_wrench(self, message: JointState) -> FloatArray:
        """The newest wrench; NaN, which the filter names, once it is too old to say anything."""
        if not self._has_wrench:
            return self._wrench
        old = stamp_ns(message.header.stamp) - self._wrench_stamp > _WRENCH_PATIENCE_NS
        return _UNKNOWN if old else self._wrench


_UNKNOWN = frozen_array(np.full(6, np.nan))
