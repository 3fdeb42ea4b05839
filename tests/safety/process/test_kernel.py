"""The safety kernel with real processes: whatever the controller does, the arm stops inside its limits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.safe_stop import Fault
from controllers.types import FloatArray, JointCommand, OperatorEvent, SafetyStatus, frozen_array
from safety.process import (
    ContractMismatchError,
    EventKind,
    KernelTick,
    SafetyKernelClient,
    SafetyKernelError,
    TakenOverError,
)
from tests.safety.process import hostile
from tests.safety.process.conftest import MOVING, PATIENCE_S, PROFILE, Cell, send_signal, speed

pytestmark = [pytest.mark.realtime, pytest.mark.slow]

WATCHDOG_NS = PROFILE.timing.watchdog_ms * 1e6
STATE_TIMEOUT_NS = PROFILE.timing.state_timeout_ms * 1e6
PERIOD_NS = 5e6
DETECTION_NS = 10e6


def limits_of(tick) -> set[str]:
    return {reason.limit for reason in tick.result.reasons}


def stop_delay_ns(cell: Cell) -> float:
    """From the stamp of the last command that came until the first verdict that brakes, less the tick's lateness."""
    cell.until_rest()
    last = max((tick for tick in cell.ticks if tick.candidate_fresh), key=lambda tick: tick.now_ns)
    hold = cell.hold_after(last.now_ns)
    assert "command_watchdog" in limits_of(hold)
    return hold.now_ns - last.candidate.stamp_ns - max(hold.lateness_ns, 0) - max(last.lateness_ns, 0)


# ---------------------------------------------------------------------------------- a good controller


def test_commands_pass_unchanged_and_move_the_arm(cell: Cell) -> None:
    with cell.controller():
        cell.until_moving()
        ticks = cell.watch(0.5)
    assert any(tick.candidate_fresh for tick in ticks)
    passed = [tick for tick in ticks if tick.result.status is SafetyStatus.RUN]
    assert passed
    for tick in passed:
        assert tick.result.command.values.tobytes() == tick.candidate.values.tobytes()
        assert tick.physics_digest
    assert any(tick.written for tick in ticks)  # on a busy machine the arm itself may be late
    assert np.ptp([tick.state.joint_position[0] for tick in ticks]) > 0.02


def test_a_controller_for_another_profile_is_refused(cell: Cell) -> None:
    other = replace(cell.contract, profile_hash="0" * 16)
    found = cell.contract.profile_hash
    with pytest.raises(ContractMismatchError, match=f"profile_hash: expected {'0' * 16}, found {found}"):
        SafetyKernelClient(cell.address, other)
    with pytest.raises(ContractMismatchError, match="mode: expected position, found velocity"):
        SafetyKernelClient(cell.address, replace(cell.contract, mode="position"))


def test_an_address_without_a_kernel_is_refused(cell: Cell, tmp_path: Path) -> None:
    Path(tmp_path, "x").write_bytes(bytes(8192))
    with pytest.raises(SafetyKernelError, match="expected the magic"):
        SafetyKernelClient(str(tmp_path / "x"), cell.contract)
    with pytest.raises(SafetyKernelError, match="found none"):
        SafetyKernelClient(str(tmp_path / "y"), cell.contract)


# ------------------------------------------------------------------------------- bad ends of controllers


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_controller_that_ends_or_hangs_stops_the_arm_in_the_watchdog_time(cell: Cell, how: signal.Signals) -> None:
    with cell.controller() as process:
        cell.until_moving()
        send_signal(process, how)
        assert stop_delay_ns(cell) <= WATCHDOG_NS + PERIOD_NS
        assert all(tick.result.status is SafetyStatus.HOLD for tick in cell.watch(0.3))


def test_a_controller_that_goes_on_is_obeyed_again_unless_a_stop_is_latched(cell: Cell) -> None:
    with cell.controller() as process:
        cell.until_moving()
        send_signal(process, signal.SIGSTOP)
        cell.until_rest()
        send_signal(process, signal.SIGCONT)
        cell.until_moving()
        send_signal(process, signal.SIGSTOP)
        cell.until_rest()
        cell.button.press()
        cell.until(lambda tick: tick.result.status is SafetyStatus.EMERGENCY_STOP, "emergency stop")
        send_signal(process, signal.SIGCONT)
        assert all(tick.result.status is SafetyStatus.EMERGENCY_STOP for tick in cell.watch(0.5))


