"""The way of the hand through a task, as the expert goes when it knows of no obstacle."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controllers.names import nearest_name_hint
from sim.experts.motion import FINGER_HALF_X_M, FINGERTIP_M, wrap
from sim.objects.blocks import Block
from sim.objects.receptacles import Receptacle
from sim.tasks.base import TaskInstance
from sim.tasks.goals import Goal, LiftGoal, PlaceGoal, PressGoal, PushGoal, StackGoal, TouchGoal

_QUARTER_TURN = 0.5 * math.pi


class NoRouteError(ValueError):
    """A task that obstacles are not placed for."""


@dataclass(frozen=True, slots=True)
class Station:
    """A pose of the hand, pointing down, that the task cannot do without.

    Attributes:
        x: Tool centre, m, base frame.
        y: m.
        z: m.
        yaw: Turn of the hand, rad.
    """

    x: float
    y: float
    z: float
    yaw: float = 0.0


@dataclass(frozen=True, slots=True)
class Leg:
    """A way between two stations along which obstacles may stand.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        hover: Height at which the hand arrives over the end, m.
        carried: Radius of what is in the hand, m; 0 for nothing.
    """

    start: Station
    end: Station
    hover: float
    carried: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """The way through a task.

    Attributes:
        stations: What must stay free, the columns above included; the first is what the hand goes to first.
        legs: Where obstacles may stand.
        carried: Radius of the ball around what the task has carried, m; 0 for nothing.
    """

    stations: tuple[Station, ...]
    legs: tuple[Leg, ...]
    carried: float = 0.0


def route_of(instance: TaskInstance, places: dict[str, tuple[float, float, float]], home: Station) -> Route:
    """The route of an episode.

    Args:
        instance: The task.
        places: Body name -> (x, y, yaw) of loose blocks at the start, m and rad.
        home: Where the hand starts.

    Raises:
        NoRouteError: Obstacles are not placed for this task.
    """
    goal = instance.goal
    if isinstance(goal, TouchGoal):
        end = Station(*goal.ball.xy, goal.ball.top + FINGERTIP_M - 0.013)
        return Route((end,), (Leg(home, end, max(goal.ball.top + 0.07, 0.165)),))
    if isinstance(goal, PressGoal):
        end = Station(*goal.button.xy, goal.button.top + FINGERTIP_M - goal.button.travel)
        return Route((end,), (Leg(home, end, goal.button.top + 0.07),))
    if isinstance(goal, PushGoal):
        return _push(goal.block, goal.zone, places, home)
    if isinstance(goal, LiftGoal):
        grasp = _grasp(goal.block, places)
        return Route((grasp,), (Leg(home, grasp, 0.12),), ball_radius(goal.block))
    if isinstance(goal, PlaceGoal):
        x, y = goal.target.xy
        level = goal.target.rim + 0.028 if goal.target.thing.kind == "bowl" else goal.target.floor + goal.block.half
        return _carry(goal.block, Station(x, y, level), 0.14, places, home)
    if isinstance(goal, StackGoal):
        x, y, yaw = places[goal.base.thing.name]
        above = 2.0 * goal.base.half + goal.block.half
        return _carry(goal.block, Station(x, y, above, wrap(yaw, _QUARTER_TURN)), 0.15, places, home)
    names = tuple(ROUTED_TASKS)
    raise NoRouteError(
        f"expected a task that obstacles are placed for ({', '.join(names)}), found {instance.task_name!r}"
        f"{nearest_name_hint(instance.task_name, names)}"
    )


ROUTED_TASKS = ("reach", "press_button", "push_to_zone", "pick_up", "place_in_bowl", "place_on_plate", "stack")


def carried_radius(goal: Goal) -> float:
    """Radius of the ball around the tool centre that holds what the goal has carried, m; 0 for nothing."""
    return ball_radius(goal.block) if isinstance(goal, LiftGoal | PlaceGoal | StackGoal) else 0.0


def ball_radius(block: Block) -> float:
    """Radius of a ball around a grasped block, m: its corners, and how far off the middle it may be grasped."""
    return math.sqrt(3.0) * block.half + 0.006


def _grasp(block: Block, places: dict[str, tuple[float, float, float]]) -> Station:
    x, y, yaw = places[block.thing.name]
    return Station(x, y, block.half, wrap(yaw, _QUARTER_TURN))


def _carry(
    block: Block, release: Station, hover: float, places: dict[str, tuple[float, float, float]], home: Station
) -> Route:
    grasp, radius = _grasp(block, places), ball_radius(block)
    raised = Station(grasp.x, grasp.y, hover, grasp.yaw)
    return Route((grasp, release), (Leg(home, grasp, 0.12), Leg(raised, release, hover, radius)), radius)


def _push(block: Block, zone: Receptacle, places: dict[str, tuple[float, float, float]], home: Station) -> Route:
    """The push itself is one row of stations: nothing may stand beside it within the hand's width."""
    x, y, _ = places[block.thing.name]
    length = math.hypot(zone.xy[0] - x, zone.xy[1] - y)
    ux, uy = (zone.xy[0] - x) / length, (zone.xy[1] - y) / length
    yaw = wrap(math.atan2(uy, ux), math.pi)
    touching = FINGER_HALF_X_M + block.half
    first, last = -touching - 0.030, length - touching + 0.006
    count = max(2, math.ceil((last - first) / 0.03) + 1)
    along = [first + (last - first) * index / (count - 1) for index in range(count)]
    stations = tuple(Station(x + s * ux, y + s * uy, 0.024, yaw) for s in along)
    return Route(stations, (Leg(home, stations[0], 0.11),))
