"""Doubt: how unsure a policy was of a chunk, and what the executor does about it.

A token model has a distribution over the action vocabulary for every token that it writes. The arm needs two to four
numbers of it for each chunk. The policy computes them and the log keeps them, so that a tick compares logged numbers
only and replays bit for bit on any machine. Above a first threshold the executor's clock slows down; above a second one
the chunk is not played, and the arm comes to a stand *along the path that it is on* until a chunk with less doubt
arrives.

Doubt is no measure of safety: a model can be wrong and sure of it. How far it can be trusted is measured with
``vla bench doubt``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ChunkDoubt:
    """How unsure a policy was of one chunk; computed from its own distributions, before any token is forced on it.

    Attributes:
        mean_probability: Mean over the chunk's tokens of the probability of the token that was chosen, in [0, 1].
        min_probability: The smallest of them.
        mean_entropy: Mean over the tokens of the Shannon entropy of the distribution over the action vocabulary, nat;
            None where the policy does not tell.
        agreement: Share of tokens on which a greedy and a sampled decode agree, in [0, 1]; None where none was sampled.
    """

    mean_probability: float
    min_probability: float
    mean_entropy: float | None = None
    agreement: float | None = None

    def __post_init__(self) -> None:
        """Check ranges: what comes from another process may be anything.

        Raises:
            ValueError: Not a number, or outside its range.
        """
        for name in ("mean_probability", "min_probability", "agreement"):
            value = getattr(self, name)
            if not (name == "agreement" and value is None) and not (_is_number(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"expected {name} in [0, 1], found {value!r}")
        entropy = self.mean_entropy
        if entropy is not None and not (_is_number(entropy) and 0.0 <= entropy < math.inf):
            raise ValueError(f"expected mean_entropy to be finite and 0 nat or more, found {entropy!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, float)


class DoubtMeasure(Enum):
    """Which number of a :class:`ChunkDoubt` is compared with the thresholds; each grows with doubt."""

    MEAN_ENTROPY = "mean_entropy"  # nat
    MEAN_PROBABILITY = "mean_probability"  # 1 - the mean probability
    MIN_PROBABILITY = "min_probability"  # 1 - the smallest probability
    AGREEMENT = "agreement"  # 1 - the agreement

    def of(self, doubt: ChunkDoubt) -> float | None:
        """The doubt, None where the policy does not tell."""
        value: float | None = getattr(doubt, self.value)
        if value is None or self is DoubtMeasure.MEAN_ENTROPY:
            return value
        return 1.0 - value


class DoubtLevel(Enum):
    """What the newest chunk's doubt asks for, in order of severity."""

    CLEAR = "clear"  # full speed
    SLOW = "slow"  # the executor's clock runs at ``slow_scale``
    HOLD = "hold"  # the chunk is not played; the arm comes to a stand on the path


