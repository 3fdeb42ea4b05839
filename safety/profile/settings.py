"""What a safety profile holds: typed sections whose keys carry their units and whose ranges catch mistaken ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from safety.profile.fields import Tighter, Vector, direction, number, position

# What a blow is reckoned with: stiffer than any that ISO/TS 15066 gives for a body region (skull: 150 N/mm).
STIFFEST_SURFACE_N_M = 150e3


class Enforcement(Enum):
    """What happens to a command that may not pass as it is."""

    PATH_CONSISTENT = "path_consistent"  # slow down along the commanded path
    SLIDING = "sliding"  # bend the motion so that it slides along the limit (quadratic program)


@dataclass(frozen=True, slots=True)
class JointSettings:
    """Joint limits, relative to the robot's published ones.

    Attributes:
        position_margin_rad: Kept free at both ends of each joint's range.
        velocity_fraction: Of the published velocity.
        acceleration_fraction: Of the published acceleration; stops use it in full.
        jerk_fraction: Of the published jerk; bounds what commands may ask for. Braking for safety may exceed it.
        torque_fraction: Of the published torque.
        torque_rate_fraction: Of the published torque rate; bounds torque commands.
    """

    position_margin_rad: float = number(0.0, 0.5, Tighter.HIGHER)
    velocity_fraction: float = number(0.01, 1.0)
    acceleration_fraction: float = number(0.05, 1.0)
    jerk_fraction: float = number(0.01, 1.0)
    torque_fraction: float = number(0.05, 1.0)
    torque_rate_fraction: float = number(0.01, 1.0)


@dataclass(frozen=True, slots=True)
class EndEffectorSettings:
    """Speed limits of the end effector.

    Attributes:
        linear_speed_m_s: Largest speed.
        angular_speed_rad_s: Largest turning speed.
        reduced_speed_m_s: Largest speed once reduced-speed mode is on.
        kinetic_energy_j: Largest energy that any watched point of the arm delivers to what stops it, whichever way that
            faces. Against a surface of stiffness k a blow peaks at ``sqrt(2 k E)`` newtons, which must stay below
            ``transient_n`` for `STIFFEST_SURFACE_N_M`.
    """

    linear_speed_m_s: float = number(0.01, 3.0)
    angular_speed_rad_s: float = number(0.05, 10.0)
    reduced_speed_m_s: float = number(0.005, 3.0)
    kinetic_energy_j: float = number(0.001, 50.0)


@dataclass(frozen=True, slots=True)
class OrientationCone:
    """The tool keeps within an angle of a direction.

    Attributes:
        tool_axis: Axis of the tool, end-effector frame.
        direction: Where it must point, base frame.
        half_angle_rad: Largest angle between the two.
    """

    tool_axis: Vector = direction()
    direction: Vector = direction()
    half_angle_rad: float = number(0.02, 3.1)


@dataclass(frozen=True, slots=True)
class GripperSettings:
    """Limits of the gripper.

    Attributes:
        speed_m_s: Largest rate of the commanded opening.
        force_n: Largest force that the command asks of the drive, ahead of or on contact.
    """

    speed_m_s: float = number(0.005, 2.0)
    force_n: float = number(0.5, 500.0)


@dataclass(frozen=True, slots=True)
class ForceSettings:
    """Force ceilings, before and after contact.

    Attributes:
        command_lead_n: Largest static force that the command could press with, at the end effector, if the arm were
            blocked where it is: bounds how far the command runs ahead.
        quasi_static_n: Largest measured force that may last longer than ``transient_ms``.
        transient_n: Largest measured force at any moment.
        transient_ms: How long the measured force may exceed the quasi-static ceiling.
        external_torque_fraction: Largest estimated external joint torque, relative to the published torque, that may
            last longer than ``transient_ms``: for arms without a wrist sensor, and for contacts of the whole arm.
        retreat_m: How far the end effector withdraws after a force trip.
        retreat_speed_m_s: How fast.
    """

    command_lead_n: float = number(1.0, 1000.0)
    quasi_static_n: float = number(1.0, 1000.0)
    transient_n: float = number(1.0, 2000.0)
    transient_ms: float = number(5.0, 2000.0)
    external_torque_fraction: float = number(0.01, 2.0)
    retreat_m: float = number(0.0, 0.1, Tighter.NEITHER)
    retreat_speed_m_s: float = number(0.005, 0.25, Tighter.NEITHER)


@dataclass(frozen=True, slots=True)
class StoppingSettings:
    """How limits are approached.

    Attributes:
        approach_deceleration_fraction: Of the acceleration limits, used to slow down ahead of a limit; the rest is
            kept so that the path may bend meanwhile.
        standoff_m: Distance from walls, keep-outs and the arm itself at which commands are stopped.
        reaction_time_s: How long the arm carries on before it obeys a velocity command; the checked path starts where
            it will be by then. In position mode the arm follows behind the checked path anyway.
    """

    approach_deceleration_fraction: float = number(0.05, 1.0)
    standoff_m: float = number(0.0, 0.1, Tighter.HIGHER)
    reaction_time_s: float = number(0.0, 0.5, Tighter.HIGHER)


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """When a command, a state or a clock is not to be trusted.

    Attributes:
        command_timeout_ms: Oldest command that is obeyed.
        state_timeout_ms: Oldest sensed state that is trusted.
        watchdog_ms: Longest time that one and the same command is repeated.
        policy_timeout_ms: Longest time between heartbeats of the policy, once one has been heard.
        clock_jump_ms: Longest step of the clock between two ticks.
        future_tolerance_ms: How far a stamp may lie ahead of the clock.
    """

    command_timeout_ms: float = number(1.0, 2000.0)
    state_timeout_ms: float = number(1.0, 2000.0)
    watchdog_ms: float = number(1.0, 2000.0)
    policy_timeout_ms: float = number(10.0, 60000.0)
    clock_jump_ms: float = number(5.0, 5000.0)
    future_tolerance_ms: float = number(0.0, 100.0)


@dataclass(frozen=True, slots=True)
class MonitoringSettings:
    """What trips a protective stop, once it lasts ``trip_after_ms``.

    Attributes:
        tracking_error_rad: Largest distance of a measured joint from its commanded position, at rest.
        tracking_lag_s: Allowed on top for each rad/s of commanded speed.
        overspeed_ratio: Largest measured joint speed, relative to the enforced limit.
        trip_after_ms: Time that a violation must last.
        rest_speed_rad_s: Below this measured speed the arm counts as at rest.
    """

    tracking_error_rad: float = number(0.001, 1.5)
    tracking_lag_s: float = number(0.0, 1.0)
    overspeed_ratio: float = number(1.0, 3.0)
    trip_after_ms: float = number(0.0, 1000.0)
    rest_speed_rad_s: float = number(0.001, 0.2)


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """The joint spring that holds the arm in torque mode, as angular acceleration for each rad and rad/s."""

    stiffness_1_s2: float = number(1.0, 2000.0, Tighter.NEITHER)
    damping_1_s: float = number(1.0, 200.0, Tighter.NEITHER)


@dataclass(frozen=True, slots=True)
class SelfCollisionSettings:
    """The arm keeps off itself.

    Attributes:
        distance_m: Kept between capsules of links that are not neighbours.
        ignore: Pairs of capsules that are left out.
    """

    distance_m: float = number(0.0, 0.1, Tighter.HIGHER)
    ignore: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CarriedObject:
    """What the gripper may hold: a ball that counts as part of the arm while the gripper is closed on something.

    Attributes:
        centre_m: End-effector frame.
        radius_m: Of the ball.
    """

    centre_m: Vector = position()
    radius_m: float = number(0.001, 0.5, Tighter.HIGHER)


@dataclass(frozen=True, slots=True)
class PointBox:
    """The box that one watched point of the arm must stay in, base frame."""

    point: str
    lower_m: Vector = position()
    upper_m: Vector = position()
