"""Questions about the true state of a simulation that tasks and experts ask."""

from __future__ import annotations

import mujoco
import numpy as np

from controllers.types import FloatArray

ROBOT_CONTYPE = 2  # robot geoms carry this bit, world geoms do not (see the header of the arm's MJCF)


def body_position(model: mujoco.MjModel, data: mujoco.MjData, body: str) -> FloatArray:
    """Position (3,) of a body, m, base frame; a copy."""
    return data.xpos[model.body(body).id].copy()


def body_yaw(model: mujoco.MjModel, data: mujoco.MjData, body: str) -> float:
    """Direction of the body's x axis in the table plane, rad."""
    matrix = data.xmat[model.body(body).id]
    return float(np.arctan2(matrix[3], matrix[0]))


def body_tilt(model: mujoco.MjModel, data: mujoco.MjData, body: str) -> float:
    """Angle between the body's z axis and the vertical, rad."""
    return float(np.arccos(np.clip(data.xmat[model.body(body).id][8], -1.0, 1.0)))


def body_speed(model: mujoco.MjModel, data: mujoco.MjData, body: str) -> float:
    """Speed of a free body's origin, m/s."""
    first = int(model.body_dofadr[model.body(body).id])
    return float(np.linalg.norm(data.qvel[first : first + 3]))


def joint_value(model: mujoco.MjModel, data: mujoco.MjData, joint: str) -> float:
    """Value of a slide or hinge joint, m or rad."""
    return float(data.qpos[model.joint(joint).qposadr[0]])


def robot_touches(model: mujoco.MjModel, data: mujoco.MjData, body: str) -> bool:
    """Whether any part of the robot is in contact with ``body``."""
    if data.ncon == 0:
        return False
    geoms = np.asarray(data.contact.geom)
    ours = model.geom_bodyid[geoms] == model.body(body).id
    robot = (model.geom_contype[geoms] & ROBOT_CONTYPE) != 0
    return bool(np.any(ours[:, ::-1] & robot))


def robot_clearance(model: mujoco.MjModel, data: mujoco.MjData, body: str, distance: float) -> bool:
    """Whether every colliding part of the robot's last links is at least ``distance`` m away from ``body``."""
    robot = np.flatnonzero((model.geom_contype & ROBOT_CONTYPE) != 0)
    target = np.flatnonzero((model.geom_bodyid == model.body(body).id) & (model.geom_contype != 0))
    # Bounding spheres rule out the links that are far away.
    for geom in target:
        centre, reach = data.geom_xpos[geom], model.geom_rbound[geom] + distance
        apart = np.linalg.norm(data.geom_xpos[robot] - centre, axis=1) - model.geom_rbound[robot]
        for other in robot[apart < reach]:
            if mujoco.mj_geomDistance(model, data, int(geom), int(other), distance, None) < distance:
                return False
    return True
