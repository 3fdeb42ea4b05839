"""Zones and capsules as the corners of convex shapes, for drawing."""

from __future__ import annotations

from itertools import combinations, product

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.profile import BoxZone, CapsuleZone, CylinderZone, HalfSpaceZone, KeepOut, Plane, SphereZone

_AROUND = 32
_TOLERANCE = 1e-9


def box_corners(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Corners (8, 3) of an axis-parallel box; corners that differ in one bit of their number share an edge."""
    return np.array(
        [[(lower, upper)[bit][axis] for axis, bit in enumerate(bits)] for bits in product((0, 1), repeat=3)]
    )


def polytope_corners(planes: tuple[Plane, ...], lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Corners (k, 3) of what the planes admit within a box; k may be 0."""
    axes = np.eye(3)
    normals = np.vstack([[plane.normal for plane in planes], axes, -axes])
    offsets = np.array([*(plane.offset_m for plane in planes), *upper, *(-lower)])
    corners: list[FloatArray] = []
    for three in combinations(range(len(offsets)), 3):
        chosen = normals[list(three)]
        if abs(np.linalg.det(chosen)) < _TOLERANCE:
            continue
        corner = np.linalg.solve(chosen, offsets[list(three)])
        if bool((normals @ corner <= offsets + 1e-7).all()):
            corners.append(corner)
    return np.array(corners).reshape(-1, 3)


def capsule_corners(start: FloatArray, end: FloatArray, radius: float) -> FloatArray:
    """Points (k, 3) on a capsule's surface."""
    ball = radius * _unit_ball()
    return np.vstack([start + ball, end + ball])


def keep_out_corners(zone: KeepOut, lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Points (k, 3) whose convex hull is a keep-out; a half-space is cut off at the box from ``lower`` to ``upper``."""
    if isinstance(zone, HalfSpaceZone):
        return polytope_corners((Plane(zone.normal, zone.offset_m),), lower, upper)
    if isinstance(zone, BoxZone):
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, np.array(zone.quaternion))
        half = np.array(zone.half_size_m)
        return box_corners(-half, half) @ turn.reshape(3, 3).T + zone.centre_m
    if isinstance(zone, SphereZone):
        return np.array(zone.centre_m) + zone.radius_m * _unit_ball()
    start, end = np.array(zone.start_m), np.array(zone.end_m)
    if isinstance(zone, CapsuleZone):
        return capsule_corners(start, end, zone.radius_m)
    assert isinstance(zone, CylinderZone)
    axis = (end - start) / np.linalg.norm(end - start)
    across = np.linalg.svd(axis[None])[2][1:]
    angles = np.linspace(0.0, 2.0 * np.pi, _AROUND, endpoint=False)
    rim = zone.radius_m * (np.cos(angles)[:, None] * across[0] + np.sin(angles)[:, None] * across[1])
    return np.vstack([start + rim, end + rim])


def _unit_ball() -> FloatArray:
    heights = np.linspace(-0.5 * np.pi, 0.5 * np.pi, _AROUND // 2 + 1)
    angles = np.linspace(0.0, 2.0 * np.pi, _AROUND, endpoint=False)
    points = [(np.cos(h) * np.cos(a), np.cos(h) * np.sin(a), np.sin(h)) for h in heights[1:-1] for a in angles]
    return np.array([(0.0, 0.0, -1.0), *points, (0.0, 0.0, 1.0)])


class HomePosture:
    """Where the arm's capsules and watched points are at home, base frame.

    Attributes:
        capsules: For each capsule, its ends (3,) and (3,) m, and its radius m.
        points: For each watched point, its place (3,) m.
    """

    def __init__(self, robot: RobotDescription) -> None:
        """Put the arm there."""
        model = mujoco.MjModel.from_xml_path(str(robot.model_path))
        data = mujoco.MjData(model)
        data.qpos[: robot.n] = robot.home
        mujoco.mj_kinematics(model, data)
        self.capsules: list[tuple[FloatArray, FloatArray, float]] = []
        for capsule in robot.capsules:
            body = model.body(capsule.body).id
            place, turn = data.xpos[body].copy(), data.xmat[body].reshape(3, 3).copy()
            self.capsules.append((turn @ capsule.start + place, turn @ capsule.end + place, capsule.radius))
        names = dict.fromkeys((robot.end_effector_site, *robot.safety_points))
        self.points = {name: data.site_xpos[model.site(name).id].copy() for name in names}
