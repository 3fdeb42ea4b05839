"""Robot descriptions: what an arm is called, where its limits are, and which MJCF holds its kinematics.

A description is a ``robot.yaml`` beside an MJCF file. Loading refuses whatever does not fit (unknown keys, lengths,
units, joint order, limits wider than the model's) and says what was expected and what was found.
"""

from controllers.robot.consistency import check_against_model
from controllers.robot.description import (
    VELOCITY_GAIN_S,
    Capsule,
    GripperDescription,
    JointLimits,
    RobotDescription,
    RobotDescriptionError,
    ServoGains,
)
from controllers.robot.loading import BUILT_IN_ROBOTS, load_robot

__all__ = [
    "BUILT_IN_ROBOTS",
    "VELOCITY_GAIN_S",
    "Capsule",
    "GripperDescription",
    "JointLimits",
    "RobotDescription",
    "RobotDescriptionError",
    "ServoGains",
    "check_against_model",
    "load_robot",
]
