"""What the torque controllers share: staying within the motors' torque, and holding still."""

from __future__ import annotations

import numpy as np

from controllers.kinematics import ArmModel
from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, Target


def within_torque_limits(bias: FloatArray, effort: FloatArray, limit: FloatArray) -> FloatArray:
    """Torque (n,) N m within ``limit``: the bias whole, then as much of the effort as fits.

    The effort is scaled as one vector, so that its direction in task space stays; gravity is never traded for it.

    Args:
        bias: (n,) gravity, centrifugal and Coriolis torque, N m.
        effort: (n,) torque of the task, N m.
        limit: (n,) magnitude, N m.
    """
    torque = bias + effort
    if bool((np.abs(torque) <= limit).all()):
        return torque
    room = np.maximum(limit - bias * np.sign(effort), 0.0)
    needed = np.abs(effort)
    scale = np.divide(room, needed, out=np.ones_like(room), where=needed > room).min()
    return np.minimum(np.maximum(bias + scale * effort, -limit), limit)


def torque_command(values: FloatArray, state: RobotState, target: Target) -> JointCommand:
    """A torque command (n,) N m that answers ``target`` at the time of ``state``; takes over ``values``."""
    values.flags.writeable = False
    return JointCommand(CommandMode.TORQUE, values, target.gripper_opening, state.stamp_ns)


def gravity_hold(arm: ArmModel, state: RobotState) -> JointCommand:
    """The torque that carries the arm in its measured position, at rest."""
    values = arm.gravity(state.joint_position)
    values.flags.writeable = False
    return JointCommand(CommandMode.TORQUE, values, state.gripper_opening, state.stamp_ns)
