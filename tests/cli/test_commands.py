"""The command line as a user meets it: real processes, JSON on the last line, exit codes, errors that help."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def vla(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240, check=False)


def last_json(result: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_help_lists_the_commands() -> None:
    result = vla("--help")
    assert result.returncode == 0
    for name in ("doctor", "run", "eval", "replay", "collect", "train", "bench"):
        assert f"  {name}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evla",), "unknown command 'evla'; did you mean 'eval'?"),
        (("run", "--task", "pickup", "--policy", "expert"), "unknown task 'pickup'; did you mean 'pick_up'?"),
        (("run", "--task", "reach", "--policy", "expret"), "unknown policy 'expret'"),
        (("eval", "--tasks", "reach,stak", "--policy", "expert"), "unknown task 'stak'; did you mean 'stack'?"),
        (("replay", "nowhere.zarr"), "nowhere.zarr: expected an episode store, found nothing"),
        (("bench", "tik"), "unknown benchmark 'tik'; did you mean 'tick'?"),
        (("run", "--task", "reach", "--policy", "expert", "--stack.robot", "pandda"), "'panda'"),
        (("run", "--task", "reach", "--policy", "expert", "--stack.control-rate-hz", "150"), "150 Hz"),
        (("run", "--task", "reach", "--policy", "expert", "--stack.controller", "pid"), "unknown controller 'pid'"),
        (
            ("run", "--task", "reach", "--policy", "expert", "--stack.safety-profile", "panda_tabeltop"),
            "panda_tabletop",
        ),
        (("run", "--task", "reach", "--policy", "expert", "--stack.chunking", "token_rct"), "mean 'token_rtc'?"),
        (("run", "--task", "reach", "--policy", "expert", "--latency", "300"), "did you mean 300ms?"),
        (("eval", "--policy", "expert", "--latency", "trase.jsonl"), "expected a latency trace, found none"),
        (("train", "--data", "no-such-folder", "--out", "x"), "expected a folder of episodes"),
    ],
)
def test_bad_input_is_named_with_its_nearest_match(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = vla(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistyped_option_is_refused() -> None:
    result = vla("run", "--tusk", "reach")
    assert result.returncode == 2


@pytest.mark.slow
@pytest.mark.gl
def test_run_then_replay_then_tamper(tmp_path: Path) -> None:
    run = vla("run", "--task", "reach", "--policy", "expert", "--seed", "3", "--out", str(tmp_path / "run"), "--json")
    assert run.returncode == 0, run.stderr
    record = last_json(run)
    assert record["success"] is True
    assert record["rejected_chunks"] == 0
    episode = str(record["episode"])

    replay = vla("replay", episode, "--json")
    assert replay.returncode == 0, replay.stderr
    assert last_json(replay)["identical"] is True
    assert last_json(replay)["ticks"] == record["ticks"]

    folder = Path(episode) / "chunks" / "tokens"
    tokens = min(path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")
    content = bytearray(tokens.read_bytes())
    content[len(content) // 2] ^= 1
    tokens.write_bytes(bytes(content))
    tampered = vla("replay", episode, "--json")
    assert tampered.returncode == 1
    divergence = last_json(tampered)["first_divergence"]
    assert isinstance(divergence, dict)
    assert str(divergence["field"]).startswith("chunks")


@pytest.mark.realtime
@pytest.mark.slow
@pytest.mark.gl
def test_an_episode_recorded_in_real_time_replays_identically(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = vla("run", "--task", "reach", "--policy", "expert", "--realtime", "--out", str(out), "--json")
    assert run.returncode == 0, run.stderr
    assert last_json(run)["timing"] is not None
    replay = vla("replay", str(last_json(run)["episode"]), "--json")
    assert last_json(replay)["identical"] is True, replay.stdout


@pytest.mark.realtime
@pytest.mark.slow
@pytest.mark.gl
def test_ctrl_c_holds_the_arm_closes_the_episode_and_it_replays(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "cli.main", "run", "--task", "sort_by_color", "--policy", "expert"]
    command += ["--realtime", "--out", str(out), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    try:
        journals: list[Path] = []
        deadline = time.monotonic() + 120
        while not journals and time.monotonic() < deadline:
            journals = list(out.glob("*.zarr"))
            time.sleep(0.1)
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    record = json.loads(stdout.strip().splitlines()[-1])
    replay = vla("replay", record["episode"], "--json")
    assert last_json(replay)["identical"] is True, replay.stdout

    from episodes.reader import open_episode

    episode = open_episode(record["episode"])
    assert episode.manifest.closed
    applied = episode.rows["applied_values"]
    assert abs(applied[-1] - applied[-2]).max() < 1e-4  # at rest


@pytest.mark.slow
def test_the_process_of_the_control_loop_never_loads_torch(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from dataclasses import replace
from sim.assembly import default_config, rebuild_for_replay
from sim.rollout import ExpertSource, run_episode
from episodes.reader import open_episode
from episodes.replay import replay
import sim.policies, sim.realtime, sim.evaluation, cli.run, cli.eval, cli.replay
out = Path(sys.argv[1])
config = replace(default_config(), cameras={})
outcome = run_episode("reach", 1, ExpertSource(), config, out_dir=out)
assert replay(open_episode(out / outcome.episode), rebuild_for_replay).identical
assert "torch" not in sys.modules, "torch was imported"
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.gl
def test_eval_gives_the_same_results_with_one_and_two_workers(tmp_path: Path) -> None:
    files = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        result = vla(
            *("eval", "--tasks", "reach,press_button", "--policy", "expert", "--episodes", "2"),
            *("--workers", workers, "--out", str(out), "--json"),
        )
        assert result.returncode == 0, result.stderr
        record = last_json(result)
        assert record["episodes"] == 4
        assert record["success_rate"] == 1.0
        assert (out / "report.html").is_file()
        files.append((out / "results.jsonl").read_bytes())
    assert files[0] == files[1]
