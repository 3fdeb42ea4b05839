"""Export, import and view as a user types them: real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from episodes.reader import open_episode
from tests.cli.test_commands import ROOT, last_json, vla
from tests.episodes.builders import write_simple

pytest.importorskip("mcap")
pytestmark = pytest.mark.slow


def test_export_then_import_gives_the_same_bits_and_says_what_is_lost(tmp_path: Path) -> None:
    source = write_simple(tmp_path / "in" / "simple.zarr", 60)
    bag = vla("export", str(tmp_path / "in"), "--to", "mcap", "--out", str(tmp_path / "bag"), "--json")
    assert bag.returncode == 0, bag.stderr
    assert last_json(bag)["losses"] == []
    back = vla("import", str(tmp_path / "bag"), "--out", str(tmp_path / "back"), "--json")
    assert back.returncode == 0, back.stderr
    assert last_json(back)["exact"] is True
    assert open_episode(tmp_path / "back" / "simple.zarr").integrity == open_episode(source).integrity
    again = vla("import", str(tmp_path / "bag"), "--out", str(tmp_path / "back"))
    assert again.returncode == 2
    assert "expected a path that does not exist" in again.stderr
    wrong = vla("export", str(source), "--to", "mcp", "--out", str(tmp_path / "x"))
    assert wrong.returncode == 2
    assert "unknown format 'mcp'; did you mean 'mcap'?" in wrong.stderr


def test_view_serves_a_page_until_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    source = write_simple(tmp_path / "simple.zarr", 60)
    command = [sys.executable, "-m", "cli.main", "view", str(source), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert process.stdout is not None
        line = next(text for text in process.stdout if text.startswith("{"))
        record = json.loads(line)
        assert record["ticks"] == 60
        assert "no geometry" in record["source"]  # its scene is no MJCF: what can be shown is shown
        with urllib.request.urlopen(record["url"], timeout=30) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) in (0, 130)
    finally:
        process.kill()
