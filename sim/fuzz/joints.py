"""Attacks on the filter itself: joint commands, well-formed or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, frozen_array
from safety.profile import SafetyProfile
from sim.fuzz.plan import Attack, EpisodePlan
from sim.fuzz.plant import Plant
from sim.fuzz.seeker import LimitSeeker, seeks
from sim.fuzz.signals import signal_table

_KEPT = 60  # commands that a replay may send again


@dataclass(frozen=True, slots=True)
class View:
    """What an attacker knows at a tick: everything.

    Attributes:
        tick: Number of the tick.
        now_ns: The clock.
        state: Sensed state.
        applied: The last command that reached the arm.
    """

    tick: int
    now_ns: int
    state: RobotState
    applied: JointCommand


class JointDemand:
    """Turns relative joint velocities into commands of a mode."""

    def __init__(
        self, description: RobotDescription, mode: CommandMode, plant: Plant, rng: np.random.Generator, dt: float
    ) -> None:
        """Draw how positions are commanded: from the last applied one, freely ahead, or as absolute jumps."""
        limits = description.limits
        self._mode, self._plant, self._dt = mode, plant, dt
        self._fastest, self._torque = limits.velocity, limits.torque
        self._middle = 0.5 * (limits.position_lower + limits.position_upper)
        self._reach = 0.6 * (limits.position_upper - limits.position_lower)
        self._style = int(rng.integers(3))
        self._free: FloatArray | None = None
        self._closed, self._open = description.gripper.closed, description.gripper.open
        self._gripper_beat = int(rng.choice([3, 50, 10_000]))
        self._impulsive = bool(rng.random() < 0.5)

    def opening(self, tick: int) -> float:
        """Asked for gripper opening: open and closed in turn, m."""
        return self._open if (tick // self._gripper_beat) % 2 == 0 else self._closed

    def values(self, relative: FloatArray, view: View) -> FloatArray:
        """(n,) rad, rad/s or N m."""
        velocity = relative * self._fastest
        if self._mode is CommandMode.VELOCITY:
            return velocity
        if self._mode is CommandMode.TORQUE:
            return self._torques(relative, velocity)
        if self._style == 0:
            return view.applied.values + velocity * self._dt
        if self._style == 1:
            start = view.applied.values if self._free is None else self._free
            self._free = start + velocity * self._dt
            return self._free
        return self._middle + relative * self._reach

    def _torques(self, relative: FloatArray, velocity: FloatArray) -> FloatArray:
        plant = self._plant
        bias = plant.data.qfrc_bias[plant.dofs]
        if self._impulsive:
            return bias + relative * self._torque
        full = np.zeros((plant.model.nv, plant.model.nv))
        mujoco.mj_fullM(plant.model, full, plant.data.qM)
        inertia = full[np.ix_(plant.dofs, plant.dofs)]
        return bias + inertia @ (20.0 * (velocity - plant.data.qvel[plant.dofs]))


class JointAttacker:
    """One attack on the filter's input."""

    def __init__(
        self, plan: EpisodePlan, description: RobotDescription, profile: SafetyProfile, plant: Plant, ticks: int
    ) -> None:
        """Draw the attack.

        Args:
            plan: The episode.
            description: The arm.
            profile: Whose limits to seek.
            plant: The arm in its world.
            ticks: Longest run.
        """
        rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 1]))
        dt = 1.0 / plan.rate_hz
        self._attack, self._rng, self._mode = plan.name.attack, rng, plan.mode
        self._demand = JointDemand(description, plan.mode, plant, rng, dt)
        self._amplitude = float(rng.choice([0.3, 1.0, 1.0, 4.0]))
        self._table = signal_table(plan.name.attack, rng, description.n, ticks, dt)
        self._seeker = LimitSeeker(description, profile, plant, rng, dt) if seeks(plan.name.attack) else None
        self._past: list[JointCommand] = []
        self._stuck = 0
        self._malice = float(rng.choice([0.02, 0.2, 0.9]))

    def next(self, view: View) -> JointCommand:
        """The next command; with the attack ``nan`` possibly none at all."""
        if self._seeker is not None:
            relative = self._seeker.velocity()
        else:
            relative = self._amplitude * self._table[min(view.tick, len(self._table) - 1)]
        values = frozen_array(self._demand.values(relative, view))
        command = JointCommand(self._mode, values, self._demand.opening(view.tick), view.now_ns)
        # The first command is honest: it tells the filter which mode the actuators take.
        if self._attack is Attack.NAN and view.tick > 0 and self._rng.random() < self._malice:
            return malformed(command, self._rng)
        if self._attack is Attack.REPLAY:
            return self._replayed(command)
        return command

    def _replayed(self, command: JointCommand) -> JointCommand:
        rng, past = self._rng, self._past
        past.append(command)
        del past[:-_KEPT]
        if self._stuck > 0:  # the very same command again
            self._stuck -= 1
            return past[0]
        draw = rng.random()
        if draw < 0.02:
            self._stuck = int(rng.integers(2, 40))
            past[0] = command
        old = past[int(rng.integers(len(past)))]
        if draw < 0.15:
            return old  # out of order, with its own stamp
        if draw < 0.35:
            return replace(old, stamp_ns=command.stamp_ns)  # old values as if they were new
        if draw < 0.40:
            return replace(command, stamp_ns=command.stamp_ns + int(rng.integers(0, 40_000_000)))
        return command


def malformed(command: JointCommand, rng: np.random.Generator) -> JointCommand:
    """A command that is broken in one of many ways; its fields may have any type."""
    values = np.array(command.values)
    place = int(rng.integers(len(values)))
    broken: Any = cast(Any, command)
    kind = int(rng.integers(16))
    if kind < 4:
        values[place] = (np.nan, np.inf, -np.inf, 1e300)[kind]
        return replace(command, values=frozen_array(values))
    if kind == 4:
        return replace(command, values=frozen_array(np.full(len(values), np.nan)))
    if kind == 5:
        return replace(command, values=frozen_array(rng.choice([-1.0, 1.0], len(values)) * 1e12))
    wrong: tuple[Any, ...] = (
        frozen_array(values[:-1]),
        frozen_array(np.append(values, 0.0)),
        frozen_array(values[None]),
        values.tolist(),
        None,
        values.astype(np.float32),
    )
    if kind < 12:
        return replace(broken, values=wrong[kind - 6])
    if kind == 12:
        modes = [mode for mode in CommandMode if mode is not command.mode]
        return replace(command, mode=modes[int(rng.integers(len(modes)))])
    if kind == 13:
        return replace(broken, mode=rng.choice(["position", "", "brake"]).item())
    if kind == 14:
        return replace(broken, gripper_opening=(np.nan, np.inf, -1e9, None, "open")[int(rng.integers(5))])
    stamps = (-1, 2**63, command.stamp_ns + 10**12, None, float("nan"), 0.5)
    return replace(broken, stamp_ns=stamps[int(rng.integers(len(stamps)))])
