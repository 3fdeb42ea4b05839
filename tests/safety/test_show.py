"""`vla safety show` and the table of body regions that it prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cli.main import run
from cli.safety.limits_table import limits_in_force
from cli.safety.shapes import keep_out_corners, polytope_corners
from controllers.robot import load_robot
from safety.body_regions import BODY_REGIONS, compare
from safety.profile import BUILT_IN_PROFILES, CylinderZone, HalfSpaceZone, Plane, load_profile


@pytest.mark.parametrize("name", BUILT_IN_PROFILES)
def test_a_picture_and_every_limit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "profile.png"
    assert run(["safety", "show", name, "--out", str(out), "--json"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    shown = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    profile = load_profile(name)
    assert (shown["profile"], shown["hash"], shown["robot"]) == (name, profile.hash, profile.robot)
    assert shown["out"] == str(out)
    robot = load_robot(profile.robot)
    values = {(row["name"], row["limit"]): row["value"] for row in shown["limits"]}
    fraction = profile.joints.velocity_fraction
    for joint, velocity in zip(robot.joint_names, robot.limits.velocity, strict=True):
        assert values[joint, "velocity"] == pytest.approx(fraction * velocity)
    assert "not certified" in shown["note"]


def test_every_number_of_a_profile_is_in_the_table() -> None:
    profile = load_profile("panda_tabletop")
    rows = limits_in_force(profile, load_robot("panda"))
    assert {row.section for row in rows} >= {"joints", "end_effector", "gripper", "force", "timing", "workspace"}
    assert all(row.unit for row in rows if not row.name.endswith("fraction"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "panda_tabeltop"], "did you mean 'panda_tabletop'?"),
        (["shwo", "panda_tabletop"], "unknown safety command 'shwo'; did you mean 'show'?"),
        (["show", "panda_tabletop", "--robot", "ur5e"], "expected robot 'panda', found 'ur5e'"),
        (["show", "panda_tabletop", "--out", "picture.jpg"], "expected a name that ends in .png"),
    ],
)
def test_bad_input_names_the_near_match(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["safety", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_zones_become_their_corners() -> None:
    low, high = -np.ones(3), np.ones(3)
    half = keep_out_corners(HalfSpaceZone("wall", (1.0, 0.0, 0.0), -0.5), low, high)
    assert half[:, 0].max() == pytest.approx(-0.5)
    assert half[:, 0].min() == pytest.approx(-1.0)
    pillar = keep_out_corners(CylinderZone("pillar", (0.0, 0.0, 0.0), (0.0, 0.0, 0.5), 0.1), low, high)
    np.testing.assert_allclose(np.linalg.norm(pillar[:, :2], axis=1), 0.1)
    assert len(polytope_corners((Plane((0.0, 0.0, 1.0), -2.0),), low, high)) == 0


def test_the_body_regions_are_whole_and_compared_row_by_row() -> None:
    assert len(BODY_REGIONS) == 12
    assert [area.number for region in BODY_REGIONS for area in region.areas] == list(range(1, 30))
    force = load_profile("panda_tabletop").force
    gentle = compare(replace(force, quasi_static_n=65.0, transient_n=65.0))
    assert all(verdict.respected for verdict in gentle)
    hard = {verdict.region: verdict for verdict in compare(replace(force, quasi_static_n=140.0, transient_n=280.0))}
    assert hard["hands and fingers"].respected
    assert not hard["face"].respected
    assert not hard["abdomen"].quasi_static_respected
    hand = next(region for region in BODY_REGIONS if region.name == "hands and fingers")
    assert hand.transient_energy_j() == pytest.approx(280.0**2 / (2 * 75e3))
    face = next(region for region in BODY_REGIONS if region.name == "face")
    assert face.transient_n is None
    assert face.transient_speed_m_s(5.0) is None
