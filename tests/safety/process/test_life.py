"""How a kernel starts, is recorded, drives the control loop, and ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.safe_stop import Fault, FaultSwitch, RealtimeArm, RealtimeArmFactory, drive
from controllers.clients import InlinePolicyClient
from controllers.drivers import OverrunPolicy, run_realtime
from controllers.types import CommandMode, Observation, Pose, RobotState, SafetyStatus, TokenPrefix
from safety.building import build_filter
from safety.process import (
    EventKind,
    KernelConfig,
    KernelContract,
    KernelSilentError,
    OutboxReader,
    SafetyKernelClient,
    SafetyKernelError,
    SafetyKernelProcess,
)
from tests.controllers.test_loop import SteadyPolicy, Trace, build_loop
from tests.safety.process import hostile
from tests.safety.process.conftest import MOVING, PANDA, PROFILE, Cell

pytestmark = [pytest.mark.realtime, pytest.mark.slow]

VELOCITY = KernelConfig("panda", PROFILE, CommandMode.VELOCITY, ring_ticks=4096)
POSITION = replace(VELOCITY, mode=CommandMode.POSITION)
ARM = RealtimeArmFactory(CommandMode.VELOCITY)


class OwnClock(RealtimeArm):
    def read(self) -> RobotState:
        return replace(super().read(), stamp_ns=5)


@dataclass(frozen=True)
class Broken:
    """A factory that fails, or whose robot has a clock of its own."""

    how: str

    def build(self) -> RealtimeArm:
        if self.how == "raise":
            raise OSError("no robot at 10.0.0.2")
        arm = ARM.build()
        return OwnClock(arm._robot, None)  # pyright: ignore[reportPrivateUsage]


def test_a_recording_gives_the_same_verdicts_again(tmp_path: Path) -> None:
    with SafetyKernelProcess(VELOCITY, ARM) as kernel:
        recorder = kernel.reader()
        cell = Cell(kernel, FaultSwitch(tmp_path / "faults"))
        with cell.controller():
            last = cell.until_moving().tick + 50
            cell.until(lambda tick: tick.tick >= last, "fifty ticks of motion")
        cell.until_rest()
        ticks = recorder.drain()
    assert ticks[0].tick == 0
    safety = build_filter(replace(PANDA, actuator_mode="velocity"), VELOCITY.enforced_profile())
    memory = safety.initial(ticks[0].state)
    for tick in ticks:
        memory, result = safety.enforce(memory, tick.state, tick.candidate, tick.events, tick.now_ns, 0.005)
        assert result.status is tick.result.status
        assert result.command.values.tobytes() == tick.result.command.values.tobytes()
        assert [reason.limit for reason in result.reasons] == [reason.limit for reason in tick.result.reasons]


def test_the_realtime_driver_works_through_the_kernel() -> None:
    trace = Trace()
    policy = InlinePolicyClient(SteadyPolicy())
    with SafetyKernelProcess(POSITION, RealtimeArmFactory(CommandMode.POSITION)) as kernel:
        reader = kernel.reader()
        with SafetyKernelClient(kernel.address, kernel.contract) as client:

            def capture(state: RobotState, commanded_pose: Pose, prefix: TokenPrefix | None) -> None:
                policy.request(Observation({}, state, commanded_pose, "go", state.stamp_ns, prefix))

            client.read_next(5.0)
            summary = run_realtime(
                build_loop(),
                client.robot(),
                policy,
                capture,
                trace,
                max_ticks=200,
                stop=lambda inputs, outputs: None,
                clock=time.monotonic_ns,
                overruns=OverrunPolicy(hold_after=0),  # a busy machine is not what this is about
            )
        statistics = kernel.stop()
        ticks = reader.drain()
    assert summary.ticks == 200
    assert trace.ticks[0][0].state.stamp_ns > 0
    start, end = ticks[0].state.ee_pose.position, ticks[-1].state.ee_pose.position
    assert np.linalg.norm(end - start) > 0.03
    assert any(tick.result.status is SafetyStatus.RUN for tick in ticks)
    assert statistics.transitions[-1].after is SafetyStatus.HOLD
    # In step with the kernel; on a busy machine some commands come late.
    assert sum(tick.candidate_fresh for tick in ticks) > 100


def test_a_kernel_whose_parent_is_killed_holds_the_arm_and_then_leaves() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=hostile.parent, args=(theirs,))
    parent.start()
    assert ours.poll(60.0)
    address, pid = ours.recv()
    reader = OutboxReader(address, oldest=True)
    contract = KernelContract.of(PANDA, PROFILE, CommandMode.VELOCITY, 200)
    controller = context.Process(target=drive, args=(address, contract), daemon=True)
    controller.start()
    deadline = time.monotonic() + 30.0
    ticks = list(reader.drain())
    while not any(tick.result.status in MOVING for tick in ticks) and time.monotonic() < deadline:
        time.sleep(0.02)
        ticks.extend(reader.drain())
    parent.kill()
    parent.join()
    controller.join(30.0)  # it ends when the kernel falls silent
    assert controller.exitcode not in (0, None)
    ticks.extend(reader.drain())
    events = {event.kind: event for event in reader.events()}
    assert {EventKind.PARENT_DIED, EventKind.ENDED} <= set(events)
    assert (events[EventKind.ENDED].now_ns - events[EventKind.PARENT_DIED].now_ns) * 1e-9 > 1.0
    assert any(tick.result.status in MOVING for tick in ticks)
    last = ticks[-1]
    assert last.result.status is SafetyStatus.HOLD
    assert np.abs(last.state.joint_velocity).max() < 0.02
    assert not Path(f"/proc/{pid}/fd").exists() or not os.listdir(f"/proc/{pid}/fd")


def test_a_stopped_kernel_has_brought_the_arm_to_rest_and_says_so_to_clients(tmp_path: Path) -> None:
    with SafetyKernelProcess(VELOCITY, ARM) as kernel:
        cell = Cell(kernel, FaultSwitch(tmp_path / "faults"))
        client = SafetyKernelClient(kernel.address, kernel.contract)
        with cell.controller():
            cell.until_moving()
            statistics = kernel.stop()
        cell.drain()
        assert not kernel.alive
        assert statistics.events[-1].kind is EventKind.ENDED
        assert np.abs(cell.ticks[-1].state.joint_velocity).max() < 0.02
        time.sleep(0.3)
        with pytest.raises(KernelSilentError, match="found its last tick"):
            client.read()


def test_a_kernel_that_never_sees_rest_is_ended_loudly(tmp_path: Path) -> None:
    path = tmp_path / "faults"
    kernel = SafetyKernelProcess(VELOCITY, replace(ARM, faults=path)).start()
    kernel.wait_ready()
    FaultSwitch(path).set(Fault.READ_HANGS)
    time.sleep(0.2)
    with pytest.raises(SafetyKernelError, match=r"expected the arm at rest within 0\.5 s"):
        kernel.stop(0.5)
    assert not kernel.alive


@pytest.mark.parametrize(
    ("how", "words"),
    [("raise", "no robot at 10.0.0.2"), ("clock", "expected robot states stamped with time.monotonic")],
)
def test_a_robot_that_does_not_fit_is_refused_at_the_start(how: str, words: str) -> None:
    kernel = SafetyKernelProcess(VELOCITY, Broken(how)).start()
    with pytest.raises(SafetyKernelError, match=words):
        kernel.wait_ready()
    kernel.kill()


def test_a_watchdog_shorter_than_three_periods_is_refused() -> None:
    profile = replace(PROFILE, timing=replace(PROFILE.timing, watchdog_ms=14.0))
    with pytest.raises(SafetyKernelError, match="at least three control periods"):
        SafetyKernelProcess(replace(VELOCITY, profile=profile), ARM)


def test_the_kernel_loads_no_model_and_no_simulation_by_itself() -> None:
    code = "import sys, safety.process; sys.exit(any(m in sys.modules for m in ('torch', 'vla', 'sim', 'rclpy')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_kernel_ignores_ctrl_c(tmp_path: Path) -> None:
    with SafetyKernelProcess(VELOCITY, ARM) as kernel:
        os.kill(kernel.pid, signal.SIGINT)
        cell = Cell(kernel, FaultSwitch(tmp_path / "faults"))
        with cell.controller():
            cell.until_moving()
