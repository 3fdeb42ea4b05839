"""The limits. A new limit is one class in a new file, and one line in :func:`build_limits`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import frozen_array
from safety.limits.base import Inequalities, Judgement, Limit, VelocityBox, scale_interval
from safety.limits.command_lead import CommandLeadLimit
from safety.limits.contact_force import ContactForceLimit
from safety.limits.end_effector_speed import EndEffectorAngularSpeedLimit, EndEffectorLinearSpeedLimit
from safety.limits.gripper import Fingers, GripperLimit
from safety.limits.joint_acceleration import JointAccelerationLimit
from safety.limits.joint_jerk import JointJerkLimit
from safety.limits.joint_position import JOINT_RESERVE_RAD, JointPositionLimit, joint_range
from safety.limits.joint_torque import JointTorqueLimit
from safety.limits.joint_velocity import JointVelocityLimit
from safety.limits.keep_out import KeepOutLimit
from safety.limits.kinetic_energy import KineticEnergyLimit
from safety.limits.orientation_cone import OrientationConeLimit
from safety.limits.self_collision import SelfCollisionLimit
from safety.limits.servo_lag import ServoLagLimit
from safety.limits.workspace_box import WorkspaceBoxLimit
from safety.limits.workspace_polytope import WorkspacePolytopeLimit
from safety.profile import SafetyProfile
from safety.watched import CARRIED_OBJECT, Watched

__all__ = [
    "JOINT_RESERVE_RAD",
    "WALL_RESERVE_M",
    "CommandLeadLimit",
    "ContactForceLimit",
    "EndEffectorAngularSpeedLimit",
    "EndEffectorLinearSpeedLimit",
    "Fingers",
    "GripperLimit",
    "Inequalities",
    "JointAccelerationLimit",
    "JointJerkLimit",
    "JointPositionLimit",
    "JointTorqueLimit",
    "JointVelocityLimit",
    "Judgement",
    "KeepOutLimit",
    "KineticEnergyLimit",
    "Limit",
    "LimitSet",
    "OrientationConeLimit",
    "SelfCollisionLimit",
    "ServoLagLimit",
    "VelocityBox",
    "WorkspaceBoxLimit",
    "WorkspacePolytopeLimit",
    "build_limits",
    "joint_range",
    "scale_interval",
]


# The promise is about the arm: joints whose servos lag by different times cut the corners of the commanded path, m.
WALL_RESERVE_M = 1.5e-3


class LimitSet(NamedTuple):
    """All limits of a profile.

    Attributes:
        velocity: Joint velocity; bounds what the other limits see.
        acceleration: Joint acceleration; also that of the stop.
        jerk: Joint jerk.
        others: All other limits on the motion of the arm.
    """

    velocity: JointVelocityLimit
    acceleration: JointAccelerationLimit
    jerk: JointJerkLimit
    others: tuple[Limit, ...]

    @property
    def every(self) -> tuple[Limit, ...]:
        """All of them."""
        return (self.velocity, self.acceleration, self.jerk, *self.others)


def build_limits(
    description: RobotDescription, profile: SafetyProfile, watched: Watched, *, reduced: bool = False
) -> LimitSet:
    """Build every limit of a profile.

    Args:
        description: The robot.
        profile: The numbers.
        watched: Where the points are that limits look at.
        reduced: Use the reduced speed of the end effector.
    """
    joints, robot, standoff = profile.joints, description.limits, profile.stopping.standoff_m
    acceleration = frozen_array(robot.acceleration * joints.acceleration_fraction)
    tool = profile.end_effector
    fastest = min(tool.reduced_speed_m_s, tool.linear_speed_m_s) if reduced else tool.linear_speed_m_s
    lower, upper = joint_range(description, joints.position_margin_rad)
    others: list[Limit] = [
        JointPositionLimit(frozen_array(lower), frozen_array(upper), acceleration),
        JointTorqueLimit(frozen_array(robot.torque * joints.torque_fraction)),
        _workspace_box(profile, watched),
        EndEffectorLinearSpeedLimit(fastest),
        EndEffectorAngularSpeedLimit(tool.angular_speed_rad_s),
        KineticEnergyLimit(tool.kinetic_energy_j, description.n, tuple(range(len(watched.names)))),
        CommandLeadLimit(profile.force.command_lead_n),
        ContactForceLimit(profile.force.quasi_static_n),
        SelfCollisionLimit(0.0),
    ]
    if description.servo is not None:
        others.append(ServoLagLimit(fastest, tool.angular_speed_rad_s, tool.kinetic_energy_j))
    if profile.keep_outs:
        others.append(KeepOutLimit(standoff))
    if profile.polytopes:
        others.append(_polytopes(profile, watched))
    if profile.orientation is not None and watched.tip is not None:
        cone = profile.orientation
        direction = np.array(cone.direction)
        others.append(OrientationConeLimit(0, watched.tip, watched.LEVER_M, direction, cone.half_angle_rad))
    return LimitSet(
        JointVelocityLimit(frozen_array(robot.velocity * joints.velocity_fraction)),
        JointAccelerationLimit(acceleration),
        JointJerkLimit(frozen_array(robot.jerk * joints.jerk_fraction)),
        tuple(others),
    )


def _workspace_box(profile: SafetyProfile, watched: Watched) -> WorkspaceBoxLimit:
    boxes = [profile.box(name) for name in watched.names]
    carried = None
    if profile.carried_object is not None and watched.carried is not None:
        for box in profile.workspace:
            if box.point == CARRIED_OBJECT:
                radius = profile.carried_object.radius_m
                low, high = np.array(box.lower_m) + WALL_RESERVE_M, np.array(box.upper_m) - WALL_RESERVE_M
                carried = (watched.carried, radius, low, high)
    return WorkspaceBoxLimit(
        np.arange(len(boxes), dtype=np.int64),
        np.array([box.lower_m for box in boxes]) + WALL_RESERVE_M,
        np.array([box.upper_m for box in boxes]) - WALL_RESERVE_M,
        profile.stopping.standoff_m,
        carried,
    )


def _polytopes(profile: SafetyProfile, watched: Watched) -> WorkspacePolytopeLimit:
    points: list[int] = []
    normals: list[tuple[float, float, float]] = []
    offsets: list[float] = []
    for polytope in profile.polytopes:
        for name in polytope.points:
            for plane in polytope.planes:
                points.append(watched.index(name, profile))
                normals.append(plane.normal)
                offsets.append(plane.offset_m - WALL_RESERVE_M)
    standoff = profile.stopping.standoff_m
    return WorkspacePolytopeLimit(np.array(points, dtype=np.int64), np.array(normals), np.array(offsets), standoff)
