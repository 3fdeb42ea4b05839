"""The limits. A new limit is one class in a new file, and one line in :func:`build_limits`."""

from __future__ import annotations

from controllers.robot import RobotDescription
from controllers.types import frozen_array
from safety.kinematics import SafetyKinematics
from safety.limits.base import Inequalities, Judgement, Limit, VelocityBox, scale_interval
from safety.limits.end_effector_speed import EndEffectorAngularSpeedLimit, EndEffectorLinearSpeedLimit
from safety.limits.joint_acceleration import JointAccelerationLimit
from safety.limits.joint_position import JointPositionLimit
from safety.limits.joint_velocity import JointVelocityLimit
from safety.limits.workspace_box import WorkspaceBoxLimit
from safety.profile import SafetyProfile

__all__ = [
    "EndEffectorAngularSpeedLimit",
    "EndEffectorLinearSpeedLimit",
    "Inequalities",
    "JointAccelerationLimit",
    "JointPositionLimit",
    "JointVelocityLimit",
    "Judgement",
    "Limit",
    "VelocityBox",
    "WorkspaceBoxLimit",
    "build_limits",
    "scale_interval",
]


def build_limits(
    description: RobotDescription, profile: SafetyProfile, kinematics: SafetyKinematics
) -> tuple[JointVelocityLimit, JointAccelerationLimit, tuple[Limit, ...]]:
    """Build every limit of a profile.

    Returns:
        The velocity limit and the acceleration limit, which the filter also uses to lay out motions, and all others.
    """
    joints, robot = profile.joints, description.limits
    acceleration = frozen_array(robot.acceleration * joints.acceleration_fraction)
    boxes = [profile.box(name) for name in kinematics.point_names]
    others: tuple[Limit, ...] = (
        JointPositionLimit(
            frozen_array(robot.position_lower + joints.position_margin_rad),
            frozen_array(robot.position_upper - joints.position_margin_rad),
            acceleration,
        ),
        WorkspaceBoxLimit(
            frozen_array([box.lower_m for box in boxes]),
            frozen_array([box.upper_m for box in boxes]),
            profile.stopping.standoff_m,
        ),
        EndEffectorLinearSpeedLimit(profile.end_effector.linear_speed_m_s),
        EndEffectorAngularSpeedLimit(profile.end_effector.angular_speed_rad_s),
    )
    return (
        JointVelocityLimit(frozen_array(robot.velocity * joints.velocity_fraction)),
        JointAccelerationLimit(acceleration),
        others,
    )
