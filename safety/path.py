"""The path-consistent choice: how fast to follow the commanded path, and when to stop instead."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from controllers.types import FloatArray, SafetyReason
from safety.judging import Judge
from safety.kernel.joints import box_share, into_box, reach
from safety.limits import EndEffectorLinearSpeedLimit, KineticEnergyLimit, Limit, LimitSet, scale_interval
from safety.motion import MotionFactory, braked

# Limits that tell the share of a motion that satisfies them without inequalities.
_SHARED = (KineticEnergyLimit, EndEffectorLinearSpeedLimit)
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

    def __init__(self, limits: LimitSet, approach_deceleration_fraction: float) -> None:
        """Join the limits.

        Args:
            limits: The limits.
            approach_deceleration_fraction: Of the acceleration limit, used to slow down ahead of a limit.
        """
        self._velocity = limits.velocity
        self._acceleration = limits.acceleration
        self._jerk = limits.jerk
        self._judge = Judge(limits)
        self._approach = approach_deceleration_fraction
        self._fastest = limits.velocity.maximum.copy()
        self._hardest, self._jerkiest = limits.acceleration.maximum.copy(), limits.jerk.maximum.copy()
        still = np.zeros_like(self._fastest)  # what few ticks need is compiled ahead of the first of them, too
        reach(still, still, self._hardest, self._jerkiest, 1.0, still.copy(), still.copy())
        box_share(still, -self._fastest, self._fastest)
        into_box(still, -self._fastest, self._fastest, _ROUNDING, still.copy())

    def unchanged(self, factory: MotionFactory, asked: FloatArray) -> Choice:
        """Let ``asked`` (n,) rad/s pass if it, and a gentle stop after it, stay inside every limit.

        Returns:
            The choice, or one whose reason is the limit that objects and whose ``min_margin`` is NaN.
        """
        verdict = self._judge.first(factory, asked, self._approach, gentle=True)
        if not verdict.objecting:
            return Choice(asked, (), 1.0, verdict.smallest)
        limit, margin = verdict.objecting[0]
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
        n, dt = demand.shape[0], factory.dt
        low, high, velocity = np.empty(n), np.empty(n), np.empty(n)
        previous = factory.previous_velocity
        reach(previous, factory.previous_acceleration, self._hardest, self._jerkiest, dt, low, high)
        target, reasons = self._within_reach(factory, low, high, demand, reasons)
        target, reasons, margin = self._ahead_of_limits(factory, target, reasons)
        if margin == margin:  # not NaN: the target has been judged already
            return Choice(target, reasons, _progress(target, asked), margin)
        if not into_box(target, low, high, _ROUNDING, velocity):
            # The corner is too sharp for this speed: take it gradually.
            reasons = _with(reasons, self._acceleration, self._acceleration.margin(target, previous, dt))
        verdict = self._judge.first(factory, velocity, 1.0, gentle=False)
        if not verdict.objecting:
            return Choice(velocity, reasons, _progress(velocity, asked), verdict.smallest)
        stop = self.stopping(factory)
        reasons = _with(reasons, *verdict.objecting[0])
        return Choice(stop.velocity, reasons, _progress(stop.velocity, asked), stop.min_margin)

    def stoppable(self, factory: MotionFactory) -> tuple[bool, float]:
        """Whether the stop from the last velocity is allowed, and the clearance that it leaves."""
        verdict = self._judge.every(factory, factory.previous_velocity, 1.0, gentle=False)
        changes = (self._velocity, self._acceleration)
        return all(limit in changes for limit, _ in verdict.objecting), self._judge.clearance_judged()

    def clearance(self, factory: MotionFactory) -> float:
        """How far inside the limits of place the arm stands, in shares of their scales; negative outside."""
        return self._judge.clearance(factory)

    def stopping(self, factory: MotionFactory) -> Choice:
        """Execute the stored stop: one more step of braking along the last velocity. Needs no judgement to be safe."""
        velocity = braked(factory.previous_velocity, factory.acceleration, factory.dt)
        verdict = self._judge.every(factory, velocity, 1.0, gentle=False)
        return Choice(velocity, (), 0.0, verdict.smallest)

    def _within_reach(
        self,
        factory: MotionFactory,
        low: FloatArray,
        high: FloatArray,
        demand: FloatArray,
        reasons: tuple[SafetyReason, ...],
    ) -> tuple[FloatArray, tuple[SafetyReason, ...]]:
        """The share of the demand that the joints can do in this tick; if there is none, what they can do at all."""
        velocity, acceleration = self._velocity, self._acceleration
        if not demand.flags.writeable:
            demand = demand.copy()  # compiled code takes writable arrays only
        share = 1.0
        _, highest = box_share(demand, -self._fastest, self._fastest)
        if highest < 1.0:
            share = highest
            reasons = _with(reasons, velocity, velocity.margin(demand))
        lowest, highest = box_share(demand, low, high)
        if lowest <= highest < 1.0:
            margin = acceleration.margin(demand, factory.previous_velocity, factory.dt)
            reasons = _with(reasons, self._jerk, -1.0) if margin >= 0.0 else _with(reasons, acceleration, margin)
            share = min(share, highest)
        return (demand if share >= 1.0 else demand * (share * _ROUNDING)), reasons

    def _ahead_of_limits(
        self, factory: MotionFactory, demand: FloatArray, reasons: tuple[SafetyReason, ...]
    ) -> tuple[FloatArray, tuple[SafetyReason, ...], float]:
        """The share of the demand that leaves room for a gentle stop; with its margin if it is all, else with NaN."""
        verdict = self._judge.every(factory, demand, self._approach, gentle=True)
        if not verdict.objecting:
            return demand, reasons, verdict.smallest
        share, motion = 1.0, None
        for limit, margin in verdict.objecting:
            if limit is self._velocity or limit is self._acceleration:
                continue  # bounded by what the joints can reach
            if isinstance(limit, _SHARED):
                share = min(share, limit.share(margin))  # needs no inequalities, and bites most
            else:
                motion = motion or self._judge.motion(factory, demand, gentle=True)
                share = min(share, scale_interval(limit.inequalities(motion), demand)[1])
            reasons = _with(reasons, limit, margin)
        return (demand if share >= 1.0 else demand * (share * _ROUNDING)), reasons, math.nan


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
