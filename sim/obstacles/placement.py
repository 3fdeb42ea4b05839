"""Placing obstacles in a task's scene, from a seed: in the way, clear of everything, and never making it impossible.

A place is taken only if the whole arm keeps clear of the declared zones at home, at every pose that the task cannot
do without and in the columns above those. So the hand can always come down from above, and what an obstacle costs is
a detour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.profile import CarriedObject, SafetyProfile
from safety.profile.zones import CylinderZone, KeepOut
from sim.obstacles.geometry import ArmHull, Balls, HandHull, hulls_of
from sim.obstacles.kinds import ZONE_PREFIX, Obstacle, sample_obstacle
from sim.obstacles.options import ObstacleLevel, ObstacleOptions
from sim.obstacles.routes import Leg, Route, Station, carried_radius, route_of
from sim.scene import TABLE_X, TABLE_Y
from sim.tasks.base import TaskInstance
from sim.tasks.physics import ROBOT_CONTYPE, body_position, body_yaw

STATION_CLEARANCE_M = 0.012  # between the arm at a pose that the task needs, and any zone
_OBJECT_GAP_M = 0.012
_HOME_CLEARANCE_M = 0.03
_TABLE_EDGE_M = 0.06
_COLUMN_STEPS_M = (0.0, 0.06, 0.13)  # heights above a station at which the whole arm is checked
_BLOCKING_DEPTH_M = 0.020  # an obstacle this deep in the hull on the unaware way stands in the way
_NEAREST_M, _FARTHEST_M, _STEP_M = 0.06, 0.22, 0.008
_DRAWS = 16  # places that are tried for a thing
_ATTEMPTS = 25
_NEAR_ATTEMPTS = 6  # directions that are tried for a near place in the way, before any near place will do


class PlacementError(RuntimeError):
    """No place was found for an obstacle."""


@dataclass(frozen=True, slots=True)
class ObstacleField:
    """The obstacles of one episode.

    Attributes:
        obstacles: What stands where.
        zones: Their keep-out zones, base frame.
        blocking: For each obstacle: the unaware hand would run into it.
        complete: Every obstacle that is meant to be in the way is.
        carried: Radius of what the task carries, at the tool centre, m; 0 for nothing.
        declared: Whether the safety profile is to be told.
    """

    obstacles: tuple[Obstacle, ...] = ()
    zones: tuple[KeepOut, ...] = ()
    blocking: tuple[bool, ...] = ()
    complete: bool = True
    carried: float = 0.0
    declared: bool = True

    def declare(self, profile: SafetyProfile) -> SafetyProfile:
        """The profile with these zones in place of those of any other episode, and with the carried object."""
        lasting = tuple(zone for zone in profile.keep_outs if not zone.name.startswith(ZONE_PREFIX))
        if not self.obstacles or not self.declared:
            return replace(profile, keep_outs=lasting) if lasting != profile.keep_outs else profile
        carried = CarriedObject((0.0, 0.0, 0.0), self.carried) if self.carried > 0.0 else profile.carried_object
        name = profile.name.removesuffix(_SUFFIX) + _SUFFIX
        return replace(profile, keep_outs=lasting, carried_object=carried).with_keep_outs(name, self.zones)


_SUFFIX = "+obstacles"
NO_OBSTACLES = ObstacleField()


def add_obstacles(
    spec: mujoco.MjSpec,
    instance: TaskInstance,
    description: RobotDescription,
    options: ObstacleOptions,
    rng: np.random.Generator,
) -> ObstacleField:
    """Add the obstacles of one episode to its scene.

    Args:
        spec: The scene with the task's objects, not compiled for good yet; it is extended in place.
        instance: The task.
        description: The arm, for what must stay reachable.
        options: Level and margin.
        rng: The only source of chance: equal generators place equal obstacles.

    Raises:
        NoRouteError: Obstacles are not placed for this task.
        PlacementError: No place was found.
    """
    scene = _Scene.of(spec, instance, description)
    placed: list[Obstacle] = []
    blocking: list[bool] = []
    for index, level in enumerate(options.levels):
        obstacle, blocks = _place(f"{ZONE_PREFIX}{index}", level, scene, placed, options, rng)
        obstacle.add_to(spec)
        placed.append(obstacle)
        blocking.append(blocks)
    zones = tuple(zone for obstacle in placed for zone in obstacle.zones(options.zone_margin_m))
    complete = all(
        blocks or level is not ObstacleLevel.ON_PATH for level, blocks in zip(options.levels, blocking, strict=True)
    )
    carried = carried_radius(instance.goal)
    return ObstacleField(tuple(placed), zones, tuple(blocking), complete, carried, options.declared)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a place is judged by.

    Attributes:
        route: The way through the task.
        discs: (n, 3) x, y and radius of everything that stands on the table, m.
        home: The arm at home.
        needed: The arm at the route's stations and above them, with what it carries.
        ways: The hand along each leg, when it knows of no obstacle.
    """

    route: Route
    discs: FloatArray
    home: Balls
    needed: Balls
    ways: tuple[Balls, ...]

    @staticmethod
    def of(spec: mujoco.MjSpec, instance: TaskInstance, description: RobotDescription) -> _Scene:
        model = spec.copy().compile()
        data = mujoco.MjData(model)
        instance.initialize(model, data)
        mujoco.mj_kinematics(model, data)
        arm, hand = hulls_of(description)
        arm.go_home()
        places: dict[str, tuple[float, float, float]] = {}
        for thing in instance.arrangement.things:
            x, y, _ = body_position(model, data, thing.name).tolist()
            places[thing.name] = (x, y, body_yaw(model, data, thing.name))
        x, y, z = arm.tool.tolist()
        route = route_of(instance, places, Station(x, y, z))
        home = arm.balls()
        return _Scene(
            route,
            _discs(model, data),
            home,
            _joined(_needed(arm, route)),
            tuple(_way(hand, leg) for leg in route.legs),
        )

    def depths(self, thing: Obstacle, xys: FloatArray, others: Iterable[Obstacle], margin: float) -> FloatArray:
        """How deep the thing would be in the hull of the unaware hand, for each place.

        Args:
            thing: What is to be placed; judged as the upright cylinder that holds it.
            xys: (k, 2) places, m.
            others: What stands already.
            margin: Of the zones, m.

        Returns:
            (k,) m, negative beside the way; minus infinity where it would overlap something or make the task
            impossible.
        """
        (x_low, x_high), (y_low, y_high) = TABLE_X, TABLE_Y
        room = thing.radius + _TABLE_EDGE_M
        x, y = xys.T
        good = (x > x_low + room) & (x < x_high - room) & (y > y_low + room) & (y < y_high - room)
        standing = [(*other.xy, other.radius + 2.0 * margin) for other in others]
        discs = np.concatenate([self.discs, np.array(standing).reshape(-1, 3)])
        apart = np.hypot(discs[:, 0] - x[:, None], discs[:, 1] - y[:, None]) - discs[:, 2]
        good &= apart.min(axis=1, initial=math.inf) > thing.radius + _OBJECT_GAP_M
        depths = np.full(len(xys), -math.inf)
        for index in np.flatnonzero(good):
            column = _column(xys[index], thing.radius + margin, thing.height + margin)
            if self.needed.clearance(column) > STATION_CLEARANCE_M and self.home.clearance(column) > _HOME_CLEARANCE_M:
                inner = _column(xys[index], min(part.half_width for part in thing.hulls), thing.height)
                depths[index] = -min(way.clearance(inner) for way in self.ways)
        return depths


