"""A kernel with a simulated arm in real time, and processes that steer it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from benchmarks.safe_stop import Fault, FaultSwitch, RealtimeArmFactory, drive
from controllers.robot import load_robot
from controllers.types import CommandMode, SafetyStatus
from safety.process import EmergencyStop, KernelConfig, KernelTick, OutboxReader, SafetyKernelProcess
from safety.profile import load_profile

PANDA = load_robot("panda")
PROFILE = load_profile("panda_tabletop")
PATIENCE_S = 30.0
MOVING = (SafetyStatus.RUN, SafetyStatus.LIMITING)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.safe_stop", "tests.safety.process.hostile"])


class Cell:
    """A running kernel and what the tests do with it."""

    def __init__(self, kernel: SafetyKernelProcess, faults: FaultSwitch) -> None:
        self.kernel, self.faults = kernel, faults
        self.address, self.contract = kernel.address, kernel.contract
        self.reader: OutboxReader = kernel.reader()
        self.button: EmergencyStop = kernel.emergency_stop()
        self.ticks: list[KernelTick] = []

    def drain(self) -> None:
        self.ticks.extend(self.reader.drain())

    def until(self, condition: Callable[[KernelTick], bool], what: str) -> KernelTick:
        """The first tick from now on that meets a condition."""
        self.drain()
        seen = len(self.ticks)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.drain()
            for tick in self.ticks[seen:]:
                if condition(tick):
                    return tick
            seen = len(self.ticks)
            time.sleep(5e-3)
        raise AssertionError(f"no {what} within {PATIENCE_S} s; last tick: {self.ticks[-1]}")

    def until_moving(self) -> KernelTick:
        return self.until(lambda tick: tick.result.status in MOVING and speed(tick) > 0.2, "motion")

    def until_rest(self) -> KernelTick:
        return self.until(lambda tick: tick.result.status not in MOVING and speed(tick) < 0.02, "rest")

    def watch(self, seconds: float) -> list[KernelTick]:
        self.drain()
        seen = len(self.ticks)
        time.sleep(seconds)
        self.drain()
        return self.ticks[seen:]

    def hold_after(self, stamp_ns: int) -> KernelTick:
        return next(t for t in self.ticks if t.now_ns > stamp_ns and t.result.status not in MOVING)

    def check(self) -> None:
        """Nothing was lost, every tick came, and the arm stayed inside its limits, whatever happened."""
        self.drain()
        assert self.reader.dropped == 0
        numbers = [tick.tick for tick in self.ticks]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        limits = PANDA.limits
        for tick in self.ticks:
            assert np.isfinite(tick.result.command.values).all()
            assert tick.result.command.mode is CommandMode.VELOCITY
            assert (np.abs(tick.result.command.values) <= limits.velocity).all()
            assert (tick.state.joint_position >= limits.position_lower).all()
            assert (tick.state.joint_position <= limits.position_upper).all()

    @contextmanager
    def process(self, target: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
        process = _CONTEXT.Process(target=target, args=(self.address, *arguments), daemon=True)
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()

    def controller(self):
        """A well-behaved controller that sways the arm."""
        return self.process(drive, self.contract)


def speed(tick: KernelTick) -> float:
    return float(np.abs(tick.state.joint_velocity).max())


def send_signal(process: BaseProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    path = Path(tmp_path_factory.mktemp("kernel"), "faults")
    faults = FaultSwitch(path)
    # The ring holds more than any test lasts: what is drained is then complete on a busy machine too.
    config = KernelConfig("panda", PROFILE, CommandMode.VELOCITY, ring_ticks=4096, physics_digests=True)
    with SafetyKernelProcess(config, RealtimeArmFactory(CommandMode.VELOCITY, path)) as kernel:
        yield Cell(kernel, faults)


@pytest.fixture
def cell(running: Cell) -> Iterator[Cell]:
    """The kernel with the arm at rest and nothing latched, before and after."""
    running.drain()
    running.ticks.clear()
    yield running
    running.faults.set(Fault.NONE)
    running.button.release()
    running.until_rest()
    running.button.reset()
    running.until(lambda tick: tick.result.status is SafetyStatus.HOLD, "hold")
    running.check()
