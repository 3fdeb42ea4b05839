"""Time to a safe stop when the controller dies: the safety kernel in its own process, a simulated arm in real time.

A controller process moves a Panda in velocity mode through the kernel. At a random moment it is killed (SIGKILL) or
frozen (SIGSTOP). Then the robot's readings freeze while the controller lives. The reference, computed for the same
moments, is the same arm without a safety process: it keeps its last command.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from multiprocessing.process import BaseProcess
from pathlib import Path

import mujoco
import numpy as np

from benchmarks.machine import Machine
from controllers.robot import load_robot
from controllers.types import CommandMode, FloatArray, JointCommand, RobotState, SafetyStatus, frozen_array
from safety.process import (
    KernelConfig,
    KernelContract,
    KernelTick,
    OutboxReader,
    SafetyKernelClient,
    SafetyKernelProcess,
)
from safety.profile import load_profile
from sim.robot import SimRobot, apply_actuator_mode

RATE_HZ = 200
_DETECTION_BAR_MS = 10.0
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Options:
    """Options of ``vla bench safe_stop``."""

    trials: int = 200
    """Controllers ended, half by SIGKILL and half by SIGSTOP."""
    freezes: int = 40
    """Times that the robot's readings freeze."""
    seed: int = 0
    """Of the moments."""


@dataclass(frozen=True, slots=True)
class Result:
    """Milliseconds, unless the name says otherwise; maxima over all trials.

    ``stop`` runs from the stamp of the newest accepted command to the first verdict that brakes; ``rest`` from the same
    stamp until the arm rests. ``detection`` runs from the deadline (of the command, as the kernel enforces it; of the
    state) to that verdict. Travel is the way of the end effector from that stamp on; the reference's is the way without
    a safety process in the same time, and after 1 s.
    """

    kills: int
    freezes_of_controller: int
    stop_p50_ms: float
    stop_p99_ms: float
    stop_max_ms: float
    stop_bar_ms: float
    stops_within_bar: int
    rest_p50_ms: float
    rest_p99_ms: float
    rest_max_ms: float
    command_detection_p50_ms: float
    command_detection_max_ms: float
    state_freezes: int
    state_detection_p50_ms: float
    state_detection_max_ms: float
    detection_bar_ms: float
    travel_p50_mm: float
    travel_max_mm: float
    reference: str
    reference_travel_p50_mm: float
    reference_travel_max_mm: float
    reference_travel_1s_p50_mm: float
    reference_still_moving: int
    kernel_ticks: int
    kernel_overruns: int
    kernel_late_p50_ms: float
    kernel_late_p99_ms: float
    kernel_late_max_ms: float
    realtime_priority: bool
    seconds: float
    machine: Machine


# ----------------------------------------------------------------------------------------- the robot


class Fault(IntEnum):
    """What a :class:`RealtimeArm` can be told to do wrong."""

    NONE = 0
    READINGS_FREEZE = 1
    READ_HANGS = 2
    READ_RAISES = 3
    WRITE_HANGS = 4
    WRITE_RAISES = 5


class FaultSwitch:
    """A file that tells an arm in another process what to do wrong."""

    def __init__(self, path: Path) -> None:
        """Bind to ``path``; it is made if it is not there."""
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                file.write(bytes(8))
                file.flush()
            self._map = mmap.mmap(file.fileno(), 8)

    def set(self, fault: Fault) -> None:
        """Fail like this from now on."""
        self._map[0] = fault

    def get(self) -> Fault:
        """How to fail."""
        return Fault(self._map[0])


class RealtimeArm:
    """A simulated arm whose readings carry CLOCK_MONOTONIC; every write moves it on by one control period."""

    def __init__(self, robot: SimRobot, faults: FaultSwitch | None) -> None:
        """Wrap ``robot``."""
        self._robot, self._faults = robot, faults
        self._last = self._sense()

    def _sense(self) -> RobotState:
        return replace(self._robot.read(), stamp_ns=time.monotonic_ns())

    def _fault(self, *hangs: Fault) -> Fault:
        if self._faults is None:
            return Fault.NONE
        while (fault := self._faults.get()) in hangs:
            time.sleep(1e-3)
        return fault

    def read(self) -> RobotState:
        """The sensed state."""
        fault = self._fault(Fault.READ_HANGS)
        if fault is Fault.READ_RAISES:
            raise OSError("the robot's connection is down")
        if fault is not Fault.READINGS_FREEZE:
            self._last = self._sense()
        return self._last

    def write(self, command: JointCommand) -> None:
        """Apply a command for one control period."""
        if self._fault(Fault.WRITE_HANGS) is Fault.WRITE_RAISES:
            raise OSError("the robot's connection is down")
        self._robot.write(command)

    def physics_digest(self) -> bytes:
        """Identifies the physics state."""
        return self._robot.physics_digest()


def sim_arm(mode: CommandMode, robot: str = "panda") -> SimRobot:
    """The bare arm, at home."""
    description = load_robot(robot)
    spec = mujoco.MjSpec.from_file(str(description.model_path))
    apply_actuator_mode(spec, description, mode)
    return SimRobot(spec.compile(), description, RATE_HZ)


