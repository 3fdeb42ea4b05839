"""What a target asks for at this instant: the one place where targets become desired twists or joint errors.

Values that are not finite pass through to the command, which the safety filter refuses with its reason.
"""

from __future__ import annotations

import math

import numpy as np

from controllers.spatial import pose_error, rotate
from controllers.types import FloatArray, JointTarget, Pose, PoseTarget, TwistTarget

POSE_FRAMES = ("base",)
TWIST_FRAMES = ("base", "ee")
JOINT_FRAMES = ("joint",)


class TargetError(ValueError):
    """A target that no controller can follow: unknown frame or wrong shape."""


def discrete_gain(gain: float, dt: float) -> float:
    """Gain of a sampled first-order approach that decays as ``exp(-gain t)`` at any control rate, 1/s.

    Args:
        gain: Rate of the approach, 1/s.
        dt: Control period, s.
    """
    return -math.expm1(-gain * dt) / dt


def desired_twist(
    target: PoseTarget | TwistTarget,
    pose: Pose,
    gain: float,
    dt: float,
    max_linear_speed: float,
    max_angular_speed: float,
) -> FloatArray:
    """Twist (6,) m/s, rad/s in the base frame that follows ``target`` from ``pose``.

    A pose target is due at the end of the control period, so its twist is followed, plus ``gain`` times the distance
    to where the target was at the period's start: a moving target is then followed without lag or lead. A twist
    target gives its twist. The whole is scaled down to the speed limits, which keeps its direction in space (the
    velocity saturation of O. Khatib, "A unified approach for motion and force control of robot manipulators", IEEE
    J. Robotics and Automation 3(1), 1987).

    Args:
        target: What to follow.
        pose: End-effector pose that the error is taken from, base frame.
        gain: 1/s.
        dt: Control period, s.
        max_linear_speed: m/s.
        max_angular_speed: rad/s.

    Raises:
        TargetError: Unknown frame.
    """
    if isinstance(target, PoseTarget):
        require_frame(target.frame, POSE_FRAMES, "pose target")
        twist = gain * pose_error(target.pose, pose) + (1.0 - gain * dt) * target.twist
    else:
        require_frame(target.frame, TWIST_FRAMES, "twist target")
        twist = target.twist
        if target.frame == "ee":
            turn = pose.quaternion
            twist = np.concatenate((rotate(turn, twist[:3]), rotate(turn, twist[3:])))
    x, y, z, rx, ry, rz = twist.tolist()
    linear = math.sqrt(x * x + y * y + z * z)
    angular = math.sqrt(rx * rx + ry * ry + rz * rz)
    scale = max(1.0, linear / max_linear_speed, angular / max_angular_speed)
    return twist / scale


def joint_target_position(target: JointTarget, n: int) -> FloatArray:
    """Position (n,) rad of a joint target, checked.

    Raises:
        TargetError: Unknown frame, or wrong shape.
    """
    require_frame(target.frame, JOINT_FRAMES, "joint target")
    if target.position.shape != (n,):
        raise TargetError(f"expected a joint target of shape ({n},), found {target.position.shape}")
    return target.position


def require_frame(frame: str, valid: tuple[str, ...], what: str) -> None:
    """Refuse a target whose frame is not one of ``valid``.

    Raises:
        TargetError: Unknown frame.
    """
    if frame not in valid:
        raise TargetError(f"unknown frame {frame!r} of a {what}: expected {' or '.join(map(repr, valid))}")
