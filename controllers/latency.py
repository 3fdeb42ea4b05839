"""Latency as an input: how long each answer of the policy takes, on a virtual clock, exactly repeatable.

A model is written as text, on the command line and in the log::

    300ms                                       always 300 ms
    uniform:200ms,400ms,seed=1                  between 200 and 400 ms
    normal:300ms,50ms,seed=1                    mean and standard deviation; never below 0
    lognormal:300ms,0.3,seed=1                  median and sigma of the logarithm
    trace:runs/latency.jsonl                    one answer after another as recorded, from the start again at its end
    300ms,drop=0.05,reorder,seed=1              every twentieth answer is lost, and answers may overtake each other

A trace has one JSON object a line: ``{"latency_ms": 312.5}``, or ``{"latency_ms": null}`` for an answer that was lost.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from controllers.names import nearest_name_hint, unknown_name
from controllers.protocols import PolicyClient
from controllers.types import ChunkArrival, Observation

DISTRIBUTIONS = ("constant", "uniform", "normal", "lognormal", "trace")
_OPTIONS = ("drop", "reorder", "seed")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|us)")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_EXAMPLES = (
    "300ms, uniform:200ms,400ms, normal:300ms,50ms, lognormal:300ms,0.3 or trace:FILE.jsonl; "
    "then drop=SHARE, reorder, seed=N"
)


class LatencyError(ValueError):
    """A latency model or trace that cannot be read."""


@dataclass(frozen=True, slots=True)
class ConstantLatency:
    """Every answer takes ``ms``."""

    ms: float

    def draw(self, rng: np.random.Generator, index: int) -> float | None:
        """Latency of answer ``index``, ms."""
        del rng, index
        return self.ms

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.ms:g}ms"


@dataclass(frozen=True, slots=True)
class UniformLatency:
    """Between two durations."""

    low_ms: float
    high_ms: float

    def draw(self, rng: np.random.Generator, index: int) -> float | None:
        """Latency of answer ``index``, ms."""
        del index
        return float(rng.uniform(self.low_ms, self.high_ms))

    def __str__(self) -> str:
        """As on the command line."""
        return f"uniform:{self.low_ms:g}ms,{self.high_ms:g}ms"


@dataclass(frozen=True, slots=True)
class NormalLatency:
    """Gaussian, cut off at 0."""

    mean_ms: float
    sigma_ms: float

    def draw(self, rng: np.random.Generator, index: int) -> float | None:
        """Latency of answer ``index``, ms."""
        del index
        return max(0.0, float(rng.normal(self.mean_ms, self.sigma_ms)))

    def __str__(self) -> str:
        """As on the command line."""
        return f"normal:{self.mean_ms:g}ms,{self.sigma_ms:g}ms"


@dataclass(frozen=True, slots=True)
class LognormalLatency:
    """Its logarithm is Gaussian: a long tail."""

    median_ms: float
    sigma: float

    def draw(self, rng: np.random.Generator, index: int) -> float | None:
        """Latency of answer ``index``, ms."""
        del index
        return self.median_ms * math.exp(float(rng.normal(0.0, self.sigma)))

    def __str__(self) -> str:
        """As on the command line."""
        return f"lognormal:{self.median_ms:g}ms,{self.sigma:g}"


@dataclass(frozen=True, slots=True)
class TraceLatency:
    """Recorded answers, one after another.

    Attributes:
        latencies_ms: One for each answer, None for one that was lost.
        path: Where they came from.
    """

    latencies_ms: tuple[float | None, ...]
    path: str

    def draw(self, rng: np.random.Generator, index: int) -> float | None:
        """Latency of answer ``index``, ms; None for a lost one."""
        del rng
        return self.latencies_ms[index % len(self.latencies_ms)]

    def __str__(self) -> str:
        """As on the command line."""
        return f"trace:{self.path}"


LatencyDistribution = ConstantLatency | UniformLatency | NormalLatency | LognormalLatency | TraceLatency


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """How long answers take, and which never come.

    Attributes:
        distribution: Of the time from observation to arrival.
        drop: Share of answers that are lost.
        reorder: Answers may overtake each other; otherwise each arrives no sooner than the one before.
        seed: Seed of everything drawn; each episode draws the same.
    """

    distribution: LatencyDistribution
    drop: float = 0.0
    reorder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            LatencyError: A share outside [0, 1).
        """
        if not 0.0 <= self.drop < 1.0:
            raise LatencyError(f"expected a share of lost answers in [0, 1), found drop={self.drop:g}")

    def __str__(self) -> str:
        """As on the command line; parses back to an equal model."""
        drop = f",drop={self.drop:g}" if self.drop else ""
        seeded = self.drop or not isinstance(self.distribution, ConstantLatency | TraceLatency)
        seed = f",seed={self.seed}" if seeded else ""
        return f"{self.distribution}{drop}{',reorder' if self.reorder else ''}{seed}"


def parse_latency(text: str) -> LatencyModel:
    """Read a latency model; see the module's documentation for the forms.

    Raises:
        LatencyError: Anything else; says what was expected, what was found, and the near match.
    """
    text = text.strip()
    if text.endswith(".jsonl") and not text.startswith("trace:"):
        text = f"trace:{text}"
    kind, separator, rest = text.partition(":")
    if not separator:
        kind, rest = "constant", text
    if kind not in DISTRIBUTIONS:
        raise LatencyError(f"{unknown_name('latency distribution', kind, DISTRIBUTIONS)}; write {_EXAMPLES}")
    words = [word.strip() for word in rest.split(",")]
    plain = [word for word in words if "=" not in word and word not in _OPTIONS and not _like_option(word)]
    drop, reorder, seed = 0.0, False, 0
    for word in words:
        if word in plain:
            continue
        name, _, value = word.partition("=")
        if name == "drop":
            drop = _number(text, name, value)
        elif name == "seed":
            seed = int(_number(text, name, value))
        elif word == "reorder":
            reorder = True
        else:
            raise LatencyError(f"{text!r}: {unknown_name('latency option', name, _OPTIONS)}; write {_EXAMPLES}")
    return LatencyModel(_distribution(text, kind, plain), drop, reorder, seed)


