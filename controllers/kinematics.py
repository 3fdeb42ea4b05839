"""Kinematics and dynamics of one arm, computed by MuJoCo's routines on scratch memory of its own.

Every public method is a pure function of its arguments: the scratch :class:`mujoco.MjData` is overwritten before it
is read, and what is returned is a copy. The gripper's fingers are held at mid-opening. One model must not be used by
two threads at once.

Poses, Jacobians and twists are in the base frame (the MJCF's world frame), linear part first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from controllers.kernel import screws
from controllers.names import nearest_name_hint
from controllers.robot import RobotDescription, RobotDescriptionError
from controllers.types import FloatArray, IntArray, Pose


@dataclass(frozen=True, slots=True)
class ArmDynamics:
    """Everything that a torque controller needs of one state ``(q, qd)``.

    Attributes:
        pose: End-effector pose.
        jacobian: (6, n) end-effector Jacobian J.
        mass_matrix: (n, n) joint-space inertia M, kg m^2, motor armature included.
        bias: (n,) gravity, centrifugal and Coriolis torque, N m.
        acceleration_bias: (6,) the velocity-dependent end-effector acceleration Jdot qd, m/s^2 and rad/s^2.
    """

    pose: Pose
    jacobian: FloatArray
    mass_matrix: FloatArray
    bias: FloatArray
    acceleration_bias: FloatArray


class ArmModel:
    """Kinematics and dynamics of a described arm.

    Attributes:
        description: The robot description.
        n: Number of arm joints.
        passive_damping: (n,) viscous joint friction of the MJCF, N m s/rad, read-only.
    """

    def __init__(self, description: RobotDescription) -> None:
        """Compile the description's MJCF into a private model."""
        self.description = description
        self.n = description.n
        model = mujoco.MjModel.from_xml_path(str(description.model_path))
        data = mujoco.MjData(model)
        self._model, self._data = model, data
        self._site_names = tuple(
            str(mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_SITE, index)) for index in range(model.nsite)
        )
        self._ee = self._site_id(description.end_effector_site)
        for joint in description.gripper.joints:
            index = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint))
            data.qpos[model.jnt_qposadr[index]] = 0.5 * float(model.jnt_range[index].sum())
        self.passive_damping: FloatArray = np.array(model.dof_damping[: self.n], dtype=np.float64)
        self.passive_damping.flags.writeable = False

        # Views into the scratch data and buffers made once: a tick then allocates only what it returns.
        self._q: FloatArray = data.qpos[: self.n]
        self._qd: FloatArray = data.qvel[: self.n]
        self._ee_position: FloatArray = data.site_xpos[self._ee]
        self._ee_matrix: FloatArray = data.site_xmat[self._ee]
        self._reference_point: FloatArray = data.subtree_com[model.body_rootid[model.site_bodyid[self._ee]]]
        self._motion_rate: FloatArray = data.cdof_dot[: self.n]
        self._packed_inertia: FloatArray = data.qM
        nv = int(model.nv)
        self._jacobian = np.zeros((6, nv))
        self._jacobian_rows = (self._jacobian[:3], self._jacobian[3:])
        self._inertia = np.zeros((nv, nv))
        self._bias = np.zeros(nv)
        self._point_buffers: dict[tuple[str, ...], _PointBuffers] = {}

    # ------------------------------------------------------------------------------------- kinematics

    def end_effector_pose(self, q: FloatArray) -> Pose:
        """Forward kinematics.

        Args:
            q: (n,) joint position, rad.
        """
        self._q[:] = q
        mujoco.mj_kinematics(self._model, self._data)
        return self._pose()

    def jacobian(self, q: FloatArray) -> FloatArray:
        """Geometric Jacobian of the end effector at ``q`` (n,): (6, n), base frame, linear rows first."""
        self._place(q)
        return self._end_effector_jacobian()

    def kinematics(self, q: FloatArray) -> tuple[Pose, FloatArray]:
        """End-effector pose and Jacobian (6, n) at ``q`` (n,), in one pass."""
        self._place(q)
        return self._pose(), self._end_effector_jacobian()

    def point_positions_and_jacobians(self, q: FloatArray, sites: Sequence[str]) -> tuple[FloatArray, FloatArray]:
        """Positions and linear Jacobians of named sites.

        Args:
            q: (n,) joint position, rad.
            sites: k names of MJCF sites. Pass a tuple: buffers are kept for each.

        Returns:
            Positions (k, 3) m and linear Jacobians (k, 3, n), base frame.

        Raises:
            RobotDescriptionError: No such site.
        """
        key = sites if isinstance(sites, tuple) else tuple(sites)
        buffers = self._point_buffers.get(key)
        if buffers is None:
            buffers = self._new_point_buffers(key)
            self._point_buffers[key] = buffers
        self._place(q)
        for index, out in zip(buffers.ids, buffers.rows, strict=True):
            mujoco.mj_jacSite(self._model, self._data, out, None, index)
        positions: FloatArray = self._data.site_xpos[buffers.index]
        return positions, buffers.jacobians[:, :, : self.n].copy()

    def screw_table(self) -> tuple[FloatArray, FloatArray]:
        """The arm as :func:`controllers.kernel.screws.place` reads it: its screws (n, 6), and its tool (7,).

        Raises:
            RobotDescriptionError: The joints are not hinges in series from the base to the end effector.
        """
        pose = self.end_effector_pose(np.zeros(self.n))
        table = np.empty((self.n, screws.SCREW_COLUMNS))
        table[:, screws.AXIS : screws.AXIS + 3] = self._data.xaxis[: self.n]
        table[:, screws.ANCHOR : screws.ANCHOR + 3] = self._data.xanchor[: self.n]
        tool = np.concatenate((pose.position, pose.quaternion))
        found, jacobian = np.empty(screws.TOOL_SIZE), np.empty((6, self.n))
        for step in (0.0, 0.7, -1.3):
            q: FloatArray = self.description.home + step * np.arange(1, self.n + 1)
            expected, columns = self.kinematics(q)
            screws.place(table, tool, q, found, jacobian)
            turned = found[3:] * np.sign(found[3:] @ expected.quaternion)  # of half a turn either sign is the one
            placed = np.allclose(found[:3], expected.position, atol=1e-9)
            if not (placed and np.allclose(turned, expected.quaternion, atol=1e-9) and np.allclose(jacobian, columns)):
                raise RobotDescriptionError(
                    f"{self.description.model_path}: expected hinges in series from the base to "
                    f"{self.description.end_effector_site}, found joints that move it otherwise"
                )
        return table, tool

    # --------------------------------------------------------------------------------------- dynamics

    def mass_matrix(self, q: FloatArray) -> FloatArray:
        """Joint-space inertia (n, n) kg m^2 at ``q`` (n,), motor armature included."""
        self._place(q)
        return self._mass_matrix()

    def bias_forces(self, q: FloatArray, qd: FloatArray) -> FloatArray:
        """Gravity, centrifugal and Coriolis torque (n,) N m at ``q`` (n,) rad, ``qd`` (n,) rad/s."""
        self._place(q)
        return self._bias_forces(qd)

    def gravity(self, q: FloatArray) -> FloatArray:
        """Gravity torque (n,) N m at ``q`` (n,): the torque that holds the arm still."""
        return self.bias_forces(q, np.zeros(self.n))

    def dynamics(self, q: FloatArray, qd: FloatArray) -> ArmDynamics:
        """Pose, Jacobian, inertia and bias terms at ``q`` (n,) rad, ``qd`` (n,) rad/s, in one pass."""
        self._place(q)
        bias = self._bias_forces(qd)
        jacobian = self._end_effector_jacobian()
        return ArmDynamics(
            pose=self._pose(),
            jacobian=jacobian,
            mass_matrix=self._mass_matrix(),
            bias=bias,
            acceleration_bias=self._acceleration_bias(jacobian @ qd, qd),
        )

    # ---------------------------------------------------------------------------------------- private

    def _place(self, q: FloatArray) -> None:
        self._q[:] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _pose(self) -> Pose:
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._ee_matrix)
        if quaternion[0] < 0.0:
            np.negative(quaternion, quaternion)
        position = self._ee_position.copy()
        position.flags.writeable = False
        quaternion.flags.writeable = False
        return Pose(position, quaternion)

    def _end_effector_jacobian(self) -> FloatArray:
        linear, angular = self._jacobian_rows
        mujoco.mj_jacSite(self._model, self._data, linear, angular, self._ee)
        return self._jacobian[:, : self.n].copy()

    def _mass_matrix(self) -> FloatArray:
        mujoco.mj_crb(self._model, self._data)
        mujoco.mj_fullM(self._model, self._inertia, self._packed_inertia)
        return self._inertia[: self.n, : self.n].copy()

    def _bias_forces(self, qd: FloatArray) -> FloatArray:
        self._qd[:] = qd
        mujoco.mj_comVel(self._model, self._data)  # RNE reads the velocities that this computes
        mujoco.mj_rne(self._model, self._data, 0, self._bias)
        return self._bias[: self.n].copy()

    def _acceleration_bias(self, twist: FloatArray, qd: FloatArray) -> FloatArray:
        """Jdot qd (6,) of the end effector, after :meth:`_bias_forces`.

        MuJoCo's ``cdof_dot`` is the rate of each joint's motion vector, angular part first, at a reference point ``c``
        that it takes as fixed. At the end effector ``p`` that makes ``a + alpha x (p - c) + omega x v``.
        (``mj_jacDot`` of MuJoCo 3.3.0 gives another linear part, which finite differences contradict.)
        """
        ax, ay, az, lx, ly, lz = (qd @ self._motion_rate).tolist()
        px, py, pz = self._ee_position.tolist()
        cx, cy, cz = self._reference_point.tolist()
        rx, ry, rz = px - cx, py - cy, pz - cz
        vx, vy, vz, wx, wy, wz = twist.tolist()
        return np.array(
            [
                lx + ay * rz - az * ry + wy * vz - wz * vy,
                ly + az * rx - ax * rz + wz * vx - wx * vz,
                lz + ax * ry - ay * rx + wx * vy - wy * vx,
                ax,
                ay,
                az,
            ]
        )

    def _site_id(self, name: str) -> int:
        if name not in self._site_names:
            hint = nearest_name_hint(name, self._site_names)
            raise RobotDescriptionError(
                f"{self.description.model_path}: no site {name!r}{hint}; found {', '.join(self._site_names)}"
            )
        return self._site_names.index(name)

    def _new_point_buffers(self, sites: tuple[str, ...]) -> _PointBuffers:
        ids = tuple(map(self._site_id, sites))
        jacobians = np.zeros((len(sites), 3, int(self._model.nv)))
        return _PointBuffers(ids, np.array(ids, dtype=np.int64), jacobians, tuple(jacobians))


@dataclass(frozen=True, slots=True)
class _PointBuffers:
    """Scratch for one tuple of sites."""

    ids: tuple[int, ...]
    index: IntArray
    jacobians: FloatArray
    rows: tuple[FloatArray, ...]
