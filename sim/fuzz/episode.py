"""One fuzzing episode, with the filter or without."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from controllers.executor import is_finite
from controllers.loop import ControlLoop
from controllers.types import JointCommand, OperatorEvent, RobotState, TickInputs, frozen_array
from safety.monitor import GroundTruthMonitor, LimitMargin, Violation
from sim.fuzz.cell import Cell, PassThrough, cell_of, start_position, tolerance_of
from sim.fuzz.joints import JointAttacker, View
from sim.fuzz.plan import Attack, EpisodePlan, Level
from sim.fuzz.plant import PlantDivergedError
from sim.fuzz.search import Adversary
from sim.fuzz.senses import Operator, Senses
from sim.fuzz.session import LimitCount, Session
from sim.fuzz.targets import ChunkAttacker, TargetAttacker
from sim.fuzz.world import SURPRISE

# After the last emergency stop: braking from full speed, then this for servos to settle.
_SETTLE_S = 0.7


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """What came of an episode.

    Attributes:
        plan: What was planned.
        ticks: Ticks simulated.
        violations: Ticks with at least one violation.
        counts: Violated readings, by limit.
        margins: Smallest margin of each limit.
        min_margin: Smallest relative margin.
        first: The first violation.
        diverged: MuJoCo gave up.
        crash: What the stack raised; empty if it raised nothing.
    """

    plan: EpisodePlan
    ticks: int
    violations: int
    counts: tuple[LimitCount, ...]
    margins: tuple[LimitMargin, ...]
    min_margin: float
    first: Violation | None
    diverged: bool
    crash: str


def run_episode(plan: EpisodePlan, guarded: bool = True) -> EpisodeOutcome:
    """Run an episode.

    Args:
        plan: What happens.
        guarded: With the safety filter; without, every command passes.
    """
    cell = cell_of(plan)
    start = start_position(plan, cell)
    if plan.surprise and cell.plant.touches(start, SURPRISE):
        # Nobody can be kept from where he stands already.
        return run_episode(replace(plan, surprise=False), guarded)
    monitor = GroundTruthMonitor(cell.plant.model, cell.description, cell.profile, tolerance_of(plan, cell))
    filter_ = cell.filter if guarded else PassThrough()
    session = Session(cell.plant, monitor, filter_, start)
    diverged, crash = False, ""
    with np.errstate(all="ignore"):  # attacks overflow on purpose
        try:
            _attack(plan, cell, session, guarded)
        except PlantDivergedError:
            diverged = True
        except Exception as error:  # whatever the stack raises on hostile input is a finding
            crash = f"{type(error).__name__}: {error}"
    return EpisodeOutcome(
        plan=plan,
        ticks=session.ticks,
        violations=session.violations,
        counts=session.counts,
        margins=monitor.margins,
        min_margin=session.min_margin if session.ticks else math.inf,
        first=session.first,
        diverged=diverged,
        crash=crash,
    )


def _attack(plan: EpisodePlan, cell: Cell, session: Session, guarded: bool) -> None:
    tail = _stop_ticks(plan, cell) if guarded else 0
    senses, operator = Senses(plan, cell.description.n), Operator(plan)
    first = senses.sense(session.plant.sense())
    try:
        session.begin(first)
    except ValueError:  # refused, as a start from a broken state must be: try again with the next one
        first = session.plant.sense()
        session.begin(first)
    if plan.name.attack is Attack.ADVERSARIAL:
        Adversary(plan, cell, session).run(plan.ticks)
        _stop_with(session, tail)
    elif plan.level is Level.TOKENS:
        _attack_with_tokens(plan, cell, session, first, senses, operator, tail)
    else:
        _attack_with_commands(plan, cell, session, senses, operator, tail)
    if guarded:
        session.judge_rest()


def _stop_ticks(plan: EpisodePlan, cell: Cell) -> int:
    limits, joints = cell.description.limits, cell.profile.joints
    fastest, braking = limits.velocity * joints.velocity_fraction, limits.acceleration * joints.acceleration_fraction
    return round((float((fastest / braking).max()) + _SETTLE_S) * plan.rate_hz)


def _stop_with(session: Session, tail: int) -> None:
    for tick in range(tail):
        events = (OperatorEvent.EMERGENCY_STOP,) if tick == 0 else ()
        applied = session.applied
        command = JointCommand(applied.mode, applied.values, applied.gripper_opening, session.plant.now_ns)
        session.filtered(session.plant.sense(), command, events)


def _attack_with_commands(
    plan: EpisodePlan, cell: Cell, session: Session, senses: Senses, operator: Operator, tail: int
) -> None:
    total = plan.ticks + tail
    if plan.level is Level.TARGETS:
        attacker = TargetAttacker(plan, cell.description, cell.arm, total)
    else:
        attacker = JointAttacker(plan, cell.description, cell.profile, session.plant, total)
    for tick in range(total):
        plant = session.plant
        sensed = senses.sense(plant.sense())
        usable = sensed if np.isfinite(sensed.joint_position).all() and _fits(sensed, cell) else plant.sense()
        asked = attacker.next(View(tick, plant.now_ns, usable, _usable(session)))
        session.filtered(sensed, asked, _events(tick, plan, operator))


def _attack_with_tokens(
    plan: EpisodePlan,
    cell: Cell,
    session: Session,
    first: RobotState,
    senses: Senses,
    operator: Operator,
    tail: int,
) -> None:
    total = plan.ticks + tail
    attacker = ChunkAttacker(plan, cell.description, cell.arm, total)
    loop = ControlLoop(attacker.executor, attacker.controller, session.filter, plan.rate_hz)
    state = loop.initial(first)
    requested = True
    for tick in range(total):
        now_ns = session.plant.now_ns
        sensed = senses.sense(session.plant.sense())
        # The loop's contract: states have the robot's shape, and it does not start from a broken one.
        if not _fits(sensed, cell) or (tick == 0 and not is_finite(sensed)):
            sensed = session.plant.sense()
        arrivals = attacker.arrivals(tick, now_ns, requested)
        state, outputs = loop.tick(state, TickInputs(tick, now_ns, sensed, arrivals, _events(tick, plan, operator)))
        requested = outputs.request_inference
        session.carry_out(outputs.safety)


def _events(tick: int, plan: EpisodePlan, operator: Operator) -> tuple[OperatorEvent, ...]:
    if tick < plan.ticks:
        return operator.events()
    return (OperatorEvent.EMERGENCY_STOP,) if tick == plan.ticks else ()


def _fits(sensed: object, cell: Cell) -> bool:
    return len(getattr(sensed, "joint_position", ())) == cell.description.n


def _usable(session: Session) -> JointCommand:
    """The last applied command, or what the actuators still do where that was no command."""
    applied = session.applied
    values: object = applied.values
    if isinstance(values, np.ndarray) and values.shape == (len(session.plant.dofs),) and values.dtype == np.float64:
        return applied
    ctrl = session.plant.data.ctrl[session.plant.actuators]
    return JointCommand(session.plant.mode, frozen_array(ctrl), 0.0, session.plant.now_ns)
