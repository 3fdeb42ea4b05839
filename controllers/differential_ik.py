"""Differential inverse kinematics: a Cartesian or joint target becomes the next joint position command."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.kernel import ik
from controllers.kinematics import ArmModel
from controllers.redundancy import largest
from controllers.robot.description import JointLimits
from controllers.targets import (
    POSE_FRAMES,
    TWIST_FRAMES,
    TargetError,
    discrete_gain,
    joint_target_position,
    require_frame,
)
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
    :func:`controllers.redundancy.saturate`). Last, all joints are slowed together to the velocity limits, which keeps
    the direction. The step is one compiled call (:func:`controllers.kernel.ik.follow`) with kinematics of its own, so
    that a tick does not depend on another library's sums. One instance serves one thread.
    """

    command_mode = CommandMode.POSITION

    def __init__(self, arm: ArmModel, options: DifferentialIKOptions | None = None) -> None:
        """Prepare the constants of one arm."""
        self.arm = arm
        self.options = options or DifferentialIKOptions()
        limits, n = arm.description.limits, arm.n
        self._home = arm.description.home
        self._hard_lower, self._hard_upper = limits.position_lower, limits.position_upper
        self._fastest = limits.velocity * self.options.velocity_fraction
        self._tables = (*arm.screw_table(), _joints(limits, self._home, self.options), _settings(self.options))
        self._scratch = (np.zeros((4, 7)), np.zeros((2, 6, 6)), np.zeros((2, 6, n)), np.zeros((4, n)))
        self._q, self._velocity, self._asked = np.zeros(n), np.zeros(n), np.zeros(ik.ASKED_SIZE)
        self._asked[ik.A_POSE + 3] = 1.0
        self._asked_twist = self._asked[ik.A_TWIST : ik.A_TWIST + 6]
        self._asked_position = self._asked[ik.A_POSE : ik.A_POSE + 3]
        self._asked_quaternion = self._asked[ik.A_POSE + 3 : ik.A_POSE + 7]
        self._rehearse()

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """Joint position command that follows ``target`` for one control period; see :class:`Controller`.

        Raises:
            TargetError: Unknown frame, or wrong shape.
        """
        start = previous.values if previous.mode is CommandMode.POSITION else state.joint_position
        if isinstance(target, JointTarget):
            values = start + self._approach(start, target, dt) * dt
        else:
            values = self._follow(start, target, dt)
        values.setflags(write=False)
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
            return self._approach(q, target, dt)
        self._follow(q, target, dt)
        return self._velocity.copy()

    def _approach(self, q: FloatArray, target: JointTarget, dt: float) -> FloatArray:
        """Joint velocity (n,) rad/s towards a joint target, all joints slowed together to their limits."""
        goal = joint_target_position(target, self.arm.n)
        goal = np.minimum(np.maximum(goal, self._hard_lower), self._hard_upper)
        velocity = (goal - q) * discrete_gain(self.options.joint_gain, dt)
        return velocity / max(1.0, largest(velocity / self._fastest))

    def _follow(self, q: FloatArray, target: PoseTarget | TwistTarget, dt: float) -> FloatArray:
        """Command values (n,) rad that follow a Cartesian target; the velocity to them is left in ``_velocity``."""
        kind = self._ask(target)
        self._q[:] = q
        values = np.empty_like(self._q)
        ik.follow(*self._tables, kind, self._asked, self._q, dt, *self._scratch, self._velocity, values)
        return values

    def _ask(self, target: PoseTarget | TwistTarget) -> int:
        """Copy a target to where the kernel reads it; compiled code takes writable arrays only."""
        if target.twist.shape != (6,):
            raise TargetError(f"expected a twist of shape (6,), found {target.twist.shape}")
        self._asked_twist[:] = target.twist
        if isinstance(target, PoseTarget):
            require_frame(target.frame, POSE_FRAMES, "pose target")
            self._asked_position[:] = target.pose.position
            self._asked_quaternion[:] = target.pose.quaternion
            return ik.POSE
        require_frame(target.frame, TWIST_FRAMES, "twist target")
        return ik.TWIST if target.frame == "base" else ik.OWN_TWIST

    def _rehearse(self) -> None:
        """Compile, or load, the kernel before the first tick."""
        still = TwistTarget(np.zeros(6), 0.0, "base")
        self._follow(self._home, still, 0.005)


def _joints(limits: JointLimits, home: FloatArray, options: DifferentialIKOptions) -> FloatArray:
    joints = np.empty((len(home), ik.JOINT_COLUMNS))
    joints[:, ik.HOME] = home
    joints[:, ik.LOWER] = limits.position_lower + options.limit_margin
    joints[:, ik.UPPER] = limits.position_upper - options.limit_margin
    joints[:, ik.ZONE_LOWER] = limits.position_lower + options.limit_zone
    joints[:, ik.ZONE_UPPER] = limits.position_upper - options.limit_zone
    joints[:, ik.FASTEST] = limits.velocity * options.velocity_fraction
    return joints


def _settings(options: DifferentialIKOptions) -> FloatArray:
    settings = np.empty(ik.SETTINGS)
    settings[ik.GAIN] = options.gain
    settings[ik.MAX_LINEAR_SPEED] = options.max_linear_speed
    settings[ik.MAX_ANGULAR_SPEED] = options.max_angular_speed
    settings[ik.POSTURE_GAIN] = options.posture_gain
    settings[ik.POSTURE_SPEED] = options.posture_speed
    settings[ik.LIMIT_GAIN] = options.limit_gain
    settings[ik.SINGULAR_VALUE] = options.singular_value
    settings[ik.DAMPING] = options.damping
    settings[ik.STEP_DAMPING] = options.step_damping
    settings[ik.NULL_DAMPING] = options.null_damping
    settings[ik.CHARACTERISTIC_LENGTH] = options.characteristic_length
    return settings