@dataclass(frozen=True)
class RealtimeArmFactory:
    """Builds a :class:`RealtimeArm` in the kernel's process."""

    mode: CommandMode
    faults: Path | None = None

    def build(self) -> RealtimeArm:
        """The arm, at home."""
        return RealtimeArm(sim_arm(self.mode), None if self.faults is None else FaultSwitch(self.faults))


# ------------------------------------------------------------------------------------- the controller


def swaying(q: FloatArray, home: FloatArray, now_s: float) -> FloatArray:
    """A joint velocity (n,) rad/s that sways each joint about home, at rest never for long."""
    index = np.arange(len(q))
    rate = 2.0 + 0.4 * index
    amplitude = np.where(index % 2 == 0, 0.16, 0.12)
    wanted = home + amplitude * np.sin(rate * now_s + index)
    velocity = amplitude * rate * np.cos(rate * now_s + index) + 2.0 * (wanted - q)
    return np.clip(velocity, -0.8, 0.8)


def drive(address: str, contract: KernelContract) -> None:
    """A controller process: sways the arm until it is ended."""
    home = load_robot(contract.robot).home
    with SafetyKernelClient(address, contract) as client:
        while True:
            state, _ = client.read_next(1.0)
            now_ns = time.monotonic_ns()
            values = swaying(state.joint_position, home, now_ns * 1e-9)
            client.send(JointCommand(CommandMode.VELOCITY, frozen_array(values), 0.04, now_ns))


# ------------------------------------------------------------------------------------------ measuring


@dataclass(frozen=True, slots=True)
class _Trial:
    stop_ms: float
    detection_ms: float
    rest_ms: float
    travel_mm: float
    reference_mm: float
    reference_1s_mm: float
    reference_moves: bool


