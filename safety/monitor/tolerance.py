"""How far the plant itself departs from a commanded path: what the monitor forgives, openly, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SenseError:
    """Largest errors of the sensed state that a run injects on purpose; the monitor itself sees the truth.

    Attributes:
        position_rad: Of each joint, noise and bias together.
        velocity_rad_s: Of each joint's velocity.
    """

    position_rad: float = 0.0
    velocity_rad_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MonitorTolerance:
    """What is forgiven beyond each bound before it counts as a violation.

    The filter bounds the commanded path. The arm follows it through servos that lag by a few hundredths of a second,
    each joint a little differently, so the measured arm is never exactly on that path. Everything that is judged on the
    commanded path itself is forgiven rounding only.

    Attributes:
        joint_position_rad: A joint past its range: a servo's overshoot at the end of a stop.
        joint_speed_ratio: Of the bound: inertial coupling pushes one joint when another brakes.
        point_m: A watched point past a wall or plane: joints that lag differently cut corners, and a velocity servo
            carries on for about 10 ms.
        clearance_m: The hull past a keep-out or too near to itself, for the same reason.
        cone_rad: The tool axis out of its cone, for the same reason.
        tool_speed_ratio: Of the bound on linear or angular speed, for the same reason.
        tool_speed_m_s: The least that is forgiven there: what coupling adds does not shrink with the bound.
        tool_turn_rad_s: The same for the angular speed.
        energy_ratio: Of the bound: twice the ratio of speeds, since energy goes with the square.
        gripper_ratio: Of the bounds on the gripper's speed and force: the drive's transient; its damping force at the
            largest speed comes on top.
        contact_ratio: Of the force ceilings: one physics step of a stiff contact.
        penetration_m: Into anything solid: what MuJoCo's soft contact gives way by under a lasting force.
        penetration_s: What it gives way by on top for every m/s that the tool may move at: a critically damped contact
            of time constant 20 ms stops a blow at speed v within ``v 20 ms / e``, however small its force stays.
        commanded_rad: Commanded positions: rounding.
        commanded_ratio: Commanded velocities, accelerations and torques: differences of rounded positions.
        commanded_m: Points, hull and cone of the commanded path: rounding, and the accuracy of the distance algorithm.
    """

    joint_position_rad: float = 2e-3
    joint_speed_ratio: float = 0.03
    point_m: float = 3e-3
    clearance_m: float = 2e-3
    cone_rad: float = 5e-3
    tool_speed_ratio: float = 0.03
    tool_speed_m_s: float = 0.01
    tool_turn_rad_s: float = 0.05
    energy_ratio: float = 0.06
    gripper_ratio: float = 0.15
    contact_ratio: float = 0.05
    penetration_m: float = 2e-3
    penetration_s: float = 7.4e-3
    commanded_rad: float = 1e-9
    commanded_ratio: float = 1e-6
    commanded_m: float = 1e-6

    def with_sense_error(self, error: SenseError, reach_m: float, joints: int) -> MonitorTolerance:
        """Forgive what the sensed state hides from the filter, on top.

        A joint that is off by ``e`` moves a point by at most its lever times ``e``; half the reach stands for the mean
        lever of ``joints`` joints. A velocity that is off counts as it is, relative to 1 rad/s.

        Args:
            error: What is injected.
            reach_m: Length of the stretched arm.
            joints: Number of joints.
        """
        angle = error.position_rad
        distance = 0.5 * reach_m * joints * angle
        ratio = error.velocity_rad_s
        return replace(
            self,
            joint_position_rad=self.joint_position_rad + angle,
            joint_speed_ratio=self.joint_speed_ratio + ratio,
            point_m=self.point_m + distance,
            clearance_m=self.clearance_m + distance,
            cone_rad=self.cone_rad + joints * angle,
            tool_speed_ratio=self.tool_speed_ratio + ratio,
            energy_ratio=self.energy_ratio + 2.0 * ratio,
        )
