"""The world that an attacked arm moves in: the arm, table, floor, its keep-outs as solid bodies, and no cameras."""

from __future__ import annotations

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode
from safety.monitor import add_zone
from safety.profile import SafetyProfile
from sim.robot import apply_actuator_mode
from sim.scene import PHYSICS_TIMESTEP

# Name of the obstacle that the profile does not know.
SURPRISE = "surprise"
_FLOOR_Z = -0.75
_TABLE_HALF = (0.40, 0.60, 0.02)
_TABLE_CENTRE = (0.50, 0.0, -0.02)


def build_world(
    description: RobotDescription,
    profile: SafetyProfile | None,
    mode: CommandMode,
    surprise: np.random.Generator | None = None,
) -> mujoco.MjModel:
    """Compile the world of one cell.

    Args:
        description: The arm.
        profile: Its keep-outs become obstacles, so that entering one is also a contact; None for none.
        mode: What the actuators take.
        surprise: Source of one obstacle that the profile does not know, None for none.
    """
    spec = mujoco.MjSpec.from_file(str(description.model_path))
    spec.option.timestep = PHYSICS_TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    apply_actuator_mode(spec, description, mode)
    world = spec.worldbody
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0.0, 0.0, _FLOOR_Z], size=[3.0, 3.0, 0.1])
    world.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=_TABLE_CENTRE, size=_TABLE_HALF)
    for zone in () if profile is None else profile.keep_outs:
        if not zone.spares:  # what some of the arm may enter is no solid body; the table stands there already
            add_zone(world, zone)
    if surprise is not None:
        centre = np.array([0.5, 0.0, 0.35]) + surprise.uniform(-0.3, 0.3, 3)
        size = [float(surprise.uniform(0.03, 0.08)), 0.0, 0.0]
        world.add_geom(name=SURPRISE, type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=centre, size=size)
    for geom in world.geoms:  # collides with the arm, not with its like
        geom.contype, geom.conaffinity = 1, 2
    return spec.compile()
