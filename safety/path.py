"""The path-consistent choice: how fast to follow the commanded path, and when to stop instead."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from controllers.types import FloatArray, SafetyReason
from safety.limits import JointAccelerationLimit, JointVelocityLimit, Limit, scale_interval
from safety.motion import Motion, MotionFactory, braked

# A share computed to lie on a limit may round to either side of it.
_ROUNDING = 1.0 - 1e-9
# The executor's clock never quite stops while the arm may move: a path that runs into a wall and out again is played
# on, so that it cannot hold the arm there for ever.
_SLOWEST_CLOCK = 0.1


class Choice(NamedTuple):
    """The velocity to apply.

    Attributes:
        velocity: (n,) rad/s.
        reasons: The limits that bite; empty if the demand may pass unchanged.
        speed_scale: Share of the demand that is followed, in [0, 1].
        min_margin: Smallest scaled margin over all limits.
    """

    velocity: FloatArray
    reasons: tuple[SafetyReason, ...]
    speed_scale: float
    min_margin: float


class PathChooser:
    """Slows down along the commanded path so that a verified stop always exists. Holds no memory."""

    def __init__(
        self,
        velocity: JointVelocityLimit,
        acceleration: JointAccelerationLimit,
        others: tuple[Limit, ...],
        approach_deceleration_fraction: float,
    ) -> None:
        """Join the limits.

        Args:
            velocity: Joint velocity limit.
            acceleration: Joint acceleration limit; the stop uses it in full.
            others: All other limits.
            approach_deceleration_fraction: Of the acceleration limit, used to slow down ahead of a limit.
        """
        self._velocity = velocity
        self._acceleration = acceleration
        self._approach = approach_deceleration_fraction
        limits: tuple[Limit, ...] = (velocity, acceleration, *others)  # velocity first: it bounds what others see
        self._judges = tuple((limit, limit.judge, 1.0 / limit.margin_scale) for limit in limits)

    def unchanged(self, factory: MotionFactory, asked: FloatArray) -> Choice:
        """Let ``asked`` (n,) rad/s pass if it, and a gentle stop after it, stay inside every limit.

        Returns:
            The choice, or one whose reason is the limit that objects and whose ``min_margin`` is NaN.
        """
        margin, limit = self._judge(factory.gentle_motion(asked, self._approach))
        if limit is None:
            return Choice(asked, (), 1.0, margin)
        return Choice(asked, _with((), limit, margin), 1.0, math.nan)

    def slowed(
        self, factory: MotionFactory, demand: FloatArray, asked: FloatArray, reasons: tuple[SafetyReason, ...]
    ) -> Choice:
        """Follow a demand as fast as the limits allow.

        Args:
            factory: The tick's start.
            demand: (n,) rad/s, the velocity along the commanded path.
            asked: (n,) rad/s, the velocity that the command would have needed; the speed scale refers to it.
            reasons: Why that may not pass.
        """
        target, reasons = self._within_reach(factory, demand, reasons)
        target, reasons, margin = self._ahead_of_limits(factory, target, reasons)
        if margin == margin:  # not NaN: the target has been judged already
            return Choice(target, reasons, _progress(target, asked), margin)
        previous = factory.previous_velocity
        change = np.abs(target - previous)
        steepness = max((change / (self._acceleration.maximum * factory.dt)).tolist())
        velocity = target
        if steepness > 1.0:  # the corner is too sharp for this speed: take it gradually
            velocity = previous + (target - previous) * (_ROUNDING / steepness)
            excess = min((self._acceleration.maximum - change / factory.dt).tolist())
            reasons = _with(reasons, self._acceleration, excess)
        margin, limit = self._judge(factory.motion(velocity))
        if limit is None:
            return Choice(velocity, reasons, _progress(velocity, asked), margin)
        stop = self.stopping(factory)
        reasons = _with(reasons, limit, margin)
        return Choice(stop.velocity, reasons, _progress(stop.velocity, asked), stop.min_margin)

    def stopping(self, factory: MotionFactory) -> Choice:
        """Execute the stored stop: one more step of braking along the last velocity. Needs no judgement to be safe."""
        velocity = braked(factory.previous_velocity, factory.acceleration, factory.dt)
        motion = factory.motion(velocity)
        margin = min(judge(motion).margin * per_scale for _, judge, per_scale in self._judges)
        return Choice(velocity, (), 0.0, margin)

    def _judge(self, motion: Motion) -> tuple[float, Limit | None]:
        """Smallest scaled margin if every limit admits a motion; else the margin of the first that does not, and it."""
        smallest = math.inf
        for limit, judge, per_scale in self._judges:
            slack, margin = judge(motion)
            if not slack >= 0.0:
                return margin, limit
            margin *= per_scale
            if margin < smallest:
                smallest = margin
        return smallest, None

    def _within_reach(
        self, factory: MotionFactory, demand: FloatArray, reasons: tuple[SafetyReason, ...]
    ) -> tuple[FloatArray, tuple[SafetyReason, ...]]:
        """The share of the demand that the joints can do in this tick; if there is none, what they can do at all."""
        velocity, acceleration = self._velocity, self._acceleration
        share = 1.0
        _, highest = scale_interval(velocity.box(), demand)
        if highest < 1.0:
            share = highest
            reasons = _with(reasons, velocity, min((velocity.maximum - np.abs(demand)).tolist()))
        lowest, highest = scale_interval(acceleration.box(factory.previous_velocity, factory.dt), demand)
        if lowest <= highest < 1.0:
            change = np.abs(demand - factory.previous_velocity)
            reasons = _with(reasons, acceleration, min((acceleration.maximum - change / factory.dt).tolist()))
            share = min(share, highest)
        return (demand if share >= 1.0 else demand * (share * _ROUNDING)), reasons

    def _ahead_of_limits(
        self, factory: MotionFactory, demand: FloatArray, reasons: tuple[SafetyReason, ...]
    ) -> tuple[FloatArray, tuple[SafetyReason, ...], float]:
        """The share of the demand that leaves room for a gentle stop; with its margin if it is all, else with NaN."""
        motion = factory.gentle_motion(demand, self._approach)
        smallest, share, admitted = math.inf, 1.0, True
        for limit, judge, per_scale in self._judges:
            slack, margin = judge(motion)
            smallest = min(smallest, margin * per_scale)
            if slack >= 0.0:
                continue
            admitted = False
            if limit is not self._acceleration:
                share = min(share, scale_interval(limit.inequalities(motion), demand)[1])
                reasons = _with(reasons, limit, margin)
        target = demand if share >= 1.0 else demand * (share * _ROUNDING)
        return target, reasons, smallest if admitted else math.nan


def caught_up(lag: FloatArray, rate: FloatArray, acceleration: FloatArray, dt: float) -> FloatArray:
    """Velocity that follows a moving position and closes a lag behind it without overshooting.

    A lag is closed along a straight line, at a speed from which half the acceleration still stops in time; the other
    half is left for what the position itself does.

    Args:
        lag: (n,) rad, from where the arm's path stands to where it was asked to be.
        rate: (n,) rad/s, at which the asked position moves.
        acceleration: (n,) rad/s^2, limits.
        dt: Control period, s.

    Returns:
        (n,) rad/s.
    """
    share = 1.0 / dt
    for distance, limit in zip(np.abs(lag).tolist(), acceleration.tolist(), strict=True):
        if distance > 0.0:
            # v dt + v^2 / (2 a) = distance, over distance, with a = limit / 2
            share = min(share, 2.0 / (dt + math.sqrt(dt * dt + 4.0 * distance / limit)))
    return rate + lag * share


def _with(reasons: tuple[SafetyReason, ...], limit: Limit, margin: float) -> tuple[SafetyReason, ...]:
    """Add a limit, with the margin that the motion would have had; each limit once."""
    for reason in reasons:
        if reason.limit == limit.name:
            return reasons
    return (*reasons, SafetyReason(limit.name, margin, f"slowed down; margin in {limit.unit}"))


def _progress(velocity: FloatArray, asked: FloatArray) -> float:
    """Share of the asked way that is made, as the executor's clock should run."""
    square = float(asked.dot(asked))
    if square == 0.0:
        return 1.0
    return min(max(float(velocity.dot(asked)) / square, _SLOWEST_CLOCK), 1.0)
