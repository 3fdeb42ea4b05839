"""`vla serve` and `vla preflight` as a person types them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from cli.main import run

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_serve_prints_its_address_is_healthy_and_ends_with_sigterm() -> None:
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            address = json.loads(process.stdout.readline())
            assert address["policy"] == "compact"
            assert address["token_required"] is False
            url = address["url"].replace("ws://", "http://") + "/healthz"
            assert urllib.request.urlopen(url, timeout=10).read() == b"OK\n"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_public_address_without_a_token_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.delenv("VLA_TOKEN", raising=False)
    assert run(["serve", "--host", "0.0.0.0"]) == 2
    assert "expected a token to serve on '0.0.0.0', which other machines can reach" in capsys.readouterr().err


def test_an_expert_cannot_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--policy", "expert"]) == 2
    assert "experts need the simulation's true state" in capsys.readouterr().err


def test_preflight_says_what_does_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from sim.policies import PolicyChoice
    from vla.preflight.contract import contract_to_json
    from vla.preflight.reading import read_contract

    (tmp_path / "model.safetensors").touch()
    contract = contract_to_json(read_contract(PolicyChoice("compact").folder))
    (tmp_path / "contract.json").write_text(json.dumps({**contract, "rate_hz": 50}))
    assert run(["preflight", "--policy", str(tmp_path), "--json"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is False
    (mistake,) = result["mistakes"]
    assert (mistake["check"], mistake["expected"], mistake["found"]) == ("control_rate", "20 rows a second", "50")


def test_run_refuses_what_the_preflight_finds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from sim.policies import PolicyChoice
    from vla.preflight.contract import contract_to_json
    from vla.preflight.reading import read_contract

    (tmp_path / "model.safetensors").touch()
    contract = contract_to_json(read_contract(PolicyChoice("compact").folder))
    contract["gripper"] = {"closed": 1.0, "open": 0.0}
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    assert run(["run", "--task", "reach", "--policy", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "gripper_polarity: expected 1 opens and 0 closes; found 0 opens and 1 closes; invert the gripper" in error
    assert not (tmp_path / "out").exists()
