"""A policy in its own process: late, broken or dead, the client says so and never waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from controllers.types import Observation
from tests.vla.synthetic import ToyWorld
from vla.process import (
    PolicyDiedError,
    PolicyFactory,
    PolicyInferenceError,
    PolicyProcess,
    PolicyStartError,
    PolicyTimeoutError,
    ProcessMode,
)

FACTORY = PolicyFactory("tests.vla.toy_policies:build")


def observation(stamp_ns: int = 0, instruction: str = "go") -> Observation:
    seen = ToyWorld.create(0).observe(stamp_ns, np.random.default_rng(0))
    return Observation(seen.images, seen.state, seen.commanded_pose, instruction, stamp_ns)


@pytest.fixture(scope="module")
def lock_step() -> Iterator[PolicyProcess]:
    with PolicyProcess(FACTORY, ProcessMode.LOCK_STEP) as process:
        yield process


def wait_for(condition: Callable[[], bool], patience_s: float = 30.0) -> bool:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def request_and_wait(process: PolicyProcess, seen: Observation) -> None:
    process.request(seen)
    process.wait(5.0)


def test_lock_step_answers_before_request_returns(lock_step: PolicyProcess) -> None:
    lock_step.reset()
    lock_step.request(observation(5))
    (arrival,) = lock_step.poll(0)
    assert arrival.chunk.observation_stamp_ns == 5
    assert arrival.chunk.tokens.tolist() == [[1] * 7] * 8
    assert arrival.inference_ns > 0
    assert not arrival.chunk.tokens.flags.writeable
    assert lock_step.poll(0) == ()
    assert lock_step.spec.hash == arrival.chunk.spec_hash
    assert lock_step.tokenizer_id == arrival.chunk.tokenizer_id


def test_chunk_ids_increase_across_resets(lock_step: PolicyProcess) -> None:
    ids = []
    for _ in range(2):
        lock_step.reset()
        for stamp in range(3):
            lock_step.request(observation(stamp))
            ids += [arrival.chunk.chunk_id for arrival in lock_step.poll(0)]
    assert ids == sorted(set(ids))
    assert len(ids) == 6


def test_failure_on_an_observation_is_typed_and_the_child_lives_on(lock_step: PolicyProcess) -> None:
    with pytest.raises(PolicyInferenceError, match="camera 'wrist' is missing"):
        lock_step.request(observation(instruction="fail"))
    lock_step.request(observation(9))
    assert [arrival.chunk.observation_stamp_ns for arrival in lock_step.poll(0)] == [9]


def test_asynchronous_requests_return_at_once_and_the_newest_waits() -> None:
    factory = PolicyFactory("tests.vla.toy_policies:build", {"delay_s": 0.3})
    with PolicyProcess(factory, ProcessMode.ASYNCHRONOUS) as process:
        started = time.monotonic()
        for stamp in range(4):
            process.request(observation(stamp))
        assert process.poll(0) == ()
        assert time.monotonic() - started < 0.25
        arrivals = [*process.wait(10.0), *process.wait(10.0)]
        # The first that the process took, usually 0 but on a busy machine a later one, and then only the newest.
        taken, newest = [arrival.chunk.observation_stamp_ns for arrival in arrivals]
        assert taken < newest == 3
        assert process.dropped == 2


def test_an_answer_from_before_a_reset_is_dropped() -> None:
    factory = PolicyFactory("tests.vla.toy_policies:build", {"delay_s": 0.2})
    with PolicyProcess(factory, ProcessMode.ASYNCHRONOUS) as process:
        process.request(observation(1))
        process.reset()
        process.request(observation(2))
        arrivals = list(process.wait(10.0))
        while not arrivals:
            arrivals += process.wait(10.0)
        assert [arrival.chunk.observation_stamp_ns for arrival in arrivals] == [2]


@pytest.mark.parametrize("mode", ProcessMode)
def test_kill_9_of_the_child_is_a_typed_error_on_every_later_call(mode: ProcessMode) -> None:
    with PolicyProcess(FACTORY, mode) as process:
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(PolicyDiedError, match="exit code -9"):
            request_and_wait(process, observation())
        with pytest.raises(PolicyDiedError, match="exit code -9"):
            process.poll(0)
        with pytest.raises(PolicyDiedError):
            process.request(observation())


def test_a_child_that_dies_in_the_middle_of_an_inference_is_noticed_by_poll() -> None:
    with PolicyProcess(FACTORY) as process:
        process.request(observation(instruction="die"))
        with pytest.raises(PolicyDiedError, match="exit code 7"):
            process.wait(5.0)


def test_a_child_that_hangs_is_ended() -> None:
    with PolicyProcess(FACTORY, timeout_s=0.3) as process:
        pid = process.pid
        process.request(observation(instruction="hang"))
        time.sleep(0.4)
        with pytest.raises(PolicyTimeoutError, match=r"no answer within 0\.3 s"):
            process.poll()
        assert wait_for(lambda: not _runs(pid))


def test_a_policy_that_cannot_be_built_says_why() -> None:
    with pytest.raises(PolicyStartError, match="no weights here"):
        PolicyProcess(PolicyFactory("tests.vla.toy_policies:build_broken")).start()


def test_an_unstarted_client_says_so() -> None:
    with pytest.raises(PolicyDiedError, match="never started"):
        PolicyProcess(FACTORY).poll(0)


def test_the_child_dies_with_a_killed_parent() -> None:
    code = (
        "import sys, time\n"
        "from vla.process import *\n"
        "if __name__ == '__main__':\n"
        "    process = PolicyProcess(PolicyFactory('tests.vla.toy_policies:build')).start()\n"
        "    print(process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not _runs(child)), "the child outlived its parent"


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_client_does_not_import_torch() -> None:
    code = "import sys, vla.process, vla.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
