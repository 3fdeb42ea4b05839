"""A robot, a profile and a world, built once and attacked many times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

from controllers.kinematics import ArmModel
from controllers.protocols import SafetyFilter
from controllers.robot import RobotDescription, load_robot
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyResult,
    SafetyStatus,
)
from safety.building import build_filter
from safety.monitor import MonitorTolerance, PlaceMonitor
from safety.profile import SafetyProfile, SafetyProfileError, load_profile
from sim.fuzz.plan import EpisodePlan
from sim.fuzz.plant import Plant
from sim.fuzz.profiles import random_profile
from sim.fuzz.world import build_world

_START_CLEARANCE = 0.015
_START_TRIES = 60
_REDRAW = 1000  # added to the seed of a profile that the filter refuses


class PassThrough:
    """No filter at all: what an attack does when nothing stops it. For the fuzzer's reference runs only."""

    def initial(self, state: RobotState) -> None:
        """No memory."""

    def enforce(
        self,
        memory: None,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[None, SafetyResult]:
        """Pass the command as it is."""
        return None, SafetyResult(command, SafetyStatus.OFF, (), 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Cell:
    """What an episode takes place in."""

    description: RobotDescription
    arm: ArmModel
    profile: SafetyProfile
    plant: Plant
    filter: SafetyFilter[Any]
    reach_m: float


def cell_of(plan: EpisodePlan) -> Cell:
    """The cell of an episode."""
    cell = _cell(plan.name.arm, plan.mode, plan.rate_hz, plan.profile_seed)
    if not plan.surprise:
        return cell
    rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 6]))
    model = build_world(cell.description, cell.profile, plan.mode, rng)
    plant = Plant(model, cell.description, plan.mode, plan.rate_hz)
    return Cell(cell.description, cell.arm, cell.profile, plant, cell.filter, cell.reach_m)


@lru_cache(maxsize=64)
def _cell(arm: str, mode: CommandMode, rate_hz: int, profile_seed: int | None) -> Cell:
    description, arm_model, filter_, profile = _guarded(arm, profile_seed)
    model = build_world(description, profile, mode)
    plant = Plant(model, description, mode, rate_hz)
    return Cell(description, arm_model, profile, plant, filter_, _reach(model, plant))


@lru_cache(maxsize=64)
def _guarded(arm: str, seed: int | None) -> tuple[RobotDescription, ArmModel, SafetyFilter[Any], SafetyProfile]:
    description = load_robot(arm)
    built_in = load_profile(f"{arm}_tabletop")
    if seed is None:
        return description, ArmModel(description), build_filter(description, built_in), built_in
    model = build_world(description, None, CommandMode.POSITION)
    for redraw in range(20):
        profile = random_profile(description, built_in, model, seed + redraw * _REDRAW)
        try:
            return description, ArmModel(description), build_filter(description, profile), profile
        except SafetyProfileError:
            continue
    raise ValueError(f"no random profile with seed {seed} suits {arm}")


def _reach(model: mujoco.MjModel, plant: Plant) -> float:
    body, length = int(model.site_bodyid[plant.site]), 0.0
    while body:
        length += float(np.linalg.norm(model.body_pos[body]))
        body = int(model.body_parentid[body])
    return length


def tolerance_of(plan: EpisodePlan, cell: Cell) -> MonitorTolerance:
    """What the monitor forgives in an episode."""
    return MonitorTolerance().with_sense_error(plan.noise, cell.reach_m, cell.description.n)


def start_position(plan: EpisodePlan, cell: Cell) -> FloatArray:
    """(n,) rad: home, or a random posture inside every limit and in contact with nothing."""
    rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 7]))
    description, plant = cell.description, cell.plant
    strict = MonitorTolerance(
        joint_position_rad=-_START_CLEARANCE,
        point_m=-_START_CLEARANCE,
        clearance_m=-_START_CLEARANCE,
        cone_rad=-_START_CLEARANCE,
    )
    monitor = PlaceMonitor(plant.model, description, cell.profile, strict)
    margin = cell.profile.joints.position_margin_rad + _START_CLEARANCE
    lower, upper = description.limits.position_lower + margin, description.limits.position_upper - margin
    if rng.random() < 0.2:
        return np.array(description.home)
    for attempt in range(_START_TRIES):
        scale = 1.2 * (1.0 - attempt / _START_TRIES)
        position = np.clip(description.home + scale * rng.normal(size=description.n), lower, upper)
        plant.start(position)
        if not monitor.judge(plant.data, 0) and plant.data.ncon == 0:
            return position
    return np.array(description.home)
