"""A cell with every feature of a profile, and an independent measure of it: MuJoCo's geometry, not the filter's."""

from __future__ import annotations

from functools import cache
from typing import Any

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.building import build_filter
from safety.filter import PathConsistentFilter
from safety.limits import JOINT_RESERVE_RAD, WALL_RESERVE_M
from safety.profile import (
    BoxZone,
    CapsuleZone,
    CylinderZone,
    HalfSpaceZone,
    KeepOut,
    SafetyProfile,
    SphereZone,
    load_profile,
    parse_profile,
)
from tests.safety.helpers import Bench, robot

_FAR = 10.0
# Capsules of links fewer than this many joints apart touch by design.
_NEIGHBOURS = 3

_ZONES: dict[str, dict[str, dict[str, object]]] = {
    "panda": {
        "crate": {
            "shape": "box",
            "centre_m": [0.66, 0.28, 0.12],
            "half_size_m": [0.06, 0.08, 0.1],
            "quaternion": [0.9, 0.2, 0.1, 0.3],
        },
        "ball": {"shape": "sphere", "centre_m": [0.33, -0.36, 0.2], "radius_m": 0.08},
        "pole": {"shape": "capsule", "start_m": [0.72, -0.22, 0.05], "end_m": [0.68, -0.2, 0.5], "radius_m": 0.03},
        "bin": {"shape": "cylinder", "start_m": [0.3, 0.34, 0.0], "end_m": [0.32, 0.34, 0.25], "radius_m": 0.06},
        "floor": {"shape": "half_space", "normal": [0, 0, 1], "offset_m": -0.08},
    },
    "so101": {
        "crate": {
            "shape": "box",
            "centre_m": [0.34, 0.16, 0.06],
            "half_size_m": [0.03, 0.03, 0.05],
            "quaternion": [0.9, 0.2, 0.1, 0.3],
        },
        "ball": {"shape": "sphere", "centre_m": [0.15, -0.2, 0.1], "radius_m": 0.04},
        "pole": {"shape": "capsule", "start_m": [0.38, -0.1, 0.03], "end_m": [0.36, -0.1, 0.2], "radius_m": 0.015},
        "bin": {"shape": "cylinder", "start_m": [0.16, 0.2, 0.0], "end_m": [0.17, 0.2, 0.1], "radius_m": 0.03},
        "floor": {"shape": "half_space", "normal": [0, 0, 1], "offset_m": -0.06},
    },
}
_ZONES["ur5e"] = _ZONES["panda"]
_PLANES = {"panda": (0.75, 0.6), "ur5e": (0.75, 0.6), "so101": (0.34, 0.3)}


def profile_data(name: str) -> dict[str, Any]:
    """A profile that uses every feature, as data to change."""
    data: dict[str, Any] = load_profile(f"{name}_tabletop").to_json()
    far, aside = _PLANES[name]
    data["keep_outs"] = {zone: dict(entry) for zone, entry in _ZONES[name].items()}
    data["polytopes"] = {
        "roof": {
            "points": ["tcp", "hand"],
            "planes": [{"normal": [0.6, 0, 0.8], "offset_m": far}, {"normal": [0, -0.6, 0.8], "offset_m": aside}],
        }
    }
    data["orientation"] = {"tool_axis": [0, 0, 1], "direction": [0, 0, -1], "half_angle_rad": 0.9}
    data["carried_object"] = {"centre_m": [0, 0, 0.01], "radius_m": 0.03 if name != "so101" else 0.015}
    data["workspace"]["carried_object"] = dict(data["workspace"]["tcp"])
    return data


@cache
def everything(name: str) -> SafetyProfile:
    return parse_profile(profile_data(name))


@cache
def full_bench(name: str) -> Bench:
    return Bench.of(robot(name), everything(name))


@cache
def full_filter(name: str, sliding: bool = False) -> PathConsistentFilter:
    data = profile_data(name)
    if sliding:
        data["enforcement"] = "sliding"
    return build_filter(robot(name), parse_profile(data))


