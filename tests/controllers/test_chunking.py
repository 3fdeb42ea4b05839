"""The chunk execution strategies: one conformance suite, and what each promises about delay, seams and rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.chunking import (
    ChunkingOptions,
    ChunkStrategyName,
    DelayEstimatorOptions,
    UnknownStrategyError,
    estimated_delay,
    remember_delay,
)
from controllers.executor import ChunkExecutor, ExecutorOptions, ExecutorState
from controllers.strategies import average_actions
from controllers.types import (
    ActionChunk,
    ActionSpace,
    ActionSpec,
    ChunkArrival,
    ExecutorReport,
    ExecutorStatus,
    IntArray,
    Pose,
    PoseTarget,
    RejectionReason,
    RobotState,
    TickInputs,
    TokenPrefix,
    frozen_array,
)
from controllers.waypoints import sample
from sim.tabletop import TABLETOP_ACTION_SPEC as SPEC
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import COMPACT_TOKENIZER

PERIOD_NS = 5_000_000
KEEPING = (ChunkStrategyName.ENSEMBLING, ChunkStrategyName.TOKEN_RTC)


def executor(strategy: ChunkStrategyName, spec: ActionSpec = SPEC) -> ChunkExecutor:
    decoder = TokenActionDecoder(COMPACT_TOKENIZER, spec)
    return ChunkExecutor(decoder, 0.08, 200, ExecutorOptions(), ChunkingOptions(strategy=strategy))


def state_at(tick: int, pose: Pose) -> RobotState:
    still = frozen_array(np.zeros(7))
    return RobotState(still, still, still, pose, frozen_array(np.zeros(6)), 0.04, tick * PERIOD_NS)


@dataclass
class Cell:
    """An arm that follows its reference exactly, and a model that answers after ``delay`` ticks."""

    unit: ChunkExecutor
    seed: int = 0
    honest: bool = True
    delay: int = 0
    delays: dict[int, int] = field(default_factory=dict)  # of single requests
    tick: int = 0
    requests: int = 0
    idle: int = 0
    seam: float = 0.0
    begun: bool = False
    reports: list[ExecutorReport] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    prefixes: list[int] = field(default_factory=list)
    waiting: list[tuple[int, ActionChunk]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        start = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([0.0, 1.0, 0.0, 0.0]))
        self.memory: ExecutorState = self.unit.initial(state_at(0, start))
        self.wanted = True

    def tokens(self, prefix: TokenPrefix | None) -> IntArray:
        """A chunk that wanders; it begins with what is committed."""
        spec = self.unit.decoder.spec
        tokens = np.clip(127 + self.rng.normal(0, 50, (spec.horizon, 7)), 0, 254).astype(np.int64)
        tokens[:, 6] = 200
        if prefix is not None and self.honest:
            tokens[: prefix.rows] = prefix.tokens
        return tokens

    def ask(self, stamp_ns: int) -> None:
        prefix = self.unit.prefix(self.memory)
        rows = 0 if prefix is None else prefix.rows
        self.prefixes.append(rows)
        spec = self.unit.decoder.spec
        chunk = ActionChunk(
            self.tokens(prefix), COMPACT_TOKENIZER.tokenizer_id, spec.hash, stamp_ns, self.requests, rows
        )
        due = self.tick + self.delays.get(self.requests, self.delay)
        self.requests += 1
        self.waiting.append((due, chunk))

    def step(self) -> None:
        state = state_at(self.tick, self.memory.reference.pose())
        if self.wanted:
            self.ask(state.stamp_ns)
        due = tuple(ChunkArrival(chunk) for when, chunk in self.waiting if when <= self.tick)
        self.waiting = [item for item in self.waiting if item[0] > self.tick]
        before = self.memory
        inputs = TickInputs(self.tick, state.stamp_ns, state, due)
        self.memory, target, report, self.wanted = self.unit.update(before, inputs, None, 0.005)
        if report.accepted and before.plan is not None and self.memory.plan is not None:
            plans = (before.plan, self.memory.plan)
            old, new = (sample(plan.path, max(0.0, plan.phase(before.clock_s))) for plan in plans)
            self.seam = max(self.seam, float(np.abs(np.subtract(old.position, new.position)).max()))
        self.begun = self.begun or bool(report.accepted)
        self.idle += self.begun and report.status is not ExecutorStatus.EXECUTING
        assert isinstance(target, PoseTarget)
        self.poses.append(np.concatenate((target.pose.position, target.pose.quaternion)))
        self.reports.append(report)
        self.tick += 1

    def run(self, ticks: int) -> Cell:
        for _ in range(ticks):
            self.step()
        return self

    def reasons(self) -> list[RejectionReason]:
        return [rejection.reason for report in self.reports for rejection in report.rejections]


# ------------------------------------------------------------------------------------------ conformance


@pytest.mark.parametrize("delay", [0, 1, 7, 60, 150])
@pytest.mark.parametrize("strategy", ChunkStrategyName)
def test_every_strategy_plays_on_under_any_delay(strategy: ChunkStrategyName, delay: int) -> None:
    cell = Cell(executor(strategy), delay=delay).run(1200)
    assert cell.reasons() == []
    assert sum(len(report.accepted) for report in cell.reports) == cell.requests - len(cell.waiting)
    motion = np.linalg.norm(np.diff([pose[:3] for pose in cell.poses], axis=0), axis=1)
    assert motion[-300:].max() > 0.0
    acceleration = np.diff([pose[:3] for pose in cell.poses], 2, axis=0) / 0.005**2
    assert np.linalg.norm(acceleration, axis=1).max() <= 2.5 * (1.0 + 1e-6)
    if strategy in KEEPING:
        assert cell.idle == 0
        assert cell.seam < 1e-12  # rounding; a bin is 2e-4 m


@given(seed=st.integers(0, 2**32 - 1), strategy=st.sampled_from(ChunkStrategyName))
@settings(max_examples=20, deadline=None)
def test_every_strategy_is_a_pure_function_of_what_happened(seed: int, strategy: ChunkStrategyName) -> None:
    rng = np.random.default_rng(seed)
    delays = {index: int(rng.integers(0, 90)) for index in range(100)}
    first, again = (Cell(executor(strategy), seed, delay=20, delays=delays).run(300) for _ in range(2))
    assert np.array(first.poses).tobytes() == np.array(again.poses).tobytes()
    assert [report.phase for report in first.reports] == [report.phase for report in again.reports]


def test_the_naive_switch_has_seams_and_the_synchronous_strategy_stands() -> None:
    assert Cell(executor(ChunkStrategyName.SWITCH), delay=40).run(600).seam > 0.002
    assert Cell(executor(ChunkStrategyName.SYNCHRONOUS), delay=40).run(600).idle > 200


def test_an_unknown_strategy_is_named_with_its_nearest_match() -> None:
    with pytest.raises(UnknownStrategyError, match=r"unknown chunk strategy 'token_rct'; did you mean 'token_rtc'\?"):
        ChunkStrategyName.named("token_rct")


# ---------------------------------------------------------------------------------------- forced prefix


@pytest.mark.parametrize("horizon", [8, 20, 34])
def test_the_committed_rows_are_those_that_are_played_until_the_answer_comes(horizon: int) -> None:
    spec = replace(SPEC, horizon=horizon)
    cell = Cell(executor(ChunkStrategyName.TOKEN_RTC, spec), delay=60).run(1000)
    assert cell.reasons() == []
    affordable = min(61 / 10, (horizon - 2) / 2)  # a delay and a tick, in rows
    assert max(cell.prefixes) in (int(np.ceil(affordable)), int(np.ceil(affordable)) + 1)
    assert cell.memory.pace == pytest.approx(min(1.0, affordable / 6.1))


def test_the_executed_rows_stay_as_they_were_bit_for_bit() -> None:
    cell = Cell(executor(ChunkStrategyName.TOKEN_RTC), delay=30)
    compared = 0
    for _ in range(600):
        before = cell.memory.plan
        cell.step()
        after = cell.memory.plan
        if before is None or after is None or not cell.reports[-1].accepted:
            continue
        first = after.first_row - before.first_row
        begun = int(np.ceil(before.phase(cell.memory.history[-1].clock_s) - 1e-6)) - first
        assert after.tokens[:begun].tolist() == before.tokens[first : first + begun].tolist()
        assert after.path.positions[: begun + 1] == before.path.positions[first : first + begun + 1]
        compared += begun
    assert compared > 20


def test_a_chunk_that_ignores_its_prefix_is_refused_and_the_arm_rests() -> None:
    cell = Cell(executor(ChunkStrategyName.TOKEN_RTC), delay=30).run(60)
    cell.honest = False
    cell.run(200)
    assert RejectionReason.PREFIX_MISMATCH in cell.reasons()
    message = next(r.message for report in cell.reports for r in report.rejections)
    assert "expected the committed token" in message


def test_a_policy_that_cannot_force_prefixes_is_refused_with_advice() -> None:
    cell = Cell(executor(ChunkStrategyName.TOKEN_RTC), delay=30).run(60)
    while not (cell.waiting and cell.waiting[0][1].forced_rows):
        cell.step()
    due, chunk = cell.waiting[0]
    cell.waiting[0] = (due, replace(chunk, forced_rows=0))
    cell.run(60)
    rejection = next(r for report in cell.reports for r in report.rejections)
    assert rejection.reason is RejectionReason.PREFIX_MISMATCH
    assert "choose another chunk strategy" in rejection.message


@pytest.mark.parametrize("strategy", KEEPING)
def test_a_late_answer_leaves_no_seam_and_a_lost_one_is_asked_for_again(strategy: ChunkStrategyName) -> None:
    late = Cell(executor(strategy), delay=20, delays={12: 55}).run(700)
    assert late.reasons() == []
    assert late.seam < 1e-12
    lost = Cell(executor(strategy), delay=20, delays={12: 10**9}).run(700)
    assert lost.reasons() == []
    assert lost.seam < 1e-12
    assert lost.memory.newest_stamp_ns > 600 * PERIOD_NS


def test_an_answer_that_nobody_waits_for_any_more_changes_nothing() -> None:
    cell = Cell(executor(ChunkStrategyName.TOKEN_RTC), delay=20, delays={12: 250}).run(900)
    assert set(cell.reasons()) <= {RejectionReason.OUT_OF_ORDER}
    assert cell.seam < 1e-12  # rounding; a bin is 2e-4 m


# ------------------------------------------------------------------------------------------- estimator


@given(data=st.data())
def test_outliers_up_to_the_declared_share_do_not_raise_the_estimate(data: st.DataObject) -> None:
    options = DelayEstimatorOptions(window=16, quantile=0.85, margin_ticks=1)
    usual = data.draw(st.lists(st.integers(1, 60), min_size=14, max_size=14))
    outliers = data.draw(st.lists(st.integers(1000, 10**6), max_size=2))
    window: tuple[int, ...] = ()
    for ticks in data.draw(st.permutations([*usual, *outliers])):
        window = remember_delay(window, ticks, options)
    assert estimated_delay(window, options) <= max(usual) + 1


@given(delays=st.lists(st.integers(0, 500), min_size=1, max_size=60))
def test_the_estimate_covers_the_declared_share_of_the_window(delays: list[int]) -> None:
    options = DelayEstimatorOptions(window=16, quantile=0.85, margin_ticks=0)
    window: tuple[int, ...] = ()
    for ticks in delays:
        window = remember_delay(window, ticks, options)
    assert window == tuple(delays[-16:])
    estimate = estimated_delay(window, options)
    assert sum(ticks <= estimate for ticks in window) >= 0.85 * len(window)
    assert estimate in (*window, 0)


def test_instant_answers_commit_nothing() -> None:
    assert estimated_delay((), DelayEstimatorOptions()) == 0
    assert estimated_delay((0, 0, 0), DelayEstimatorOptions(margin_ticks=3)) == 0
    assert set(Cell(executor(ChunkStrategyName.TOKEN_RTC)).run(300).prefixes) == {0}


# ------------------------------------------------------------------------------------------- ensembling


def test_absolute_orientations_are_averaged_on_so3() -> None:
    spec = replace(SPEC, space=ActionSpace.EE_POSE)
    near_pi = [np.array([0.1, 0, 0, sign * (np.pi - 0.1), 0, 0, 1.0]) for sign in (1, -1)]  # 0.2 rad apart, through pi
    mean = average_actions(near_pi, np.array([0.5, 0.5]), spec)
    assert abs(np.linalg.norm(mean[3:6])) == pytest.approx(np.pi, abs=1e-9)
    np.testing.assert_allclose(mean[[0, 6]], [0.1, 1.0])


def test_equal_chunks_average_to_themselves() -> None:
    rows = COMPACT_TOKENIZER.decode(np.full((1, 7), 200, np.int64), SPEC)[0]
    np.testing.assert_allclose(average_actions([rows] * 3, np.array([0.5, 0.3, 0.2]), SPEC), rows)
