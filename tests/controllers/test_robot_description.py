"""A robot description that does not fit is refused, with what was expected and what was found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from controllers.robot import BUILT_IN_ROBOTS, RobotDescriptionError, load_robot


@pytest.fixture
def robot_folder(tmp_path: Path) -> Path:
    """A copy of the Panda's folder."""
    return Path(shutil.copytree(load_robot("panda").model_path.parent, tmp_path / "panda"))


def edit(folder: Path, *path: str, value: object = None, remove: bool = False) -> Path:
    """Change one entry of the folder's robot.yaml."""
    file = folder / "robot.yaml"
    data: Any = yaml.safe_load(file.read_text())
    section = data
    for key in path[:-1]:
        section = section[key]
    if remove:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    file.write_text(yaml.safe_dump(data))
    return file


def entry(folder: Path, *path: str) -> Any:
    data: Any = yaml.safe_load((folder / "robot.yaml").read_text())
    for key in path:
        data = data[key]
    return data


@pytest.mark.parametrize("name", BUILT_IN_ROBOTS)
def test_built_in_robots_load_and_are_read_only(name: str):
    robot = load_robot(name)
    assert robot.name == name
    assert robot.home.shape == robot.limits.velocity.shape == (robot.n,)
    assert not robot.home.flags.writeable
    assert not robot.limits.torque.flags.writeable
    assert len(robot.content_hash) == 16


def test_a_path_loads_like_the_built_in_name(robot_folder: Path):
    by_path = load_robot(robot_folder / "robot.yaml")
    assert by_path.content_hash == load_robot("panda").content_hash
    assert load_robot(robot_folder).content_hash == by_path.content_hash


def test_the_hash_follows_the_description_and_the_model(robot_folder: Path):
    before = load_robot(robot_folder).content_hash
    home = np.array(entry(robot_folder, "home_rad")) + 0.01
    edit(robot_folder, "home_rad", value=home.tolist())
    described = load_robot(robot_folder).content_hash
    model = robot_folder / "panda.xml"
    model.write_text(model.read_text() + "<!-- changed -->\n")
    assert len({before, described, load_robot(robot_folder).content_hash}) == 3


def test_an_unknown_name_lists_the_robots_and_the_nearest():
    with pytest.raises(
        RobotDescriptionError, match=r"'pnda': expected one of panda, ur5e, so101,.*did you mean 'panda'\?"
    ):
        load_robot("pnda")


def test_a_missing_file_is_named():
    with pytest.raises(RobotDescriptionError, match=r"no robot description at nowhere/robot\.yaml"):
        load_robot("nowhere/robot.yaml")


def test_an_unknown_key_names_the_near_match(robot_folder: Path):
    edit(robot_folder, "limits", "velocity_rads", value=[1.0] * 7)
    with pytest.raises(
        RobotDescriptionError, match=r"limits: unknown key 'velocity_rads'; did you mean 'velocity_rad_s'\?"
    ):
        load_robot(robot_folder)


@pytest.mark.parametrize("path", [("home_rad",), ("limits", "torque_nm"), ("gripper", "open_m"), ("wrench_site",)])
def test_a_missing_key_is_named(robot_folder: Path, path: tuple[str, ...]):
    edit(robot_folder, *path, remove=True)
    with pytest.raises(RobotDescriptionError, match=f"missing {path[-1]}"):
        load_robot(robot_folder)


