"""Joint impedance: each joint is a spring and damper around a reference, with gravity and Coriolis compensated."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from controllers.differential_ik import DifferentialIK, DifferentialIKOptions
from controllers.kinematics import ArmModel
from controllers.redundancy import solve_positive_definite
from controllers.torque import gravity_hold, torque_command, within_torque_limits
from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, Target


@dataclass(frozen=True, slots=True)
class JointImpedanceOptions:
    """Tuning of :class:`JointImpedance`.

    Attributes:
        natural_frequency: Of each joint's spring with its inertia at home, rad/s: the stiffness.
        damping_ratio: 1 is critical damping.
        inertia_scaled: Multiply by the full inertia matrix at the current posture (computed torque) instead of its
            diagonal at home. Follows fast motion better; the joints no longer have one fixed stiffness each.
        inverse_kinematics: How a Cartesian target becomes joint motion; its gains are set from the two above.
    """

    natural_frequency: float = 20.0
    damping_ratio: float = 1.0
    inertia_scaled: bool = False
    inverse_kinematics: DifferentialIKOptions = field(default_factory=DifferentialIKOptions)


class JointImpedance:
    """``torque = K (q* - q) - D qd + bias(q, qd)``, for every kind of target.

    The reference ``q*`` is a function of the sensed state alone, so the controller needs no memory: it is the joint
    position that one differential-IK step from the measured position asks for, ``q* = q + T qd*`` with the lead
    time ``T = D / K``. For a pose that is near, ``q*`` is then the Gauss-Newton solution of the inverse kinematics;
    for one that is far or out of reach, it stays as close as the speed limits of that step, and so does the torque.
    Limits, null space and singularities are those of :class:`DifferentialIK`.

    The damping acts on the velocity expected at the end of the control period, ``(M + D dt) qdd = K (q* - q) - D qd``
    (J. Tan, K. Liu, G. Turk, "Stable proportional-derivative controllers", IEEE Computer Graphics and Applications
    31(4), 2011). Held for 5 ms or more, the plain law is unstable wherever a joint carries much less inertia than at
    home; this one gets softer instead, and tends to the plain law as ``dt`` tends to zero.

    A twist target has no position to return to: it is held by the damping alone and yields to a lasting force.

    Attributes:
        stiffness: K (n,) N m/rad, read-only.
        damping: D (n,) N m s/rad, read-only.
    """

    command_mode = CommandMode.TORQUE

    def __init__(self, arm: ArmModel, options: JointImpedanceOptions | None = None) -> None:
        """Scale stiffness and damping to the arm's inertia at home."""
        self.arm = arm
        self.options = options or JointImpedanceOptions()
        frequency, ratio = self.options.natural_frequency, self.options.damping_ratio
        rate = frequency / (2.0 * ratio)
        self._inverse_kinematics = DifferentialIK(
            arm, replace(self.options.inverse_kinematics, gain=rate, joint_gain=rate)
        )
        inertia = np.diagonal(arm.mass_matrix(arm.description.home))
        self.stiffness: FloatArray = frequency**2 * inertia
        self.damping: FloatArray = 2.0 * ratio * frequency * inertia
        self.stiffness.flags.writeable = False
        self.damping.flags.writeable = False
        self._rate = 2.0 * ratio * frequency
        self._limit = arm.description.limits.torque

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """Joint torque command for one control period; see :class:`Controller`. ``previous`` is not used.

        Raises:
            TargetError: Unknown frame, or wrong shape.
        """
        q, qd = state.joint_position, state.joint_velocity
        reference = self._inverse_kinematics.joint_velocity(q, target, dt)
        error = reference - qd  # times D, this is K (q* - q) - D qd: q* - q = T qd* and K T = D
        inertia = self.arm.mass_matrix(q)
        if self.options.inertia_scaled:
            acceleration = self._rate * error
        else:
            wanted = (self.damping * error)[:, None]
            acceleration = solve_positive_definite(inertia + np.diag(dt * self.damping), wanted)[:, 0]
        effort = inertia @ acceleration
        # Friction is fed forward at the wanted velocity, never at the measured one, which would undo the damping.
        effort += self.arm.passive_damping * reference
        return torque_command(within_torque_limits(self.arm.bias_forces(q, qd), effort, self._limit), state, target)

    def hold(self, state: RobotState) -> JointCommand:
        """The torque that carries the arm in its measured position."""
        return gravity_hold(self.arm, state)
