"""Profiles: every number is checked, and errors say what was expected, what was found and what to change."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from safety.profile import BUILT_IN_PROFILES, SafetyProfile, SafetyProfileError, load_profile

GOLDEN = Path(__file__).parent / "golden" / "profile_errors.txt"


@pytest.mark.parametrize("name", BUILT_IN_PROFILES)
def test_a_profile_survives_json(name: str) -> None:
    profile = load_profile(name)
    text = json.dumps(profile.to_json(), sort_keys=True)
    again = SafetyProfile.from_json(json.loads(text))
    assert again == profile
    assert again.hash == profile.hash
    assert len(profile.hash) == 16


def test_a_profile_loads_from_a_path_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    profile = load_profile("panda_tabletop")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile.to_json(), sort_keys=True))
    assert load_profile(path).hash == profile.hash


def test_the_hash_changes_with_any_number() -> None:
    profile = load_profile("panda_tabletop")
    hashes = {profile.hash}
    leaves = 0
    for keys in _leaves(profile.to_json()):
        data = copy.deepcopy(profile.to_json())
        section: Any = data
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = section[keys[-1]] * 0.998 + 1e-6
        hashes.add(SafetyProfile.from_json(data).hash)
        leaves += 1
    assert leaves > 40
    assert len(hashes) == leaves + 1


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
}


def _error(case: str) -> str:
    path, value = WRONG[case]
    data: Any = copy.deepcopy(load_profile("panda_tabletop").to_json())
    section: Any = data
    *parents, last = path.split("/")
    for key in parents:
        section = section[key]
    if value is None:
        del section[last]
    else:
        section[last] = value
    with pytest.raises(SafetyProfileError) as caught:
        SafetyProfile.from_json(data)
    return str(caught.value)


def test_errors_read_as_in_the_golden_file() -> None:
    lines = [f"{case}\n    {_error(case)}\n" for case in WRONG]
    for wrong in ("panda_tabeltop", "missing/profile.yaml"):
        with pytest.raises(SafetyProfileError) as caught:
            load_profile(wrong)
        lines.append(f"{wrong}\n    {caught.value}\n")
    assert "".join(lines) == GOLDEN.read_text(encoding="utf-8")


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(SafetyProfileError, match=r"list\.yaml: expected a mapping, found list"):
        load_profile(path)
    path.write_text("a: [")
    with pytest.raises(SafetyProfileError, match=r"list\.yaml: not valid YAML"):
        load_profile(path)
