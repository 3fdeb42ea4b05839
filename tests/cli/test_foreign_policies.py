"""`vla run --policy lerobot:PATH` as a user meets it, and `vla replay` of what it recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lerobot")

from tests.cli.test_commands import last_json, vla
from tests.vla.foreign import tiny_lerobot


@pytest.mark.slow
@pytest.mark.gl
def test_run_states_what_discretizing_cost_and_the_episode_replays(tmp_path: Path) -> None:
    features = tiny_lerobot.Features()
    folder = tiny_lerobot.save(tiny_lerobot.act(), tmp_path / "act", features.statistics())
    mapping = tiny_lerobot.write_mapping(tmp_path)
    run = vla(
        *("run", "--task", "reach", "--policy", f"lerobot:{folder}", "--policy-mapping", mapping),
        *("--out", str(tmp_path / "run"), "--json"),
    )
    assert run.returncode == 0, run.stderr
    record = last_json(run)
    boundary = record["boundary"]
    assert isinstance(boundary, dict)
    assert boundary["chunks"] == 120
    assert all(found <= most * 1.001 for found, most in zip(boundary["largest_error"], boundary["bound"], strict=True))
    assert "continuous actions as tokens: 120 chunks written, 0 refused" in run.stderr
    replay = vla("replay", str(record["episode"]), "--json")
    assert replay.returncode == 0, replay.stderr
    assert last_json(replay)["identical"] is True


def test_a_misfit_is_listed_and_nothing_starts(tmp_path: Path) -> None:
    features = tiny_lerobot.Features()
    folder = tiny_lerobot.save(tiny_lerobot.act(), tmp_path / "act", features.statistics())
    mapping = tiny_lerobot.write_mapping(tmp_path, tiny_lerobot.MAPPING.replace("joint_position, ", ""))
    for command in (("run", "--task", "reach"), ("preflight",)):
        result = vla(*command, "--policy", f"lerobot:{folder}", "--policy-mapping", mapping, cwd=tmp_path)
        assert result.returncode == 2
        assert "observation.state: expected 8 values, found 1: gripper_opening (1)" in result.stderr
        assert "Traceback" not in result.stderr
