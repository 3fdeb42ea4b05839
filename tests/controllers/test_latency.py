"""Latency as an input: models as text, traces, and answers that come when the model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controllers.latency import (
    ConstantLatency,
    LatencyClient,
    LatencyError,
    LatencyModel,
    LognormalLatency,
    NormalLatency,
    TraceLatency,
    UniformLatency,
    parse_latency,
    read_trace,
    write_trace,
)
from controllers.types import ActionChunk, ChunkArrival, Observation, Pose, RobotState, frozen_array

GOLDEN = Path(__file__).parent / "golden" / "latency_errors.txt"
PERIOD_NS = 5_000_000


def observation(tick: int) -> Observation:
    pose = Pose(frozen_array([0.4, 0.0, 0.3]), frozen_array([0.0, 1.0, 0.0, 0.0]))
    still = frozen_array(np.zeros(7))
    state = RobotState(still, still, still, pose, frozen_array(np.zeros(6)), 0.04, tick * PERIOD_NS)
    return Observation({}, state, pose, "go", state.stamp_ns)


class Prompt:
    """Answers at the request."""

    def __init__(self) -> None:
        self.answers: list[ChunkArrival] = []

    def request(self, observation: Observation) -> None:
        chunk = ActionChunk(np.zeros((8, 7), np.int64), "t", "s", observation.stamp_ns, 0)
        self.answers.append(ChunkArrival(chunk))

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        del now_ns
        answers, self.answers = tuple(self.answers), []
        return answers


def arrivals(model: LatencyModel, ticks: int, every: int = 20) -> list[tuple[int, int]]:
    """(arrival tick, observation tick) of all answers to a request every so many ticks."""
    client = LatencyClient(Prompt(), model)
    found: list[tuple[int, int]] = []
    for tick in range(ticks):
        if tick % every == 0:
            client.request(observation(tick))
        found += [(tick, a.chunk.observation_stamp_ns // PERIOD_NS) for a in client.poll(tick * PERIOD_NS)]
    return found


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("300ms", LatencyModel(ConstantLatency(300.0))),
        ("0.75s", LatencyModel(ConstantLatency(750.0))),
        ("constant:20ms,drop=0.1,seed=4", LatencyModel(ConstantLatency(20.0), drop=0.1, seed=4)),
        ("uniform:200ms,400ms,seed=1", LatencyModel(UniformLatency(200.0, 400.0), seed=1)),
        ("normal:300ms,50ms,reorder", LatencyModel(NormalLatency(300.0, 50.0), reorder=True)),
        ("lognormal:300ms,0.3,seed=2", LatencyModel(LognormalLatency(300.0, 0.3), seed=2)),
    ],
)
def test_models_are_read_and_written(text: str, model: LatencyModel) -> None:
    assert parse_latency(text) == model
    assert parse_latency(str(model)) == model


def test_a_constant_delay_is_exact_in_ticks() -> None:
    assert arrivals(parse_latency("300ms"), 200) == [(tick + 60, tick) for tick in range(0, 140, 20)]
    assert arrivals(parse_latency("0ms"), 50) == [(0, 0), (20, 20), (40, 40)]


@pytest.mark.parametrize("text", ["uniform:50ms,400ms", "normal:300ms,90ms,drop=0.2", "lognormal:200ms,0.6,reorder"])
def test_draws_repeat_with_the_seed_and_differ_without(text: str) -> None:
    first = arrivals(parse_latency(f"{text},seed=5"), 2000)
    assert arrivals(parse_latency(f"{text},seed=5"), 2000) == first
    assert arrivals(parse_latency(f"{text},seed=6"), 2000) != first
    assert len(first) > 50


def test_answers_overtake_each_other_only_where_they_may() -> None:
    def order(text: str) -> list[int]:
        return [seen for _, seen in arrivals(parse_latency(text), 2000)]

    assert order("uniform:50ms,600ms") == sorted(order("uniform:50ms,600ms"))
    assert order("uniform:50ms,600ms,reorder") != sorted(order("uniform:50ms,600ms,reorder"))


def test_the_share_of_lost_answers_is_as_declared() -> None:
    assert len(arrivals(parse_latency("10ms,drop=0.25,seed=1"), 20_000)) == pytest.approx(750, abs=60)


def test_a_trace_is_played_answer_by_answer_and_from_the_start_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    assert write_trace(path, [100.0, None, 55.0]) == 3
    assert read_trace(path) == TraceLatency((100.0, None, 55.0), str(path))
    model = parse_latency(str(path))
    assert model == parse_latency(f"trace:{path}")
    assert arrivals(model, 110) == [(20, 0), (51, 40), (80, 60)]


BAD = {
    "a number without its unit": "300",
    "a mistyped distribution": "lognorml:300ms,0.3",
    "one value too few": "uniform:300ms",
    "two values for one": "constant:300ms,400ms",
    "the larger first": "uniform:400ms,200ms",
    "a sigma in words": "lognormal:300ms,wide",
    "a mistyped option": "300ms,dorp=0.1",
    "all answers lost": "300ms,drop=1",
    "a seed in words": "normal:300ms,50ms,seed=one",
    "no model at all": "soon",
}
BAD_TRACES = {
    "no JSON": "300",
    "cut": '{"latency_ms": 3',
    "mistyped": '{"latency": 300}',
    "empty object": "{}",
    "negative": '{"latency_ms": -1}',
    "text": '{"latency_ms": "300"}',
    "nothing arrived": '{"latency_ms": null}',
    "empty": "",
}


def test_errors_say_what_was_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    for name, text in BAD.items():
        with pytest.raises(LatencyError) as caught:
            parse_latency(text)
        lines += [name, f"    {caught.value}"]
    for name, text in BAD_TRACES.items():
        Path("trace.jsonl").write_text('{"latency_ms": null}\n' * (name != "empty") + text)
        with pytest.raises(LatencyError) as caught:
            parse_latency("trace.jsonl")
        lines += [f"trace: {name}", f"    {caught.value}"]
    with pytest.raises(LatencyError) as caught:
        parse_latency("nowhere.jsonl")
    lines += ["trace: no file", f"    {caught.value}"]
    assert "\n".join(lines) + "\n" == GOLDEN.read_text()
