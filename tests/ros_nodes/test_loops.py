"""The loop with its filter elsewhere is the loop; both halves replay from their records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controllers.doubt import ChunkDoubt, DoubtLevel, DoubtMeasure, DoubtTransition
from controllers.drivers import run_lockstep
from controllers.remote_safety import VERDICT_MISSING, RemoteSafety, hear
from controllers.types import (
    ChunkArrival,
    SafetyStatus,
    TickInputs,
    TickOutputs,
    TokenPrefix,
    frozen_array,
)
from episodes.reader import open_episode
from episodes.replay import replay
from ros_nodes.loops import Half, control_loop, half_of, rebuild_half, safety_filter, safety_outputs
from ros_nodes.records import (
    ControlTick,
    SafetyTick,
    pack_control_tick,
    pack_observation,
    pack_safety_tick,
    unpack_control_tick,
    unpack_observation,
    unpack_safety_tick,
)
from sim.assembly import assemble_loop, assemble_sim, default_config
from sim.rollout import ExpertSource, success_condition
from sim.stack import StackConfig

TICKS = 200


@pytest.fixture(scope="module")
def config() -> StackConfig:
    return StackConfig.from_json(replace(default_config(), cameras={}).to_json())


class Sink:
    """Keeps everything."""

    def __init__(self) -> None:
        self.ticks: list[tuple[TickInputs, TickOutputs]] = []
        self.observations = []

    def record_tick(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = -1,
        applied_ns: int = -1,
    ) -> None:
        del physics_digest, sent_ns, applied_ns
        self.ticks.append((inputs, outputs))

    def offer_memory(self, tick: int, loop_state: object) -> None:
        del tick, loop_state

    def record_observation(self, observation) -> None:
        self.observations.append(observation)


@pytest.fixture(scope="module")
def driven(config: StackConfig) -> Sink:
    """An episode of the whole loop in one process."""
    sink = Sink()
    with assemble_sim(config, "pick_up", 1_000_000) as cell:
        run_lockstep(
            assemble_loop(config),
            cell.robot,
            ExpertSource().client(cell, config),
            cell.source,
            sink,
            max_ticks=TICKS,
            stop=success_condition(cell, config),
        )
    return sink


def test_with_every_verdict_heard_in_time_the_split_loop_is_the_loop(config: StackConfig, driven: Sink) -> None:
    control, safety = control_loop(config, RemoteSafety()), safety_filter(config)
    first = driven.ticks[0][0].state
    state, memory = control.initial(first), safety.initial(first)
    dt = 1.0 / config.control_rate_hz
    for inputs, expected in driven.ticks:
        state, outputs = control.tick(state, inputs)
        memory, verdict = safety.enforce(memory, inputs.state, outputs.command, inputs.events, inputs.now_ns, dt)
        state = hear(state, verdict)
        assert outputs.command.values.tobytes() == expected.command.values.tobytes()
        assert verdict.command.values.tobytes() == expected.safety.command.values.tobytes()
        assert verdict.status is expected.safety.status


def test_without_verdicts_the_loop_holds_after_its_patience(config: StackConfig, driven: Sink) -> None:
    control = control_loop(config, RemoteSafety(patience_ticks=3))
    state = control.initial(driven.ticks[0][0].state)
    statuses, reference = [], []
    for index, (inputs, expected) in enumerate(driven.ticks[:60]):
        state, outputs = control.tick(state, inputs)
        if index < 50:
            state = hear(state, expected.safety)
        statuses.append(outputs.safety.status)
        reference.append(outputs.safety.reasons)
    assert statuses[51] is SafetyStatus.RUN
    assert statuses[-1] is SafetyStatus.HOLD
    assert reference[-1][0].limit == VERDICT_MISSING


def test_records_survive_bit_for_bit(driven: Sink) -> None:
    for inputs, outputs in driven.ticks[::20]:
        tick = ControlTick(inputs, outputs, True, 5, 6)
        data = pack_control_tick(tick)
        assert pack_control_tick(unpack_control_tick(data)) == data
        judged = SafetyTick(inputs, outputs.command, True, 1, 2, outputs.safety)
        data = pack_safety_tick(judged)
        assert pack_safety_tick(unpack_safety_tick(data)) == data
        assert not unpack_safety_tick(data).candidate.values.flags.writeable
    seen = replace(driven.observations[0], images={"wrist": np.arange(27, dtype=np.uint8).reshape(3, 3, 3)})
    back = unpack_observation(pack_observation(seen))
    assert np.array_equal(back.images["wrist"], seen.images["wrist"])
    assert back.instruction == seen.instruction
    assert back.prefix is None
    prefix = TokenPrefix(np.arange(14, dtype=np.int64).reshape(2, 7))
    back = unpack_observation(pack_observation(replace(seen, prefix=prefix)))
    assert back.prefix is not None
    assert np.array_equal(back.prefix.tokens, prefix.tokens)
    assert not back.prefix.tokens.flags.writeable


def test_a_record_keeps_all_of_a_chunk(driven: Sink) -> None:
    inputs, outputs = next(pair for pair in driven.ticks if pair[0].arrivals)
    arrival = inputs.arrivals[0]
    likely = np.linspace(-3.0, 0.0, arrival.chunk.tokens.size).reshape(arrival.chunk.tokens.shape)
    doubt = ChunkDoubt(0.5, 0.25, 2.0)
    chunk = replace(
        arrival.chunk,
        forced_rows=2,
        log_probability=frozen_array(likely),
        entropy=frozen_array(-likely),
        doubt=doubt,
    )
    sent = replace(inputs, arrivals=(ChunkArrival(chunk, 7, 8),))
    change = DoubtTransition(DoubtLevel.HOLD, DoubtMeasure.MEAN_ENTROPY, 2.0, 1.5, 3)
    said = replace(outputs, executor=replace(outputs.executor, doubt=(change,)))
    heard = unpack_control_tick(pack_control_tick(ControlTick(sent, said, True, 5, 6)))
    assert heard.outputs.executor == said.executor
    (back,) = heard.inputs.arrivals
    assert back.chunk.entropy is not None
    assert np.array_equal(back.chunk.entropy, -likely)
    assert back.chunk.doubt == doubt
    assert back.chunk.log_probability is not None
    assert np.array_equal(back.chunk.log_probability, likely)
    assert (back.chunk.forced_rows, back.inference_ns, back.inferred_ns) == (2, 7, 8)


@pytest.mark.parametrize("half", list(Half))
def test_a_recorded_half_replays_identical(half: Half, config: StackConfig, driven: Sink, tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs the extra 'ros'")
    from ros_nodes.recorder_node import HalfRecorder, RecorderOptions

    recorder = HalfRecorder(half, config)
    path = tmp_path / "half.zarr"
    recorder.open(path, RecorderOptions(task="pick_up"), "grab it")
    safety = safety_filter(config)
    memory = safety.initial(driven.ticks[0][0].state)
    for inputs, outputs in driven.ticks:
        if half is Half.CONTROL:
            recorder.take(inputs, outputs)
            continue
        memory, verdict = safety.enforce(
            memory, inputs.state, outputs.command, inputs.events, inputs.now_ns, 1.0 / config.control_rate_hz
        )
        recorder.take(replace(inputs, arrivals=()), safety_outputs(inputs.state, outputs.command, verdict))
    recorder.close("done")
    episode = open_episode(path)
    assert half_of(episode) is half
    found = replay(episode, rebuild_half)
    assert found.identical, found.first_divergence
    assert found.ticks == len(driven.ticks)


def test_lost_records_end_the_episode_and_are_named(config: StackConfig, driven: Sink, tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs the extra 'ros'")
    from ros_nodes.recorder_node import HalfRecorder, RecorderOptions

    recorder = HalfRecorder(Half.CONTROL, config)
    recorder.open(tmp_path / "lost.zarr", RecorderOptions(), "")
    for inputs, outputs in (driven.ticks[0], driven.ticks[1], driven.ticks[3], driven.ticks[4]):
        recorder.take(inputs, outputs)
    assert recorder.lost == "tick 3 came after tick 1"
    assert recorder.writer is None
    outcome = open_episode(tmp_path / "lost.zarr").manifest.outcome
    assert outcome is not None
    assert outcome.ticks == 2
    assert "records were lost" in outcome.reason


def test_a_recorder_that_joins_too_late_is_in_trouble_until_the_next_first_tick(
    config: StackConfig, driven: Sink, tmp_path: Path
) -> None:
    pytest.importorskip("rclpy", reason="needs the extra 'ros'")
    from ros_nodes.recorder_node import HalfRecorder, RecorderOptions

    recorder = HalfRecorder(Half.CONTROL, config)
    assert recorder.trouble == "no episode is open"
    recorder.open(tmp_path / "late.zarr", RecorderOptions(), "")
    assert recorder.trouble == ""
    recorder.take(*driven.ticks[7])
    assert "the first tick that came was 7" in recorder.trouble
    recorder.open(tmp_path / "next.zarr", RecorderOptions(), "")
    recorder.take(*driven.ticks[0])
    assert recorder.trouble == ""
    recorder.close("done")
    assert not (tmp_path / "late.zarr").exists()
    assert open_episode(tmp_path / "next.zarr").manifest.outcome is not None
