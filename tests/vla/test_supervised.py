"""A policy process that is killed, hangs, is late or babbles is started again; its client neither raises nor waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.vla.test_process import observation, wait_for
from vla.process import FaultKind, PolicyFactory, PolicyProcess, PolicyStartError, RestartOptions, SupervisedPolicy

FACTORY = PolicyFactory("tests.vla.toy_policies:build")
SOON = RestartOptions(first_delay_s=0.01, failures=2)


def supervised(factory: PolicyFactory = FACTORY, answer_s: float = 20.0, heartbeat_s: float = 20.0) -> SupervisedPolicy:
    def build(first_chunk_id: int) -> PolicyProcess:
        return PolicyProcess(
            factory, timeout_s=answer_s, heartbeat_timeout_s=heartbeat_s, first_chunk_id=first_chunk_id
        )

    return SupervisedPolicy(build, SOON)


def answers(policy: SupervisedPolicy, stamp_ns: int) -> Callable[[], bool]:
    """Whether the policy, asked again and again, answers an observation of ``stamp_ns``."""
    policy.request(observation(stamp_ns))

    def come() -> bool:
        arrivals = policy.poll()
        if not arrivals and not policy.alive:
            return False
        if not arrivals:
            policy.request(observation(stamp_ns))
        return any(arrival.chunk.observation_stamp_ns == stamp_ns for arrival in arrivals)

    return come


def lost(policy: SupervisedPolicy) -> Callable[[], bool]:
    def gone() -> bool:
        policy.poll()
        return not policy.alive

    return gone


def test_a_killed_process_is_found_at_once_and_started_again() -> None:
    with supervised() as policy:
        assert wait_for(answers(policy, 1))
        before = policy.pid
        os.kill(before, signal.SIGKILL)
        assert wait_for(lost(policy))
        assert policy.poll() == ()
        assert wait_for(lambda: policy.alive)
        assert policy.pid != before
        assert wait_for(answers(policy, 2))
        assert [fault.kind for fault in policy.faults] == [FaultKind.DIED]
        assert "exit code -9" in policy.faults[0].message
        assert policy.restarts == 1


def test_a_stopped_process_is_silent_and_started_again() -> None:
    with supervised(heartbeat_s=0.5) as policy:
        stopped = policy.pid
        os.kill(stopped, signal.SIGSTOP)
        assert wait_for(lost(policy))
        assert policy.faults[0].kind is FaultKind.SILENT
        assert wait_for(lambda: policy.alive)
        assert policy.pid != stopped
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)


def test_a_late_answer_is_a_fault_and_the_process_is_started_again() -> None:
    with supervised(answer_s=0.3) as policy:
        policy.request(observation(1, "hang"))
        assert wait_for(lost(policy))
        assert policy.faults[0].kind is FaultKind.LATE
        assert wait_for(lambda: policy.alive)


def test_failures_in_a_row_restart_it_and_a_single_one_does_not() -> None:
    with supervised() as policy:
        policy.request(observation(1, "fail"))
        time.sleep(0.5)
        policy.poll()
        assert policy.alive
        assert wait_for(answers(policy, 2))
        for stamp in (3, 4):
            policy.request(observation(stamp, "fail"))
            time.sleep(0.5)
            policy.poll()
        assert policy.faults[-1].kind is FaultKind.FAILED
        assert "camera 'wrist' is missing" in policy.faults[-1].message


def test_chunk_ids_increase_across_a_restart() -> None:
    with supervised() as policy:
        ids: list[int] = []

        def more() -> bool:
            arrivals = policy.poll()
            ids.extend(arrival.chunk.chunk_id for arrival in arrivals)
            return bool(arrivals)

        policy.request(observation(1))
        assert wait_for(more)
        os.kill(policy.pid, signal.SIGKILL)
        assert wait_for(lost(policy))
        assert wait_for(lambda: policy.alive)
        policy.request(observation(2))
        assert wait_for(more)
        assert ids == sorted(set(ids))


def test_a_first_start_that_fails_says_why() -> None:
    with pytest.raises(PolicyStartError, match="no weights here"):
        supervised(PolicyFactory("tests.vla.toy_policies:build_broken")).start()


@pytest.mark.slow
def test_restarts_leave_no_descriptors_no_memory_and_no_zombies() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    names = sorted(os.listdir("/dev/shm"))
    with supervised() as policy:
        counts: list[int] = []
        for _ in range(4):
            os.kill(policy.pid, signal.SIGKILL)
            assert wait_for(lost(policy))
            assert wait_for(lambda: policy.alive)
            counts.append(descriptors())
        assert counts[-1] == counts[0]
    assert sorted(os.listdir("/dev/shm")) == names
