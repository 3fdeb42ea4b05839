"""Torque mode: what a torque will do to the joint velocity, and which torque gives an allowed velocity."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.kernel.dynamics import cholesky, solve
from safety.kinematics import SafetyKinematics
from safety.profile import HoldSettings


class TorqueMap:
    """Maps joint torques to next-tick velocities and back, at one state.

    A torque acts for a whole tick, in which the arm moves on and its friction changes with its velocity: the arm counts
    as where it is half-way, and friction as what it is on average. To the first order alone, a light joint that brakes
    against a friction of its own would come to rest late.
    """

    def __init__(self, kinematics: SafetyKinematics, maximum: FloatArray, hold: HoldSettings) -> None:
        """Set the model.

        Args:
            kinematics: The arm's dynamics.
            maximum: (n,) N m, magnitude.
            hold: The spring and damper of a hold.
        """
        self._kinematics = kinematics
        self._maximum = maximum
        self._hold = hold
        self._damping = kinematics.damping

    def excess(self, torque: FloatArray) -> float:
        """How far (n,) N m stays below the torque limits; negative where it exceeds them."""
        return min((self._maximum - np.abs(torque)).tolist())

    def clipped(self, torque: FloatArray) -> FloatArray:
        """The torque within the limits (n,) N m."""
        return np.clip(torque, -self._maximum, self._maximum)

    def velocity_after(
        self, q: FloatArray, qd: FloatArray, torque: FloatArray, outside: FloatArray, dt: float
    ) -> FloatArray:
        """Joint velocity (n,) rad/s after ``dt`` under ``torque`` and what acts from ``outside``, each (n,) N m."""
        inertia, bias = self._over_tick(q, qd, dt)
        change = np.empty_like(qd)
        cholesky(inertia, inertia)
        solve(inertia, torque + outside - bias, change)
        return qd + change * dt

    def torque_for(
        self, q: FloatArray, qd: FloatArray, velocity: FloatArray, outside: FloatArray, dt: float
    ) -> FloatArray:
        """The torque (n,) N m, within limits, that leads from ``qd`` to ``velocity`` in ``dt``."""
        inertia, bias = self._over_tick(q, qd, dt)
        return self.clipped(inertia.dot((velocity - qd) / dt) + bias - outside)

    def holding(self, q: FloatArray, qd: FloatArray, held: FloatArray, acceleration: FloatArray) -> FloatArray:
        """Gravity compensation with a spring and damper towards ``held`` (n,) rad.

        Args:
            q: (n,) rad.
            qd: (n,) rad/s.
            held: (n,) rad.
            acceleration: (n,) rad/s^2, largest that the spring and damper may ask for.
        """
        dynamics = self._kinematics.dynamics(q, qd)
        wanted = self._hold.stiffness_1_s2 * (held - q) - self._hold.damping_1_s * qd
        return self.clipped(dynamics.inertia.dot(np.clip(wanted, -acceleration, acceleration)) + dynamics.bias)

    def _over_tick(self, q: FloatArray, qd: FloatArray, dt: float) -> tuple[FloatArray, FloatArray]:
        """Inertia (n, n) kg m^2 and bias (n,) N m: ``inertia dqd / dt + bias`` changes the velocity by dqd."""
        dynamics = self._kinematics.dynamics(q + qd * (0.5 * dt), qd)
        return dynamics.inertia + np.diag(self._damping * (0.5 * dt)), dynamics.bias

    def floating(self, q: FloatArray) -> FloatArray:
        """Gravity compensation alone, at ``q`` (n,) rad: for when the arm cannot be sensed."""
        return self.clipped(self._kinematics.dynamics(q, np.zeros_like(q)).gravity)