class World:
    """An arm with its hull and zones in a MuJoCo model: how far outside it is of what may be commanded."""

    def __init__(self, description: RobotDescription, profile: SafetyProfile) -> None:
        self.description, self.profile, self.n = description, profile, description.n
        joints, limits = profile.joints, description.limits
        self.lower = limits.position_lower + joints.position_margin_rad + JOINT_RESERVE_RAD
        self.upper = limits.position_upper - joints.position_margin_rad - JOINT_RESERVE_RAD
        spec = mujoco.MjSpec.from_file(str(description.model_path))
        hidden: dict[str, Any] = {"contype": 0, "conaffinity": 0, "mass": 0.0}
        for capsule in description.capsules:
            spec.body(capsule.body).add_geom(
                name=f"hull_{capsule.name}",
                type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                fromto=[*capsule.start, *capsule.end],
                size=[capsule.radius, 0, 0],
                **hidden,
            )
        self._half_spaces = [zone for zone in profile.keep_outs if isinstance(zone, HalfSpaceZone)]
        solids = [zone for zone in profile.keep_outs if not isinstance(zone, HalfSpaceZone)]
        for zone in solids:
            spec.worldbody.add_geom(name=f"zone_{zone.name}", **_geom(zone), **hidden)
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        for joint in description.gripper.joints:  # where safety's own model holds them
            self.data.qpos[self.model.joint(joint).qposadr[0]] = self.model.joint(joint).range.mean()
        self._capsules = [(self.model.geom(f"hull_{c.name}").id, c) for c in description.capsules]
        first = int(self.model.jnt_bodyid[self.model.joint(description.joint_names[0]).id])
        # What does not move keeps out of nothing: the base's foot may stand in a table.
        self._moving = [(g, c) for g, c in self._capsules if int(self.model.geom_bodyid[g]) >= first]
        self._zones = [self.model.geom(f"zone_{zone.name}").id for zone in solids]
        self._pairs = self._far_pairs()
        self.tcp = self.model.site(description.end_effector_site).id
        self._inertia = np.zeros((self.model.nv, self.model.nv))

    def _far_pairs(self) -> list[tuple[int, int]]:
        arm = [self.model.joint(name).id for name in self.description.joint_names]

        def link(body: int) -> int:
            while body > 0:
                first, count = int(self.model.body_jntadr[body]), int(self.model.body_jntnum[body])
                if count and first in arm:
                    return arm.index(first)
                body = int(self.model.body_parentid[body])
            return -1

        links = [link(self.model.body(c.body).id) for _, c in self._capsules]
        return [
            (self._capsules[i][0], self._capsules[j][0])
            for i in range(len(links))
            for j in range(i)
            if abs(links[i] - links[j]) >= _NEIGHBOURS
        ]

    def place(self, q: FloatArray, qd: FloatArray | None = None) -> None:
        self.data.qpos[: self.n] = q
        self.data.qvel[:] = 0.0
        if qd is not None:
            self.data.qvel[: self.n] = qd
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)

    def _distance(self, first: int, second: int) -> float:
        return float(mujoco.mj_geomDistance(self.model, self.data, first, second, _FAR, None))

    # Each measure is of the arm as it was last placed.

    def joint_position(self) -> float:
        q = self.data.qpos[: self.n]
        return max(float((q - self.upper).max()), float((self.lower - q).max()))

    def workspace_box(self) -> float:
        worst = -np.inf
        for box in self.profile.workspace:
            if box.point == "carried_object":
                continue
            point = self.data.site_xpos[self.model.site(box.point).id]
            worst = max(worst, float((point - box.upper_m).max()), float((np.array(box.lower_m) - point).max()))
        return worst + WALL_RESERVE_M

    def workspace_polytope(self) -> float:
        return WALL_RESERVE_M + max(
            float(np.dot(plane.normal, self.data.site_xpos[self.model.site(name).id])) - plane.offset_m
            for polytope in self.profile.polytopes
            for name in polytope.points
            for plane in polytope.planes
        )

    def keep_out(self) -> float:
        nearest = min(self._distance(geom, zone) for geom, _ in self._moving for zone in self._zones)
        for zone in self._half_spaces:
            for geom, capsule in self._moving:
                middle, turn = self.data.geom_xpos[geom], self.data.geom_xmat[geom].reshape(3, 3)
                half = self.model.geom_size[geom][1] * turn[:, 2]
                low = min(float(np.dot(zone.normal, middle + side * half)) for side in (-1, 1))
                nearest = min(nearest, low - capsule.radius - zone.offset_m)
        return -nearest

    def self_collision(self) -> float:
        return self.profile.self_collision.distance_m - min(self._distance(i, j) for i, j in self._pairs)

    def orientation_cone(self) -> float:
        """In cosines, as the limit has it."""
        cone = self.profile.orientation
        assert cone is not None
        axis = self.data.site_xmat[self.tcp].reshape(3, 3) @ np.array(cone.tool_axis)
        return float(np.cos(cone.half_angle_rad) - axis @ np.array(cone.direction))

    def twist(self) -> FloatArray:
        linear, angular = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, linear, angular, self.tcp)
        return np.concatenate((linear, angular)) @ self.data.qvel

    def end_effector_linear_speed(self) -> float:
        return float(np.linalg.norm(self.twist()[:3])) - self.profile.end_effector.linear_speed_m_s

    def end_effector_angular_speed(self) -> float:
        return float(np.linalg.norm(self.twist()[3:])) - self.profile.end_effector.angular_speed_rad_s

    def kinetic_energy(self) -> float:
        velocity = self.twist()[:3]
        speed = float(np.linalg.norm(velocity))
        if speed < 1e-6:
            return -self.profile.end_effector.kinetic_energy_j
        mujoco.mj_crb(self.model, self.data)
        mujoco.mj_fullM(self.model, self._inertia, self.data.qM)
        linear = np.zeros((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, linear, None, self.tcp)
        push = linear[:, : self.n].T @ velocity / speed
        mass = 1.0 / float(push @ np.linalg.solve(self._inertia[: self.n, : self.n], push))
        return 0.5 * mass * speed**2 - self.profile.end_effector.kinetic_energy_j

    def measure(self, kind: str, q: FloatArray, qd: FloatArray | None = None) -> float:
        self.place(q, qd)
        return float(getattr(self, kind)())


PLACES = ("joint_position", "workspace_box", "workspace_polytope", "keep_out", "self_collision", "orientation_cone")
SPEEDS = ("end_effector_linear_speed", "end_effector_angular_speed", "kinetic_energy")


@cache
def world(name: str) -> World:
    return World(robot(name), everything(name))


def _geom(zone: KeepOut) -> dict[str, Any]:
    match zone:
        case BoxZone():
            return {
                "type": mujoco.mjtGeom.mjGEOM_BOX,
                "pos": zone.centre_m,
                "quat": zone.quaternion,
                "size": zone.half_size_m,
            }
        case SphereZone():
            return {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "pos": zone.centre_m, "size": [zone.radius_m, 0, 0]}
        case CapsuleZone() | CylinderZone():
            kind = mujoco.mjtGeom.mjGEOM_CAPSULE if isinstance(zone, CapsuleZone) else mujoco.mjtGeom.mjGEOM_CYLINDER
            return {"type": kind, "fromto": [*zone.start_m, *zone.end_m], "size": [zone.radius_m, 0, 0]}
        case HalfSpaceZone():
            raise ValueError("a half-space has no geom")