def _like_option(word: str) -> bool:
    return word.isalpha() and bool(nearest_name_hint(word, _OPTIONS))


def _distribution(text: str, kind: str, values: list[str]) -> LatencyDistribution:
    if kind == "trace":
        if len(values) != 1 or not values[0]:
            raise LatencyError(f"{text!r}: expected trace:FILE.jsonl, found {len(values)} files")
        return read_trace(Path(values[0]))
    count = 1 if kind == "constant" else 2
    if len(values) != count:
        raise LatencyError(
            f"{text!r}: expected {count} value{'s' * (count > 1)} for {kind}, found {len(values)}; write {_EXAMPLES}"
        )
    first = _duration(text, values[0])
    if kind == "constant":
        return ConstantLatency(first)
    if kind == "lognormal":
        sigma = _number(text, "sigma", values[1])
        if sigma < 0.0 or first <= 0.0:
            raise LatencyError(f"{text!r}: expected a positive median and a sigma of 0 or more")
        return LognormalLatency(first, sigma)
    second = _duration(text, values[1])
    if kind == "normal":
        return NormalLatency(first, second)
    if second < first:
        raise LatencyError(f"{text!r}: expected the smaller duration first, found {first:g} ms and {second:g} ms")
    return UniformLatency(first, second)


def _duration(text: str, value: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        unit = f"; did you mean {value}ms?" if re.fullmatch(r"\d+(\.\d+)?", value) else ""
        raise LatencyError(f"{text!r}: expected a duration such as 300ms or 0.3s, found {value!r}{unit}")
    return float(match.group(1)) * _MS[match.group(2)]


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise LatencyError(f"{text!r}: expected a number for {name}, found {value!r}")
    return number


# ------------------------------------------------------------------------------------------------ traces


def read_trace(path: Path) -> TraceLatency:
    """Read a trace.

    Raises:
        LatencyError: No such file, or a line that is not what it should be; names it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LatencyError(f"{path}: expected a latency trace, found none: {error}") from error
    latencies = tuple(_entry(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
    if not latencies or all(value is None for value in latencies):
        raise LatencyError(f"{path}: expected at least one answer that arrived, found {len(latencies)} lines without")
    return TraceLatency(latencies, str(path))


def _entry(where: str, line: str) -> float | None:
    expected = 'expected {"latency_ms": MILLISECONDS or null}'
    try:
        data: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise LatencyError(f"{where}: {expected}, found no JSON: {error}") from error
    if not isinstance(data, dict):
        raise LatencyError(f"{where}: {expected}, found a {type(data).__name__}")
    entry = cast(dict[str, Any], data)
    for key in entry:
        if key != "latency_ms":
            raise LatencyError(f"{where}: {unknown_name('entry', str(key), ('latency_ms',))}; {expected}")
    if "latency_ms" not in entry:
        raise LatencyError(f"{where}: {expected}, found an empty object")
    value = entry["latency_ms"]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise LatencyError(f"{where}: expected latency_ms of 0 or more, or null, found {value!r}")
    return float(value)


def write_trace(path: Path, latencies_ms: Iterable[float | None]) -> int:
    """Write a trace and return how many answers it holds."""
    lines = [json.dumps({"latency_ms": None if value is None else round(value, 6)}) for value in latencies_ms]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


# ------------------------------------------------------------------------------------------------ client


class LatencyClient:
    """A policy client whose answers take as long as a model says, on the clock of the observations' stamps.

    The client inside answers at the request; its answers are kept until they are due.
    """

    def __init__(self, inner: PolicyClient, model: LatencyModel) -> None:
        """Bind to one episode: the draws begin anew."""
        self._inner = inner
        self._model = model
        self._rng = np.random.default_rng(model.seed)
        self._index = 0
        self._last_due_ns = -1
        self._waiting: list[tuple[int, int, ChunkArrival]] = []  # due, number, answer

    def request(self, observation: Observation) -> None:
        """Ask; the answer is due after the latency that is drawn now."""
        model = self._model
        latency_ms = model.distribution.draw(self._rng, self._index)
        lost = model.drop > 0.0 and self._rng.random() < model.drop
        self._index += 1
        self._inner.request(observation)
        answers = self._inner.poll(observation.stamp_ns)
        if not answers:
            raise RuntimeError(
                "expected a policy that answers at the request, found none; declare latency in lock-step"
            )
        if latency_ms is None or lost:
            return
        due = observation.stamp_ns + round(latency_ms * 1e6)
        if not model.reorder:
            due = max(due, self._last_due_ns)
        self._last_due_ns = due
        self._waiting.extend((due, self._index, replace(answer, inferred_ns=due)) for answer in answers)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        """Answers that are due by ``now_ns``, in the order in which they come."""
        due = sorted((item for item in self._waiting if item[0] <= now_ns), key=lambda item: item[:2])
        self._waiting = [item for item in self._waiting if item[0] > now_ns]
        return tuple(answer for _, _, answer in due)
