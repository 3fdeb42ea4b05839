"""Latency of a policy over the network: our client and the published openpi client against one `vla serve`.

The reference without a network is the same policy in its own process, asked over a pipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import Machine
from controllers.types import Observation, Pose, RobotState, frozen_array
from sim.tabletop import IMAGE_SIZE, TABLETOP_ACTION_SPEC
from vla.catalog import policy_factory
from vla.process import PolicyProcess, ProcessMode
from vla.serving.client import RemotePolicy
from vla.serving.connection import RemoteOptions
from vla.tokenizers import COMPACT_TOKENIZER

_CALLER = Path(__file__).with_name("openpi_caller.py")
OPENPI_PYTHON = Path(sys.prefix, "openpi-client", "bin", "python")


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench serving``."""

    requests: int = 200
    """Requests of one client alone; with many clients, all together send twice as many."""
    clients: int = 16
    """Clients at once."""
    policy: str = "compact"
    """What is served: compact, or a policy folder."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the request to the answer, and answers a second of all clients together."""

    who: str
    clients: int
    p50_ms: float
    p99_ms: float
    answers_per_second: float


@dataclass(frozen=True, slots=True)
class Result:
    """One row for each client and number of clients; ``overhead_p50_ms`` is ours alone over the pipe."""

    rows: tuple[Latency, ...]
    p50_ms: float
    p99_ms: float
    p50_many_ms: float
    p99_many_ms: float
    openpi_p50_ms: float | None
    openpi_p99_ms: float | None
    openpi_p50_many_ms: float | None
    openpi_p99_many_ms: float | None
    pipe_p50_ms: float
    overhead_p50_ms: float
    openpi_note: str
    machine: Machine


def run(options: Options) -> Result:
    """Measure."""
    machine = Machine.here()
    many = max(2, 2 * options.requests // options.clients)
    pipe = _pipe(options)
    with _server(options.policy) as url:
        ours = (_ours(url, 1, options.requests), _ours(url, options.clients, many))
        openpi: tuple[Latency, ...] = ()
        note = f"made by scripts/openpi-client; missing: {OPENPI_PYTHON}"
        if OPENPI_PYTHON.is_file():
            openpi = (_openpi(url, 1, options.requests), _openpi(url, options.clients, many))
            note = "openpi-client from the package registry, in a virtual environment of its own"
    one, all_of_them = (openpi[0], openpi[1]) if openpi else (None, None)
    return Result(
        rows=(pipe, *ours, *openpi),
        p50_ms=ours[0].p50_ms,
        p99_ms=ours[0].p99_ms,
        p50_many_ms=ours[1].p50_ms,
        p99_many_ms=ours[1].p99_ms,
        openpi_p50_ms=one and one.p50_ms,
        openpi_p99_ms=one and one.p99_ms,
        openpi_p50_many_ms=all_of_them and all_of_them.p50_ms,
        openpi_p99_many_ms=all_of_them and all_of_them.p99_ms,
        pipe_p50_ms=pipe.p50_ms,
        overhead_p50_ms=ours[0].p50_ms - pipe.p50_ms,
        openpi_note=note,
        machine=machine,
    )


@contextmanager
def _server(policy: str) -> Iterator[str]:
    """The real command in a process of its own; gives its address."""
    command = [sys.executable, "-m", "cli.main", "serve", "--policy", policy, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                _, errors = process.communicate(timeout=10)
                raise RuntimeError(f"the server ended: {errors.strip().splitlines()[-1:]}")
            yield json.loads(line)["url"]
        finally:
            process.terminate()
            process.communicate(timeout=20)


def _pipe(options: Options) -> Latency:
    arguments = {} if options.policy == "compact" else {"weights": options.policy}
    with PolicyProcess(policy_factory("compact", **arguments), ProcessMode.LOCK_STEP) as process:
        started = time.perf_counter()
        milliseconds = _ask(process, options.requests)
        return _latency("pipe, no network", 1, milliseconds, time.perf_counter() - started)


def _ours(url: str, clients: int, requests: int) -> Latency:
    options = RemoteOptions(url, mode=ProcessMode.LOCK_STEP, timeout_s=60.0)
    with ExitStack() as stack, ThreadPoolExecutor(clients) as pool:
        policies = [
            stack.enter_context(RemotePolicy(options, TABLETOP_ACTION_SPEC, COMPACT_TOKENIZER.tokenizer_id))
            for _ in range(clients)
        ]
        started = time.perf_counter()
        parts = list(pool.map(lambda policy: _ask(policy, requests), policies))
        took = time.perf_counter() - started
    return _latency("ours", clients, [took for part in parts for took in part], took)


def _openpi(url: str, clients: int, requests: int) -> Latency:
    command = [str(OPENPI_PYTHON), str(_CALLER), url, str(requests), str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the openpi client failed: {done.stderr.strip().splitlines()[-1:]}")
    report = json.loads(done.stdout)
    return _latency("openpi-client", clients, report["milliseconds"], report["seconds"])


def _ask(policy: PolicyProcess | RemotePolicy, requests: int) -> list[float]:
    """Milliseconds of every request but the first."""
    milliseconds = []
    for number in range(requests):
        observation = _observation(number + 1)
        started = time.perf_counter()
        policy.request(observation)
        if not policy.poll():
            raise RuntimeError("a request was not answered")
        milliseconds.append((time.perf_counter() - started) * 1e3)
    return milliseconds[1:]


def _observation(stamp_ns: int) -> Observation:
    pose = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([0.0, 1.0, 0.0, 0.0]))
    zeros = frozen_array(np.zeros(7))
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    state = RobotState(zeros, zeros, zeros, pose, frozen_array(np.zeros(6)), 0.04, stamp_ns)
    return Observation({"workspace": image, "wrist": image}, state, pose, "pick up the red block", stamp_ns)


def _latency(who: str, clients: int, milliseconds: list[float], seconds: float) -> Latency:
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return Latency(who, clients, float(p50), float(p99), len(milliseconds) / seconds)
