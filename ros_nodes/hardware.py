"""What a robot's own controllers take: the safe command as the messages of ros2_control's usual controllers.

By parameters alone: the kind of message for the arm and for the gripper, their topics, and the robot's own names and
units. The simulated robot reads the same kinds, so that each mapping is tested on the wire.

Gripper *actions* (``control_msgs/GripperCommand``) are not standard messages and not spoken; ros2_control's
forward controllers and trajectory controllers drive grippers as well.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from builtin_interfaces.msg import Duration
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from controllers.names import unknown_name
from controllers.robot import RobotDescription
from controllers.types import NANOSECONDS, CommandMode, JointCommand, frozen_array
from ros_nodes.conversion import command_message, header, joint_command, stamp_ns
from ros_nodes.errors import MessageError
from ros_nodes.joints import JointIndex, JointNames
from ros_nodes.options import option
from ros_nodes.topics import SAFE_COMMAND


class Wire(Enum):
    """Kind of message that commands the arm or the gripper."""

    JOINT_STATE = "joint_state"  # sensor_msgs/JointState with everything in it: our own, and many simulators'
    TRAJECTORY = "joint_trajectory"  # trajectory_msgs/JointTrajectory of one point: joint_trajectory_controller
    FORWARD = "forward_command"  # std_msgs/Float64MultiArray: forward position, velocity and effort controllers
    NONE = "none"  # the gripper only: there is none


@dataclass(frozen=True)
class HardwareOptions:
    """How a robot is spoken to."""

    arm_output: str = option("joint_state", "joint_state, joint_trajectory or forward_command")
    arm_topic: str = option(SAFE_COMMAND.name, "topic of the arm's commands")
    gripper_output: str = option("joint_state", "joint_state (with the arm), joint_trajectory, forward_command or none")
    gripper_topic: str = option("gripper_command", "topic of the gripper's commands, where they are not the arm's")
    trajectory_horizon_ms: float = option(
        10.0, "when a trajectory's single point is to be reached", low=0.0, high=1000.0
    )
    arm_joints: tuple[str, ...] = option(("",), "the robot's names of the arm's joints, in our order; empty for ours")
    gripper_joint: str = option("gripper", "joint that stands for the gripper in joint states and commands")
    gripper_scale: float = option(1.0, "opening in m for each unit of its position", low=-100.0, high=100.0)
    gripper_offset: float = option(0.0, "opening in m at its position 0", low=-10.0, high=10.0)

    def names(self, description: RobotDescription) -> JointNames:
        """The names on the wire.

        Raises:
            ValueError: Another number of joints than the robot has.
        """
        arm = tuple(name for name in self.arm_joints if name) or description.joint_names
        if len(arm) != description.n:
            raise ValueError(
                f"parameter arm_joints: expected {description.n} names for {', '.join(description.joint_names)}, "
                f"found {len(arm)}: {', '.join(arm)}"
            )
        return JointNames(arm, self.gripper_joint, self.gripper_scale, self.gripper_offset)

    def wires(self) -> tuple[Wire, Wire]:
        """Kinds of message of arm and gripper.

        Raises:
            ValueError: An unknown kind, or a gripper in a message that the arm does not use.
        """
        kinds: list[Wire] = []
        for where, name in (("arm_output", self.arm_output), ("gripper_output", self.gripper_output)):
            known = [wire.value for wire in Wire if wire is not Wire.NONE or where == "gripper_output"]
            if name not in known:
                raise ValueError(f"parameter {where}: {unknown_name('kind', name, known)}")
            kinds.append(Wire(name))
        arm, gripper = kinds
        if gripper is Wire.JOINT_STATE and arm is not Wire.JOINT_STATE:
            raise ValueError(
                f"parameters arm_output, gripper_output: expected the gripper in a message of its own beside "
                f"{arm.value}, found {gripper.value}; choose joint_trajectory, forward_command or none"
            )
        return arm, gripper


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One topic that commands the robot.

    Attributes:
        topic: Its name.
        message: Its type.
        fill: Makes the message of a command.
    """

    topic: str
    message: type[Any]
    fill: Callable[[JointCommand], Any]


def outgoing(options: HardwareOptions, names: JointNames) -> tuple[Outgoing, ...]:
    """The topics that a safe command goes to."""
    arm, gripper = options.wires()
    horizon = round(options.trajectory_horizon_ms * 1e6)
    made: list[Outgoing] = []
    if arm is Wire.JOINT_STATE:
        made.append(Outgoing(options.arm_topic, JointState, lambda command: command_message(command, names)))
    elif arm is Wire.TRAJECTORY:
        made.append(Outgoing(options.arm_topic, JointTrajectory, lambda c: _arm_trajectory(c, names, horizon)))
    else:
        made.append(Outgoing(options.arm_topic, Float64MultiArray, lambda c: _array(c.values.tolist())))
    if gripper is Wire.TRAJECTORY:
        made.append(Outgoing(options.gripper_topic, JointTrajectory, lambda c: _gripper_trajectory(c, names, horizon)))
    elif gripper is Wire.FORWARD:
        made.append(
            Outgoing(
                options.gripper_topic,
                Float64MultiArray,
                lambda c: _array([names.gripper_position(c.gripper_opening)]),
            )
        )
    return tuple(made)


