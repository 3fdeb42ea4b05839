"""Every limit that a profile puts in force on its robot, in absolute numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from controllers.robot import RobotDescription
from safety.profile import KeepOut, Polytope, SafetyProfile


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit.

    Attributes:
        section: Section of the profile.
        name: What is limited: a joint, a point, a zone or the limit's own name.
        limit: Kind of the limit.
        value: Absolute value or values.
        unit: Their unit.
        note: Where the value comes from, or what it means.
    """

    section: str
    name: str
    limit: str
    value: float | str | tuple[float, ...]
    unit: str
    note: str = ""


def limits_in_force(profile: SafetyProfile, robot: RobotDescription) -> tuple[LimitRow, ...]:
    """All limits of ``profile`` on ``robot``; fractions are applied to the robot's published limits."""
    return (
        *_joints(profile, robot),
        *_numbers(profile),
        LimitRow("self_collision", "capsules", "distance", profile.self_collision.distance_m, "m", _ignored(profile)),
        *_zones(profile),
    )


def _joints(profile: SafetyProfile, robot: RobotDescription) -> Iterator[LimitRow]:
    joints, limits = profile.joints, robot.limits
    margin = joints.position_margin_rad
    for index, joint in enumerate(robot.joint_names):
        interval = (float(limits.position_lower[index]) + margin, float(limits.position_upper[index]) - margin)
        yield LimitRow("joints", joint, "position", interval, "rad", f"published range less {margin:g}")
        for limit, published, fraction, unit in (
            ("velocity", limits.velocity, joints.velocity_fraction, "rad/s"),
            ("acceleration", limits.acceleration, joints.acceleration_fraction, "rad/s^2"),
            ("jerk", limits.jerk, joints.jerk_fraction, "rad/s^3"),
            ("torque", limits.torque, joints.torque_fraction, "N m"),
            ("torque rate", limits.torque_rate, joints.torque_rate_fraction, "N m/s"),
            ("external torque", limits.torque, profile.force.external_torque_fraction, "N m"),
            ("measured speed", limits.velocity, joints.velocity_fraction * profile.monitoring.overspeed_ratio, "rad/s"),
        ):
            note = f"{fraction:g} of the published {float(published[index]):g}"
            yield LimitRow("joints", joint, limit, float(published[index]) * fraction, unit, note)


# Keys that are shares of something that _joints resolves.
_RESOLVED = ("external_torque_fraction", "overspeed_ratio")
# Ends of keys, and the units that they stand for; the longest that fits is taken.
_UNITS = {
    "_m_s": "m/s",
    "_rad_s": "rad/s",
    "_1_s2": "1/s^2",
    "_1_s": "1/s",
    "_ms": "ms",
    "_rad": "rad",
    "_fraction": "",
    "_m": "m",
    "_s": "s",
    "_n": "N",
    "_j": "J",
}


def _numbers(profile: SafetyProfile) -> Iterator[LimitRow]:
    """Sections that are plain numbers: their keys carry the units."""
    for section in ("end_effector", "gripper", "force", "stopping", "timing", "monitoring", "hold"):
        settings = getattr(profile, section)
        for entry in fields(settings):
            if entry.name not in _RESOLVED:
                words, unit = _unit_of(entry.name)
                yield LimitRow(section, words, "", getattr(settings, entry.name), unit)


def _unit_of(key: str) -> tuple[str, str]:
    for end in sorted(_UNITS, key=len, reverse=True):
        if key.endswith(end):
            words = key if end == "_fraction" else key.removesuffix(end)
            return words.replace("_", " "), _UNITS[end]
    return key.replace("_", " "), ""


def _ignored(profile: SafetyProfile) -> str:
    pairs = profile.self_collision.ignore
    return "left out: " + ", ".join(" and ".join(pair) for pair in pairs) if pairs else ""


def _zones(profile: SafetyProfile) -> Iterator[LimitRow]:
    for box in profile.workspace:
        yield LimitRow("workspace", box.point, "at least", box.lower_m, "m")
        yield LimitRow("workspace", box.point, "at most", box.upper_m, "m")
    for polytope in profile.polytopes:
        yield from _planes(polytope)
    for zone in profile.keep_outs:
        shape = type(zone).__name__.removesuffix("Zone").lower()
        yield LimitRow("keep_outs", zone.name, shape, _sizes(zone), "m")
    cone = profile.orientation
    if cone is not None:
        note = f"tool axis {_numbers_text(cone.tool_axis)} about {_numbers_text(cone.direction)}"
        yield LimitRow("orientation", "tool cone", "half angle", cone.half_angle_rad, "rad", note)
    carried = profile.carried_object
    if carried is not None:
        note = f"centre {_numbers_text(carried.centre_m)} m in the end-effector frame; counts as part of the arm"
        yield LimitRow("carried_object", "ball", "radius", carried.radius_m, "m", note)


def _planes(polytope: Polytope) -> Iterator[LimitRow]:
    for plane in polytope.planes:
        note = f"holds for {', '.join(polytope.points)}"
        yield LimitRow("polytopes", polytope.name, f"{_numbers_text(plane.normal)} . x <=", plane.offset_m, "m", note)


def _sizes(zone: KeepOut) -> str:
    parts = [(entry.name, getattr(zone, entry.name)) for entry in fields(zone) if entry.name not in ("name", "spares")]
    sizes = ", ".join(
        f"{name.removesuffix('_m').replace('_', ' ')} {_numbers_text(value)}"
        for name, value in parts
        if not (name == "quaternion" and value == (1.0, 0.0, 0.0, 0.0))
    )
    return f"{sizes}; spares {', '.join(zone.spares)}" if zone.spares else sizes


def _numbers_text(value: float | tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{item:g}" for item in value) + ")" if isinstance(value, tuple) else f"{value:g}"