def test_half_a_message_is_no_message_and_blocks_nobody(cell: Cell) -> None:
    before = cell.kernel.statistics().counters.torn
    with cell.process(hostile.die_inside_a_write, cell.contract) as process:
        cell.until_moving()
        process.join(30.0)
        assert stop_delay_ns(cell) <= WATCHDOG_NS + PERIOD_NS
    cell.watch(0.1)
    assert cell.kernel.statistics().counters.torn >= before + 2
    with cell.controller():
        cell.until_moving()


def test_random_bytes_are_no_commands(cell: Cell) -> None:
    with cell.process(hostile.babble_bytes):
        ticks = cell.watch(1.0)
        assert all(not tick.candidate_fresh for tick in ticks)
    with cell.process(hostile.babble_slots, cell.contract):
        deadline = time.monotonic() + PATIENCE_S
        slots = cell.watch(1.0)
        while cell.kernel.statistics().counters.torn <= 50 and time.monotonic() < deadline:
            slots += cell.watch(1.0)
    assert ticks
    assert slots
    ticks += slots
    assert all(tick.result.status is SafetyStatus.HOLD and speed(tick) < 0.02 for tick in ticks)
    assert cell.kernel.statistics().counters.torn > 50


def test_a_swaying_arm_stops_when_its_memory_is_overwritten(cell: Cell) -> None:
    with cell.controller():
        cell.until_moving()
        with cell.process(hostile.babble_bytes):
            assert stop_delay_ns(cell) <= WATCHDOG_NS + PERIOD_NS


def test_random_numbers_stay_inside_every_limit(cell: Cell) -> None:
    with cell.process(hostile.babble_floats, cell.contract):
        cell.until_moving()
        ticks = cell.watch(3.0)
    faults = set().union(*(limits_of(tick) for tick in ticks))
    assert faults & {"command_non_finite", "command_shape", "command_future", "command_stale", "command_mode"}
    cell.until_rest()  # and cell.check() looks at every tick


def test_ten_thousand_commands_a_second_are_followed_like_two_hundred(cell: Cell) -> None:
    with cell.process(hostile.flood, cell.contract):
        cell.until_moving()
        ticks = cell.watch(1.0)
    assert any(tick.candidate_fresh for tick in ticks)
    assert stop_delay_ns(cell) <= WATCHDOG_NS + PERIOD_NS


def test_an_older_stamp_is_ignored_and_another_controller_takes_over(cell: Cell) -> None:
    still = frozen_array(np.zeros(7))
    before = cell.kernel.statistics().counters
    with SafetyKernelClient(cell.address, cell.contract) as first:
        _until_heard(cell, first, still)
        now = time.monotonic_ns()
        first.send(JointCommand(cell.kernel.config.mode, still, 0.04, now))
        cell.watch(0.1)
        first.send(JointCommand(cell.kernel.config.mode, still, 0.04, now - 1_000_000))
        cell.watch(0.1)
        with SafetyKernelClient(cell.address, cell.contract) as second:
            with pytest.raises(TakenOverError, match="another controller"):
                first.send(JointCommand(cell.kernel.config.mode, still, 0.04, now))
            _until_heard(cell, second, still)
    assert cell.kernel.statistics().counters.out_of_order == before.out_of_order + 1


def _until_heard(cell: Cell, client: SafetyKernelClient, values: FloatArray) -> None:
    """Send commands until the kernel takes one: on a busy machine the tick that took the first may have gone unseen."""

    def heard(tick: KernelTick) -> bool:
        if not tick.candidate_fresh:
            client.send(JointCommand(cell.kernel.config.mode, values, 0.04, time.monotonic_ns()))
        return tick.candidate_fresh

    client.send(JointCommand(cell.kernel.config.mode, values, 0.04, time.monotonic_ns()))
    cell.until(heard, "command")


# -------------------------------------------------------------------------------------- emergency stop


