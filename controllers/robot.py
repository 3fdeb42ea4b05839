"""Robot descriptions: what an arm is called, where its limits are, and which MJCF holds its kinematics.

A description is a ``robot.yaml`` beside an MJCF file. Loading refuses whatever does not fit (unknown keys, lengths,
units, joint order, limits wider than the model's) and says what was expected and what was found.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import cast

import mujoco
import numpy as np
import yaml

from controllers.names import nearest_name_hint
from controllers.types import FloatArray, frozen_array

BUILT_IN_ROBOTS = ("panda", "ur5e")

_LIMIT_KEYS = (
    "position_lower_rad",
    "position_upper_rad",
    "velocity_rad_s",
    "acceleration_rad_s2",
    "jerk_rad_s3",
    "torque_nm",
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
)
_ACTUATOR_MODES = ("position", "velocity", "torque")
_LARGEST_ANGLE_RAD = 4.0 * math.pi  # a joint range beyond two turns either way was written in degrees
_LARGEST_OPENING_M = 0.5  # a wider gripper was written in millimetres
_RANGE_TOLERANCE_RAD = 1e-6
_FRAME_TOLERANCE = 1e-9
_IDENTITY_FRAME = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


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
    """

    position_lower: FloatArray
    position_upper: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    jerk: FloatArray
    torque: FloatArray


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
    """

    actuator: str
    joints: tuple[str, ...]
    closed: float
    open: float
    max_force: float
    max_speed: float


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
        limits: Joint limits.
        safety_points: MJCF sites that the safety layer watches.
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
    limits: JointLimits
    safety_points: tuple[str, ...]
    content_hash: str

    @property
    def n(self) -> int:
        """Number of arm joints."""
        return len(self.joint_names)

    def actuator_name(self, joint: str) -> str:
        """Name of the MJCF actuator that drives an arm joint."""
        return f"{joint}_act"


def load_robot(name_or_path: str | Path) -> RobotDescription:
    """Load a robot description and check it against its MJCF.

    Args:
        name_or_path: A built-in name (``panda``, ``ur5e``), or the path to a ``robot.yaml``.

    Raises:
        RobotDescriptionError: No such robot; a malformed description; a description that its MJCF contradicts.
    """
    path = _description_path(name_or_path)
    data = _Section(str(path), _read_yaml(path), _ROBOT_KEYS)
    model_path = path.parent / data.string("model")
    if not model_path.is_file():
        raise data.fail("model", f"expected an MJCF file beside the description, found none at {model_path}")
    description = _parse(data, model_path, _content_hash(data.values, model_path))
    check_against_model(description, mujoco.MjModel.from_xml_path(str(model_path)))
    return description


def _description_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in BUILT_IN_ROBOTS:
        return Path(str(resources.files("controllers"))) / "robots" / text / "robot.yaml"
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "robot.yaml"
    if path.is_file():
        return path.resolve()
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise RobotDescriptionError(f"no robot description at {path}")
    hint = nearest_name_hint(text, BUILT_IN_ROBOTS)
    raise RobotDescriptionError(
        f"unknown robot {text!r}: expected one of {', '.join(BUILT_IN_ROBOTS)}, or the path to a robot.yaml{hint}"
    )


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        data: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RobotDescriptionError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise RobotDescriptionError(f"{path}: expected a mapping, found {type(data).__name__}")
    return cast("dict[str, object]", data)


def _content_hash(values: Mapping[str, object], model_path: Path) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":"), default=str).encode())
    digest.update(b"\0")
    digest.update(model_path.read_bytes())
    return digest.hexdigest()[:16]


# --------------------------------------------------------------------------------------------- parsing


class _Section:
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

    def section(self, key: str, keys: Sequence[str]) -> _Section:
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.fail(key, f"expected a mapping, found {type(value).__name__}")
        return _Section(f"{self.where}: {key}", cast("dict[str, object]", value), keys)

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


def _parse(data: _Section, model_path: Path, content_hash: str) -> RobotDescription:
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
        limits=limits,
        safety_points=data.strings("safety_points"),
        content_hash=content_hash,
    )


def _parse_limits(data: _Section, joint_names: tuple[str, ...]) -> JointLimits:
    n = len(joint_names)
    limits = JointLimits(
        position_lower=data.angles("position_lower_rad", n),
        position_upper=data.angles("position_upper_rad", n),
        velocity=data.positives("velocity_rad_s", n),
        acceleration=data.positives("acceleration_rad_s2", n),
        jerk=data.positives("jerk_rad_s3", n),
        torque=data.positives("torque_nm", n),
    )
    for joint, lower, upper in zip(joint_names, limits.position_lower, limits.position_upper, strict=True):
        if lower >= upper:
            raise data.fail("position_lower_rad", f"expected {joint} below its upper limit {upper:g}, found {lower:g}")
    if bool((limits.velocity > _LARGEST_ANGLE_RAD).any()):
        found = limits.velocity.tolist()
        raise data.fail("velocity_rad_s", f"expected rad/s within two turns a second, found {found}: degrees?")
    return limits


def _parse_gripper(data: _Section) -> GripperDescription:
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
    )


# ------------------------------------------------------------------------------------- against the MJCF


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
