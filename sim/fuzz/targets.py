"""Attacks from above the filter: wild targets for the controllers, wild chunks for the executor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from controllers.differential_ik import DifferentialIK, DifferentialIKOptions
from controllers.executor import ChunkExecutor, ExecutorOptions
from controllers.joint_impedance import JointImpedance
from controllers.kinematics import ArmModel
from controllers.operational_space import OperationalSpace
from controllers.protocols import Controller
from controllers.robot import RobotDescription
from controllers.types import (
    ActionChunk,
    ActionSpace,
    ActionSpec,
    ChunkArrival,
    CommandMode,
    FloatArray,
    JointCommand,
    JointTarget,
    NormalizationStatistics,
    Pose,
    PoseTarget,
    RobotState,
    Target,
    TwistTarget,
    frozen_array,
)
from sim.fuzz.joints import View, malformed
from sim.fuzz.plan import Attack, EpisodePlan
from sim.fuzz.signals import signal_table
from sim.tabletop import ACTION_RATE_HZ, TABLETOP_ACTION_SPEC
from vla.tokenizers import COMPACT_TOKENIZER, TokenActionDecoder

_WILD_IK = DifferentialIKOptions(
    max_linear_speed=3.0, max_angular_speed=8.0, velocity_fraction=2.0, limit_margin=0.0, limit_gain=50.0
)


class VelocityIK:
    """Differential inverse kinematics that commands velocities; a ``Controller`` for velocity mode."""

    def __init__(self, inner: DifferentialIK) -> None:
        """Take the velocities of ``inner``."""
        self._inner = inner

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """Joint velocity command that follows ``target``."""
        velocity = self._inner.joint_velocity(state.joint_position, target, dt)
        return JointCommand(CommandMode.VELOCITY, frozen_array(velocity), target.gripper_opening, state.stamp_ns)

    def hold(self, state: RobotState) -> JointCommand:
        """Stand still."""
        still = frozen_array(np.zeros_like(state.joint_velocity))
        return JointCommand(CommandMode.VELOCITY, still, state.gripper_opening, state.stamp_ns)


def wild_controller(arm: ArmModel, mode: CommandMode, rng: np.random.Generator) -> Controller:
    """A controller of the stack for ``mode``, half the time with its own limits lifted."""
    options = _WILD_IK if rng.random() < 0.5 else DifferentialIKOptions()
    if mode is CommandMode.POSITION:
        return DifferentialIK(arm, options)
    if mode is CommandMode.VELOCITY:
        return VelocityIK(DifferentialIK(arm, options))
    return OperationalSpace(arm) if rng.random() < 0.5 else JointImpedance(arm)


class TargetAttacker:
    """Wild targets, through a controller of the stack."""

    def __init__(self, plan: EpisodePlan, description: RobotDescription, arm: ArmModel, ticks: int) -> None:
        """Draw the attack."""
        rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 2]))
        self._attack, self._rng, self._dt = plan.name.attack, rng, 1.0 / plan.rate_hz
        self.controller = wild_controller(arm, plan.mode, rng)
        self._kind = int(rng.integers(3))
        size = description.n if self._kind == 0 else 6
        self._table = signal_table(plan.name.attack, rng, size, ticks, self._dt)
        self._amplitude = float(rng.choice([0.3, 1.0, 5.0]))
        self._gripper = description.gripper
        self._last: JointCommand | None = None
        self._past: list[Target] = []
        self._malice = float(rng.choice([0.02, 0.3]))

    def next(self, view: View) -> JointCommand:
        """The controller's command for the next target; a controller that refuses repeats its last command."""
        target = self._target(view)
        try:
            command = self.controller.update(view.state, target, view.applied, self._dt)
        except (ValueError, np.linalg.LinAlgError):
            return view.applied if self._last is None else self._last
        command = replace(command, stamp_ns=view.now_ns)
        self._last = command
        if self._attack is Attack.NAN and view.tick > 0 and self._rng.random() < 0.05:
            return malformed(command, self._rng)
        return command

    def _target(self, view: View) -> Target:
        rng = self._rng
        row = self._amplitude * self._table[min(view.tick, len(self._table) - 1)]
        if self._attack is Attack.NAN and rng.random() < self._malice:
            row = np.array(row)
            row[int(rng.integers(len(row)))] = rng.choice([np.nan, np.inf, -np.inf, 1e200])
        target = self._from_row(row, view.state)
        if self._attack is Attack.REPLAY:
            self._past = [*self._past[-50:], target]
            if rng.random() < 0.4:
                return self._past[int(rng.integers(len(self._past)))]
        return target

    def _from_row(self, row: FloatArray, state: RobotState) -> Target:
        opening = self._gripper.open if row[0] > 0.0 else self._gripper.closed
        if self._kind == 0:
            return JointTarget(frozen_array(4.0 * row), opening)
        if self._kind == 1:
            return TwistTarget(frozen_array(row * [2.0, 2.0, 2.0, 6.0, 6.0, 6.0]), opening, "base")
        position = state.ee_pose.position + 0.5 * row[:3]
        twist = frozen_array(row * [1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
        return PoseTarget(Pose(frozen_array(position), state.ee_pose.quaternion), twist, opening, "base")


class ChunkAttacker:
    """Random and malformed chunks for the executor."""

    def __init__(self, plan: EpisodePlan, description: RobotDescription, arm: ArmModel, ticks: int) -> None:
        """Draw the attack and build the executor's side."""
        rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 3]))
        self._attack, self._rng = plan.name.attack, rng
        self._spec = _wild_spec(description, rng)
        decoder = TokenActionDecoder(COMPACT_TOKENIZER, self._spec)
        options = ExecutorOptions(execution_horizon=int(rng.integers(1, self._spec.horizon + 1)))
        self.executor = ChunkExecutor(decoder, description.gripper.open, plan.rate_hz, options)
        self.controller = wild_controller(arm, plan.mode, rng)
        rows = ticks * ACTION_RATE_HZ // plan.rate_hz + 2 * self._spec.horizon
        self._table = signal_table(plan.name.attack, rng, self._spec.dims, rows, 1.0 / ACTION_RATE_HZ)
        self._row = 0
        self._number = 0
        self._past: list[ChunkArrival] = []
        self._late = int(rng.choice([0, 4, 30]))
        self._queue: list[tuple[int, ChunkArrival]] = []

    def arrivals(self, tick: int, now_ns: int, requested: bool) -> tuple[ChunkArrival, ...]:
        """Chunks that arrive at a tick; ``requested`` says that one was asked for on the tick before."""
        if requested or self._rng.random() < 0.01:
            self._queue.append((tick + self._late, self._chunk(now_ns)))
        due = tuple(arrival for when, arrival in self._queue if when <= tick)
        self._queue = [entry for entry in self._queue if entry[0] > tick]
        if self._attack is Attack.REPLAY and self._past and self._rng.random() < 0.05:
            due = (*due, self._past[int(self._rng.integers(len(self._past)))])
        return due

    def _chunk(self, now_ns: int) -> ChunkArrival:
        spec, rng = self._spec, self._rng
        rows = np.arange(self._row, self._row + spec.horizon) % len(self._table)
        self._row += int(rng.integers(1, spec.horizon + 1))
        highest = COMPACT_TOKENIZER.highest_token
        tokens = np.clip(np.rint((self._table[rows] + 1.0) * 0.5 * highest), 0, highest).astype(np.int64)
        tokens[:, -1] = highest // 2 + (tokens[:, -1] > highest // 2) * (highest // 2)  # the gripper: within [0, 1]
        self._number += 1
        chunk = ActionChunk(tokens, COMPACT_TOKENIZER.tokenizer_id, spec.hash, now_ns, self._number)
        if self._attack is Attack.NAN and rng.random() < 0.5:
            chunk = _malformed_chunk(chunk, rng)
        arrival = ChunkArrival(chunk)
        self._past = [*self._past[-20:], arrival]
        return arrival


