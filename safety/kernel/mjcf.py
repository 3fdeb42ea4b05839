"""From a robot description to the tables of ``chain``: the only place in the kernel that knows MuJoCo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.kernel import chain as table
from safety.kernel.chain import Chain, Points

_BODY, _JOINT, _SITE = mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_JOINT, mujoco.mjtObj.mjOBJ_SITE


class _Arm(NamedTuple):
    """The compiled MJCF, posed with all joints of the arm at their reference.

    Attributes:
        model: The model.
        data: Its kinematics are up to date.
        joints: (n,) joint indices, base to tip.
        link: (nbody,) index of the link that each body is welded to, -1 for the base.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    joints: tuple[int, ...]
    link: tuple[int, ...]

    def frame(self, link: int) -> tuple[FloatArray, FloatArray]:
        """Rotation (3, 3) and origin (3,) m of a link's frame, base frame."""
        if link < 0:
            return np.eye(3), np.zeros(3)
        body = int(self.model.jnt_bodyid[self.joints[link]])
        return self.data.xmat[body].reshape(3, 3), self.data.xpos[body]


def chain_of(description: RobotDescription, gripper_fraction: float = 0.5) -> Chain:
    """Read the arm from its MJCF.

    Args:
        description: The robot.
        gripper_fraction: Where in their ranges the finger joints are held: 0 lower end, 1 upper end.

    Returns:
        The arm; what is welded to a link, the gripper with its fingers included, is part of that link.

    Raises:
        ValueError: The arm has a joint that is no hinge, or is not one serial chain.
    """
    arm = _arm(description, gripper_fraction)
    model = arm.model
    n = len(arm.joints)
    links = np.zeros((n, table.LINK_COLUMNS))
    for i, joint in enumerate(arm.joints):
        before, here = arm.frame(i - 1), arm.frame(i)
        row, dof = links[i], int(model.jnt_dofadr[joint])
        row[table.ROTATION : table.ROTATION + 9] = (before[0].T @ here[0]).ravel()
        row[table.OFFSET : table.OFFSET + 3] = before[0].T @ (here[1] - before[1])
        row[table.AXIS : table.AXIS + 3] = model.jnt_axis[joint]
        row[table.ANCHOR : table.ANCHOR + 3] = model.jnt_pos[joint]
        row[table.REFERENCE] = model.qpos0[model.jnt_qposadr[joint]]
        row[table.ARMATURE] = model.dof_armature[dof]
        row[table.DAMPING] = model.dof_damping[dof]
        mass, centre, inertia = _welded(arm, i)
        row[table.MASS] = mass
        row[table.CENTRE : table.CENTRE + 3] = centre
        row[table.INERTIA : table.INERTIA + 9] = inertia.ravel()
    return Chain(links, np.array(model.opt.gravity, dtype=np.float64))


def site_points(description: RobotDescription, sites: Sequence[str], gripper_fraction: float = 0.5) -> Points:
    """MJCF sites as points.

    Args:
        description: The robot.
        sites: k names.
        gripper_fraction: As for ``chain_of``.

    Returns:
        k points.

    Raises:
        ValueError: A site is missing, or the arm is not what ``chain_of`` takes.
    """
    arm = _arm(description, gripper_fraction)
    ids = [_index(arm.model, _SITE, name, description) for name in sites]
    return _points(arm, [int(arm.model.site_bodyid[i]) for i in ids], [arm.data.site_xpos[i] for i in ids])


def body_points(
    description: RobotDescription, bodies: Sequence[str], positions: npt.ArrayLike, gripper_fraction: float = 0.5
) -> Points:
    """Positions in the frames of MJCF bodies as points.

    Args:
        description: The robot.
        bodies: k names.
        positions: (k, 3) m, each in its body's frame.
        gripper_fraction: As for ``chain_of``.

    Returns:
        k points.

    Raises:
        ValueError: A body is missing, the shapes do not fit, or the arm is not what ``chain_of`` takes.
    """
    arm = _arm(description, gripper_fraction)
    local = np.asarray(positions, dtype=np.float64)
    if local.shape != (len(bodies), 3):
        raise ValueError(f"positions: expected shape {(len(bodies), 3)}, found {local.shape}")
    ids = [_index(arm.model, _BODY, name, description) for name in bodies]
    world = [arm.data.xpos[i] + arm.data.xmat[i].reshape(3, 3) @ p for i, p in zip(ids, local, strict=True)]
    return _points(arm, ids, world)