@dataclass(frozen=True, slots=True)
class DoubtOptions:
    """Thresholds on doubt. Off by default: nothing is compared and nothing changes.

    Attributes:
        measure: What is compared. By default what foretold the compact VLA's failures best (docs/benchmarks.md).
        slow_above: Above this the clock slows down; 0 for never.
        hold_above: Above this the chunk is not played and the arm holds; 0 for never.
        slow_scale: Rate of the clock while slow, in (0, 1).
        change_per_s: Largest change of the rate, 1/s. The end effector brakes with its speed times this.
    """

    measure: DoubtMeasure = DoubtMeasure.MIN_PROBABILITY
    slow_above: float = 0.0
    hold_above: float = 0.0
    slow_scale: float = 0.5
    change_per_s: float = 4.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: Says what was expected, what was found and what to change.
        """
        for name in ("slow_above", "hold_above"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ValueError(
                    f"expected a finite doubt threshold {name} of 0 (never) or more, found {value}; take one that "
                    "`vla bench doubt` suggests"
                )
            if value >= 1.0 and self.measure is not DoubtMeasure.MEAN_ENTROPY:
                raise ValueError(
                    f"expected a doubt threshold {name} below 1 for {self.measure.value}, whose doubt is one minus a "
                    f"probability, found {value}; lower it, or measure mean_entropy (nat)"
                )
        if 0.0 < self.hold_above <= self.slow_above:
            raise ValueError(
                f"expected slow_above below hold_above, found {self.slow_above} and {self.hold_above}: the arm would "
                "hold before it slows down; swap them, or set slow_above to 0 to hold only"
            )
        if not 0.0 < self.slow_scale < 1.0:
            raise ValueError(
                f"expected a slow_scale in (0, 1), found {self.slow_scale}; to hold, set hold_above instead, and to "
                "change nothing, set slow_above to 0"
            )
        if not 0.0 < self.change_per_s < math.inf:
            raise ValueError(
                f"expected a positive, finite change_per_s of the speed scale, found {self.change_per_s}; the default "
                "brings the arm from full speed to a stand in 0.25 s"
            )

    @property
    def enabled(self) -> bool:
        """Whether there is any threshold."""
        return self.slow_above > 0.0 or self.hold_above > 0.0


class DoubtState(NamedTuple):
    """What the executor remembers of doubt.

    Attributes:
        level: Of the newest chunk that was judged.
        scale: Rate of the clock, in [0, 1]; on its way to what the level asks for.
    """

    level: DoubtLevel
    scale: float


NO_DOUBT = DoubtState(DoubtLevel.CLEAR, 1.0)


@dataclass(frozen=True, slots=True)
class DoubtTransition:
    """A change of level.

    Attributes:
        level: The new one.
        measure: What was compared.
        value: The chunk's doubt.
        threshold: The nearest threshold between the two levels: ``value`` is above it, or at most it on the way back.
        chunk_id: The chunk.
    """

    level: DoubtLevel
    measure: DoubtMeasure
    value: float
    threshold: float
    chunk_id: int


class DoubtGate:
    """Compares the doubt of chunks with thresholds. Holds no memory."""

    def __init__(self, options: DoubtOptions, control_rate_hz: int) -> None:
        """Bind.

        Args:
            options: The thresholds.
            control_rate_hz: Ticks per second.
        """
        self.options = options
        self._step = options.change_per_s / control_rate_hz
        self._goals = {DoubtLevel.CLEAR: 1.0, DoubtLevel.SLOW: options.slow_scale, DoubtLevel.HOLD: 0.0}

    def value(self, doubt: object) -> float | None:
        """The doubt of a chunk by the chosen measure, None where the policy does not tell it."""
        return self.options.measure.of(doubt) if isinstance(doubt, ChunkDoubt) else None

    def level(self, value: float) -> DoubtLevel:
        """What a doubt asks for; never less than what a smaller doubt asks for."""
        options = self.options
        if 0.0 < options.hold_above < value:
            return DoubtLevel.HOLD
        return DoubtLevel.SLOW if 0.0 < options.slow_above < value else DoubtLevel.CLEAR

    def goal(self, level: DoubtLevel) -> float:
        """Rate of the clock that a level asks for, in [0, 1]."""
        return self._goals[level]

    def advance(self, state: DoubtState) -> DoubtState:
        """One tick: the rate moves towards what the level asks for, by no more than it may."""
        goal, scale, step = self._goals[state.level], state.scale, self._step
        if scale == goal:
            return state
        return DoubtState(state.level, min(max(goal, scale - step), scale + step))

    def transition(self, before: DoubtLevel, after: DoubtLevel, value: float, chunk_id: int) -> DoubtTransition:
        """A change of level as an event."""
        options = self.options
        worse = after if self._goals[after] < self._goals[before] else before
        threshold = options.hold_above if worse is DoubtLevel.HOLD else options.slow_above
        # From HOLD to CLEAR the first threshold, where there is one, was passed too and is the nearer to the value.
        if after is DoubtLevel.CLEAR and options.slow_above > 0.0:
            threshold = options.slow_above
        return DoubtTransition(after, options.measure, value, threshold, chunk_id)
