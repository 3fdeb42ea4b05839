"""The chunk executor: plays well-formed chunks smoothly, refuses everything else and comes to rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.executor import ChunkExecutor, ExecutorOptions, ExecutorState
from controllers.types import (
    ActionChunk,
    ActionSpace,
    ActionSpec,
    ChunkArrival,
    ExecutorReport,
    ExecutorStatus,
    JointCommand,
    NormalizationStatistics,
    OperatorEvent,
    Pose,
    PoseTarget,
    RejectionReason,
    RobotState,
    SafetyResult,
    SafetyStatus,
    Target,
    TickInputs,
    frozen_array,
)
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import COMPACT_TOKENIZER

BOUND = [0.025, 0.025, 0.025, 0.15, 0.15, 0.15]
SPEC = ActionSpec(
    space=ActionSpace.EE_DELTA,
    frame="base",
    names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "fraction_open"),
    lower=frozen_array([-b for b in BOUND] + [0.0]),
    upper=frozen_array([*BOUND, 1.0]),
    rate_hz=20,
    horizon=8,
    statistics=NormalizationStatistics(
        frozen_array([-b for b in BOUND] + [0.0]), frozen_array([*BOUND, 1.0]), (True,) * 6 + (False,)
    ),
)
PERIOD_NS = 5_000_000
STILL = np.full((8, 7), 127)
OPEN_M = 0.08


def executor(**options: float) -> ChunkExecutor:
    decoder = TokenActionDecoder(COMPACT_TOKENIZER, SPEC)
    return ChunkExecutor(decoder, OPEN_M, 200, ExecutorOptions(**options))  # pyright: ignore[reportArgumentType]


def state_at(tick: int, position: tuple[float, float, float] = (0.4, 0.0, 0.3)) -> RobotState:
    return RobotState(
        joint_position=frozen_array(np.zeros(7)),
        joint_velocity=frozen_array(np.zeros(7)),
        joint_effort=frozen_array(np.zeros(7)),
        ee_pose=Pose(frozen_array(position), frozen_array([0.0, 1.0, 0.0, 0.0])),
        wrench=frozen_array(np.zeros(6)),
        gripper_opening=0.04,
        stamp_ns=tick * PERIOD_NS,
    )


def verdict(scale: float, status: SafetyStatus = SafetyStatus.RUN) -> SafetyResult:
    from controllers.types import CommandMode

    command = JointCommand(CommandMode.POSITION, frozen_array(np.zeros(7)), 0.04, 0)
    return SafetyResult(command, status, (), scale, 1.0)


def chunk(rows: np.ndarray, stamp_tick: int, chunk_id: int = 0) -> ActionChunk:
    """A chunk from physical rows (8, 7)."""
    tokens = COMPACT_TOKENIZER.encode(rows, SPEC)
    return ActionChunk(tokens, COMPACT_TOKENIZER.tokenizer_id, SPEC.hash, stamp_tick * PERIOD_NS, chunk_id)


def constant_rows(dx: float, yaw: float = 0.0, gripper: float = 0.5) -> np.ndarray:
    return np.tile([dx, 0.0, 0.0, 0.0, 0.0, yaw, gripper], (8, 1))


class Player:
    """Drives an executor whose arm follows the reference exactly."""

    def __init__(self, unit: ChunkExecutor) -> None:
        self.unit = unit
        self.memory: ExecutorState = unit.initial(state_at(0))
        self.tick = 0
        self.positions: list[np.ndarray] = []
        self.target: Target | None = None
        self.report: ExecutorReport | None = None
        self.requested = True

    def step(
        self,
        *arrivals: ActionChunk,
        events: tuple[OperatorEvent, ...] = (),
        feedback: SafetyResult | None = None,
    ) -> None:
        position = tuple(self.memory.reference.position)
        inputs = TickInputs(
            self.tick,
            self.tick * PERIOD_NS,
            state_at(self.tick, position),  # pyright: ignore[reportArgumentType]
            tuple(ChunkArrival(item) for item in arrivals),
            events,
        )
        self.memory, self.target, self.report, self.requested = self.unit.update(self.memory, inputs, feedback, 0.005)
        assert isinstance(self.target, PoseTarget)
        self.positions.append(self.target.pose.position)
        self.tick += 1


def test_control_rate_must_be_a_multiple_of_the_action_rate() -> None:
    decoder = TokenActionDecoder(COMPACT_TOKENIZER, SPEC)
    with pytest.raises(ValueError, match=r"multiple of the action rate 20 Hz, found 50 Hz"):
        ChunkExecutor(decoder, OPEN_M, 50, ExecutorOptions())
    with pytest.raises(ValueError, match=r"1 to 8 rows .* found 9"):
        ChunkExecutor(decoder, OPEN_M, 200, ExecutorOptions(execution_horizon=9))


def test_a_chunk_is_reached_row_by_row() -> None:
    player = Player(executor(execution_horizon=8))
    start = np.array(player.memory.reference.position)
    player.step(chunk(constant_rows(0.01), 0))
    for _ in range(200):
        player.step()
    np.testing.assert_allclose(player.positions[-1] - start, [0.08, 0.0, 0.0], atol=8 * 0.025 / 255 + 1e-6)


def test_the_next_chunk_is_requested_every_execution_horizon() -> None:
    player = Player(executor(execution_horizon=2))
    requests: list[int] = []
    for tick in range(100):
        arrivals = (chunk(constant_rows(0.005), tick, tick),) if player.requested else ()
        player.step(*arrivals)
        if player.requested:
            requests.append(tick)
    assert np.diff(requests).tolist() == [20] * (len(requests) - 1)


def test_steady_replanning_moves_at_the_commanded_speed_without_jerks() -> None:
    player = Player(executor(execution_horizon=2))
    for tick in range(400):
        player.step(*((chunk(constant_rows(0.01), tick, tick),) if player.requested else ()))
    x = np.array(player.positions)[:, 0]
    speed = np.diff(x) / 0.005
    decoded = COMPACT_TOKENIZER.decode(COMPACT_TOKENIZER.encode(constant_rows(0.01), SPEC), SPEC)[0, 0]
    np.testing.assert_allclose(speed[300:], decoded * 20, rtol=1e-3)
    acceleration = np.diff(speed) / 0.005
    assert np.abs(acceleration).max() <= 2.5 + 1e-9


def test_rotation_turns_about_the_base_axis() -> None:
    player = Player(executor(execution_horizon=8))
    player.step(chunk(constant_rows(0.0, yaw=0.05), 0))
    for _ in range(300):
        player.step()
    assert isinstance(player.target, PoseTarget)
    from controllers.spatial import rotation_difference

    turned = rotation_difference(player.target.pose.quaternion, frozen_array([0.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(turned, [0.0, 0.0, 0.4], atol=8 * 0.15 / 255 + 1e-6)


def test_a_late_chunk_joins_where_its_rows_are_due() -> None:
    """Inference that took 40 ticks: rows that are past are skipped, the anchor is where the observation was."""
    prompt, late = Player(executor(execution_horizon=8)), Player(executor(execution_horizon=8))
    rows = constant_rows(0.01)
    prompt.step(chunk(rows, 0))
    late.step()
    for tick in range(1, 200):
        prompt.step()
        late.step(*((chunk(rows, 0),) if tick == 40 else ()))
    np.testing.assert_allclose(late.positions[-1], prompt.positions[-1], atol=1e-4)


def test_safety_scale_stretches_the_clock_and_keeps_the_place() -> None:
    fast, slow = Player(executor(execution_horizon=8)), Player(executor(execution_horizon=8))
    rows = constant_rows(0.01)
    for player, scale, ticks in ((fast, 1.0, 40), (slow, 0.5, 80)):
        for tick in range(ticks):
            player.step(*((chunk(rows, 0),) if tick == 0 else ()), feedback=verdict(scale, SafetyStatus.LIMITING))
    assert slow.report is not None
    assert fast.report is not None
    assert slow.report.phase == pytest.approx(fast.report.phase)
    np.testing.assert_allclose(slow.positions[-1], fast.positions[-1], atol=5e-4)


def test_a_played_out_chunk_holds_its_last_waypoint() -> None:
    player = Player(executor(execution_horizon=8))
    player.step(chunk(constant_rows(0.01), 0))
    for _ in range(500):
        player.step()
    assert player.report is not None
    assert player.report.status is ExecutorStatus.EXHAUSTED
    assert np.linalg.norm(player.positions[-1] - player.positions[-20]) < 1e-9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer_id": "fast/1"}, RejectionReason.UNKNOWN_TOKENIZER),
        ({"spec_hash": "0" * 16}, RejectionReason.SPEC_MISMATCH),
        ({"tokens": STILL[:4]}, RejectionReason.WRONG_SHAPE),
        ({"tokens": STILL.astype(np.int32)}, RejectionReason.WRONG_TYPE),
        ({"tokens": STILL.astype(float)}, RejectionReason.WRONG_TYPE),
        ({"tokens": STILL.tolist()}, RejectionReason.WRONG_TYPE),
        ({"tokens": np.full((8, 7), 255)}, RejectionReason.TOKEN_OUT_OF_VOCABULARY),
        ({"tokens": np.full((8, 7), -1)}, RejectionReason.TOKEN_OUT_OF_VOCABULARY),
        ({"tokens": np.zeros((8, 7), np.int64)}, RejectionReason.OUT_OF_BOUNDS),  # gripper -1
        ({"observation_stamp_ns": 10**12}, RejectionReason.FUTURE_STAMP),
        ({"observation_stamp_ns": -(10**12)}, RejectionReason.STALE),
        ({"observation_stamp_ns": 0.5}, RejectionReason.WRONG_TYPE),
    ],
)
def test_a_malformed_chunk_is_refused_by_type_and_the_arm_comes_to_rest(
    change: dict[str, object], reason: RejectionReason
) -> None:
    player = Player(executor(execution_horizon=8))
    player.step(chunk(constant_rows(0.01), 0))
    for _ in range(30):
        player.step()
    speed = np.linalg.norm(player.positions[-1] - player.positions[-2]) / 0.005
    good = chunk(constant_rows(0.02), player.tick, 1)
    player.step(replace(good, **change))  # pyright: ignore[reportArgumentType]
    assert player.report is not None
    assert [rejection.reason for rejection in player.report.rejections] == [reason]
    assert player.report.chunk_id == -1
    before = player.positions[-1]
    for _ in range(500):
        player.step()
    assert player.report.status is ExecutorStatus.WAITING
    assert np.linalg.norm(player.positions[-1] - before) <= speed / 15.0  # one time constant of braking
    assert np.linalg.norm(player.positions[-1] - player.positions[-2]) < 1e-9


def test_stale_chunk_is_held_not_replayed() -> None:
    player = Player(executor(max_chunk_age_s=0.5))
    for _ in range(150):
        player.step()
    player.step(chunk(constant_rows(0.02), 10))
    assert player.report is not None
    assert player.report.rejections[0].reason is RejectionReason.STALE
    assert player.positions[-1].tolist() == player.positions[0].tolist()


def test_out_of_order_chunk_leaves_the_newer_one_playing() -> None:
    player = Player(executor(execution_horizon=8))
    for _ in range(10):
        player.step()
    player.step(chunk(constant_rows(0.01), 10, 5))
    player.step(chunk(constant_rows(-0.02), 8, 4))
    assert player.report is not None
    assert player.report.rejections[0].reason is RejectionReason.OUT_OF_ORDER
    assert player.report.chunk_id == 5


def test_an_operator_hold_comes_to_rest_and_ignores_chunks_until_resumed() -> None:
    player = Player(executor(execution_horizon=2))
    player.step(chunk(constant_rows(0.01), 0))
    for _ in range(15):
        player.step()
    player.step(events=(OperatorEvent.HOLD,))
    for _ in range(500):
        player.step()
    assert not player.requested
    rest = player.positions[-1]
    player.step(chunk(constant_rows(0.02), player.tick, 1))
    for _ in range(50):
        player.step()
    np.testing.assert_allclose(player.positions[-1], rest, atol=1e-9)
    player.step(events=(OperatorEvent.RESUME,))
    assert player.requested


@pytest.mark.parametrize("status", [SafetyStatus.HOLD, SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP])
def test_after_a_stop_the_reference_starts_again_from_the_sensed_pose(status: SafetyStatus) -> None:
    unit = executor(execution_horizon=8)
    memory = unit.initial(state_at(0))
    inputs = TickInputs(0, 0, state_at(0), (ChunkArrival(chunk(constant_rows(0.02), 0)),))
    for tick in range(20):
        memory, *_ = unit.update(memory, inputs, verdict(1.0), 0.005)
        inputs = TickInputs(tick + 1, (tick + 1) * PERIOD_NS, state_at(tick + 1, (0.41, 0.0, 0.3)))
    memory, target, report, requested = unit.update(memory, inputs, verdict(0.0, status), 0.005)
    assert isinstance(target, PoseTarget)
    np.testing.assert_array_equal(target.pose.position, [0.41, 0.0, 0.3])
    assert report.chunk_id == -1
    assert requested == (status is SafetyStatus.HOLD)


def test_the_reference_never_leads_a_blocked_arm_by_more_than_allowed() -> None:
    unit = executor(execution_horizon=8, max_lead_m=0.03)
    memory = unit.initial(state_at(0))
    for tick in range(200):
        arrivals = (ChunkArrival(chunk(constant_rows(0.02), tick, tick)),) if tick % 40 == 0 else ()
        memory, target, *_ = unit.update(
            memory, TickInputs(tick, tick * PERIOD_NS, state_at(tick), arrivals), None, 0.005
        )
        assert isinstance(target, PoseTarget)
        assert np.linalg.norm(target.pose.position - [0.4, 0.0, 0.3]) <= 0.03 + 1e-12


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_executor_is_a_pure_function(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 255, (8, 7))
    tokens[:, 6] = rng.integers(127, 255, 8)
    item = ActionChunk(tokens, COMPACT_TOKENIZER.tokenizer_id, SPEC.hash, 0, 0)
    unit = executor()
    memory = unit.initial(state_at(0))
    inputs = TickInputs(0, 0, state_at(0), (ChunkArrival(item),))
    first = unit.update(memory, inputs, None, 0.005)
    unit.update(first[0], TickInputs(1, PERIOD_NS, state_at(1)), None, 0.005)
    again = unit.update(memory, inputs, None, 0.005)
    assert isinstance(first[1], PoseTarget)
    assert isinstance(again[1], PoseTarget)
    assert first[1].pose.position.tobytes() == again[1].pose.position.tobytes()
    assert first[1].pose.quaternion.tobytes() == again[1].pose.quaternion.tobytes()
    assert first[2:] == again[2:]


def corrupt(rng: np.random.Generator, stamp: int) -> ActionChunk:
    """One random malformed chunk."""
    tokens: object = rng.integers(0, 255, (8, 7))
    tokenizer, spec_hash = COMPACT_TOKENIZER.tokenizer_id, SPEC.hash
    kind = rng.integers(9)
    if kind == 0:
        tokens = rng.integers(0, 255, tuple(rng.integers(0, 9, rng.integers(0, 4))))
        if np.shape(tokens) == (8, 7):
            tokens = np.zeros((7, 8), np.int64)
    elif kind == 1:
        tokens = np.asarray(tokens)
        tokens[rng.integers(8), rng.integers(7)] = rng.choice([-1, 255, 256, 31999, 2**62, -(2**62)])
    elif kind == 2:
        tokens = np.asarray(tokens).astype(rng.choice(["int32", "uint8", "float64", "float32", "bool", "object"]))
    elif kind == 3:
        tokenizer = str(rng.choice(["", "uniform-256/rt2", "fast", "uniform-255/openvla-32000"]))
    elif kind == 4:
        spec_hash = rng.bytes(8).hex()
    elif kind == 5:
        stamp = int(rng.choice([stamp + 1, stamp + 10**9, 2**62]))
    elif kind == 6:
        stamp = int(rng.choice([-1, stamp - 2 * 10**9, -(2**62)]))
    elif kind == 7:
        tokens = np.asarray(tokens)
        tokens[rng.integers(8), 6] = rng.integers(0, 126)  # a gripper below closed: out of bounds
    else:
        tokens = [None, "arm", 3.0, [[1, 2], [3, 4]], np.nan, b"\x00" * 448][rng.integers(6)]
    return ActionChunk(tokens, tokenizer, spec_hash, stamp, int(rng.integers(0, 2**31)))  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_a_hundred_thousand_malformed_chunks_produce_no_motion() -> None:
    rng = np.random.default_rng(7)
    unit = executor()
    memory = unit.initial(state_at(0))
    start, gripper = memory.reference, memory.gripper_opening
    for tick in range(20_000):
        state = state_at(tick)
        arrivals = tuple(ChunkArrival(corrupt(rng, state.stamp_ns)) for _ in range(5))
        memory, target, report, _ = unit.update(memory, TickInputs(tick, state.stamp_ns, state, arrivals), None, 0.005)
        assert len(report.rejections) == 5
        assert not report.accepted
        assert isinstance(target, PoseTarget)
        assert memory.reference == start or np.array_equal(memory.reference.position, start.position)
        assert not target.twist.any()
        assert target.gripper_opening == gripper