def test_a_third_process_stops_the_arm_and_the_controller_cannot_undo_it(cell: Cell) -> None:
    with cell.controller():
        cell.until_moving()
        code = f"from safety.process import EmergencyStop; EmergencyStop({cell.address!r}).press()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        cell.until(lambda tick: tick.result.status is SafetyStatus.EMERGENCY_STOP and speed(tick) < 0.02, "rest")
    with SafetyKernelClient(cell.address, cell.contract) as client:
        still = JointCommand(cell.kernel.config.mode, frozen_array(np.zeros(7)), 0.04, time.monotonic_ns())
        client.send(still, (OperatorEvent.RESET,))
        assert all(tick.result.status is SafetyStatus.EMERGENCY_STOP for tick in cell.watch(0.2))
    cell.button.release()
    assert all(tick.result.status is SafetyStatus.EMERGENCY_STOP for tick in cell.watch(0.2))
    cell.button.reset()
    with cell.controller():
        cell.until_moving()


def test_a_signal_stops_the_arm(cell: Cell) -> None:
    with cell.controller():
        cell.until_moving()
        subprocess.run(["kill", "-USR1", str(cell.kernel.pid)], check=True)
        cell.until(lambda tick: tick.result.status is SafetyStatus.EMERGENCY_STOP and speed(tick) < 0.02, "rest")
        cell.button.reset()
        cell.until_moving()


# ---------------------------------------------------------------------------------------------- the robot


@pytest.mark.parametrize("fault", [Fault.READINGS_FREEZE, Fault.READ_HANGS, Fault.READ_RAISES])
def test_a_robot_that_cannot_be_read_is_stopped(cell: Cell, fault: Fault) -> None:
    with cell.controller():
        cell.until_moving()
        cell.faults.set(fault)
        hold = cell.until(lambda tick: "state_stale" in limits_of(tick), "stale state")
        late = hold.now_ns - hold.state.stamp_ns - STATE_TIMEOUT_NS - max(hold.lateness_ns, 0)
        assert late <= DETECTION_NS
        cell.watch(0.3)
        assert cell.ticks[-1].written
        assert not cell.ticks[-1].result.command.values.any()
        cell.faults.set(Fault.NONE)
        seen = cell.until(lambda tick: tick.state_fresh and "state_stale" not in limits_of(tick), "state")
        assert speed(seen) < 0.05  # it has stopped while nobody could see it
        cell.until_moving()
    if fault is not Fault.READINGS_FREEZE:
        kinds = [event.kind for event in cell.kernel.statistics().events]
        assert EventKind.READ_FAILED in kinds
        assert EventKind.READ_RECOVERED in kinds


@pytest.mark.parametrize("fault", [Fault.WRITE_HANGS, Fault.WRITE_RAISES])
def test_a_robot_that_takes_no_commands_stays_stopped_afterwards(cell: Cell, fault: Fault) -> None:
    with cell.controller():
        cell.until_moving()
        cell.faults.set(fault)
        cell.until(lambda tick: tick.result.status is SafetyStatus.EMERGENCY_STOP, "emergency stop")
        cell.faults.set(Fault.NONE)
        cell.until(lambda tick: tick.written and speed(tick) < 0.02, "rest")
        assert all(tick.result.status is SafetyStatus.EMERGENCY_STOP for tick in cell.watch(0.2))
    kinds = {event.kind for event in cell.kernel.statistics().events}
    assert {EventKind.WRITE_FAILED, EventKind.WRITE_LOST_STOP, EventKind.WRITE_RECOVERED} <= kinds


def test_statistics_tell_each_transition_with_its_limit_and_margin(cell: Cell) -> None:
    with cell.controller() as process:
        cell.until_moving()
        send_signal(process, signal.SIGKILL)
        cell.until_rest()
    cell.watch(0.1)
    statistics = cell.kernel.statistics()
    stopped = statistics.transitions[-1]
    assert (stopped.limit, stopped.after) == ("command_watchdog", SafetyStatus.HOLD)
    assert stopped.before in MOVING
    assert stopped.margin < 0.0
    assert stopped.tick > 0
    assert statistics.counters.ticks > 0
    assert 0.0 < statistics.late_p50_ms <= statistics.late_p99_ms
