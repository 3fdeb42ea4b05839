"""Safety's own kinematics and dynamics: one pass a tick, apart from the controller's.

It compiles its own copy of the arm's MJCF, so that no fault in a controller's model can reach it. Every method is a
pure function of its arguments (the scratch memory is overwritten before it is read); one instance serves one thread.
"""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray


class Geometry(NamedTuple):
    """Where the watched points are at one configuration, in the base frame.

    Attributes:
        points: (k, 3) m; point 0 is the end effector.
        jacobian: (3 k + 3, n) linear Jacobians of the points, stacked, then the end effector's angular Jacobian.
    """

    points: FloatArray
    jacobian: FloatArray


class SafetyKinematics:
    """Watched points, their Jacobians, bounds on their curvature, and the arm's joint-space dynamics.

    Attributes:
        point_names: k MJCF sites; the first is the end effector.
        curvature: (n, n) bound on the second derivatives of every point, m/rad^2. Along a joint step ``d`` from any
            configuration a point's second derivative is at most ``c = |d|^T curvature |d|``, its third at most
            ``c sum(|d|)``, its fourth at most ``c sum(|d|)^2``.
    """

    def __init__(self, description: RobotDescription, point_names: tuple[str, ...]) -> None:
        """Compile a private model.

        Args:
            description: The robot; its fingers are held at mid-opening.
            point_names: MJCF sites to watch, the end effector first.
        """
        model = mujoco.MjModel.from_xml_path(str(description.model_path))
        data = mujoco.MjData(model)
        self.point_names = point_names
        self._model, self._data, self._n = model, data, description.n
        for joint in description.gripper.joints:
            index = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint))
            data.qpos[model.jnt_qposadr[index]] = 0.5 * float(model.jnt_range[index].sum())
        ids = tuple(int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)) for name in point_names)
        if min(ids) < 0:
            missing = [name for name, index in zip(point_names, ids, strict=True) if index < 0]
            raise ValueError(f"{description.model_path}: expected sites {missing}, found none of that name")

        nv, k = int(model.nv), len(ids)
        self._q: FloatArray = data.qpos[: self._n]
        self._qd: FloatArray = data.qvel[: self._n]
        self._sites: FloatArray = data.site_xpos
        self._site_index = np.array(ids, dtype=np.int64)
        self._rows = np.zeros((3 * k + 3, nv))
        self._angular = self._rows[3 * k :]
        self._jobs = tuple((index, self._rows[3 * i : 3 * i + 3]) for i, index in enumerate(ids))
        self._damping: FloatArray = np.array(model.dof_damping[: self._n], dtype=np.float64)
        self._packed_inertia: FloatArray = data.qM
        self._inertia = np.zeros((nv, nv))
        self._bias = np.zeros(nv)
        self.curvature = _curvature_bounds(model, ids, self._n)

    def geometry(self, q: FloatArray) -> Geometry:
        """Points and Jacobians at joint position ``q`` (n,) rad."""
        model, data = self._model, self._data
        self._q[:] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        angular: FloatArray | None = self._angular
        for index, rows in self._jobs:
            mujoco.mj_jacSite(model, data, rows, angular, index)
            angular = None
        return Geometry(self._sites.take(self._site_index, 0), self._rows[:, : self._n].copy())

    def points(self, q: FloatArray) -> FloatArray:
        """Points (k, 3) m alone, at joint position ``q`` (n,) rad."""
        self._q[:] = q
        mujoco.mj_kinematics(self._model, self._data)
        return self._sites.take(self._site_index, 0)

    def dynamics(self, q: FloatArray, qd: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Inertia and the torque that keeps the velocity as it is.

        Args:
            q: (n,) rad.
            qd: (n,) rad/s.

        Returns:
            Mass matrix M (n, n) kg m^2, and bias (n,) N m: gravity, centrifugal and Coriolis torque, plus viscous
            friction, so that ``torque = M qdd + bias``.
        """
        model, data, n = self._model, self._data, self._n
        self._q[:] = q
        self._qd[:] = qd
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_crb(model, data)
        mujoco.mj_fullM(model, self._inertia, self._packed_inertia)
        mujoco.mj_comVel(model, data)
        mujoco.mj_rne(model, data, 0, self._bias)
        return self._inertia[:n, :n].copy(), self._bias[:n] + self._damping * qd


def _curvature_bounds(model: mujoco.MjModel, sites: tuple[int, ...], n: int) -> FloatArray:
    """Bound the second derivatives of points on a serial chain of hinges: (n, n).

    For hinges i, j with axes z and m the farther of the two from the base, ``d2p / dqi dqj = z_i x (z_j x r)`` (or
    with i and j exchanged), where r leads from hinge m to the point. Its norm is at most the longest that r can be:
    the sum of the link offsets between them. One more derivative is one more cross product with a unit axis.
    """
    bounds = np.zeros((n, n))
    for site in sites:
        reach = np.zeros(n)
        length = float(np.linalg.norm(model.site_pos[site]))
        body = int(model.site_bodyid[site])
        while body > 0:
            first = int(model.body_jntadr[body])
            for joint in range(first, first + int(model.body_jntnum[body])):
                length += float(np.linalg.norm(model.jnt_pos[joint]))
                dof = int(model.jnt_dofadr[joint])
                if dof < n:
                    reach[dof] = length
                length += float(np.linalg.norm(model.jnt_pos[joint]))
            length += float(np.linalg.norm(model.body_pos[body]))
            body = int(model.body_parentid[body])
        for i in range(n):
            for j in range(n):
                bounds[i, j] = max(float(bounds[i, j]), float(reach[max(i, j)]))
    bounds.flags.writeable = False
    return bounds
