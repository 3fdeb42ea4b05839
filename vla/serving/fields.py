"""The parts of a state vector: what foreign training sets put into one, read from and written to our own types."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import numpy as np

from controllers.spatial import quaternion_from_rotation_vector, rotation_vector_from_quaternion
from controllers.types import FloatArray, Observation, Pose, RobotState, frozen_array


class MappingError(ValueError):
    """A mapping that says too little or too much, or a message that does not fit it."""


class StateField(Enum):
    """One part of a state vector. Positions in m, angles in rad, the robot's base frame."""

    EE_POSITION = "ee_position"  # (3,)
    EE_QUATERNION_WXYZ = "ee_quaternion_wxyz"  # (4,)
    EE_QUATERNION_XYZW = "ee_quaternion_xyzw"  # (4,)
    EE_AXIS_ANGLE = "ee_axis_angle"  # (3,) rotation vector
    COMMANDED_POSITION = "commanded_position"  # (3,) of the reference pose, see Observation.commanded_pose
    COMMANDED_QUATERNION_WXYZ = "commanded_quaternion_wxyz"  # (4,)
    GRIPPER_OPENING = "gripper_opening"  # (1,) m between the fingers
    GRIPPER_FINGERS = "gripper_fingers"  # (2,) m, half the opening and its negative, as LIBERO logs the two fingers
    WRENCH = "wrench"  # (6,) N, N m
    JOINT_POSITION = "joint_position"  # (joints,)
    JOINT_VELOCITY = "joint_velocity"  # (joints,)


SIZES = {
    StateField.EE_POSITION: 3,
    StateField.EE_QUATERNION_WXYZ: 4,
    StateField.EE_QUATERNION_XYZW: 4,
    StateField.EE_AXIS_ANGLE: 3,
    StateField.COMMANDED_POSITION: 3,
    StateField.COMMANDED_QUATERNION_WXYZ: 4,
    StateField.GRIPPER_OPENING: 1,
    StateField.GRIPPER_FINGERS: 2,
    StateField.WRENCH: 6,
}
JOINT_FIELDS = (StateField.JOINT_POSITION, StateField.JOINT_VELOCITY)


def read_part(part: StateField, observation: Observation) -> FloatArray:
    """The values of one part."""
    state, reference = observation.state, observation.commanded_pose
    quaternion = state.ee_pose.quaternion
    match part:
        case StateField.EE_POSITION:
            return state.ee_pose.position
        case StateField.EE_QUATERNION_WXYZ:
            return quaternion
        case StateField.EE_QUATERNION_XYZW:
            return np.roll(quaternion, -1)
        case StateField.EE_AXIS_ANGLE:
            return rotation_vector_from_quaternion(quaternion)
        case StateField.COMMANDED_POSITION:
            return reference.position
        case StateField.COMMANDED_QUATERNION_WXYZ:
            return reference.quaternion
        case StateField.GRIPPER_OPENING:
            return np.array([state.gripper_opening])
        case StateField.GRIPPER_FINGERS:
            return np.array([0.5, -0.5]) * state.gripper_opening
        case StateField.WRENCH:
            return state.wrench
        case StateField.JOINT_POSITION:
            return state.joint_position
        case StateField.JOINT_VELOCITY:
            return state.joint_velocity


def state_from_parts(parts: Mapping[StateField, FloatArray], joints: int, stamp_ns: int) -> RobotState:
    """A robot state; what the parts do not tell is NaN, the wrench zero."""
    unknown = frozen_array(np.full(joints, np.nan))
    opening = np.nan
    if StateField.GRIPPER_OPENING in parts:
        opening = float(parts[StateField.GRIPPER_OPENING][0])
    elif StateField.GRIPPER_FINGERS in parts:
        opening = float(np.abs(parts[StateField.GRIPPER_FINGERS]).sum())
    position = parts.get(StateField.EE_POSITION, np.full(3, np.nan))
    return RobotState(
        joint_position=frozen_array(parts.get(StateField.JOINT_POSITION, unknown)),
        joint_velocity=frozen_array(parts.get(StateField.JOINT_VELOCITY, unknown)),
        joint_effort=unknown,
        ee_pose=Pose(frozen_array(position), _orientation(parts)),
        wrench=frozen_array(parts.get(StateField.WRENCH, np.zeros(6))),
        gripper_opening=opening,
        stamp_ns=stamp_ns,
    )


def _orientation(parts: Mapping[StateField, FloatArray]) -> FloatArray:
    if StateField.EE_AXIS_ANGLE in parts:
        return frozen_array(quaternion_from_rotation_vector(parts[StateField.EE_AXIS_ANGLE]))
    if StateField.EE_QUATERNION_WXYZ in parts:
        return _unit(StateField.EE_QUATERNION_WXYZ, parts[StateField.EE_QUATERNION_WXYZ])
    if StateField.EE_QUATERNION_XYZW in parts:
        return _unit(StateField.EE_QUATERNION_XYZW, np.roll(parts[StateField.EE_QUATERNION_XYZW], 1))
    return frozen_array(np.full(4, np.nan))


def commanded_pose(parts: Mapping[StateField, FloatArray]) -> Pose | None:
    """The reference pose, None where the parts do not tell it."""
    position, quaternion = StateField.COMMANDED_POSITION, StateField.COMMANDED_QUATERNION_WXYZ
    if position not in parts or quaternion not in parts:
        return None
    return Pose(frozen_array(parts[position]), _unit(quaternion, parts[quaternion]))


def _unit(part: StateField, quaternion: FloatArray) -> FloatArray:
    length = float(np.linalg.norm(quaternion))
    if not 0.99 < length < 1.01:
        raise MappingError(f"{part.value}: expected a unit quaternion, found one of length {length:.4g}")
    return frozen_array(quaternion / length)
