"""The entries of a ``robot.yaml``, checked one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot.description import (
    Capsule,
    GripperDescription,
    JointLimits,
    RobotDescription,
    RobotDescriptionError,
)
from controllers.types import FloatArray, frozen_array

_LIMIT_KEYS = (
    "position_lower_rad",
    "position_upper_rad",
    "velocity_rad_s",
    "acceleration_rad_s2",
    "jerk_rad_s3",
    "torque_nm",
    "torque_rate_nm_s",
)
_GRIPPER_KEYS = ("actuator", "joints", "closed_m", "open_m", "max_force_n", "max_speed_m_s")
_ROBOT_KEYS = (
    "name",
    "model",
    "joint_names",
    "home_rad",
    "end_effector_site",
    "wrench_site",
    "gripper",
    "actuator_mode",
    "limits",
    "safety_points",
    "capsules",
)
_CAPSULE_KEYS = ("body", "start_m", "end_m", "radius_m")
_ACTUATOR_MODES = ("position", "velocity", "torque")
_LARGEST_ANGLE_RAD = 4.0 * math.pi  # a joint range beyond two turns either way was written in degrees
_LARGEST_OFFSET_M = 2.0  # a farther end of a capsule was written in millimetres
_LARGEST_OPENING_M = 0.5  # a wider gripper was written in millimetres


def section_of(where: str, values: Mapping[str, object]) -> Section:
    """The whole description; every key is required, none is unknown."""
    return Section(where, values, _ROBOT_KEYS)


class Section:
    """A mapping with a closed set of keys, all required, whose errors say where they are."""

    def __init__(self, where: str, values: Mapping[str, object], keys: Sequence[str]) -> None:
        for key in values:
            if key not in keys:
                hint = nearest_name_hint(str(key), keys)
                raise RobotDescriptionError(f"{where}: unknown key {key!r}{hint}; valid keys: {', '.join(keys)}")
        missing = [key for key in keys if key not in values]
        if missing:
            raise RobotDescriptionError(f"{where}: missing {', '.join(missing)}")
        self.where = where
        self.values = values

    def fail(self, key: str, message: str) -> RobotDescriptionError:
        return RobotDescriptionError(f"{self.where}: {key}: {message}")

    def section(self, key: str, keys: Sequence[str]) -> Section:
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.fail(key, f"expected a mapping, found {type(value).__name__}")
        return Section(f"{self.where}: {key}", cast("dict[str, object]", value), keys)

    def mapping(self, key: str) -> Mapping[str, Section]:
        """The sections under a key whose own keys are names."""
        value = self.values[key]
        if not isinstance(value, dict) or not value:
            raise self.fail(key, f"expected a mapping from names, found {value!r}")
        sections: dict[str, Section] = {}
        for name, entry in cast("dict[object, object]", value).items():
            if not isinstance(entry, dict):
                raise self.fail(key, f"{name}: expected a mapping, found {type(entry).__name__}")
            where = f"{self.where}: {key}: {name}"
            sections[str(name)] = Section(where, cast("dict[str, object]", entry), _CAPSULE_KEYS)
        return sections

    def string(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str) or not value:
            raise self.fail(key, f"expected a non-empty string, found {value!r}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.values[key]
        items = cast("list[object]", value) if isinstance(value, list) else None
        if not items or not all(isinstance(item, str) for item in items):
            raise self.fail(key, f"expected a non-empty list of names, found {value!r}")
        names = tuple(str(item) for item in items)
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise self.fail(key, f"expected different names, found {', '.join(repeated)} more than once")
        return names

    def number(self, key: str) -> float:
        return self._number(key, self.values[key])

    def positive(self, key: str) -> float:
        value = self.number(key)
        if value <= 0.0:
            raise self.fail(key, f"expected a positive number, found {value:g}")
        return value

    def numbers(self, key: str, count: int) -> FloatArray:
        value = self.values[key]
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or len(items) != count:
            found = f"{len(items)} values" if items is not None else f"{value!r}"
            raise self.fail(key, f"expected {count} values, one for each joint, found {found}")
        return frozen_array([self._number(key, item) for item in items])

    def offset(self, key: str) -> FloatArray:
        """(3,) m."""
        value = self.values[key]
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or len(items) != 3:
            raise self.fail(key, f"expected [x, y, z], found {value!r}")
        values = frozen_array([self._number(key, item) for item in items])
        if bool((np.abs(values) > _LARGEST_OFFSET_M).any()):
            raise self.fail(key, f"expected metres within {_LARGEST_OFFSET_M:g}, found {values.tolist()}: millimetres?")
        return values

    def positives(self, key: str, count: int) -> FloatArray:
        values = self.numbers(key, count)
        if not bool((values > 0.0).all()):
            raise self.fail(key, f"expected positive numbers, found {values.tolist()}")
        return values

    def angles(self, key: str, count: int) -> FloatArray:
        values = self.numbers(key, count)
        if bool((np.abs(values) > _LARGEST_ANGLE_RAD).any()):
            raise self.fail(key, f"expected radians within two turns, found {values.tolist()}: are these degrees?")
        return values

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.fail(key, f"expected a finite number, found {value!r}")
        return float(value)


def parse_description(data: Section, model_path: Path, content_hash: str) -> RobotDescription:
    """Build the description; what only the MJCF knows is filled in later."""
    joint_names = data.strings("joint_names")
    n = len(joint_names)
    limits = _parse_limits(data.section("limits", _LIMIT_KEYS), joint_names)
    home = data.angles("home_rad", n)
    for joint, angle, lower, upper in zip(joint_names, home, limits.position_lower, limits.position_upper, strict=True):
        if not lower <= angle <= upper:
            raise data.fail("home_rad", f"expected {joint} within [{lower:g}, {upper:g}] rad, found {angle:g}")
    mode = data.string("actuator_mode")
    if mode not in _ACTUATOR_MODES:
        hint = nearest_name_hint(mode, _ACTUATOR_MODES)
        raise data.fail("actuator_mode", f"expected one of {', '.join(_ACTUATOR_MODES)}, found {mode!r}{hint}")
    return RobotDescription(
        name=data.string("name"),
        model_path=model_path,
        joint_names=joint_names,
        home=home,
        end_effector_site=data.string("end_effector_site"),
        wrench_site=data.string("wrench_site"),
        gripper=_parse_gripper(data.section("gripper", _GRIPPER_KEYS)),
        actuator_mode=mode,
        servo=None,
        limits=limits,
        safety_points=data.strings("safety_points"),
        capsules=_parse_capsules(data.mapping("capsules")),
        content_hash=content_hash,
    )


def _parse_limits(data: Section, joint_names: tuple[str, ...]) -> JointLimits:
    n = len(joint_names)
    limits = JointLimits(
        position_lower=data.angles("position_lower_rad", n),
        position_upper=data.angles("position_upper_rad", n),
        velocity=data.positives("velocity_rad_s", n),
        acceleration=data.positives("acceleration_rad_s2", n),
        jerk=data.positives("jerk_rad_s3", n),
        torque=data.positives("torque_nm", n),
        torque_rate=data.positives("torque_rate_nm_s", n),
    )
    for joint, lower, upper in zip(joint_names, limits.position_lower, limits.position_upper, strict=True):
        if lower >= upper:
            raise data.fail("position_lower_rad", f"expected {joint} below its upper limit {upper:g}, found {lower:g}")
    if bool((limits.velocity > _LARGEST_ANGLE_RAD).any()):
        found = limits.velocity.tolist()
        raise data.fail("velocity_rad_s", f"expected rad/s within two turns a second, found {found}: degrees?")
    return limits


def _parse_gripper(data: Section) -> GripperDescription:
    closed, opened = data.number("closed_m"), data.number("open_m")
    if opened > _LARGEST_OPENING_M:
        raise data.fail("open_m", f"expected metres, at most {_LARGEST_OPENING_M:g}, found {opened:g}: millimetres?")
    if not 0.0 <= closed < opened:
        raise data.fail("closed_m", f"expected 0 <= closed_m < open_m ({opened:g}), found {closed:g}")
    return GripperDescription(
        actuator=data.string("actuator"),
        joints=data.strings("joints"),
        closed=closed,
        open=opened,
        max_force=data.positive("max_force_n"),
        max_speed=data.positive("max_speed_m_s"),
        stiffness=0.0,  # read from the MJCF
    )


def _parse_capsules(sections: Mapping[str, Section]) -> tuple[Capsule, ...]:
    capsules: list[Capsule] = []
    for name, data in sections.items():
        start, end, radius = data.offset("start_m"), data.offset("end_m"), data.positive("radius_m")
        if radius > _LARGEST_OFFSET_M:
            raise data.fail("radius_m", f"expected metres, found {radius:g}: millimetres?")
        capsules.append(Capsule(name, data.string("body"), start, end, radius))
    return tuple(capsules)
