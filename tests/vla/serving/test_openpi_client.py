"""The published openpi client, unchanged, against our server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.vla.serving.worlds import SPEC, TOKENIZER, RunningServer, toy
from vla.serving.server import ServerOptions
from vla.tokenizers import decoder_from_id

ROOT = Path(__file__).parents[3]
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has openpi-client; made here when it is not there yet (a few seconds)."""
    made = subprocess.run([ROOT / "scripts" / "openpi-client"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return str(ROOT / made.stdout.strip())


@pytest.mark.slow
@pytest.mark.parametrize("token", ["", TOKEN])
def test_the_published_client_works_against_our_server(python: str, token: str) -> None:
    with RunningServer(toy("build_echo"), ServerOptions(token=token)) as server:
        caller = str(ROOT / "benchmarks" / "openpi_caller.py")
        done = subprocess.run(
            [python, caller, server.url, "3", "2", token], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["numpy"].startswith("1.")
    assert (report["policy"], report["spec_hash"]) == ("toy", SPEC.hash)
    assert (report["shape"], report["dtype"]) == ([8, 7], "float32")
    expected = decoder_from_id(TOKENIZER, SPEC).decode(np.full((8, 7), 128, dtype=np.int64))[0]
    assert report["first_row"] == pytest.approx(expected, abs=1e-6)
    assert len(report["milliseconds"]) == 4
    assert "expected an entry 'observation/image'" in report["error"]