def _arm(description: RobotDescription, gripper_fraction: float) -> _Arm:
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    arm = tuple(_index(model, _JOINT, name, description) for name in description.joint_names)
    fingers = tuple(_index(model, _JOINT, name, description) for name in description.gripper.joints)
    data.qpos[:] = model.qpos0
    for joint in fingers:
        lower, upper = model.jnt_range[joint].tolist()
        data.qpos[model.jnt_qposadr[joint]] = lower + gripper_fraction * (upper - lower)
    link = _links(model, arm, fingers, description)
    mujoco.mj_kinematics(model, data)
    return _Arm(model, data, arm, link)


def _links(
    model: mujoco.MjModel, arm: tuple[int, ...], fingers: tuple[int, ...], description: RobotDescription
) -> tuple[int, ...]:
    """The link of each body; refuses what is no serial chain of hinges."""
    path = description.model_path
    for joint, name in zip(arm, description.joint_names, strict=True):
        if int(model.jnt_type[joint]) != int(mujoco.mjtJoint.mjJNT_HINGE):
            raise ValueError(f"{path}: expected arm joint '{name}' to be a hinge, found another type")
    others = [model.joint(j).name or f"joint {j}" for j in range(int(model.njnt)) if j not in (*arm, *fingers)]
    if others:
        raise ValueError(f"{path}: expected only joints of the arm and the gripper, found also {others}")

    links: list[int] = [-1]
    gripper: list[bool] = [False]
    count = 0
    for body in range(1, int(model.nbody)):  # parents come before children
        parent = int(model.body_parentid[body])
        link, beyond_finger = links[parent], gripper[parent]
        first = int(model.body_jntadr[body])
        for joint in range(first, first + int(model.body_jntnum[body])):
            if joint in fingers:
                beyond_finger = True
                continue
            index = arm.index(joint)
            if index != link + 1 or index != count or beyond_finger:
                name = description.joint_names[index]
                raise ValueError(f"{path}: expected the arm to be one serial chain, base to tip; '{name}' breaks it")
            link = index
            count += 1
        links.append(link)
        gripper.append(beyond_finger)
    return tuple(links)


def _welded(arm: _Arm, link: int) -> tuple[float, FloatArray, FloatArray]:
    """Mass, centre of mass (3,) and inertia about it (3, 3) of all that is welded to a link, link frame."""
    bodies = [body for body, owner in enumerate(arm.link) if owner == link]
    masses = [float(arm.model.body_mass[body]) for body in bodies]
    mass = sum(masses)
    if mass <= 0.0:  # a joint that shares its body with the next one carries nothing itself
        return 0.0, np.zeros(3), np.zeros((3, 3))
    centre = sum((m * arm.data.xipos[body] for m, body in zip(masses, bodies, strict=True)), np.zeros(3)) / mass
    inertia = np.zeros((3, 3))
    for m, body in zip(masses, bodies, strict=True):
        axes = arm.data.ximat[body].reshape(3, 3)
        lever = arm.data.xipos[body] - centre
        inertia += axes @ np.diag(arm.model.body_inertia[body]) @ axes.T
        inertia += m * (float(lever @ lever) * np.eye(3) - np.outer(lever, lever))
    rotation, origin = arm.frame(link)
    return mass, rotation.T @ (centre - origin), rotation.T @ inertia @ rotation


def _points(arm: _Arm, bodies: Sequence[int], world: Sequence[FloatArray]) -> Points:
    """Points at ``world`` positions (m, base frame) on bodies."""
    link = np.array([arm.link[body] for body in bodies], dtype=np.int64)
    offset = np.zeros((len(bodies), 3))
    for k, position in enumerate(world):
        rotation, origin = arm.frame(int(link[k]))
        offset[k] = rotation.T @ (position - origin)
    return Points(link, offset)


def _index(model: mujoco.MjModel, kind: mujoco.mjtObj, name: str, description: RobotDescription) -> int:
    index = int(mujoco.mj_name2id(model, kind, name))
    if index < 0:
        raise ValueError(f"{description.model_path}: expected '{name}', found no {kind.name[6:].lower()} of that name")
    return index