def _array(values: list[float]) -> Float64MultiArray:
    return Float64MultiArray(data=array("d", values))


def _trajectory(names: tuple[str, ...], mode: CommandMode, values: list[float], horizon: int) -> JointTrajectory:
    point = JointTrajectoryPoint(time_from_start=Duration(sec=horizon // NANOSECONDS, nanosec=horizon % NANOSECONDS))
    numbers = array("d", values)
    if mode is CommandMode.POSITION:
        point.positions = numbers
    elif mode is CommandMode.VELOCITY:
        point.velocities = numbers
    else:
        point.effort = numbers
    # A stamp of 0 asks the controller to begin at once, whatever its clock says.
    return JointTrajectory(header=header(0), joint_names=list(names), points=[point])


def _arm_trajectory(command: JointCommand, names: JointNames, horizon: int) -> JointTrajectory:
    return _trajectory(names.arm, command.mode, command.values.tolist(), horizon)


def _gripper_trajectory(command: JointCommand, names: JointNames, horizon: int) -> JointTrajectory:
    values = [names.gripper_position(command.gripper_opening)]
    return _trajectory((names.gripper,), CommandMode.POSITION, values, horizon)


class Incoming:
    """The robot's side: joins the topics' messages to the newest command."""

    def __init__(self, options: HardwareOptions, names: JointNames, mode: CommandMode, opening: float) -> None:
        """Read commands of ``mode``; the gripper stays at ``opening`` until it is told otherwise."""
        self._arm, self._gripper = options.wires()
        self._names, self._mode = names, mode
        self._index = JointIndex(names)
        self._opening = opening
        self.topics: tuple[tuple[str, type[Any], Callable[[Any, int], JointCommand | None]], ...] = self._wire(options)

    def _wire(self, options: HardwareOptions):
        arms = {
            Wire.JOINT_STATE: (JointState, self._joint_state),
            Wire.TRAJECTORY: (JointTrajectory, self._trajectory),
            Wire.FORWARD: (Float64MultiArray, self._forward),
        }
        grippers = {
            Wire.TRAJECTORY: (JointTrajectory, self._gripper_trajectory),
            Wire.FORWARD: (Float64MultiArray, self._gripper_forward),
        }
        wired = [(options.arm_topic, *arms[self._arm])]
        if self._gripper in grippers:
            wired.append((options.gripper_topic, *grippers[self._gripper]))
        return tuple(wired)

    def _joint_state(self, message: JointState, now_ns: int) -> JointCommand:
        del now_ns
        return joint_command(message, self._index, self._mode)

    def _trajectory(self, message: JointTrajectory, now_ns: int) -> JointCommand:
        values = self._point(message, self._names.arm, self._mode)
        stamp = stamp_ns(message.header.stamp) or now_ns
        return JointCommand(self._mode, frozen_array(values), self._opening, stamp)

    def _forward(self, message: Float64MultiArray, now_ns: int) -> JointCommand:
        return JointCommand(self._mode, self._numbers(message, len(self._names.arm)), self._opening, now_ns)

    def _gripper_trajectory(self, message: JointTrajectory, now_ns: int) -> None:
        del now_ns
        values = self._point(message, (self._names.gripper,), CommandMode.POSITION)
        self._opening = self._names.opening(values[0])

    def _gripper_forward(self, message: Float64MultiArray, now_ns: int) -> None:
        del now_ns
        self._opening = self._names.opening(float(self._numbers(message, 1)[0]))

    @staticmethod
    def _numbers(message: Float64MultiArray, count: int):
        if len(message.data) != count or not all(map(math.isfinite, message.data)):
            raise MessageError(f"expected {count} finite values, found {list(message.data)}")
        return frozen_array(message.data)

    @staticmethod
    def _point(message: JointTrajectory, names: tuple[str, ...], mode: CommandMode) -> list[float]:
        if len(message.points) != 1:
            raise MessageError(f"expected a trajectory of one point, found {len(message.points)}")
        point = next(iter(message.points))
        values = {
            CommandMode.POSITION: point.positions,
            CommandMode.VELOCITY: point.velocities,
            CommandMode.TORQUE: point.effort,
        }[mode]
        found = list(message.joint_names)
        missing = [name for name in names if name not in found]
        if missing or len(values) != len(found):
            raise MessageError(
                f"expected {mode.value} values of {', '.join(names)}, found {len(values)} values for {', '.join(found)}"
            )
        return [float(values[found.index(name)]) for name in names]
