"""Torque mode: what a torque will do to the joint velocity, and which torque gives an allowed velocity."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.kinematics import SafetyKinematics
from safety.profile import HoldSettings


class TorqueMap:
    """Maps joint torques to next-tick velocities and back, at one state."""

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

    def excess(self, torque: FloatArray) -> float:
        """How far (n,) N m stays below the torque limits; negative where it exceeds them."""
        return min((self._maximum - np.abs(torque)).tolist())

    def clipped(self, torque: FloatArray) -> FloatArray:
        """The torque within the limits (n,) N m."""
        return np.clip(torque, -self._maximum, self._maximum)

    def velocity_after(self, q: FloatArray, qd: FloatArray, torque: FloatArray, dt: float) -> FloatArray:
        """Joint velocity (n,) rad/s after ``dt`` of free motion under ``torque`` (n,) N m."""
        inertia, bias = self._kinematics.dynamics(q, qd)
        return qd + np.linalg.solve(inertia, torque - bias) * dt

    def torque_for(self, q: FloatArray, qd: FloatArray, velocity: FloatArray, dt: float) -> FloatArray:
        """The torque (n,) N m, within limits, that leads from ``qd`` to ``velocity`` in ``dt`` of free motion."""
        inertia, bias = self._kinematics.dynamics(q, qd)
        return self.clipped(inertia.dot((velocity - qd) / dt) + bias)

    def holding(self, q: FloatArray, qd: FloatArray, held: FloatArray, acceleration: FloatArray) -> FloatArray:
        """Gravity compensation with a spring and damper towards ``held`` (n,) rad.

        Args:
            q: (n,) rad.
            qd: (n,) rad/s.
            held: (n,) rad.
            acceleration: (n,) rad/s^2, largest that the spring and damper may ask for.
        """
        inertia, bias = self._kinematics.dynamics(q, qd)
        wanted = self._hold.stiffness_1_s2 * (held - q) - self._hold.damping_1_s * qd
        return self.clipped(inertia.dot(np.clip(wanted, -acceleration, acceleration)) + bias)

    def floating(self, q: FloatArray) -> FloatArray:
        """Gravity compensation alone, at ``q`` (n,) rad: for when the arm cannot be sensed."""
        _, bias = self._kinematics.dynamics(q, np.zeros_like(q))
        return self.clipped(bias)