def _malformed_chunk(chunk: ActionChunk, rng: np.random.Generator) -> ActionChunk:
    tokens = np.array(chunk.tokens)
    broken: Any = cast(Any, chunk)
    kind = int(rng.integers(8))
    if kind == 0:
        tokens[int(rng.integers(len(tokens))), 0] = int(rng.choice([-1, 255, 31999, 2**62]))
        return replace(chunk, tokens=tokens)
    wrong: tuple[Any, ...] = (tokens[:-1], tokens[:, :-1], tokens.astype(np.float64), tokens.tolist())
    if kind < 5:
        return replace(broken, tokens=wrong[kind - 1])
    if kind == 5:
        return replace(chunk, spec_hash="0" * 16)
    if kind == 6:
        return replace(chunk, tokenizer_id="unknown")
    return replace(chunk, observation_stamp_ns=int(rng.choice([-5, 10**15])))


def _wild_spec(description: RobotDescription, rng: np.random.Generator) -> ActionSpec:
    """The tabletop contract, one of larger steps, or absolute joint positions beyond the joints' ranges."""
    kind = int(rng.integers(3))
    if kind == 0:
        return TABLETOP_ACTION_SPEC
    if kind == 1:
        return _spec(ActionSpace.EE_DELTA, "base", [-0.15] * 3 + [-0.6] * 3, [0.15] * 3 + [0.6] * 3)
    limits = description.limits
    middle = 0.5 * (limits.position_lower + limits.position_upper)
    reach = 0.6 * (limits.position_upper - limits.position_lower)
    return _spec(ActionSpace.JOINT_POSITION, "joint", (middle - reach).tolist(), (middle + reach).tolist())


def _spec(space: ActionSpace, frame: str, lower: list[float], upper: list[float]) -> ActionSpec:
    low, high = frozen_array([*lower, 0.0]), frozen_array([*upper, 1.0])
    names = tuple(f"a{index}" for index in range(len(lower)))
    unit = "rad" if space is ActionSpace.JOINT_POSITION else "m"
    return ActionSpec(
        space=space,
        frame=frame,
        names=(*names, "gripper"),
        units=(*(unit for _ in names), "fraction_open"),
        lower=low,
        upper=high,
        rate_hz=ACTION_RATE_HZ,
        horizon=8,
        statistics=NormalizationStatistics(q01=low, q99=high, mask=(True,) * len(names) + (False,)),
    )
