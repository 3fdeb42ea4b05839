"""``vla run`` on a disk too small for the log: the arm goes on or holds, and the command says what is missing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import run
from episodes.reader import open_episode
from episodes.schema import EventKind
from episodes.verification import verify


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.realtime
@pytest.mark.parametrize("policy", ["continue", "hold"])
def test_a_run_on_a_full_disk_says_what_its_log_lacks(
    policy: str, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ["--task", "press_button", "--policy", "expert", "--realtime", "--timing.hold-after", "0", "--json"]
    assert run(["run", *task, "--out", str(small_disk / "run"), "--timing.log-failure", policy]) == 1
    captured = capsys.readouterr()
    printed = json.loads(captured.out.splitlines()[-1])
    log = printed["timing"]["log"]
    assert log["lost_ticks"] > 0
    assert log["failure"] == "the disk refused to the end: No space left on device"
    assert "the log is not complete" in captured.out + captured.err
    assert printed["reason"] == ("success" if policy == "continue" else "time_limit")
    episode = open_episode(printed["episode"])
    assert len(episode) == printed["ticks"] - log["lost_ticks"] > 0
    assert verify(episode) == ()
    assert episode.manifest.log_failure == policy
    assert episode.manifest.log_faults[-1].lost_ticks == log["lost_ticks"]
    assert all(row.kind is not EventKind.OPERATOR for row in episode.events)  # told after the last tick that fitted
