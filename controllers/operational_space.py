"""Operational-space control: the end effector moves as a unit mass, whatever the arm's inertia.

O. Khatib, "A unified approach for motion and force control of robot manipulators: the operational space
formulation", IEEE J. Robotics and Automation 3(1), 1987.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.kinematics import ArmDynamics, ArmModel
from controllers.redundancy import largest, saturate, solve_positive_definite, spectrum
from controllers.targets import desired_twist, joint_target_position
from controllers.torque import gravity_hold, torque_command, within_torque_limits
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
class OperationalSpaceOptions:
    """Tuning of :class:`OperationalSpace`.

    Attributes:
        natural_frequency: Of the end effector around its target, rad/s: the stiffness, for each kilogram.
        damping_ratio: 1 is critical damping.
        max_linear_speed: Largest desired speed of the end effector, m/s.
        max_angular_speed: Largest desired angular speed of the end effector, rad/s.
        velocity_fraction: Part of the joint velocity limits that may be used.
        posture_frequency: Natural frequency of the null space around home, rad/s.
        posture_speed: Largest joint speed of the null-space motion, rad/s.
        limit_margin: Distance from a joint limit at which motion towards it should have come to rest, rad.
        limit_gain: Decay rate of a motion towards a joint limit, 1/s.
        limit_damping: Deceleration for each rad/s above that decay or above the velocity limit, 1/s.
        max_effective_mass: Apparent mass above which a direction counts as near singular, kg; it is never pushed as
            if it were heavier.
        null_leak: Part of ``1 / max_effective_mass`` below which the posture's spring leaks into the task.
        characteristic_length: Length that weighs an angle against a distance, m/rad.
    """

    natural_frequency: float = 20.0
    damping_ratio: float = 1.0
    max_linear_speed: float = 1.0
    max_angular_speed: float = 2.5
    velocity_fraction: float = 0.95
    posture_frequency: float = 8.0
    posture_speed: float = 0.3
    limit_margin: float = 0.05
    limit_gain: float = 15.0
    limit_damping: float = 60.0
    max_effective_mass: float = 50.0
    null_leak: float = 0.01
    characteristic_length: float = 0.3


class OperationalSpace:
    """Task-space inverse dynamics with a posture task in the dynamically consistent null space, in torque mode.

    The acceleration asked of the end effector is ``2 zeta omega (twist* - twist)``, where ``twist*`` is the target's
    twist plus the pose error times ``omega / (2 zeta)``, within the speed limits: a spring and damper near the
    target, a steady approach far from it (Khatib's velocity saturation). A joint target uses the same law in joint
    space. A twist target has no position to return to and yields to a lasting force.

    Near a singularity the directions whose apparent mass diverges are damped, one by one; joint-space damping takes
    over what the task gives up there. A joint that would pass a position or velocity limit is braked, and the others
    take over its share (see :func:`saturate`).
    """

    command_mode = CommandMode.TORQUE

    def __init__(self, arm: ArmModel, options: OperationalSpaceOptions | None = None) -> None:
        """Prepare the constants of one arm."""
        self.arm = arm
        self.options = options or OperationalSpaceOptions()
        limits = arm.description.limits
        self._home = arm.description.home
        self._torque_limit = limits.torque
        self._hard_lower, self._hard_upper = limits.position_lower, limits.position_upper
        self._lower = limits.position_lower + self.options.limit_margin
        self._upper = limits.position_upper - self.options.limit_margin
        self._speed_limit = limits.velocity * self.options.velocity_fraction
        length = self.options.characteristic_length
        self._row_scale = np.array([1.0, 1.0, 1.0, length, length, length])
        self._row_scale_column = self._row_scale[:, None]
        self._rate = 2.0 * self.options.damping_ratio * self.options.natural_frequency
        self._gain = self.options.natural_frequency / (2.0 * self.options.damping_ratio)

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """Joint torque command for one control period; see :class:`Controller`. ``previous`` is not used.

        Raises:
            TargetError: Unknown frame, or wrong shape.
        """
        q, qd = state.joint_position, state.joint_velocity
        dynamics = self.arm.dynamics(q, qd)
        if isinstance(target, JointTarget):
            effort = self._joint_effort(dynamics, q, qd, target)
        else:
            effort = self._task_effort(dynamics, q, qd, target, dt)
        return torque_command(within_torque_limits(dynamics.bias, effort, self._torque_limit), state, target)

    def hold(self, state: RobotState) -> JointCommand:
        """The torque that carries the arm in its measured position."""
        return gravity_hold(self.arm, state)

    def _joint_effort(self, dynamics: ArmDynamics, q: FloatArray, qd: FloatArray, target: JointTarget) -> FloatArray:
        """Computed torque (n,) N m towards a joint target, bias left out."""
        goal = joint_target_position(target, self.arm.n)
        goal = np.minimum(np.maximum(goal, self._hard_lower), self._hard_upper)
        reference = self._gain * (goal - q)
        reference = reference / max(1.0, largest(reference / self._speed_limit))
        return dynamics.mass_matrix @ (self._rate * (reference - qd)) + self.arm.passive_damping * reference

    def _task_effort(
        self, dynamics: ArmDynamics, q: FloatArray, qd: FloatArray, target: PoseTarget | TwistTarget, dt: float
    ) -> FloatArray:
        """Torque (n,) N m that follows a Cartesian target, bias left out."""
        options = self.options
        twist = desired_twist(
            target, dynamics.pose, self._gain, dt, options.max_linear_speed, options.max_angular_speed
        )
        task = _Task(
            mass_matrix=dynamics.mass_matrix,
            jacobian=dynamics.jacobian * self._row_scale_column,
            twist=twist * self._row_scale,
            acceleration_bias=dynamics.acceleration_bias * self._row_scale,
        )
        spring, damper = self._posture_acceleration(q, qd)
        lower, upper = self._acceleration_bounds(q, qd)

        def resolve(free: FloatArray, fixed: FloatArray) -> FloatArray:
            return fixed + self._solve(task.without(free, fixed), qd, spring * free, damper * free)[0]

        acceleration, reference = self._solve(task, qd, spring, damper)
        acceleration = saturate(resolve, acceleration, lower, upper)
        # Friction is fed forward at the wanted velocity, never at the measured one, which would undo the damping.
        return dynamics.mass_matrix @ acceleration + self.arm.passive_damping * reference

    def _solve(
        self, task: _Task, qd: FloatArray, spring: FloatArray, damper: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Joint acceleration (n,) rad/s^2 of task and posture, and the joint velocity (n,) rad/s of the task."""
        threshold = 1.0 / self.options.max_effective_mass
        jacobian = task.jacobian
        # The inverse task inertia J M^-1 J^T tends to zero in a singular direction.
        inverse_mass_jacobian = solve_positive_definite(task.mass_matrix, jacobian.T)
        inertia = spectrum(jacobian @ inverse_mass_jacobian, threshold)
        to_task = inertia.vectors.T
        task_mass = inertia.damped_reciprocal(threshold)
        null_mass = inertia.damped_reciprocal(threshold * self.options.null_leak)

        reference = inverse_mass_jacobian @ (inertia.vectors @ (to_task @ task.twist * task_mass))
        slow_down = max(1.0, largest(reference / self._speed_limit))

        wanted = self._rate * (task.twist / slow_down - jacobian @ qd) - task.acceleration_bias
        force = to_task @ (wanted - jacobian @ damper) * task_mass - to_task @ (jacobian @ spring) * null_mass
        acceleration = spring + damper + inverse_mass_jacobian @ (inertia.vectors @ force)
        return acceleration, reference / slow_down

    def _posture_acceleration(self, q: FloatArray, qd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Joint acceleration (n,) rad/s^2 towards home at a bounded speed, and that of critical damping."""
        rate = 2.0 * self.options.posture_frequency
        velocity = 0.5 * self.options.posture_frequency * (self._home - q)
        velocity = velocity / max(1.0, largest(velocity) / self.options.posture_speed)
        return rate * velocity, -rate * qd

    def _acceleration_bounds(self, q: FloatArray, qd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds (n,) rad/s^2 that bring each joint to rest before its limits, within its speed."""
        gain, damping = self.options.limit_gain, self.options.limit_damping
        slowest = np.maximum(gain * (self._lower - q), -self._speed_limit)
        fastest = np.minimum(gain * (self._upper - q), self._speed_limit)
        return damping * (slowest - qd), damping * (fastest - qd)


@dataclass(frozen=True, slots=True)
class _Task:
    """A Cartesian task, its angular rows scaled to metres.

    Attributes:
        mass_matrix: (n, n) kg m^2.
        jacobian: (6, n).
        twist: (6,) wanted.
        acceleration_bias: (6,) acceleration of the end effector that is there without any of the free joints.
    """

    mass_matrix: FloatArray
    jacobian: FloatArray
    twist: FloatArray
    acceleration_bias: FloatArray

    def without(self, free: FloatArray, fixed: FloatArray) -> _Task:
        """The same task for the joints where ``free`` is 1, the others accelerating with ``fixed`` (n,) rad/s^2."""
        return _Task(
            mass_matrix=self.mass_matrix * np.outer(free, free) + np.diag(1.0 - free),
            jacobian=self.jacobian * free,
            twist=self.twist,
            acceleration_bias=self.acceleration_bias + self.jacobian @ fixed,
        )
