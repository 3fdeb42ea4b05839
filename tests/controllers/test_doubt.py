"""Doubt: off it changes nothing; above thresholds the clock slows down or stands, and the path is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.doubt import (
    NO_DOUBT,
    ChunkDoubt,
    DoubtGate,
    DoubtLevel,
    DoubtMeasure,
    DoubtOptions,
    DoubtState,
    DoubtTransition,
)
from controllers.executor import ChunkExecutor, ExecutorOptions
from controllers.types import ActionChunk, ExecutorStatus, OperatorEvent, PoseTarget, RejectionReason, TokenPrefix
from tests.controllers.test_executor import OPEN_M, SPEC, Player, chunk, constant_rows, executor, verdict
from vla.tokenizers.decoder import TokenActionDecoder
from vla.tokenizers.uniform import COMPACT_TOKENIZER

GOLDEN = Path(__file__).parent / "golden" / "doubt_errors.txt"
ENTROPY = DoubtMeasure.MEAN_ENTROPY
OPTIONS = DoubtOptions(ENTROPY, slow_above=2.0, hold_above=3.0)
SHARES = st.floats(0.0, 1.0)
TICK_M = 0.0015  # farther than the reference moves in a tick: corners are rounded a tick earlier or later
DOUBTS = st.floats(0.0, 5.5)


def unsure(entropy: float) -> ChunkDoubt:
    return ChunkDoubt(0.5, 0.1, entropy)


def listening(
    options: DoubtOptions = OPTIONS,
    strategy: ChunkStrategyName = ChunkStrategyName.SWITCH,
    execution_horizon: int = 2,
) -> ChunkExecutor:
    decoder = TokenActionDecoder(COMPACT_TOKENIZER, SPEC)
    chunking = ChunkingOptions(strategy=strategy)
    return ChunkExecutor(decoder, OPEN_M, 200, ExecutorOptions(execution_horizon), chunking, options)


def doubtful(stamp_tick: int, entropy: float, chunk_id: int = 0) -> ActionChunk:
    """A bend that begins and ends at rest."""
    rows = constant_rows(0.01, yaw=0.02)
    rows[:, 0] *= [0.3, 0.7, 1.0, 1.0, 1.0, 0.7, 0.3, 0.0]
    rows[:, 1] = 0.01 * np.sin(np.linspace(0.0, math.pi, 8)) ** 2
    return replace(chunk(rows, stamp_tick, chunk_id), doubt=unsure(entropy))


# ------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf, None, "0.5", 1])
def test_what_is_no_probability_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"expected mean_probability in \[0, 1\], found"):
        ChunkDoubt(wrong, 0.1)  # pyright: ignore[reportArgumentType]
    if wrong is not None:
        with pytest.raises(ValueError, match=r"expected agreement in \[0, 1\], found"):
            ChunkDoubt(0.5, 0.1, 1.0, wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf, "1"])
def test_what_is_no_entropy_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected mean_entropy to be finite and 0 nat or more, found"):
        ChunkDoubt(0.5, 0.1, wrong)  # pyright: ignore[reportArgumentType]


@given(SHARES, SHARES, DOUBTS, SHARES)
def test_every_measure_grows_with_doubt(mean: float, smallest: float, entropy: float, agreement: float) -> None:
    doubt = ChunkDoubt(mean, smallest, entropy, agreement)
    found = {measure: measure.of(doubt) for measure in DoubtMeasure}
    assert found[DoubtMeasure.MEAN_ENTROPY] == entropy
    assert found[DoubtMeasure.MEAN_PROBABILITY] == 1.0 - mean
    assert found[DoubtMeasure.MIN_PROBABILITY] == 1.0 - smallest
    assert found[DoubtMeasure.AGREEMENT] == 1.0 - agreement
    silent = ChunkDoubt(mean, smallest)
    assert DoubtMeasure.MEAN_ENTROPY.of(silent) is DoubtMeasure.AGREEMENT.of(silent) is None


WRONG: tuple[Callable[[], DoubtOptions], ...] = (
    lambda: DoubtOptions(slow_above=-1.0),
    lambda: DoubtOptions(hold_above=math.inf),
    lambda: DoubtOptions(DoubtMeasure.MIN_PROBABILITY, hold_above=1.5),
    lambda: DoubtOptions(ENTROPY, slow_above=3.0, hold_above=2.0),
    lambda: DoubtOptions(slow_above=0.5, hold_above=0.5),
    lambda: DoubtOptions(slow_above=0.5, slow_scale=1.0),
    lambda: DoubtOptions(slow_above=0.5, slow_scale=0.0),
    lambda: DoubtOptions(slow_above=0.5, change_per_s=0.0),
)


def test_errors_read_as_in_the_golden_file() -> None:
    lines: list[str] = []
    for make in WRONG:
        with pytest.raises(ValueError, match="expected") as caught:
            make()
        lines.append(f"{caught.value}\n")
    assert "".join(lines) == GOLDEN.read_text(encoding="utf-8"), "compare, then write the new text to the golden file"


# --------------------------------------------------------------------------------------------------- gate


@given(DOUBTS, DOUBTS, st.floats(0.0, 2.0), st.floats(2.1, 5.0), st.floats(0.05, 0.95))
def test_the_speed_never_rises_with_doubt(a: float, b: float, slow: float, hold: float, scale: float) -> None:
    gate = DoubtGate(DoubtOptions(ENTROPY, slow, hold, scale), 200)
    less, more = sorted((a, b))
    assert gate.goal(gate.level(less)) >= gate.goal(gate.level(more))


@given(st.sampled_from(DoubtLevel), SHARES, st.floats(0.5, 400.0))
def test_the_scale_moves_a_bounded_step_towards_its_goal_and_arrives(
    level: DoubtLevel, scale: float, rate: float
) -> None:
    gate = DoubtGate(replace(OPTIONS, change_per_s=rate), 200)
    state, goal = DoubtState(level, scale), gate.goal(level)
    for _ in range(1 + math.ceil(200 / rate)):
        after = gate.advance(state)
        assert 0.0 <= after.scale <= 1.0
        assert abs(after.scale - state.scale) <= rate / 200 + 1e-12
        assert abs(after.scale - goal) <= abs(state.scale - goal)
        state = after
    assert state.scale == goal
    assert gate.advance(state) is state


def test_an_event_names_the_threshold_that_was_passed() -> None:
    gate = DoubtGate(OPTIONS, 200)
    clear, slow, hold = DoubtLevel
    passed = {(a, b): gate.transition(a, b, 0.0, 7).threshold for a in DoubtLevel for b in DoubtLevel if a is not b}
    assert passed == {
        (clear, slow): 2.0,
        (clear, hold): 3.0,
        (slow, hold): 3.0,
        (hold, slow): 3.0,
        (hold, clear): 2.0,
        (slow, clear): 2.0,
    }
    alone = DoubtGate(DoubtOptions(ENTROPY, hold_above=3.0), 200)
    assert alone.transition(hold, clear, 0.0, 7).threshold == 3.0


# ----------------------------------------------------------------------------------------------- executor


def run(unit: ChunkExecutor, doubts: dict[int, float], ticks: int) -> Player:
    """Chunks by the tick on which they are observed and arrive."""
    player = Player(unit)
    for tick in range(ticks):
        arrivals = (doubtful(tick, doubts[tick], tick),) if tick in doubts else ()
        player.step(*arrivals)
    return player


@given(st.lists(st.tuples(st.integers(0, 120), DOUBTS), max_size=6))
def test_without_thresholds_doubt_changes_nothing(doubts: list[tuple[int, float]]) -> None:
    told = run(executor(), dict(doubts), 150)
    silent = Player(executor())
    for tick in range(150):
        silent.step(*((replace(doubtful(tick, 0.0, tick), doubt=None),) if tick in dict(doubts) else ()))
    assert np.array_equal(told.positions, silent.positions)
    assert told.memory.doubt is silent.memory.doubt is NO_DOUBT


@given(st.lists(st.tuples(st.integers(0, 120), st.floats(0.0, 2.0)), max_size=6))
def test_doubt_below_the_thresholds_changes_nothing_to_the_bit(doubts: list[tuple[int, float]]) -> None:
    free, watched = (run(unit, dict(doubts), 150) for unit in (executor(), listening()))
    assert np.array_equal(free.positions, watched.positions)


def test_a_first_chunk_that_is_too_doubtful_never_moves_the_arm() -> None:
    player = Player(listening())
    start = player.memory.reference
    for tick in range(200):
        player.step(*((doubtful(tick, 3.5, tick),) if tick % 20 == 0 else ()))
        assert player.memory.reference == start
        assert player.report is not None
        assert player.report.status is ExecutorStatus.DOUBTFUL
        assert player.report.accepted == ()
    assert player.memory.plan is None


@given(st.integers(1, 60), st.floats(0.3, 20.0))
def test_a_hold_stops_on_the_path_that_was_commanded_and_stays_there(when: int, rate: float) -> None:
    free = run(listening(), {0: 0.0}, 200)
    unit = listening(replace(OPTIONS, change_per_s=rate))
    held = run(unit, {0: 0.0, when: 4.0}, when + 2 + math.ceil(200 / rate))
    assert held.memory.doubt.scale == 0.0
    assert distance_from_path(held.positions, free.positions) < TICK_M
    resting = held.positions[-1]
    for tick in range(held.tick, held.tick + 100):
        held.step(*((doubtful(tick, 3.5, tick),) if tick % 20 == 0 else ()))
        assert np.array_equal(held.positions[-1], resting)
        assert isinstance(held.target, PoseTarget)
        assert not held.target.twist.any()


def test_the_reference_brakes_by_no_more_than_its_speed_allows() -> None:
    held = run(listening(), {0: 0.0, 40: 4.0}, 120)
    speed = np.linalg.norm(np.diff(held.positions, axis=0), axis=1) * 200
    assert speed[39] > 0.1
    assert np.abs(np.diff(speed)).max() * 200 <= 2.5 + 4.0 * speed.max()


def test_slow_is_the_same_path_at_another_rate() -> None:
    free, slow = run(executor(execution_horizon=8), {0: 0.0}, 240), run(listening(execution_horizon=8), {0: 2.5}, 480)
    assert distance_from_path(slow.positions, free.positions) < TICK_M
    np.testing.assert_allclose(slow.positions[-1], free.positions[-1], atol=1e-4)
    assert slow.memory.doubt == DoubtState(DoubtLevel.SLOW, 0.5)
    fastest = [np.linalg.norm(np.diff(one.positions, axis=0), axis=1)[40:].max() for one in (free, slow)]
    assert 0.45 < fastest[1] / fastest[0] < 0.55


@given(st.floats(0.05, 0.95), st.lists(st.integers(1, 120), max_size=4))
def test_a_scale_of_doubt_is_a_speed_scale_of_the_safety_filter_to_the_bit(scale: float, ticks: list[int]) -> None:
    at_once = listening(replace(OPTIONS, slow_scale=scale, change_per_s=1e6))
    slow, filtered = run(at_once, dict.fromkeys((0, *ticks), 2.5), 150), Player(executor())
    for tick in range(150):
        arrivals = (doubtful(tick, 2.5, tick),) if tick in (0, *ticks) else ()
        filtered.step(*arrivals, feedback=verdict(scale))
    assert np.array_equal(slow.positions, filtered.positions)


def test_the_target_twist_is_the_rate_of_the_target_position() -> None:
    player = run(listening(execution_horizon=8), {0: 2.5}, 100)
    before = player.positions[-1]
    player.step()
    assert isinstance(player.target, PoseTarget)
    np.testing.assert_allclose((player.positions[-1] - before) / 0.005, player.target.twist[:3], atol=2e-3)
    assert not player.target.twist.flags.writeable


def distance_from_path(points: list[np.ndarray], path: list[np.ndarray]) -> float:
    """Largest distance of the points from a polyline, m."""
    ends = np.array(path)
    a, d = ends[:-1], np.diff(ends, axis=0)
    length = np.maximum((d * d).sum(1), 1e-18)
    worst = 0.0
    for point in points:
        t = np.clip(((point - a) * d).sum(1) / length, 0.0, 1.0)
        worst = max(worst, float(np.sqrt((((a + t[:, None] * d) - point) ** 2).sum(1).min())))
    return worst


def test_a_chunk_with_less_doubt_ends_the_hold_and_each_change_is_an_event() -> None:
    player = Player(listening())
    changes: list[DoubtTransition] = []
    doubts = {0: 1.0, 20: 2.5, 40: 3.5, 80: 2.75, 120: 0.5}
    refused: list[RejectionReason] = []
    for tick in range(200):
        player.step(*((doubtful(tick, doubts[tick], tick),) if tick in doubts else ()))
        assert player.report is not None
        changes += player.report.doubt
        refused += [item.reason for item in player.report.rejections]
    assert [(c.level, c.value, c.threshold, c.chunk_id) for c in changes] == [
        (DoubtLevel.SLOW, 2.5, 2.0, 20),
        (DoubtLevel.HOLD, 3.5, 3.0, 40),
        (DoubtLevel.SLOW, 2.75, 3.0, 80),
        (DoubtLevel.CLEAR, 0.5, 2.0, 120),
    ]
    assert refused == [RejectionReason.DOUBTFUL]
    assert player.memory.doubt == NO_DOUBT
    assert player.memory.chunk_id == 120


@pytest.mark.parametrize("strategy", ChunkStrategyName)
def test_a_held_arm_asks_again_at_the_usual_rate_and_goes_on(strategy: ChunkStrategyName) -> None:
    """The clock stands, so no row is ever used up: the executor must look at the real one."""
    player = Player(listening(strategy=strategy))
    entropy, asked, moved = {0: 0.0}, 0, 0.0
    prefix: TokenPrefix | None = None
    for tick in range(400):
        answer = ()
        if player.requested:
            asked += 60 < tick <= 200
            level = entropy.get(0, 0.0) if not 30 <= tick < 200 else 4.0
            answer = (answering(doubtful(tick, level, tick), prefix),)
        player.step(*answer)
        prefix = player.unit.prefix(player.memory)
        if tick == 210:
            moved = float(player.positions[-1][0])
    assert 5 <= asked <= 8  # every 100 ms, from 0.3 s to 1 s
    assert player.positions[-1][0] > moved + 0.01
    assert player.memory.doubt == NO_DOUBT


def answering(made: ActionChunk, prefix: TokenPrefix | None) -> ActionChunk:
    if prefix is None:
        return made
    tokens = np.array(made.tokens)
    tokens[: prefix.rows] = prefix.tokens
    return replace(made, tokens=tokens, forced_rows=prefix.rows)


def test_a_policy_that_does_not_tell_its_doubt_is_refused_and_the_arm_comes_to_rest() -> None:
    player = Player(listening())
    player.step(doubtful(0, 0.0))
    for _ in range(19):
        player.step()
    player.step(chunk(constant_rows(0.01), 20, 1))
    assert player.report is not None
    (rejection,) = player.report.rejections
    assert rejection.reason is RejectionReason.UNKNOWN_DOUBT
    assert rejection.message == (
        "expected a chunk that tells its mean_entropy, which the stack has thresholds for, found one that does not; "
        "choose a policy that tells it, another measure, or no thresholds"
    )
    assert player.memory.plan is None


def test_rubbish_for_a_doubt_is_no_doubt() -> None:
    player = Player(listening())
    player.step(replace(chunk(constant_rows(0.01), 0), doubt="sure"))  # pyright: ignore[reportArgumentType]
    assert player.report is not None
    assert [item.reason for item in player.report.rejections] == [RejectionReason.UNKNOWN_DOUBT]


def test_an_operator_outranks_doubt() -> None:
    player = run(listening(), {0: 0.0, 20: 4.0}, 100)
    player.step(events=(OperatorEvent.HOLD,))
    assert player.report is not None
    assert player.report.status is ExecutorStatus.HOLDING
    still = player.positions[-1]
    for _ in range(50):
        player.step()
    assert np.array_equal(player.positions[-1], still)
    player.step(events=(OperatorEvent.RESUME,))
    player.step(doubtful(player.tick, 0.0, 9))
    for _ in range(100):
        player.step()
    assert player.positions[-1][0] > still[0] + 0.02


@given(st.lists(st.tuples(st.integers(0, 149), DOUBTS), max_size=8))
def test_the_same_inputs_give_the_same_bits(doubts: list[tuple[int, float]]) -> None:
    first, second = (run(listening(), dict(doubts), 150) for _ in range(2))
    assert np.array_equal(first.positions, second.positions)
    assert first.memory.doubt == second.memory.doubt
