"""Differential inverse kinematics: a Cartesian or joint target becomes the next joint position command."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from controllers.kinematics import ArmModel
from controllers.redundancy import largest, saturate, spectrum
from controllers.targets import desired_twist, discrete_gain, joint_target_position
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    JointTarget,
    PoseTarget,
    RobotState,
    Target,
    TwistTarget,
)


@dataclass(frozen=True, slots=True)
class DifferentialIKOptions:
    """Tuning of :class:`DifferentialIK`; the defaults suit an arm of about a metre's reach.

    Attributes:
        gain: Rate at which a pose error decays, 1/s.
        joint_gain: Rate at which a joint error decays, 1/s.
        max_linear_speed: Largest desired speed of the end effector, m/s.
        max_angular_speed: Largest desired angular speed of the end effector, rad/s.
        velocity_fraction: Part of the joint velocity limits that may be used.
        posture_gain: Rate at which the null space drifts home, 1/s.
        posture_speed: Largest joint speed of the null-space motion, rad/s.
        limit_margin: Distance from a joint limit at which motion towards it has come to rest, rad.
        limit_gain: Decay rate of a motion towards a joint limit, 1/s.
        limit_zone: Distance from a joint limit within which the null space pushes away from it, rad.
        singular_value: Singular value of the scaled Jacobian below which a direction is damped, m.
        damping: Damping at a singularity, m.
        step_damping: Further squared damping for each metre of commanded step, m. Away from a target that is out of
            reach the step never shrinks, and the larger the step, the further linearization holds: this term
            keeps the stretched arm still at any control rate (T. Sugihara, "Solvability-unconcerned inverse
            kinematics by the Levenberg-Marquardt method", IEEE Trans. Robotics 27(5), 2011, damps by the error).
        null_damping: Singular value below which the null-space motion leaks into the task, m.
        characteristic_length: Length that weighs an angle against a distance, m/rad.
    """

    gain: float = 20.0
    joint_gain: float = 50.0
    max_linear_speed: float = 1.0
    max_angular_speed: float = 2.5
    velocity_fraction: float = 0.95
    posture_gain: float = 1.0
    posture_speed: float = 0.3
    limit_margin: float = 0.02
    limit_gain: float = 10.0
    limit_zone: float = 0.3
    singular_value: float = 0.04
    damping: float = 0.04
    step_damping: float = 0.5
    null_damping: float = 0.004
    characteristic_length: float = 0.3


class DifferentialIK:
    """Resolved-rate control with damped least squares, in position mode.

    The next command is integrated from the last applied one, not from the measured joints: sensor noise and drive
    lag do not enter, so the command is as smooth as the target. Where the last command was not a position, it
    starts from the measured joints.

    A secondary motion towards the home posture and away from joint limits runs in the null space of the Jacobian.
    A joint that would pass a joint limit is fixed at its bound and the others take over its share (see
    :func:`saturate`). Last, all joints are slowed together to the velocity limits, which keeps the direction.
    """

    command_mode = CommandMode.POSITION

    def __init__(self, arm: ArmModel, options: DifferentialIKOptions | None = None) -> None:
        """Prepare the constants of one arm."""
        self.arm = arm
        self.options = options or DifferentialIKOptions()
        limits = arm.description.limits
        self._home = arm.description.home
        self._hard_lower, self._hard_upper = limits.position_lower, limits.position_upper
        self._lower = limits.position_lower + self.options.limit_margin
        self._upper = limits.position_upper - self.options.limit_margin
        self._zone_lower = limits.position_lower + self.options.limit_zone
        self._zone_upper = limits.position_upper - self.options.limit_zone
        self._speed_reciprocal = 1.0 / (limits.velocity * self.options.velocity_fraction)
        length = self.options.characteristic_length
        self._row_scale = np.array([1.0, 1.0, 1.0, length, length, length])
        self._row_scale_column = self._row_scale[:, None]

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """Joint position command that follows ``target`` for one control period; see :class:`Controller`.

        Raises:
            TargetError: Unknown frame, or wrong shape.
        """
        start = previous.values if previous.mode is CommandMode.POSITION else state.joint_position
        values = start + self.joint_velocity(start, target, dt) * dt
        values.flags.writeable = False
        return JointCommand(CommandMode.POSITION, values, target.gripper_opening, state.stamp_ns)

    def hold(self, state: RobotState) -> JointCommand:
        """The measured joint position, as a command."""
        values = state.joint_position.copy()
        values.flags.writeable = False
        return JointCommand(CommandMode.POSITION, values, state.gripper_opening, state.stamp_ns)

    def joint_velocity(self, q: FloatArray, target: Target, dt: float) -> FloatArray:
        """Joint velocity (n,) rad/s that follows ``target`` from joint position ``q`` (n,) rad.

        Raises:
            TargetError: Unknown frame, or wrong shape.
        """
        if isinstance(target, JointTarget):
            goal = joint_target_position(target, self.arm.n)
            goal = np.minimum(np.maximum(goal, self._hard_lower), self._hard_upper)
            return self._slowed((goal - q) * discrete_gain(self.options.joint_gain, dt))
        return self._slowed(self._follow(q, target, dt))

    def _follow(self, q: FloatArray, target: PoseTarget | TwistTarget, dt: float) -> FloatArray:
        options = self.options
        pose, jacobian = self.arm.kinematics(q)
        twist = desired_twist(
            target,
            pose,
            discrete_gain(options.gain, dt),
            dt,
            options.max_linear_speed,
            options.max_angular_speed,
        )
        twist *= self._row_scale
        jacobian *= self._row_scale_column
        damping = options.damping**2 + options.step_damping * dt * math.sqrt(float(twist @ twist))
        posture = self._posture_velocity(q)

        def resolve(free: FloatArray, fixed: FloatArray) -> FloatArray:
            rest = twist - jacobian @ fixed
            return fixed + self._solve(jacobian * free, rest, posture * free, damping)

        limit_gain = discrete_gain(options.limit_gain, dt)
        lower = (self._lower - q) * limit_gain
        upper = (self._upper - q) * limit_gain
        return saturate(resolve, self._solve(jacobian, twist, posture, damping), lower, upper)

    def _solve(self, jacobian: FloatArray, twist: FloatArray, posture: FloatArray, damping: float) -> FloatArray:
        """Damped least-squares joint velocity (n,) for a twist, plus the null-space part of ``posture``."""
        options = self.options
        gram = spectrum(jacobian @ jacobian.T, options.singular_value**2)
        task = gram.vectors.T @ twist * gram.damped_reciprocal(damping)
        leak = gram.vectors.T @ (jacobian @ posture) * gram.damped_reciprocal(options.null_damping**2)
        return posture + jacobian.T @ (gram.vectors @ (task - leak))

    def _posture_velocity(self, q: FloatArray) -> FloatArray:
        """Secondary joint velocity (n,) rad/s: towards home, and away from joint limits that are near."""
        options = self.options
        inward = np.minimum(np.maximum(q, self._zone_lower), self._zone_upper) - q
        velocity = options.posture_gain * (self._home - q) + options.limit_gain * inward
        return velocity / max(1.0, largest(velocity) / options.posture_speed)

    def _slowed(self, qd: FloatArray) -> FloatArray:
        """Slow all joints together until each keeps its velocity limit."""
        return qd / max(1.0, largest(qd * self._speed_reciprocal))
