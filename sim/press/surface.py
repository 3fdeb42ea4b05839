"""A stiff but compliant surface, whose stiffness is what it says: force = stiffness x penetration, and nothing else.

A contact of MuJoCo has no stiffness of its own (how far it gives depends on the masses that meet), and a light plate on
a spring chatters against a heavy tool. So the surface is a half-space without mass that pushes on the corners of the
tool by itself: with its stiffness times the depth of the deepest one, along its normal, shared by all corners that are
inside in proportion to their depth. It has no damping: what a blow puts in, it gives back. Friction opposes sliding.

Only the tool meets it (hand and closed fingers, as one rigid body): what the rest of the arm touches is another
question.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from controllers.types import FloatArray, frozen_array

_FRICTION = 0.4
# Below this speed friction grows with the speed, as it must where time comes in steps.
_CREEP_M_S = 0.05
_SIGNS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T


class Surface:
    """A half-space that pushes on the tool of one model; nothing until it is placed.

    Attributes:
        force: Force on the tool, N, as last applied: all that the surface and the robot exert on each other.
        penetration: Depth of the deepest corner, m; negative outside.
    """

    def __init__(self, model: mujoco.MjModel, tool: str) -> None:
        """Take the shape of the tool.

        Args:
            model: The model.
            tool: The body that, with all that hangs on it, meets the surface. It counts as rigid, its joints at the
                lower ends of their ranges (fingers closed).
        """
        self._body = model.body(tool).id
        self._corners = _corners(model, self._body)
        self._point, self._normal, self._stiffness = np.zeros(3), np.array([0.0, 0.0, 1.0]), 0.0
        self._velocity = np.zeros(6)
        self.force = 0.0
        self.penetration = -math.inf

    def place(self, point: FloatArray, normal: FloatArray, stiffness: float) -> None:
        """Put the surface somewhere.

        Args:
            point: (3,) m, on the surface, base frame.
            normal: (3,) unit, out of the surface, base frame.
            stiffness: N/m.
        """
        self._point, self._normal, self._stiffness = np.array(point), np.array(normal), stiffness
        self.force, self.penetration = 0.0, -math.inf

    def corners(self, data: mujoco.MjData) -> FloatArray:
        """(c, 3) m: corners of the tool, base frame."""
        turn = data.xmat[self._body].reshape(3, 3)
        return frozen_array(self._corners @ turn.T + data.xpos[self._body])

    def push(self, model: mujoco.MjModel, data: mujoco.MjData) -> float:
        """Apply the force that belongs to the present positions to the next physics step; its size in N."""
        place, turn = data.xpos[self._body], data.xmat[self._body].reshape(3, 3)
        normal = self._normal
        depths = float(normal.dot(self._point - place)) - self._corners.dot(normal.dot(turn))
        deepest = float(depths.max())
        self.penetration = deepest
        wrench = data.xfrc_applied[self._body]
        if deepest <= 0.0:
            wrench[:] = 0.0
            self.force = 0.0
            return 0.0
        inside = np.maximum(depths, 0.0)
        arm = turn.dot(inside.dot(self._corners) / float(inside.sum()))
        pressure = self._stiffness * deepest
        # Velocity of the body at its frame's origin, base orientation, turning part first.
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, self._body, self._velocity, 0)
        velocity = self._velocity[3:] + _cross(self._velocity[:3], arm)
        sliding = velocity - float(velocity.dot(normal)) * normal
        speed = math.sqrt(float(sliding.dot(sliding)))
        force = pressure * (normal - sliding * (_FRICTION / max(speed, _CREEP_M_S)))
        wrench[:3] = force
        wrench[3:] = _cross(place + arm - data.xipos[self._body], force)
        self.force = math.sqrt(float(force.dot(force)))
        return self.force


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """(3,) vector product; numpy's general one would take most of a run's time."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))


def _corners(model: mujoco.MjModel, tool: int) -> FloatArray:
    """(c, 3) m: corners of the solid boxes of the tool, in its frame."""
    data = mujoco.MjData(model)
    bodies = {tool}
    for body in range(tool + 1, model.nbody):
        if int(model.body_parentid[body]) in bodies:
            bodies.add(body)
            for joint in range(
                int(model.body_jntadr[body]), int(model.body_jntadr[body]) + int(model.body_jntnum[body])
            ):
                data.qpos[int(model.jnt_qposadr[joint])] = float(model.jnt_range[joint, 0])
    mujoco.mj_kinematics(model, data)
    box = int(mujoco.mjtGeom.mjGEOM_BOX)
    found = [
        data.geom_xpos[geom] + (_SIGNS * model.geom_size[geom]) @ data.geom_xmat[geom].reshape(3, 3).T
        for geom in range(model.ngeom)
        if int(model.geom_bodyid[geom]) in bodies and int(model.geom_type[geom]) == box and model.geom_contype[geom]
    ]
    return frozen_array((np.concatenate(found) - data.xpos[tool]) @ data.xmat[tool].reshape(3, 3))
