"""Obstacles near the path: collision avoidance and success of the expert, with and without the filter.

Every condition runs the same seeds, so the same scenes. The references are the same expert without any filter, and the
filter that slides along limits instead of slowing down on the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.machine import Machine
from episodes.results import EpisodeResult
from episodes.statistics import Proportion
from safety.profile import Enforcement, SafetyProfile, load_profile
from sim.assembly import assemble_sim, default_config
from sim.evaluation import EvalOptions, avoidance_rate, evaluate, success_rate
from sim.obstacles.options import ObstacleOptions
from sim.obstacles.routes import ROUTED_TASKS
from sim.policies import BLIND_EXPERT, EXPERT, PolicyChoice
from sim.stack import StackConfig

_OFF = "off"
_FILTERS = (_OFF, Enforcement.PATH_CONSISTENT.value, Enforcement.SLIDING.value)


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench keepouts``."""

    episodes: int = 20
    """Episodes for each task, level and condition."""
    tasks: str = ""
    """Tasks, separated by commas; empty for all that obstacles are placed for."""
    levels: str = "I,II"
    """Levels, separated by commas: I near the target, II on the way, both."""
    filters: str = ",".join(_FILTERS)
    """Filters to compare, separated by commas."""
    seed: int = 2_000_000
    """First seed."""
    workers: int = 2
    """Processes; the results do not depend on it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One row: who drove, under which filter, and what came of it.

    Attributes:
        level: Where the obstacles stood.
        policy: ``expert``, which plans around declared zones, or ``blind_expert``.
        filter: ``off``, ``path_consistent`` or ``sliding``.
        task: Task, or ``all``.
        episodes: Episodes.
        avoidance: Share without a collision.
        avoidance_wilson95: Its 95% interval.
        success: Share that reached the goal.
        success_wilson95: Its 95% interval.
        both: Share that did both.
        collisions: Contacts of robot or objects with obstacles, all episodes together.
        mean_s: Mean length of an episode, s.
    """

    level: str
    policy: str
    filter: str
    task: str
    episodes: int
    avoidance: float
    avoidance_wilson95: tuple[float, float]
    success: float
    success_wilson95: tuple[float, float]
    both: float
    collisions: int
    mean_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """All conditions; ``blocking`` is the share of scenes, by level, whose obstacle the unaware hand would hit."""

    conditions: tuple[Condition, ...]
    by_task: tuple[Condition, ...]
    blocking: dict[str, float]
    reference: str
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    tasks = tuple(name.strip() for name in options.tasks.split(",") if name.strip()) or ROUTED_TASKS
    filters = tuple(name.strip() for name in options.filters.split(","))
    if unknown := [name for name in filters if name not in _FILTERS]:
        raise ValueError(f"expected filters among {', '.join(_FILTERS)}, found {', '.join(unknown)}")
    total: list[Condition] = []
    by_task: list[Condition] = []
    blocking: dict[str, float] = {}
    for level in (name.strip() for name in options.levels.split(",")):
        blocking[level] = _blocking(options, tasks, level)
        for policy in (BLIND_EXPERT, EXPERT):
            for name in filters:
                outcomes = _outcomes(options, tasks, policy, _config(name, level))
                total.append(_condition(level, policy, name, "all", outcomes))
                for task in tasks:
                    chosen = [outcome for outcome in outcomes if outcome.task == task]
                    by_task.append(_condition(level, policy, name, task, chosen))
    reference = "the same seeds with the filter off, and with the sliding filter"
    return Result(tuple(total), tuple(by_task), blocking, reference, machine)


def _config(name: str, level: str) -> StackConfig:
    obstacles = ObstacleOptions(level=level)
    base = replace(default_config(), cameras={}, obstacles=obstacles)
    if name == _OFF:
        return replace(base, safety=None, safety_off_reason="benchmark: what happens without a filter")
    return replace(base, safety=_enforced(name))


def _enforced(name: str) -> SafetyProfile:
    return replace(load_profile("panda_tabletop"), enforcement=Enforcement(name))


def _outcomes(options: Options, tasks: tuple[str, ...], policy: str, config: StackConfig) -> tuple[EpisodeResult, ...]:
    return evaluate(
        EvalOptions(
            policy=PolicyChoice(policy),
            config=config,
            tasks=tasks,
            episodes=options.episodes,
            first_seed=options.seed,
            workers=options.workers,
        ),
        show_progress=False,
    ).outcomes


def _blocking(options: Options, tasks: tuple[str, ...], level: str) -> float:
    found: list[bool] = []
    config = _config(_OFF, level)
    for task in tasks:
        for seed in range(options.seed, options.seed + options.episodes):
            with assemble_sim(config, task, seed) as cell:
                found.append(any(cell.obstacles.blocking))
    return sum(found) / len(found)


def _condition(level: str, policy: str, name: str, task: str, outcomes: Sequence[EpisodeResult]) -> Condition:
    avoided = avoidance_rate(outcomes) or success_rate(())
    success = success_rate(outcome.success for outcome in outcomes)
    both = sum(outcome.success and outcome.collisions == 0 for outcome in outcomes)
    return Condition(
        level,
        policy,
        name,
        task,
        len(outcomes),
        avoided.rate,
        _interval(avoided),
        success.rate,
        _interval(success),
        both / max(1, len(outcomes)),
        sum(outcome.collisions or 0 for outcome in outcomes),
        sum(outcome.duration_s for outcome in outcomes) / max(1, len(outcomes)),
    )


def _interval(rate: Proportion) -> tuple[float, float]:
    return (round(rate.low, 3), round(rate.high, 3))
