"""From a ``robot.yaml`` and its MJCF to a checked description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import cast

import mujoco
import numpy as np
import yaml

from controllers.names import nearest_name_hint
from controllers.robot.consistency import check_against_model
from controllers.robot.description import RobotDescription, RobotDescriptionError, ServoGains
from controllers.robot.parsing import parse_description, section_of
from controllers.types import frozen_array

BUILT_IN_ROBOTS = ("panda", "ur5e", "so101")


def load_robot(name_or_path: str | Path) -> RobotDescription:
    """Load a robot description and check it against its MJCF.

    Args:
        name_or_path: A built-in name (``panda``, ``ur5e``, ``so101``), or the path to a ``robot.yaml``.

    Raises:
        RobotDescriptionError: No such robot; a malformed description; a description that its MJCF contradicts.
    """
    path = _description_path(name_or_path)
    data = section_of(str(path), _read_yaml(path))
    model_path = path.parent / data.string("model")
    if not model_path.is_file():
        raise data.fail("model", f"expected an MJCF file beside the description, found none at {model_path}")
    description = parse_description(data, model_path, _content_hash(data.values, model_path))
    model = mujoco.MjModel.from_xml_path(str(model_path))
    check_against_model(description, model)
    return _with_gains(description, model)


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


def _with_gains(description: RobotDescription, model: mujoco.MjModel) -> RobotDescription:
    """Take the servo gains from where they act, so that they cannot be written down wrongly a second time."""
    gripper = model.actuator(description.gripper.actuator)
    description = replace(
        description, gripper=replace(description.gripper, stiffness=float(model.actuator_gainprm[gripper.id, 0]))
    )
    if description.actuator_mode != "position":
        return description
    arm = [model.actuator(description.actuator_name(joint)).id for joint in description.joint_names]
    stiffness = np.array(model.actuator_gainprm[arm, 0])
    damping = -np.array(model.actuator_biasprm[arm, 2])
    if float(stiffness.min()) <= 0.0 or float(damping.min()) < 0.0:
        raise RobotDescriptionError(
            f"{description.model_path}: expected position servos with positive gains, "
            f"found stiffness {stiffness.tolist()} and damping {damping.tolist()}"
        )
    return replace(description, servo=ServoGains(frozen_array(stiffness), frozen_array(damping)))