def _column(xy: FloatArray, radius: float, height: float) -> tuple[CylinderZone]:
    x, y = xy.tolist()
    return (CylinderZone("column", (x, y, 0.0), (x, y, height), radius),)


def _discs(model: mujoco.MjModel, data: mujoco.MjData) -> FloatArray:
    """x, y and radius (n, 3) of all that obstacles must not stand in: solids on the table, and painted marks."""
    free = (model.geom_contype & ROBOT_CONTYPE) == 0
    robot_root = model.body_rootid[model.geom_bodyid[(~free).nonzero()[0][0]]]
    ours = free & (model.geom_bodyid != 0) & (model.body_rootid[model.geom_bodyid] != robot_root)
    return np.column_stack([data.geom_xpos[ours, :2], model.geom_rbound[ours]])


def _needed(arm: ArmHull, route: Route) -> Iterable[Balls]:
    """The whole arm at every station and above it; from the highest pose down, so that postures follow on."""
    for station in route.stations:
        arm.go_home()
        for height in reversed(_COLUMN_STEPS_M):
            arm.reach(station.x, station.y, station.z + height, station.yaw)
            yield arm.balls()
            if route.carried > 0.0:
                yield Balls(arm.tool[None], np.array([route.carried]))


def _joined(balls: Iterable[Balls]) -> Balls:
    parts = tuple(balls)
    return Balls(np.concatenate([part.centres for part in parts]), np.concatenate([part.radii for part in parts]))


