"""Random safety profiles that a robot at home satisfies."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from safety.monitor import MonitoredLimit, MonitorTolerance, PlaceMonitor
from safety.profile import (
    STIFFEST_SURFACE_N_M,
    BoxZone,
    CapsuleZone,
    CylinderZone,
    HalfSpaceZone,
    KeepOut,
    OrientationCone,
    Plane,
    PointBox,
    Polytope,
    SafetyProfile,
    SphereZone,
)
from safety.profile.fields import Vector

_HOME_CLEARANCE_M = 0.03
_TRIES = 40
_NO_TOLERANCE = MonitorTolerance(point_m=-_HOME_CLEARANCE_M, clearance_m=-_HOME_CLEARANCE_M, cone_rad=-0.1)
_PLACES = (
    MonitoredLimit.WORKSPACE_BOX,
    MonitoredLimit.WORKSPACE_POLYTOPE,
    MonitoredLimit.KEEP_OUT,
    MonitoredLimit.ORIENTATION_CONE,
)


def random_profile(
    description: RobotDescription, built_in: SafetyProfile, model: mujoco.MjModel, seed: int
) -> SafetyProfile:
    """Vary a profile: slower, smaller boxes, keep-outs of all shapes near the arm, polytopes, cones.

    Args:
        description: The robot.
        built_in: Profile to start from.
        model: Any model with the arm in it; used to see where the arm is at home.
        seed: Of the draws.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    data = mujoco.MjData(model)
    data.qpos[[int(model.jnt_qposadr[model.joint(name).id]) for name in description.joint_names]] = description.home
    mujoco.mj_forward(model, data)
    profile = _slower(built_in, rng, seed)
    profile = replace(
        profile, workspace=tuple(_smaller(box, data.site(box.point).xpos, rng) for box in profile.workspace)
    )
    tool = data.site(description.end_effector_site)
    if rng.random() < 0.5:
        profile = replace(profile, orientation=_cone(tool.xmat.reshape(3, 3), rng))
    for index in range(int(rng.integers(1, 4))):
        points = tuple(rng.choice([box.point for box in profile.workspace], size=2, replace=False).tolist())
        planes = tuple(_plane(rng, tool.xpos) for _ in range(int(rng.integers(1, 4))))
        candidate = replace(profile, polytopes=(*profile.polytopes, Polytope(f"polytope{index}", points, planes)))
        profile = candidate if _home_is_clear(model, data, description, candidate) else profile
    shapes = rng.permutation(5)[: int(rng.integers(1, 6))].tolist()
    for index, shape in enumerate(shapes):
        for _ in range(_TRIES):
            zone = _zone(f"zone{index}", int(shape), rng, np.array(tool.xpos))
            candidate = replace(profile, keep_outs=(*profile.keep_outs, zone))
            if _home_is_clear(model, data, description, candidate):
                profile = candidate
                break
    return profile


def _home_is_clear(
    model: mujoco.MjModel, data: mujoco.MjData, description: RobotDescription, profile: SafetyProfile
) -> bool:
    monitor = PlaceMonitor(model, description, profile, _NO_TOLERANCE)
    return not any(violation.limit in _PLACES for violation in monitor.judge(data, 0))


def _slower(profile: SafetyProfile, rng: np.random.Generator, seed: int) -> SafetyProfile:
    speed = float(rng.uniform(0.15, 1.2))
    most = profile.force.transient_n**2 / (2.0 * STIFFEST_SURFACE_N_M)  # more is refused
    return replace(
        profile,
        name=f"random_{profile.robot}_{seed}",
        joints=replace(
            profile.joints,
            position_margin_rad=float(rng.uniform(0.01, 0.2)),
            velocity_fraction=float(rng.uniform(0.3, 1.0)),
            acceleration_fraction=float(rng.uniform(0.3, 1.0)),
        ),
        end_effector=replace(
            profile.end_effector,
            linear_speed_m_s=speed,
            angular_speed_rad_s=float(rng.uniform(0.5, 3.0)),
            reduced_speed_m_s=min(speed, profile.end_effector.reduced_speed_m_s),
            kinetic_energy_j=float(rng.uniform(0.25, 1.0)) * most,
        ),
        gripper=replace(
            profile.gripper, speed_m_s=float(rng.uniform(0.05, 0.4)), force_n=float(rng.uniform(15.0, 70.0))
        ),
        stopping=replace(
            profile.stopping,
            approach_deceleration_fraction=float(rng.uniform(0.3, 0.9)),
            standoff_m=float(rng.uniform(0.0005, 0.01)),
        ),
    )


def _smaller(box: PointBox, home: np.ndarray, rng: np.random.Generator) -> PointBox:
    """Move each face towards home by a random share, a clearance short of it."""
    low, high = np.array(box.lower_m), np.array(box.upper_m)
    share_low, share_high = rng.uniform(0.0, 0.8, 3), rng.uniform(0.0, 0.8, 3)
    new_low = np.maximum(low, np.minimum(low + share_low * (home - low), home - 0.05))
    new_high = np.minimum(high, np.maximum(high + share_high * (home - high), home + 0.05))
    return replace(box, lower_m=_vector(new_low), upper_m=_vector(new_high))


def _cone(turn: np.ndarray, rng: np.random.Generator) -> OrientationCone:
    direction = turn @ np.array([0.0, 0.0, 1.0]) + rng.normal(0.0, 0.1, 3)
    direction /= np.linalg.norm(direction)
    return OrientationCone((0.0, 0.0, 1.0), _vector(direction), float(rng.uniform(0.5, 1.4)))


def _plane(rng: np.random.Generator, near: np.ndarray) -> Plane:
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    return Plane(_vector(normal), float(normal @ near + rng.uniform(0.05, 0.5)))


def _zone(name: str, shape: int, rng: np.random.Generator, near: np.ndarray) -> KeepOut:
    centre = near + rng.uniform(-0.5, 0.5, 3)
    other = _vector(centre + rng.uniform(-0.25, 0.25, 3))
    size = rng.uniform(0.03, 0.15, 3)
    radius = float(size[0])
    if shape == 0:
        turn = rng.normal(size=4)
        turn /= np.linalg.norm(turn)
        return BoxZone(name, _vector(centre), _vector(size), (turn[0], turn[1], turn[2], turn[3]))
    if shape == 1:
        return SphereZone(name, _vector(centre), radius)
    if shape == 2:
        return CapsuleZone(name, _vector(centre), other, 0.5 * radius)
    if shape == 3:
        return CylinderZone(name, _vector(centre), other, radius)
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    return HalfSpaceZone(name, _vector(normal), float(normal @ near - rng.uniform(0.1, 0.5)))


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