MALFORMED: list[tuple[tuple[str, ...], object, str]] = [
    (("home_rad",), [0.0] * 6, "home_rad: expected 7 values, one for each joint, found 6 values"),
    (("home_rad",), [0, -15, 0, -140, 0, 124, 45], "are these degrees?"),
    (("limits", "velocity_rad_s"), [125.0] * 7, "degrees?"),
    (("limits", "velocity_rad_s"), [2.0] * 6 + [0.0], "expected positive numbers"),
    (("limits", "torque_nm"), [87.0] * 6 + ["12 Nm"], "expected a finite number, found '12 Nm'"),
    (("limits", "jerk_rad_s3"), [float("nan")] * 7, "expected a finite number, found nan"),
    (("limits", "position_lower_rad"), [3.0] * 7, "expected panda_joint1 below its upper limit"),
    (("gripper", "open_m"), 80.0, "millimetres?"),
    (("gripper", "closed_m"), 0.09, "expected 0 <= closed_m < open_m"),
    (("gripper", "joints"), "panda_finger_joint1", "expected a non-empty list of names"),
    (("gripper",), [], "gripper: expected a mapping, found list"),
    (("actuator_mode",), "postion", "expected one of position, velocity, torque, found 'postion'"),
    (("model",), "pnada.xml", "expected an MJCF file beside the description, found none"),
    (("joint_names",), ["panda_joint1"] * 7, "panda_joint1 more than once"),
    (("end_effector_site",), "tpc", "expected site 'tpc'; did you mean 'tcp'?"),
    (("safety_points",), ["elbow", "wirst"], "expected site 'wirst'; did you mean 'wrist"),
    (("capsules",), {}, "capsules: expected a mapping from names, found {}"),
    (("capsules", "hand"), [0.1], "capsules: hand: expected a mapping, found list"),
    (("capsules", "hand", "radius_mm"), 40.0, "capsules: hand: unknown key 'radius_mm'; did you mean 'radius_m'?"),
    (("capsules", "hand", "radius_m"), 40.0, "capsules: hand: radius_m: expected metres, found 40: millimetres?"),
    (("capsules", "hand", "radius_m"), 0.0, "expected a positive number, found 0"),
    (("capsules", "hand", "start_m"), [0.0, 0.1], "start_m: expected [x, y, z], found [0.0, 0.1]"),
    (("capsules", "hand", "end_m"), [0.0, 0.0, 94.0], "end_m: expected metres within 2, found [0.0, 0.0, 94.0]"),
    (("capsules", "hand", "body"), "hnd", "expected body 'hnd'; did you mean 'hand'?"),
    (("gripper", "actuator"), "griper", "expected actuator 'griper'; did you mean 'gripper'?"),
]


@pytest.mark.parametrize(("path", "value", "message"), MALFORMED, ids=lambda item: str(item)[:32])
def test_a_malformed_entry_is_refused(robot_folder: Path, path: tuple[str, ...], value: object, message: str):
    edit(robot_folder, *path, value=value)
    with pytest.raises(RobotDescriptionError) as error:
        load_robot(robot_folder)
    assert message in str(error.value)


def test_home_outside_the_limits_is_refused(robot_folder: Path):
    edit(robot_folder, "home_rad", value=[0.0] * 7)
    with pytest.raises(RobotDescriptionError, match=r"home_rad: expected panda_joint4 within \[-3.07"):
        load_robot(robot_folder)


def test_joints_in_another_order_than_the_model_are_refused(robot_folder: Path):
    names: list[str] = entry(robot_folder, "joint_names")
    edit(robot_folder, "joint_names", value=[names[2], names[1], names[0], *names[3:]])
    with pytest.raises(RobotDescriptionError) as error:
        load_robot(robot_folder)
    assert "do not match the model: expected ['panda_joint3', 'panda_joint2', 'panda_joint1'" in str(error.value)
    assert "found ['panda_joint1', 'panda_joint2', 'panda_joint3'" in str(error.value)


def test_limits_wider_than_the_model_are_refused(robot_folder: Path):
    upper: list[float] = entry(robot_folder, "limits", "position_upper_rad")
    edit(robot_folder, "limits", "position_upper_rad", value=[upper[0] + 0.1, *upper[1:]])
    with pytest.raises(RobotDescriptionError, match="limits of 'panda_joint1' within the model's range"):
        load_robot(robot_folder)


def test_text_that_is_no_mapping_is_refused(tmp_path: Path):
    file = tmp_path / "robot.yaml"
    file.write_text("- panda\n")
    with pytest.raises(RobotDescriptionError, match="expected a mapping, found list"):
        load_robot(file)
    file.write_text("{: :")
    with pytest.raises(RobotDescriptionError, match="not valid YAML"):
        load_robot(file)
