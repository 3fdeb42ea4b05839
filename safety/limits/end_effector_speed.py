"""The end effector moves and turns no faster than allowed, also while it brakes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from safety.kernel.joints import turning_growth
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion

_LINEAR = slice(0, 3)
_ANGULAR = slice(-3, None)


class _SpeedLimit(ABC):
    """Shared by the linear and the angular speed limit.

    With the joints held to a straight line the end effector's speed is ``|J qd|``, and J changes on the way: by at most
    some growth g a second at full velocity. Through a stop the speed is therefore at most ``(1 - u / T) (S + g u)`` at
    time u, where S is the bound at the end of the tick and T the stop time.
    """

    name: str
    unit: str

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum
        self.margin_scale = maximum

    @abstractmethod
    def _rows(self) -> slice:
        """Which rows of rates and Jacobian are limited."""

    @abstractmethod
    def _growth(self, motion: Motion) -> float:
        """Largest change of the rates in a second at full velocity."""

    def judge(self, motion: Motion) -> Judgement:
        """The highest speed that the tick and the stop can reach decides."""
        margin = self.maximum - self._peak(motion)
        return Judgement(margin, margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """The half-space that touches the ball of allowed twists in the direction of motion."""
        peak = self._peak(motion)
        rows = self._rows()
        rate = motion.rates[rows]
        speed = math.sqrt(float(rate.dot(rate)))
        if speed > 0.0:
            bound = np.array([speed * self.maximum / peak])
            return Inequalities((rate / speed).dot(motion.jacobian[rows])[None], bound)
        if peak <= self.maximum:  # the motion leaves the end effector still
            return Inequalities(np.zeros((1, motion.velocity.shape[0])), np.array([self.maximum]))
        along = motion.velocity / float(motion.velocity.dot(motion.velocity))
        return Inequalities(along[None], np.array([self.maximum / peak]))

    def share(self, margin: float) -> float:
        """The share of a motion with a negative ``margin``, in the limit's unit, that satisfies its inequalities."""
        return self.maximum / (self.maximum - margin)

    def _peak(self, motion: Motion) -> float:
        x, y, z = motion.rates[self._rows()].tolist()
        growth = self._growth(motion)
        start = math.sqrt(x * x + y * y + z * z) + growth * motion.dt
        gain = growth * motion.stop_time
        return start if gain <= start else (start + gain) * (start + gain) / (4.0 * gain)


class EndEffectorLinearSpeedLimit(_SpeedLimit):
    """The end effector's speed is at most ``maximum`` m/s."""

    name = "end_effector_linear_speed"
    unit = "m/s"

    def _rows(self) -> slice:
        return _LINEAR

    def _growth(self, motion: Motion) -> float:
        return motion.bend


class EndEffectorAngularSpeedLimit(_SpeedLimit):
    """The end effector turns at most at ``maximum`` rad/s."""

    name = "end_effector_angular_speed"
    unit = "rad/s"

    def _rows(self) -> slice:
        return _ANGULAR

    def _growth(self, motion: Motion) -> float:
        return turning_growth(motion.velocity, motion.speed_sum)
