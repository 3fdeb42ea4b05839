"""The world that an attacked arm moves in: the arm, table, floor, its keep-outs as solid bodies, and no cameras."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode
from safety.monitor import add_zone
from safety.profile import STIFFEST_SURFACE_N_M, SafetyProfile
from sim.robot import apply_actuator_mode
from sim.scene import PHYSICS_TIMESTEP

# Name of the obstacle that the profile does not know.
SURPRISE = "surprise"
# How stiff it is at least, N/m; at most what profiles reckon with. MuJoCo's own contacts are the stiffer, the heavier
# what strikes them: 300 N/mm for the 33 kg of a shoulder, where no declared surface is that stiff.
_SOFTEST_N_M = 10e3
_BALL_KG, _DAMPING_RATIO = 1.0, 0.3
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
        _add_surprise(world, surprise)
    for geom in [*world.geoms, *(geom for body in world.bodies if body.name == SURPRISE for geom in body.geoms)]:
        # collides with the arm, not with its like
        geom.contype, geom.conaffinity = 1, 2
    return spec.compile()


def _add_surprise(world: mujoco.MjsBody, rng: np.random.Generator) -> None:
    """A ball on springs."""
    centre = np.array([0.5, 0.0, 0.35]) + rng.uniform(-0.3, 0.3, 3)
    size = [float(rng.uniform(0.03, 0.08)), 0.0, 0.0]
    stiffness = math.exp(rng.uniform(math.log(_SOFTEST_N_M), math.log(STIFFEST_SURFACE_N_M)))
    ball = world.add_body(name=SURPRISE, pos=centre, gravcomp=1.0)
    for axis in np.eye(3):
        ball.add_joint(
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=axis,
            stiffness=stiffness,
            damping=2.0 * _DAMPING_RATIO * math.sqrt(stiffness * _BALL_KG),
        )
    ball.add_geom(name=SURPRISE, type=mujoco.mjtGeom.mjGEOM_SPHERE, size=size, mass=_BALL_KG)
