"""Where the arm is: watched points in boxes and polytopes, the tool in its cone, the hull off zones and off itself.

Distances come from MuJoCo's own algorithms on a model that holds nothing but the hull and the zones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from controllers.robot import Capsule, RobotDescription
from controllers.types import FloatArray
from safety.monitor.ledger import Ledger, MonitoredLimit
from safety.profile import BoxZone, CapsuleZone, CylinderZone, HalfSpaceZone, KeepOut, SafetyProfile, SphereZone

# Links fewer than this many joints apart touch by design.
_NEIGHBOUR_JOINTS = 3
# Distances beyond this are reported as this: a hull that is far off needs no exact number.
_FAR_M = 0.25
_SCALE_M = 0.1


@dataclass(frozen=True, slots=True)
class PlaceLimits:
    """Which entries of the ledger a set of places fills, and what is forgiven in each."""

    box: MonitoredLimit
    polytope: MonitoredLimit
    keep_out: MonitoredLimit
    self_collision: MonitoredLimit
    cone: MonitoredLimit
    point_m: float
    clearance_m: float
    cone_rad: float


class Places:
    """Judges the places of one configuration, from the site and body frames of a ``MjData``."""

    def __init__(self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile) -> None:
        """Bind to a model that holds the arm under its own names."""
        self._bind_points(model, description, profile)
        self._bind_hull(model, description, profile)
        cone = profile.orientation
        self._tool = model.site(description.end_effector_site).id
        self._axis = None if cone is None else np.array(cone.tool_axis)
        self._direction = np.zeros(3) if cone is None else np.array(cone.direction)
        self._half_angle = 0.0 if cone is None else cone.half_angle_rad

    def _bind_points(self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile) -> None:
        boxes = profile.workspace
        self._sites = np.array([model.site(box.point).id for box in boxes])
        self._lower = np.array([box.lower_m for box in boxes])
        self._upper = np.array([box.upper_m for box in boxes])
        self._box_names = [f"{box.point} {axis}" for box in boxes for axis in "xyz"]
        rows = [(p.name, point, plane) for p in profile.polytopes for point in p.points for plane in p.planes]
        self._plane_sites = np.array([model.site(point).id for _, point, _ in rows], dtype=np.int64)
        self._plane_normals = np.array([plane.normal for _, _, plane in rows]).reshape(-1, 3)
        self._plane_offsets = np.array([plane.offset_m for _, _, plane in rows])
        self._plane_names = [f"{name}: {point}" for name, point, _ in rows]

    def _bind_hull(self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile) -> None:
        capsules, zones = description.capsules, profile.keep_outs
        spec = mujoco.MjSpec()
        for capsule in capsules:
            _add_capsule(spec.worldbody, capsule)
        for zone in zones:
            add_zone(spec.worldbody, zone)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        count = len(capsules)
        self._count = count
        self._bodies = np.array([model.body(capsule.body).id for capsule in capsules], dtype=np.int64)
        # Frames of the capsules in their bodies, as the compiler made them; the body of this model is the world.
        self._centres = np.array(self._data.geom_xpos[:count])
        self._turns = np.array(self._data.geom_xmat[:count]).reshape(count, 3, 3)
        self._radii = np.array(self._model.geom_rbound)  # 0 for planes
        planes = self._model.geom_type[count:] == int(mujoco.mjtGeom.mjGEOM_PLANE)
        self._plane_zones = np.flatnonzero(planes) + count
        self._solid_zones = np.flatnonzero(~planes) + count
        joints = [_joints_below(model, int(body)) for body in self._bodies]
        self._moving = [index for index in range(count) if joints[index] > 0]
        ignored = set(profile.self_collision.ignore)
        pairs = [
            (a, b)
            for a in range(count)
            for b in range(a)
            if abs(joints[a] - joints[b]) >= _NEIGHBOUR_JOINTS
            and tuple(sorted((capsules[a].name, capsules[b].name))) not in ignored
        ]
        zone_pairs = [
            (a, count + z) for a in self._moving for z in range(len(zones)) if capsules[a].name not in zones[z].spares
        ]
        names = [capsule.name for capsule in capsules] + [zone.name for zone in zones]
        self._pairs = np.array(zone_pairs + pairs, dtype=np.int64).reshape(-1, 2)
        self._zone_pair_count = len(zone_pairs)
        self._pair_names = [f"{names[a]} - {names[b]}" for a, b in self._pairs.tolist()]
        # A bounding ball says nothing about a plane: its pairs are always measured.
        self._bounds = self._radii[self._pairs].sum(axis=1) if len(self._pairs) else np.zeros(0)
        self._bounds[np.isin(self._pairs[:, 1], self._plane_zones)] = math.inf
        self._distance = profile.self_collision.distance_m

    def judge(self, data: Any, limits: PlaceLimits, ledger: Ledger, now_ns: int) -> None:
        """Judge the frames in ``data`` (an ``MjData`` of the model bound to)."""
        self._judge_points(data, limits, ledger, now_ns)
        if self._axis is not None:
            axis = data.site_xmat[self._tool].reshape(3, 3) @ self._axis
            angle = math.acos(min(1.0, max(-1.0, float(axis @ self._direction))))
            margin = self._half_angle + limits.cone_rad - angle
            ledger.note(limits.cone, angle, self._half_angle, margin, 0.1, "rad", "tool", now_ns)
        if len(self._pairs):
            self._judge_hull(data, limits, ledger, now_ns)

    def _judge_points(self, data: Any, limits: PlaceLimits, ledger: Ledger, now_ns: int) -> None:
        points = data.site_xpos[self._sites]
        inside = np.minimum(points - self._lower, self._upper - points).ravel()
        worst = int(inside.argmin())
        margin = float(inside[worst]) + limits.point_m
        if margin != margin:
            worst = int(np.isnan(inside).argmax())
        ledger.note(limits.box, -float(inside[worst]), 0.0, margin, _SCALE_M, "m", self._box_names[worst], now_ns)
        if len(self._plane_names):
            inside = self._plane_offsets - (data.site_xpos[self._plane_sites] * self._plane_normals).sum(axis=1)
            worst = int(inside.argmin())
            value = float(inside[worst])
            where = self._plane_names[worst]
            ledger.note(limits.polytope, -value, 0.0, value + limits.point_m, _SCALE_M, "m", where, now_ns)

    def _judge_hull(self, data: Any, limits: PlaceLimits, ledger: Ledger, now_ns: int) -> None:
        own = self._data
        turns = data.xmat[self._bodies].reshape(-1, 3, 3)
        count = self._count
        own.geom_xpos[:count] = data.xpos[self._bodies] + (turns @ self._centres[:, :, None])[:, :, 0]
        own.geom_xmat[:count] = (turns @ self._turns).reshape(count, 9)
        first, second = own.geom_xpos[self._pairs[:, 0]], own.geom_xpos[self._pairs[:, 1]]
        gap = np.sqrt(((first - second) ** 2).sum(axis=1)) - self._bounds
        kinds = (
            (limits.keep_out, 0, self._zone_pair_count, 0.0),
            (limits.self_collision, self._zone_pair_count, len(gap), self._distance),
        )
        for limit, begin, end, keep in kinds:
            if begin == end:
                continue
            lowest, where = self._nearest(gap, begin, end)
            margin = lowest - keep + limits.clearance_m
            ledger.note(limit, lowest, keep, margin, _SCALE_M, "m", self._pair_names[where], now_ns)

    def _nearest(self, gap: FloatArray, begin: int, end: int) -> tuple[float, int]:
        lowest, where = _FAR_M, begin
        for pair in (np.flatnonzero(~(gap[begin:end] > _FAR_M)) + begin).tolist():
            if gap[pair] > lowest:
                continue
            a, b = self._pairs[pair]
            distance = mujoco.mj_geomDistance(self._model, self._data, int(a), int(b), lowest, None)
            if not distance >= lowest:
                lowest, where = distance, pair
        return lowest, where


def _joints_below(model: mujoco.MjModel, body: int) -> int:
    """Joints between the base and a body."""
    count = 0
    while body:
        count += int(model.body_jntnum[body])
        body = int(model.body_parentid[body])
    return count


def _add_capsule(body: Any, capsule: Capsule) -> None:
    start, end = np.array(capsule.start), np.array(capsule.end)
    if float(np.linalg.norm(end - start)) < 1e-9:
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=start, size=[capsule.radius, 0.0, 0.0])
        return
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=np.concatenate([start, end]), size=[capsule.radius, 0.0, 0.0]
    )


def add_zone(body: Any, zone: KeepOut) -> Any:
    """Add a zone to a body of a ``MjSpec``, as a geom of the same shape, and return it."""
    kinds = mujoco.mjtGeom
    if isinstance(zone, BoxZone):
        return body.add_geom(
            type=kinds.mjGEOM_BOX, pos=zone.centre_m, size=zone.half_size_m, quat=zone.quaternion, name=zone.name
        )
    if isinstance(zone, SphereZone):
        return body.add_geom(
            type=kinds.mjGEOM_SPHERE, pos=zone.centre_m, size=[zone.radius_m, 0.0, 0.0], name=zone.name
        )
    if isinstance(zone, HalfSpaceZone):
        normal = np.array(zone.normal)
        turn = np.zeros(4)
        mujoco.mju_quatZ2Vec(turn, normal)
        return body.add_geom(
            type=kinds.mjGEOM_PLANE, pos=normal * zone.offset_m, quat=turn, size=[0.0, 0.0, 0.1], name=zone.name
        )
    kind = kinds.mjGEOM_CAPSULE if isinstance(zone, CapsuleZone) else kinds.mjGEOM_CYLINDER
    assert isinstance(zone, (CapsuleZone, CylinderZone))
    return body.add_geom(type=kind, fromto=[*zone.start_m, *zone.end_m], size=[zone.radius_m, 0.0, 0.0], name=zone.name)
