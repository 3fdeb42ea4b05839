"""Safety profiles: every number that the filter enforces, typed, checked and hashed.

A profile is a YAML file whose keys carry their units. Loading refuses unknown, missing and implausible entries and says
what was expected and what was found. The episode log stores :meth:`SafetyProfile.to_json`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import ClassVar, TypeVar, cast

import yaml

from controllers.names import nearest_name_hint

BUILT_IN_PROFILES = ("panda_tabletop", "ur5e_tabletop")

Vector = tuple[float, float, float]


class SafetyProfileError(ValueError):
    """A safety profile that is malformed, implausible, or meant for another robot."""


@dataclass(frozen=True, slots=True)
class JointSettings:
    """Joint limits, relative to the robot's published ones.

    Attributes:
        position_margin_rad: Kept free at both ends of each joint's range.
        velocity_fraction: Of the published velocity.
        acceleration_fraction: Of the published acceleration; stops use it in full.
    """

    position_margin_rad: float
    velocity_fraction: float
    acceleration_fraction: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "position_margin_rad": (0.0, 0.5),
        "velocity_fraction": (0.01, 1.0),
        "acceleration_fraction": (0.05, 1.0),
    }


@dataclass(frozen=True, slots=True)
class EndEffectorSettings:
    """Speed limits of the end effector."""

    linear_speed_m_s: float
    angular_speed_rad_s: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "linear_speed_m_s": (0.01, 3.0),
        "angular_speed_rad_s": (0.05, 10.0),
    }


@dataclass(frozen=True, slots=True)
class StoppingSettings:
    """How limits are approached.

    Attributes:
        approach_deceleration_fraction: Of the acceleration limits, used to slow down ahead of a limit; the rest is
            kept so that the path may bend meanwhile.
        standoff_m: Distance from workspace walls at which commands are stopped.
        reaction_time_s: How long the arm may carry on before it obeys; added to every stop in velocity and torque
            mode. In position mode the arm follows behind the checked path, so nothing is added.
    """

    approach_deceleration_fraction: float
    standoff_m: float
    reaction_time_s: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "approach_deceleration_fraction": (0.05, 1.0),
        "standoff_m": (0.0, 0.1),
        "reaction_time_s": (0.0, 0.5),
    }


@dataclass(frozen=True, slots=True)
class TimingSettings:
    """When a command or a state is too old.

    Attributes:
        command_timeout_ms: Oldest command that is obeyed.
        state_timeout_ms: Oldest sensed state that is trusted.
        watchdog_ms: Longest time that one and the same command is repeated.
        future_tolerance_ms: How far a stamp may lie ahead of the clock.
    """

    command_timeout_ms: float
    state_timeout_ms: float
    watchdog_ms: float
    future_tolerance_ms: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "command_timeout_ms": (1.0, 2000.0),
        "state_timeout_ms": (1.0, 2000.0),
        "watchdog_ms": (1.0, 2000.0),
        "future_tolerance_ms": (0.0, 100.0),
    }


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

    tracking_error_rad: float
    tracking_lag_s: float
    overspeed_ratio: float
    trip_after_ms: float
    rest_speed_rad_s: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "tracking_error_rad": (0.001, 1.5),
        "tracking_lag_s": (0.0, 1.0),
        "overspeed_ratio": (1.0, 3.0),
        "trip_after_ms": (0.0, 1000.0),
        "rest_speed_rad_s": (0.001, 0.2),
    }


@dataclass(frozen=True, slots=True)
class HoldSettings:
    """The joint spring that holds the arm in torque mode, as angular acceleration for each rad and rad/s."""

    stiffness_1_s2: float
    damping_1_s: float

    RANGES: ClassVar[Mapping[str, tuple[float, float]]] = {
        "stiffness_1_s2": (1.0, 2000.0),
        "damping_1_s": (1.0, 200.0),
    }


@dataclass(frozen=True, slots=True)
class PointBox:
    """The box that one watched point of the arm must stay in, base frame."""

    point: str
    lower_m: Vector
    upper_m: Vector


@dataclass(frozen=True)
class SafetyProfile:
    """All that the safety filter enforces on one robot in one cell.

    Attributes:
        name: Name of the profile.
        robot: Name of the robot description that it is meant for.
        joints: Joint limits.
        end_effector: End-effector speed limits.
        stopping: How limits are approached.
        timing: Ages of commands and states.
        monitoring: What trips a protective stop.
        hold: Torque-mode hold.
        workspace: A box for each watched point.
    """

    name: str
    robot: str
    joints: JointSettings
    end_effector: EndEffectorSettings
    stopping: StoppingSettings
    timing: TimingSettings
    monitoring: MonitoringSettings
    hold: HoldSettings
    workspace: tuple[PointBox, ...]

    def box(self, point: str) -> PointBox:
        """The box of a watched point.

        Raises:
            SafetyProfileError: The profile has no box for it.
        """
        for box in self.workspace:
            if box.point == point:
                return box
        found = tuple(box.point for box in self.workspace)
        hint = nearest_name_hint(point, found)
        raise SafetyProfileError(
            f"profile {self.name!r}: workspace: expected a box for point {point!r}{hint}; found {', '.join(found)}"
        )

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description, of the same shape as the YAML; equal profiles give equal JSON."""
        sections: dict[str, object] = {
            key: {field.name: getattr(getattr(self, key), field.name) for field in fields(kind)}
            for key, kind in _SECTIONS.items()
        }
        boxes = {box.point: {"lower_m": list(box.lower_m), "upper_m": list(box.upper_m)} for box in self.workspace}
        return {"name": self.name, "robot": self.robot, **sections, "workspace": boxes}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, first 16 hex digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def from_json(data: Mapping[str, object]) -> SafetyProfile:
        """Rebuild a profile from :meth:`to_json`.

        Raises:
            SafetyProfileError: Unknown, missing or implausible entries.
        """
        return _parse("profile", data)


