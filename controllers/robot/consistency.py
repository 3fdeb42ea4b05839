"""Whether a robot description and its MJCF speak of the same robot."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot.description import RobotDescription, RobotDescriptionError

_RANGE_TOLERANCE_RAD = 1e-6
_FRAME_TOLERANCE = 1e-9
_IDENTITY_FRAME = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


def check_against_model(description: RobotDescription, model: mujoco.MjModel) -> None:
    """Check that a description and its arm-only MJCF model speak of the same robot.

    The arm's joints must be the model's first ones, hinges, in the description's order; sites and actuators must
    exist; position limits must lie within the model's ranges.

    Raises:
        RobotDescriptionError: What was expected, and what the model holds.
    """
    where = str(description.model_path)
    found_joints = _names(model, mujoco.mjtObj.mjOBJ_JOINT, model.njnt)
    arm_joints = tuple(name for name in found_joints if name not in description.gripper.joints)
    if arm_joints != description.joint_names or found_joints[: description.n] != description.joint_names:
        raise RobotDescriptionError(
            f"{where}: joint_names do not match the model: expected {list(description.joint_names)}, from base to "
            f"tip, before the gripper's {list(description.gripper.joints)}; found {list(found_joints)}"
        )
    sites = (description.end_effector_site, description.wrench_site, *description.safety_points)
    _require(where, "site", sites, _names(model, mujoco.mjtObj.mjOBJ_SITE, model.nsite))
    _require(where, "joint", description.gripper.joints, found_joints)
    bodies = tuple(capsule.body for capsule in description.capsules)
    _require(where, "body", bodies, _names(model, mujoco.mjtObj.mjOBJ_BODY, model.nbody))
    actuators = (*map(description.actuator_name, description.joint_names), description.gripper.actuator)
    _require(where, "actuator", actuators, _names(model, mujoco.mjtObj.mjOBJ_ACTUATOR, model.nu))
    limits = description.limits
    for index, joint in enumerate(description.joint_names):
        if int(model.jnt_type[index]) != int(mujoco.mjtJoint.mjJNT_HINGE):
            raise RobotDescriptionError(f"{where}: expected joint {joint!r} to be a hinge")
        lower, upper = (float(value) for value in model.jnt_range[index])
        low, high = float(limits.position_lower[index]), float(limits.position_upper[index])
        if bool(model.jnt_limited[index]) and (
            low < lower - _RANGE_TOLERANCE_RAD or high > upper + _RANGE_TOLERANCE_RAD
        ):
            raise RobotDescriptionError(
                f"{where}: expected the position limits of {joint!r} within the model's range "
                f"[{lower:g}, {upper:g}] rad, found [{low:g}, {high:g}]"
            )
    _check_base(where, model)


def _check_base(where: str, model: mujoco.MjModel) -> None:
    root = int(model.body_rootid[model.jnt_bodyid[0]])
    found = np.concatenate([model.body_pos[root], model.body_quat[root]])
    if float(np.abs(found - _IDENTITY_FRAME).max()) > _FRAME_TOLERANCE:
        raise RobotDescriptionError(
            f"{where}: expected the base body at the world's origin, unrotated, found it at position and quaternion "
            f"{found.tolist()}"
        )


def _names(model: mujoco.MjModel, kind: mujoco.mjtObj, count: int) -> tuple[str, ...]:
    return tuple(str(mujoco.mj_id2name(model, kind, index)) for index in range(count))


def _require(where: str, kind: str, expected: Sequence[str], found: Sequence[str]) -> None:
    for name in expected:
        if name not in found:
            hint = nearest_name_hint(name, found)
            raise RobotDescriptionError(f"{where}: expected {kind} {name!r}{hint}; found {', '.join(found)}")