def run(options: Options) -> Result:
    """Measure."""
    started = time.monotonic()
    machine = Machine.here()
    config = KernelConfig("panda", load_profile("panda_tabletop"), CommandMode.VELOCITY, RATE_HZ)
    rng = np.random.default_rng(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.safe_stop"])
    with tempfile.TemporaryDirectory() as folder:
        switch = FaultSwitch(Path(folder, "faults"))
        factory = RealtimeArmFactory(CommandMode.VELOCITY, Path(folder, "faults"))
        with SafetyKernelProcess(config, factory) as kernel:
            bench = _Bench(kernel, config, context, rng)
            trials = [bench.end_controller(signal.SIGSTOP if i % 2 else signal.SIGKILL) for i in range(options.trials)]
            freezes = bench.freeze_states(switch, options.freezes)
            grants = kernel.grants
            statistics = kernel.stop()
    stop = np.array([trial.stop_ms for trial in trials])
    rest = np.array([trial.rest_ms for trial in trials])
    detection = np.array([trial.detection_ms for trial in trials])
    travel = np.array([trial.travel_mm for trial in trials])
    reference = np.array([trial.reference_mm for trial in trials])
    bar_ms = config.profile.timing.watchdog_ms + 1000.0 / RATE_HZ
    return Result(
        kills=sum(1 for i in range(options.trials) if i % 2 == 0),
        freezes_of_controller=options.trials // 2,
        stop_p50_ms=_percentile(stop, 50),
        stop_p99_ms=_percentile(stop, 99),
        stop_max_ms=_percentile(stop, 100),
        stop_bar_ms=bar_ms,
        stops_within_bar=int((stop <= bar_ms).sum()),
        rest_p50_ms=_percentile(rest, 50),
        rest_p99_ms=_percentile(rest, 99),
        rest_max_ms=_percentile(rest, 100),
        command_detection_p50_ms=_percentile(detection, 50),
        command_detection_max_ms=_percentile(detection, 100),
        state_freezes=len(freezes),
        state_detection_p50_ms=_percentile(np.array(freezes), 50),
        state_detection_max_ms=_percentile(np.array(freezes), 100),
        detection_bar_ms=_DETECTION_BAR_MS,
        travel_p50_mm=_percentile(travel, 50),
        travel_max_mm=_percentile(travel, 100),
        reference="the same arm without a safety process keeps its last velocity",
        reference_travel_p50_mm=_percentile(reference, 50),
        reference_travel_max_mm=_percentile(reference, 100),
        reference_travel_1s_p50_mm=_percentile(np.array([trial.reference_1s_mm for trial in trials]), 50),
        reference_still_moving=sum(trial.reference_moves for trial in trials),
        kernel_ticks=statistics.counters.ticks,
        kernel_overruns=statistics.counters.overruns,
        kernel_late_p50_ms=statistics.late_p50_ms,
        kernel_late_p99_ms=statistics.late_p99_ms,
        kernel_late_max_ms=statistics.late_max_ms,
        realtime_priority=grants.fifo,
        seconds=time.monotonic() - started,
        machine=machine,
    )


def _percentile(values: FloatArray, level: float) -> float:
    return float(np.percentile(values, level)) if len(values) else float("nan")


class _Bench:
    """One kernel, many controllers."""

    def __init__(self, kernel: SafetyKernelProcess, config: KernelConfig, context, rng: np.random.Generator) -> None:
        self._address, self._contract = kernel.address, kernel.contract
        self._timing = config.profile.timing
        self._watchdog_ns = config.enforced_profile().timing.watchdog_ms * 1e6
        self._rest_speed = config.profile.monitoring.rest_speed_rad_s
        self._context, self._rng = context, rng
        self._reader: OutboxReader = kernel.reader()
        self._reader.drain()
        self._reference = sim_arm(CommandMode.VELOCITY)

    def _moving_controller(self) -> tuple[BaseProcess, list[KernelTick]]:
        process = self._context.Process(target=drive, args=(self._address, self._contract), daemon=True)
        process.start()
        ticks = self._until(_moving)
        time.sleep(self._rng.uniform(0.05, 0.25))
        return process, ticks

    def _until(self, condition: Callable[[KernelTick], bool]) -> list[KernelTick]:
        ticks: list[KernelTick] = []
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            ticks.extend(self._reader.drain())
            if any(condition(tick) for tick in ticks):
                return ticks
            time.sleep(5e-3)
        raise TimeoutError(f"expected the arm to follow within {_PATIENCE_S:g} s; last tick: {ticks[-1:]}")

    def _resting(self, tick: KernelTick) -> bool:
        speed = float(np.abs(tick.state.joint_velocity).max())
        return tick.result.status is SafetyStatus.HOLD and speed <= self._rest_speed

    def end_controller(self, how: signal.Signals) -> _Trial:
        """End a controller while the arm moves, and look at what the arm does."""
        process, before = self._moving_controller()
        assert process.pid is not None
        os.kill(process.pid, how)
        ended_ns = time.monotonic_ns()
        ticks = before + self._until(lambda tick: tick.now_ns > ended_ns and self._resting(tick))
        process.kill()
        process.join()
        last = max(index for index, tick in enumerate(ticks) if tick.candidate_fresh)
        accepted = ticks[last]
        stamp_ns = accepted.candidate.stamp_ns
        after = ticks[last:]
        hold = next(tick for tick in after if tick.result.status is SafetyStatus.HOLD)
        rest_index = next(i for i, tick in enumerate(after) if tick.now_ns >= hold.now_ns and self._resting(tick))
        way = _distance(accepted.state, after[rest_index].state)
        same, second, moves = self._without(accepted, rest_index)
        return _Trial(
            stop_ms=(hold.now_ns - stamp_ns) * 1e-6,
            detection_ms=(hold.now_ns - accepted.now_ns - self._watchdog_ns) * 1e-6,
            rest_ms=(after[rest_index].now_ns - stamp_ns) * 1e-6,
            travel_mm=way * 1e3,
            reference_mm=same * 1e3,
            reference_1s_mm=second * 1e3,
            reference_moves=moves,
        )

    def _without(self, accepted: KernelTick, ticks: int) -> tuple[float, float, bool]:
        """How far the arm goes without a kernel: in as many ticks, in 1 s, and whether it then still moves."""
        robot, n = self._reference, self._contract.joints
        robot.reset()
        robot.data.qpos[:n], robot.data.qvel[:n] = accepted.state.joint_position, accepted.state.joint_velocity
        mujoco.mj_forward(robot.model, robot.data)
        start = robot.read()
        same = 0.0
        for tick in range(RATE_HZ):
            if tick == ticks:
                same = _distance(start, robot.read())
            robot.write(accepted.result.command)
        end = robot.read()
        return same, _distance(start, end), bool(np.abs(end.joint_velocity).max() > self._rest_speed)

    def freeze_states(self, switch: FaultSwitch, count: int) -> list[float]:
        """Freeze the readings; detection after the deadline, ms."""
        process, _ = self._moving_controller()
        found: list[float] = []
        for _ in range(count):
            self._until(_moving)
            time.sleep(self._rng.uniform(0.02, 0.1))
            self._reader.drain()
            switch.set(Fault.READINGS_FREEZE)
            hold = next(tick for tick in self._until(_state_stale) if _state_stale(tick))
            found.append((hold.now_ns - hold.state.stamp_ns) * 1e-6 - self._timing.state_timeout_ms)
            switch.set(Fault.NONE)
            self._reader.drain()
        process.kill()
        process.join()
        return found


def _moving(tick: KernelTick) -> bool:
    running = tick.result.status in (SafetyStatus.RUN, SafetyStatus.LIMITING)
    return running and float(np.abs(tick.state.joint_velocity).max()) > 0.2


def _state_stale(tick: KernelTick) -> bool:
    return any(reason.limit == "state_stale" for reason in tick.result.reasons)


def _distance(start: RobotState, end: RobotState) -> float:
    return float(np.linalg.norm(end.ee_pose.position - start.ee_pose.position))
