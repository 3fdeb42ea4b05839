"""The tick as a whole, with a real controller and a real safety filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controllers.catalog import make_controller
from controllers.clients import InlinePolicyClient
from controllers.drivers import InterruptSwitch, StopReason, run_lockstep
from controllers.executor import ChunkExecutor, ExecutorOptions
from controllers.kinematics import ArmModel
from controllers.loop import ControlLoop
from controllers.robot import load_robot
from controllers.types import (
    ActionChunk,
    ChunkArrival,
    FloatArray,
    JointCommand,
    Observation,
    OperatorEvent,
    Pose,
    RobotState,
    SafetyStatus,
    TickInputs,
    TickOutputs,
    frozen_array,
)
from safety.building import build_filter
from safety.profile import load_profile
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import COMPACT_TOKENIZER

PANDA = load_robot("panda")
ARM = ArmModel(PANDA)
PERIOD_NS = 5_000_000


def build_loop() -> ControlLoop:
    executor = ChunkExecutor(TokenActionDecoder(COMPACT_TOKENIZER, SPEC), 0.08, 200, ExecutorOptions())
    return ControlLoop(
        executor,
        make_controller("differential_ik", ARM),
        build_filter(PANDA, load_profile("panda_tabletop")),
        200,
    )


def sensed(q: FloatArray, tick: int, velocity: FloatArray | None = None) -> RobotState:
    return RobotState(
        joint_position=frozen_array(q),
        joint_velocity=frozen_array(np.zeros(7) if velocity is None else velocity),
        joint_effort=frozen_array(np.zeros(7)),
        ee_pose=ARM.end_effector_pose(np.asarray(q)),
        wrench=frozen_array(np.zeros(6)),
        gripper_opening=0.08,
        stamp_ns=tick * PERIOD_NS,
    )


class IdealArm:
    """Follows position commands exactly, one tick later."""

    def __init__(self) -> None:
        self.q = np.array(PANDA.home)
        self.qd = np.zeros(7)
        self.tick = 0
        self.applied: list[FloatArray] = []

    def read(self) -> RobotState:
        return sensed(self.q, self.tick, self.qd)

    def write(self, command: JointCommand) -> None:
        self.qd = (command.values - self.q) * 200.0
        self.q = np.array(command.values)
        self.applied.append(command.values)
        self.tick += 1

    def physics_digest(self) -> bytes:
        return b""


class SteadyPolicy:
    """Always moves down and sideways."""

    spec = SPEC
    tokenizer_id = COMPACT_TOKENIZER.tokenizer_id

    def reset(self) -> None:
        """Nothing to forget."""

    def infer(self, observation: Observation) -> ActionChunk:
        rows = np.tile([0.0, 0.01, -0.012, 0.0, 0.0, 0.0, 0.5], (8, 1))
        tokens = COMPACT_TOKENIZER.encode(rows, SPEC)
        return ActionChunk(tokens, self.tokenizer_id, SPEC.hash, observation.stamp_ns, 0)


class BlindSource:
    def observe(self, state: RobotState, commanded_pose: Pose) -> Observation:
        return Observation({}, state, commanded_pose, "go", state.stamp_ns)


class Trace:
    def __init__(self) -> None:
        self.ticks: list[tuple[TickInputs, TickOutputs]] = []

    def offer_memory(self, tick: int, loop_state: object) -> None:
        pass

    def record_tick(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = -1,
        applied_ns: int = -1,
    ) -> None:
        self.ticks.append((inputs, outputs))

    def record_observation(self, observation: Observation) -> None:
        """Not looked at."""


def run(max_ticks: int, interrupt: InterruptSwitch | None = None, events=None) -> tuple[IdealArm, Trace, StopReason]:
    arm, trace = IdealArm(), Trace()
    summary = run_lockstep(
        build_loop(),
        arm,
        InlinePolicyClient(SteadyPolicy()),
        BlindSource(),
        trace,
        max_ticks=max_ticks,
        stop=lambda inputs, outputs: None,
        interrupt=interrupt,
        events=events or (lambda tick: ()),
    )
    return arm, trace, summary.reason


def test_an_episode_is_the_fold_of_its_inputs() -> None:
    """Feeding the logged inputs to a fresh loop gives the same outputs bit for bit."""
    _, trace, _ = run(400)
    loop = build_loop()
    state = loop.initial(trace.ticks[0][0].state)
    for inputs, outputs in trace.ticks:
        state, again = loop.tick(state, inputs)
        assert again.safety.command.values.tobytes() == outputs.safety.command.values.tobytes()
        assert again.command.values.tobytes() == outputs.command.values.tobytes()
        assert again.safety.status is outputs.safety.status
        assert again.executor == outputs.executor


def test_a_policy_that_dives_into_the_table_is_stopped_above_it() -> None:
    arm, trace, _ = run(1200)
    lowest = min(ARM.end_effector_pose(np.asarray(q)).position[2] for q in arm.applied)
    assert lowest > 0.0
    assert any(outputs.safety.status is SafetyStatus.LIMITING for _, outputs in trace.ticks)


def test_a_nan_reading_stops_the_arm_and_a_good_one_lets_it_go_on() -> None:
    loop = build_loop()
    arm = IdealArm()
    state = loop.initial(arm.read())
    statuses = []
    for tick in range(120):
        reading = arm.read()
        if 40 <= tick < 60:
            reading = replace(reading, joint_position=frozen_array(np.full(7, np.nan)))
        arrivals = ()
        if tick % 20 == 0:
            observation = Observation({}, reading, reading.ee_pose, "go", reading.stamp_ns)
            arrivals = (ChunkArrival(replace(SteadyPolicy().infer(observation), chunk_id=tick)),)
        state, outputs = loop.tick(state, TickInputs(tick, reading.stamp_ns, reading, arrivals))
        assert np.isfinite(outputs.safety.command.values).all()
        statuses.append(outputs.safety.status)
        arm.write(outputs.safety.command)
    assert all(status is SafetyStatus.HOLD for status in statuses[41:60])
    assert statuses[-1] in (SafetyStatus.RUN, SafetyStatus.LIMITING)


def test_a_nan_state_is_nothing_to_start_from() -> None:
    with pytest.raises(ValueError, match="check the sensors"):
        build_loop().initial(sensed(np.full(7, np.nan), 0))


def test_an_emergency_stop_latches_until_it_is_reset_at_rest() -> None:
    events = {100: (OperatorEvent.EMERGENCY_STOP,), 300: (OperatorEvent.RESET,)}
    arm, trace, _ = run(420, events=lambda tick: events.get(tick, ()))
    statuses = [outputs.safety.status for _, outputs in trace.ticks]
    assert all(status is SafetyStatus.EMERGENCY_STOP for status in statuses[100:300])
    assert np.abs(arm.applied[299] - arm.applied[298]).max() == 0.0
    assert SafetyStatus.EMERGENCY_STOP not in statuses[305:]
    assert np.abs(arm.applied[-1] - arm.applied[299]).max() > 0.01


def test_an_interrupt_brings_the_arm_to_rest_before_the_end() -> None:
    switch = InterruptSwitch()
    arm, trace, reason = run(2000, interrupt=switch, events=lambda tick: switch.press() or () if tick == 100 else ())
    assert reason is StopReason.INTERRUPTED
    assert len(trace.ticks) < 200
    assert np.abs(arm.applied[-1] - arm.applied[-2]).max() * 200 < 0.02


@pytest.mark.parametrize("rate", [0, -5, 7])
def test_a_control_rate_must_divide_a_second(rate: int) -> None:
    loop = build_loop()
    with pytest.raises(ValueError, match="try 50, 100 or 200"):
        ControlLoop(loop.executor, loop.controller, loop.safety, rate)
