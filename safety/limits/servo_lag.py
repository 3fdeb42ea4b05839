"""The tool is no faster and strikes no harder than allowed while its servos still follow the command."""

from __future__ import annotations

import math

import numpy as np

from controllers.types import FloatArray
from safety.kernel.lag import SPEEDS, beyond, lag_margin
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion

# The share at which a rate reaches its bound may round to either side of it.
_ROUNDING = 1.0 - 1e-12


class ServoLagLimit:
    """What the joints will really do on the way to the commanded velocity keeps the speeds and energy of the tool.

    Servos follow a command each in its own time: a light wrist at once, a heavy shoulder later. Where the command turns
    some joints already do the new thing and others still the old one, and the end effector may be faster, or strike
    harder, than before and after. Gains and inertia say what the arm will do, and that is linear in the command
    (:class:`~safety.lag.Lag`). Where the present motion alone is too much, the command may make it no more.

    It holds where positions or velocities are commanded and the arm is sensed.
    """

    name = "servo_lag"
    unit = "shares of the speed limit"
    margin_scale = 1.0

    def __init__(self, linear: float, angular: float, energy: float) -> None:
        """Set the bounds.

        Args:
            linear: m/s.
            angular: rad/s.
            energy: J, of a blow.
        """
        self.linear, self.angular = linear, angular
        self.blow = math.sqrt(2.0 * energy)  # as a rate: see ``Lag``
        self._which, self._most = np.zeros(0, dtype=np.int64), np.zeros(0)  # scratch
        still = np.zeros((0, 1))  # few ticks need it: it is compiled ahead of the first of them
        beyond(still, np.zeros(0), SPEEDS, linear, angular, self.blow, self._which, self._most)

    def judge(self, motion: Motion) -> Judgement:
        """The highest rate at some moments while the servos follow decides."""
        rates, groups = motion.lag
        if not len(rates):
            return Judgement(1.0, 1.0)
        return Judgement(*lag_margin(rates, groups, motion.velocity, self.linear, self.angular, self.blow))

    def inequalities(self, motion: Motion) -> Inequalities:
        """For each moment, the half-space that touches the ball of allowed rates where the motion leaves it."""
        velocity = motion.velocity
        n = velocity.shape[0]
        lag, groups = motion.lag
        ahead, rest = lag[:, :n], lag[:, n]
        rows: list[FloatArray] = [np.zeros(n)]
        bounds = [1.0]
        if len(self._which) < len(lag):
            self._which, self._most = np.zeros(len(lag), dtype=np.int64), np.zeros(len(lag))
        which, most = self._which, self._most
        count = beyond(lag, ahead.dot(velocity), groups, self.linear, self.angular, self.blow, which, most)
        for group, size in zip(which[:count].tolist(), most[:count].tolist(), strict=True):
            own = slice(3 * group, 3 * group + 3)
            row, bound = _leaving(ahead[own], rest[own], velocity, size)
            rows.append(row)
            bounds.append(bound)
        return Inequalities(np.array(rows), np.array(bounds))


def _leaving(ahead: FloatArray, rest: FloatArray, velocity: FloatArray, most: float) -> tuple[FloatArray, float]:
    """The half-space that touches the ball ``|rest + ahead qd| <= most`` where the way to ``velocity`` leaves it.

    Args:
        ahead: (3, n), of :class:`~safety.lag.Lag`.
        rest: (3,), in the ball.
        velocity: (n,) rad/s, whose rate is outside.
        most: Radius.
    """
    change = ahead.dot(velocity)
    square, half = float(change.dot(change)), float(rest.dot(change))
    room = max(most * most - float(rest.dot(rest)), 0.0)
    root = math.sqrt(half * half + square * room)
    share = room / (half + root) if half > 0.0 else (root - half) / square  # two forms of one root, without cancelling
    touching = rest + change * (share * _ROUNDING)
    row = touching.dot(ahead)
    return row, max(float(row.dot(velocity)) * share * _ROUNDING, 0.0)