def load_profile(name_or_path: str | Path) -> SafetyProfile:
    """Load a safety profile.

    Args:
        name_or_path: A built-in name (``panda_tabletop``, ``ur5e_tabletop``), or the path to a YAML file.

    Raises:
        SafetyProfileError: No such profile; unknown, missing or implausible entries.
    """
    path = _profile_path(name_or_path)
    try:
        data: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SafetyProfileError(f"{path.name}: not valid YAML: {error}") from error
    return _parse(path.name, _mapping(path.name, data))


def _profile_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in BUILT_IN_PROFILES:
        return Path(str(resources.files("safety"))) / "profiles" / f"{text}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise SafetyProfileError(f"no safety profile at {path}")
    hint = nearest_name_hint(text, BUILT_IN_PROFILES)
    known = ", ".join(BUILT_IN_PROFILES)
    raise SafetyProfileError(
        f"unknown safety profile {text!r}: expected one of {known}, or the path to a YAML file{hint}"
    )


# ---------------------------------------------------------------------------------------------- parsing

_SECTIONS = {
    "joints": JointSettings,
    "end_effector": EndEffectorSettings,
    "stopping": StoppingSettings,
    "timing": TimingSettings,
    "monitoring": MonitoringSettings,
    "hold": HoldSettings,
}
_SettingsT = TypeVar(
    "_SettingsT",
    JointSettings,
    EndEffectorSettings,
    StoppingSettings,
    TimingSettings,
    MonitoringSettings,
    HoldSettings,
)
_LARGEST_COORDINATE_M = 5.0  # farther from the base, a coordinate was written in another unit


def _parse(where: str, data: Mapping[str, object]) -> SafetyProfile:
    _check_keys(where, data, ("name", "robot", *_SECTIONS, "workspace"))
    return SafetyProfile(
        name=_string(where, data, "name"),
        robot=_string(where, data, "robot"),
        joints=_settings(where, data, "joints", JointSettings),
        end_effector=_settings(where, data, "end_effector", EndEffectorSettings),
        stopping=_settings(where, data, "stopping", StoppingSettings),
        timing=_settings(where, data, "timing", TimingSettings),
        monitoring=_settings(where, data, "monitoring", MonitoringSettings),
        hold=_settings(where, data, "hold", HoldSettings),
        workspace=_workspace(f"{where}: workspace", data["workspace"]),
    )


def _settings(where: str, data: Mapping[str, object], key: str, kind: type[_SettingsT]) -> _SettingsT:
    where = f"{where}: {key}"
    section = _mapping(where, data[key])
    _check_keys(where, section, tuple(kind.RANGES))
    values: dict[str, float] = {}
    for name, (lowest, highest) in kind.RANGES.items():
        values[name] = _number(where, name, section[name])
        if not lowest <= values[name] <= highest:
            raise SafetyProfileError(
                f"{where}: {name}: expected {lowest:g} to {highest:g}, found {values[name]:g}; mind the unit"
            )
    return kind(**values)


def _workspace(where: str, data: object) -> tuple[PointBox, ...]:
    boxes: list[PointBox] = []
    for point, entry in _mapping(where, data).items():
        place = f"{where}: {point}"
        section = _mapping(place, entry)
        _check_keys(place, section, ("lower_m", "upper_m"))
        lower, upper = _vector(place, section, "lower_m"), _vector(place, section, "upper_m")
        for axis, low, high in zip("xyz", lower, upper, strict=True):
            if low >= high:
                raise SafetyProfileError(f"{place}: expected lower_m below upper_m, found {axis} {low:g} and {high:g}")
        boxes.append(PointBox(point, lower, upper))
    if not boxes:
        raise SafetyProfileError(f"{where}: expected a box for each watched point, found none")
    return tuple(sorted(boxes, key=lambda box: box.point))


def _check_keys(where: str, data: Mapping[str, object], keys: Sequence[str]) -> None:
    for key in data:
        if key not in keys:
            hint = nearest_name_hint(key, keys)
            raise SafetyProfileError(f"{where}: unknown key {key!r}{hint}; valid keys: {', '.join(keys)}")
    missing = [key for key in keys if key not in data]
    if missing:
        raise SafetyProfileError(f"{where}: missing {', '.join(missing)}")


def _mapping(where: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise SafetyProfileError(f"{where}: expected a mapping, found {type(value).__name__}")
    entries = cast("dict[object, object]", value)
    return {str(key): entry for key, entry in entries.items()}


def _string(where: str, data: Mapping[str, object], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value:
        raise SafetyProfileError(f"{where}: {key}: expected a non-empty string, found {value!r}")
    return value


def _number(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SafetyProfileError(f"{where}: {key}: expected a finite number, found {value!r}")
    return float(value)


def _vector(where: str, data: Mapping[str, object], key: str) -> Vector:
    value = data[key]
    items = cast("list[object]", value) if isinstance(value, list) else None
    if items is None or len(items) != 3:
        raise SafetyProfileError(f"{where}: {key}: expected [x, y, z], found {value!r}")
    x, y, z = (_number(where, key, item) for item in items)
    for coordinate in (x, y, z):
        if abs(coordinate) > _LARGEST_COORDINATE_M:
            raise SafetyProfileError(
                f"{where}: {key}: expected metres within {_LARGEST_COORDINATE_M:g} of the base, found {coordinate:g}: "
                "millimetres?"
            )
    return (x, y, z)
