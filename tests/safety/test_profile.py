"""Profiles: every number is checked, and errors say what was expected, what was found and what to change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from safety.profile import BUILT_IN_PROFILES, Enforcement, SafetyProfileError, load_profile, parse_profile

# What only some profiles have; every shape and every optional section.
EXTRAS: dict[str, Any] = {
    "polytopes": {
        "sloping_roof": {
            "points": ["tcp", "hand"],
            "planes": [{"normal": [1.0, 0.0, 1.0], "offset_m": 0.9}, {"normal": [0.0, 0.8, -0.6], "offset_m": 0.5}],
        }
    },
    "keep_outs": {
        "back_wall": {"shape": "half_space", "normal": [0.8, 0.0, 0.6], "offset_m": -0.6},
        "ball": {"shape": "sphere", "centre_m": [0.3, -0.5, 0.2], "radius_m": 0.08},
        "crate": {
            "shape": "box",
            "centre_m": [0.6, 0.5, 0.1],
            "half_size_m": [0.1, 0.1, 0.1],
            "quaternion": [0.96, 0.0, 0.0, 0.28],
        },
        "mast": {"shape": "capsule", "start_m": [0.6, -0.5, 0.0], "end_m": [0.6, -0.5, 0.6], "radius_m": 0.04},
        "pillar": {"shape": "cylinder", "start_m": [-0.3, 0.6, 0.0], "end_m": [-0.3, 0.6, 0.8], "radius_m": 0.07},
    },
    "orientation": {"tool_axis": [0.0, 0.28, 0.96], "direction": [0.0, 0.6, -0.8], "half_angle_rad": 0.6},
    "carried_object": {"centre_m": [0.0, 0.0, 0.02], "radius_m": 0.05},
}

GOLDEN = Path(__file__).parent / "golden" / "profile_errors.txt"


def full() -> dict[str, Any]:
    """The JSON of a profile that uses every feature."""
    data: dict[str, Any] = copy.deepcopy(load_profile("panda_tabletop").to_json())
    data.update(copy.deepcopy(EXTRAS))
    data["self_collision"]["ignore"] = [["hand", "base"]]
    return data


@pytest.mark.parametrize("name", [*BUILT_IN_PROFILES, "full"])
def test_a_profile_survives_json(name: str) -> None:
    profile = parse_profile(full()) if name == "full" else load_profile(name)
    text = json.dumps(profile.to_json(), sort_keys=True)
    again = parse_profile(json.loads(text))
    assert again == profile
    assert again.hash == profile.hash
    assert json.dumps(again.to_json(), sort_keys=True) == text
    assert len(profile.hash) == 16


def test_a_full_profile_holds_what_was_written() -> None:
    profile = parse_profile(full())
    assert {zone.name: type(zone).__name__ for zone in profile.keep_outs} == {
        "back_wall": "HalfSpaceZone",
        "ball": "SphereZone",
        "crate": "BoxZone",
        "mast": "CapsuleZone",
        "pillar": "CylinderZone",
    }
    assert profile.polytopes[0].planes[0].normal == pytest.approx((0.5**0.5, 0.0, 0.5**0.5))
    assert profile.self_collision.ignore == (("base", "hand"),)
    assert profile.orientation is not None
    assert profile.carried_object is not None
    assert profile.enforcement is Enforcement.PATH_CONSISTENT


def test_directions_and_quaternions_may_be_written_in_any_length() -> None:
    data = full()
    data["keep_outs"]["back_wall"]["normal"] = [8.0, 0.0, 6.0]
    data["keep_outs"]["crate"]["quaternion"] = [1.92, 0.0, 0.0, 0.56]
    assert parse_profile(data).hash == parse_profile(full()).hash


def test_a_profile_loads_from_a_path_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    profile = load_profile("panda_tabletop")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile.to_json(), sort_keys=True))
    assert load_profile(path).hash == profile.hash


def test_the_hash_changes_with_any_number() -> None:
    hashes = {parse_profile(full()).hash}
    leaves = 0
    for keys in _leaves(parse_profile(full()).to_json()):
        data: Any = parse_profile(full()).to_json()
        section = data
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = section[keys[-1]] * 0.998 + 1e-6
        hashes.add(parse_profile(data).hash)
        leaves += 1
    assert leaves > 120
    assert len(hashes) == leaves + 1


@pytest.mark.parametrize(
    ("section", "value"),
    [("enforcement", "sliding"), ("self_collision", {"distance_m": 0.01, "ignore": []}), ("orientation", None)],
)
def test_the_hash_changes_with_what_is_no_number(section: str, value: object) -> None:
    data = full()
    if value is None:
        del data[section]
    else:
        data[section] = value
    assert parse_profile(data).hash != parse_profile(full()).hash


def _leaves(data: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    found: list[tuple[Any, ...]] = []
    for key, value in items:
        if isinstance(value, (dict, list)):
            found += _leaves(value, (*keys, key))
        elif isinstance(value, float):
            found.append((*keys, key))
    return found


WRONG: dict[str, tuple[str, object]] = {
    "unknown key": ("jonts", {}),
    "unknown key in a section": ("joints/velocity_fracton", 0.5),
    "missing key": ("timing/watchdog_ms", None),
    "missing section": ("end_effector", None),
    "fraction in percent": ("joints/velocity_fraction", 90),
    "speed in millimetres": ("end_effector/linear_speed_m_s", 800),
    "speed in degrees": ("end_effector/angular_speed_rad_s", 143),
    "timeout in seconds": ("timing/command_timeout_ms", 0.1),
    "not a number": ("joints/position_margin_rad", "0.02"),
    "not finite": ("stopping/reaction_time_s", float("nan")),
    "a truth value": ("stopping/reaction_time_s", True),
    "not a mapping": ("workspace/tcp", [1, 2, 3]),
    "no boxes": ("workspace", {}),
    "box in millimetres": ("workspace/tcp/upper_m", [800, 500, 750]),
    "box upside down": ("workspace/tcp/lower_m", [0.15, -0.5, 0.9]),
    "box of two numbers": ("workspace/tcp/lower_m", [0.15, -0.5]),
    "box with an unknown key": ("workspace/tcp/lower", [0.0, 0.0, 0.0]),
    "no robot": ("robot", ""),
    "unknown enforcement": ("enforcement", "slide"),
    "no enforcement": ("enforcement", None),
    "jerk in per cent": ("joints/jerk_fraction", 100),
    "energy in millijoules": ("end_effector/kinetic_energy_j", 500),
    "gripper force of nothing": ("gripper/force_n", 0),
    "gripper without a speed": ("gripper/speed_m_s", None),
    "unknown key in the gripper": ("gripper/force", 70),
    "transient below quasi-static": ("force/transient_n", 100),
    "force in kilonewtons": ("force/quasi_static_n", 0.14),
    "transient time in seconds": ("force/transient_ms", 0.5),
    "unknown key in the force section": ("force/quasistatic_n", 140),
    "self-collision distance in millimetres": ("self_collision/distance_m", 10),
    "a single capsule left out": ("self_collision/ignore", [["hand"]]),
    "capsules left out that are no list": ("self_collision/ignore", "hand"),
    "polytope without planes": ("polytopes/sloping_roof/planes", []),
    "polytope without points": ("polytopes/sloping_roof/points", None),
    "plane without a direction": ("polytopes/sloping_roof/planes/0/normal", [0, 0, 0]),
    "plane with an unknown key": ("polytopes/sloping_roof/planes/1/offset", 0.5),
    "plane in millimetres": ("polytopes/sloping_roof/planes/0/offset_m", 900),
    "keep-outs in a list": ("keep_outs", []),
    "keep-out without a shape": ("keep_outs/ball/shape", None),
    "keep-out of an unknown shape": ("keep_outs/ball/shape", "spere"),
    "half-space without an offset": ("keep_outs/back_wall/offset_m", None),
    "half-space with a radius": ("keep_outs/back_wall/radius_m", 0.1),
    "ball in millimetres": ("keep_outs/ball/radius_m", 80),
    "ball without a centre": ("keep_outs/ball/centre_m", None),
    "box with a negative size": ("keep_outs/crate/half_size_m", [0.1, -0.1, 0.1]),
    "box with Euler angles": ("keep_outs/crate/quaternion", [0, 0, 30]),
    "box given by its size": ("keep_outs/crate/size_m", [0.2, 0.2, 0.2]),
    "capsule of no length": ("keep_outs/mast/end_m", [0.6, -0.5, 0.0]),
    "capsule without a radius": ("keep_outs/mast/radius_m", None),
    "cylinder of no length": ("keep_outs/pillar/start_m", [-0.3, 0.6, 0.8]),
    "cylinder far away": ("keep_outs/pillar/end_m", [-0.3, 0.6, 80]),
    "cone in degrees": ("orientation/half_angle_rad", 35),
    "cone without a tool axis": ("orientation/tool_axis", None),
    "cone about nothing": ("orientation/direction", [0, 0, 0]),
    "carried object in millimetres": ("carried_object/radius_m", 50),
    "carried object with an unknown key": ("carried_object/center_m", [0, 0, 0]),
}


def _error(case: str) -> str:
    path, value = WRONG[case]
    section: Any = full()
    data = section
    *parents, last = path.split("/")
    for key in parents:
        section = section[int(key) if isinstance(section, list) else key]
    if value is None:
        del section[last]
    else:
        section[last] = value
    with pytest.raises(SafetyProfileError) as caught:
        parse_profile(data)
    return str(caught.value)


def test_errors_read_as_in_the_golden_file() -> None:
    lines = [f"{case}\n    {_error(case)}\n" for case in WRONG]
    for wrong in ("panda_tabeltop", "missing/profile.yaml"):
        with pytest.raises(SafetyProfileError) as caught:
            load_profile(wrong)
        lines.append(f"{wrong}\n    {caught.value}\n")
    assert "".join(lines) == GOLDEN.read_text(encoding="utf-8"), "compare, then write the new text to the golden file"


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(SafetyProfileError, match=r"list\.yaml: expected a mapping, found list"):
        load_profile(path)
    path.write_text("a: [")
    with pytest.raises(SafetyProfileError, match=r"list\.yaml: not valid YAML"):
        load_profile(path)


def test_a_blow_that_strikes_harder_than_may_be_felt_is_refused() -> None:
    data: dict[str, Any] = load_profile("panda_tabletop").to_json()
    data["end_effector"]["kinetic_energy_j"] = 1.0
    with pytest.raises(SafetyProfileError, match=r"expected at most 0\.533.*transient_n \(400\).*found 1, .* 548 N"):
        parse_profile(data)
    data["force"]["transient_n"] = 548.0
    assert parse_profile(data).end_effector.kinetic_energy_j == 1.0
