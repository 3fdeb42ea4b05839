"""What a checked robot description holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controllers.types import FloatArray


class RobotDescriptionError(ValueError):
    """A robot description that is malformed or does not match its MJCF model."""


@dataclass(frozen=True, slots=True)
class JointLimits:
    """Limits of ``n`` arm joints, each array (n,), read-only.

    Attributes:
        position_lower: rad.
        position_upper: rad.
        velocity: rad/s, magnitude.
        acceleration: rad/s^2, magnitude.
        jerk: rad/s^3, magnitude.
        torque: N m, magnitude.
        torque_rate: N m/s, magnitude.
    """

    position_lower: FloatArray
    position_upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    jerk: FloatArray
    torque: FloatArray
    torque_rate: FloatArray


# Gain of a velocity servo as a share of the same joint's position gain, s.
VELOCITY_GAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class ServoGains:
    """The servos of an arm.

    Those of positions pull with ``stiffness (command - position) - damping velocity``, those of velocities with
    ``drive (command - velocity)``.

    Attributes:
        stiffness: (n,) N m/rad.
        damping: (n,) N m s/rad.
    """

    stiffness: FloatArray
    damping: FloatArray

    @property
    def drive(self) -> FloatArray:
        """(n,) N m s/rad."""
        return VELOCITY_GAIN_S * self.stiffness


@dataclass(frozen=True, slots=True)
class Capsule:
    """A piece of the arm's hull: all points within ``radius`` of a segment fixed to a body.

    Attributes:
        name: Unique name.
        body: MJCF body that it is fixed to.
        start: (3,) m, body frame.
        end: (3,) m, body frame.
        radius: m.
    """

    name: str
    body: str
    start: FloatArray
    end: FloatArray
    radius: float


@dataclass(frozen=True, slots=True)
class GripperDescription:
    """The gripper: its actuator in the MJCF, its joints, and the range of its opening.

    Attributes:
        actuator: Name of the MJCF actuator whose control is the opening, m.
        joints: Names of the finger joints.
        closed: Opening when closed, m.
        open: Opening when open, m.
        max_force: Largest grasp force, N.
        max_speed: Largest speed of the opening, m/s.
        stiffness: Force of the drive for each metre between commanded and real opening, N/m.
    """

    actuator: str
    joints: tuple[str, ...]
    closed: float
    open: float
    max_force: float
    max_speed: float
    stiffness: float


@dataclass(frozen=True, slots=True)
class RobotDescription:
    """A checked robot description.

    Attributes:
        name: Name of the robot.
        model_path: The MJCF file.
        joint_names: (n,) arm joints, from base to tip: the order of every joint array in the stack.
        home: (n,) rad, rest posture.
        end_effector_site: MJCF site at the tool centre point.
        wrench_site: MJCF site of the wrist force-torque sensor.
        gripper: The gripper.
        actuator_mode: What the arm's MJCF actuators take: position, velocity or torque.
        servo: Gains of the arm's servos, None where the MJCF's actuators take no positions.
        limits: Joint limits.
        safety_points: MJCF sites that the safety layer watches.
        capsules: The hull that the safety layer keeps off obstacles and off itself.
        content_hash: SHA-256 of the description and its MJCF, first 16 hex digits.
    """

    name: str
    model_path: Path
    joint_names: tuple[str, ...]
    home: FloatArray
    end_effector_site: str
    wrench_site: str
    gripper: GripperDescription
    actuator_mode: str
    servo: ServoGains | None
    limits: JointLimits
    safety_points: tuple[str, ...]
    capsules: tuple[Capsule, ...]
    content_hash: str

    @property
    def n(self) -> int:
        """Number of arm joints."""
        return len(self.joint_names)

    def actuator_name(self, joint: str) -> str:
        """Name of the MJCF actuator that drives an arm joint."""
        return f"{joint}_act"
