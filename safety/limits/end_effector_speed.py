"""The end effector moves and turns no faster than allowed, also while it brakes."""

from __future__ import annotations

import math

import numpy as np

from controllers.types import FloatArray
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion


class _SpeedLimit:
    """Shared by the linear and the angular speed limit.

    With the joints held to a straight line the end effector's speed is ``|J qd|``, and J changes on the way: by at most
    ``g = |qd|^T curvature |qd|`` a second at full velocity. Through a stop the speed is therefore at most
    ``(1 - u / T) (S + g u)`` at time u, where S is the bound at the end of the tick and T the stop time.
    """

    def __init__(self, name: str, unit: str, maximum: float, rows: slice, curvature: FloatArray) -> None:
        self.name = name
        self.unit = unit
        self.maximum = maximum
        self.margin_scale = maximum
        self._rows = rows
        self._curvature = curvature

    def judge(self, motion: Motion) -> Judgement:
        """The highest speed that the tick and the stop can reach decides."""
        margin = self.maximum - self._peak(motion)
        return Judgement(margin, margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """The half-space that touches the ball of allowed twists in the direction of motion."""
        peak = self._peak(motion)
        rate = motion.rates[self._rows]
        speed = math.sqrt(float(np.dot(rate, rate)))
        if speed > 0.0:
            return Inequalities(
                (rate / speed).dot(motion.jacobian[self._rows])[None], np.array([speed * self.maximum / peak])
            )
        if peak <= self.maximum:  # the motion leaves the end effector still
            return Inequalities(np.zeros((1, motion.velocity.shape[0])), np.array([self.maximum]))
        along = motion.velocity / float(np.dot(motion.velocity, motion.velocity))
        return Inequalities(along[None], np.array([self.maximum / peak]))

    def _peak(self, motion: Motion) -> float:
        x, y, z = motion.rates[self._rows].tolist()
        speeds, stop_time = motion.speeds, motion.stop_time
        growth = float(speeds.dot(self._curvature.dot(speeds)))
        start = math.sqrt(x * x + y * y + z * z) + growth * motion.first_time
        gain = growth * stop_time
        return start if gain <= start else (start + gain) ** 2 / (4.0 * gain)


class EndEffectorLinearSpeedLimit(_SpeedLimit):
    """The end effector's speed is at most ``maximum`` m/s."""

    def __init__(self, maximum: float, curvature: FloatArray) -> None:
        """Set the limit.

        Args:
            maximum: m/s.
            curvature: (k, n, n) m/rad^2, :attr:`safety.kinematics.SafetyKinematics.curvature`.
        """
        super().__init__("end_effector_linear_speed", "m/s", maximum, slice(0, 3), curvature[0].copy())


class EndEffectorAngularSpeedLimit(_SpeedLimit):
    """The end effector turns at most at ``maximum`` rad/s."""

    def __init__(self, maximum: float, curvature: FloatArray) -> None:
        """Set the limit.

        Args:
            maximum: rad/s.
            curvature: (k, n, n); only its shape matters: a joint turns the axis of each later one, at most at its rate.
        """
        k, n = curvature.shape[:2]
        super().__init__(
            "end_effector_angular_speed", "rad/s", maximum, slice(3 * k, 3 * k + 3), np.triu(np.ones((n, n)), 1)
        )
