"""Normal work as a counter-check: scripted grasps and placements, in which nothing may trip."""

from __future__ import annotations

from dataclasses import dataclass, replace

from episodes.results import EpisodeResult
from safety.profile import load_profile
from sim.assembly import default_config
from sim.evaluation import EvalOptions, evaluate
from sim.rollout import ExpertSource

TASKS = ("pick_up", "place_on_plate", "place_in_bowl", "stack")
_STOP = "protective_stop"
_FIRST_SEED = 3_000_000


@dataclass(frozen=True, slots=True)
class GraspFigures:
    """What the filter did to normal work.

    Attributes:
        episodes: How many.
        successes: How many reached their goal.
        false_trips: Episodes with a protective stop.
        stopped_ticks: Ticks in a protective stop.
        limiting_share: Share of ticks on which the filter slowed the arm.
        mean_s: Mean duration of an episode.
        tripped: Task and seed of the episodes with a protective stop.
    """

    episodes: int
    successes: int
    false_trips: int
    stopped_ticks: int
    limiting_share: float
    mean_s: float
    tripped: tuple[str, ...]


def run_grasps(arm: str, episodes: int, seed: int, *, profile: str = "", workers: int = 1) -> GraspFigures:
    """Let the scripted expert work with the filter on.

    Args:
        arm: Robot description.
        episodes: At least how many, over all tasks: the next multiple of their number.
        seed: Offset of the first seed.
        profile: Safety profile; empty for the arm's tabletop.
        workers: Processes; 0 runs in this one.
    """
    config = replace(default_config(arm), cameras={}, safety=load_profile(profile or f"{arm}_tabletop"))
    options = EvalOptions(
        policy=ExpertSource,
        config=config,
        tasks=TASKS,
        episodes=-(-episodes // len(TASKS)),
        first_seed=_FIRST_SEED + seed,
        workers=workers,
    )
    return _sum_up(evaluate(options).outcomes)


def _sum_up(outcomes: tuple[EpisodeResult, ...]) -> GraspFigures:
    tripped = [outcome for outcome in outcomes if outcome.safety_ticks.get(_STOP, 0)]
    ticks = max(1, sum(outcome.ticks for outcome in outcomes))
    return GraspFigures(
        episodes=len(outcomes),
        successes=sum(outcome.success for outcome in outcomes),
        false_trips=len(tripped),
        stopped_ticks=sum(outcome.safety_ticks.get(_STOP, 0) for outcome in outcomes),
        limiting_share=sum(outcome.safety_ticks.get("limiting", 0) for outcome in outcomes) / ticks,
        mean_s=sum(outcome.duration_s for outcome in outcomes) / max(1, len(outcomes)),
        tripped=tuple(f"{outcome.task} {outcome.seed}" for outcome in tripped),
    )