def _way(hand: HandHull, leg: Leg) -> Balls:
    """The hand on its way along a leg: straight to above the end, then down."""
    start, end = leg.start, leg.end
    above = (end.x, end.y, max(leg.hover, end.z))
    shares = np.linspace(0.0, 1.0, 16)[:, None]
    across = np.array([start.x, start.y, start.z]) * (1.0 - shares) + np.array(above) * shares
    down = np.array(above) * (1.0 - shares[::3]) + np.array([end.x, end.y, end.z]) * shares[::3]
    places = np.concatenate([across, down])
    rigid = HandHull(hand.hand, Balls(np.empty((0, 3)), np.empty(0)))
    return rigid.at(places, np.full(len(places), end.yaw), leg.carried)


# ------------------------------------------------------------------------------------------------- places


def _place(
    name: str,
    level: ObstacleLevel,
    scene: _Scene,
    placed: list[Obstacle],
    options: ObstacleOptions,
    rng: np.random.Generator,
) -> tuple[Obstacle, bool]:
    """A permitted place, and whether the obstacle stands in the way there."""
    best: Obstacle | None = None
    best_depth = -math.inf
    near = level is ObstacleLevel.NEAR_TARGET
    for attempt in range(_ATTEMPTS):
        thing = replace(sample_obstacle(name, rng), yaw=float(rng.uniform(-math.pi, math.pi)))
        spread = 0.03 + 0.08 * attempt / _ATTEMPTS
        xys = _outward(scene.route, rng) if near else _beside(scene.route, spread, rng)
        depths = scene.depths(thing, xys, placed, options.zone_margin_m)
        if not np.isfinite(depths).any():
            continue
        # Near means nearest; on the way means farthest into it.
        index = int(np.argmax(np.isfinite(depths))) if near else int(np.argmax(depths))
        if depths[index] > best_depth:
            x, y = xys[index].tolist()
            best, best_depth = replace(thing, xy=(x, y)), float(depths[index])
        if best_depth > _BLOCKING_DEPTH_M or (near and attempt >= _NEAR_ATTEMPTS):
            break
    if best is None:
        raise PlacementError(f"found no place for {name} at level {level.value} in {_ATTEMPTS} attempts")
    return best, best_depth > _BLOCKING_DEPTH_M


def _outward(route: Route, rng: np.random.Generator) -> FloatArray:
    """Points (k, 2) in a random direction from what the hand must reach, the nearest first."""
    target = route.stations[0] if rng.random() < 0.7 else route.stations[-1]
    angle, spare = float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(0.0, _STEP_M))
    away = np.arange(_NEAREST_M, _FARTHEST_M, _STEP_M)[:, None] + spare
    points = np.array([target.x, target.y]) + away * [math.cos(angle), math.sin(angle)]
    return np.asarray(points, dtype=np.float64)


def _beside(route: Route, spread: float, rng: np.random.Generator) -> FloatArray:
    """Points (k, 2) near the line of a leg; ``spread`` is the standard deviation of their distance from it, m."""
    leg = route.legs[int(rng.integers(len(route.legs)))]
    shares, aside = rng.uniform(0.1, 0.9, (_DRAWS, 1)), rng.normal(0.0, spread, (_DRAWS, 1))
    start, end = np.array([leg.start.x, leg.start.y]), np.array([leg.end.x, leg.end.y])
    way = end - start
    across = np.array([-way[1], way[0]]) / max(float(np.linalg.norm(way)), 1e-6)
    return np.asarray(start + shares * way + aside * across, dtype=np.float64)
