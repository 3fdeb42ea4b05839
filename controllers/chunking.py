"""How chunks are executed while the model thinks: the options, and the estimate of its delay.

Everything in here is a value or a pure function, so that a tick stays a pure fold and replays bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from controllers.names import unknown_name


class UnknownStrategyError(ValueError):
    """No chunk execution strategy has that name."""


class ChunkStrategyName(Enum):
    """The strategies; see :mod:`controllers.strategies`."""

    SYNCHRONOUS = "synchronous"  # play some rows, stand, ask, wait
    SWITCH = "switch"  # ask while playing, switch to the new chunk when it arrives (naive asynchronous)
    ENSEMBLING = "ensembling"  # average what all chunks say about a row
    TOKEN_RTC = "token_rtc"  # commit the rows of the delay and force them as the new chunk's prefix

    @staticmethod
    def named(name: str) -> ChunkStrategyName:
        """The strategy called ``name``.

        Raises:
            UnknownStrategyError: There is none; the message names the nearest and all.
        """
        names = [item.value for item in ChunkStrategyName]
        if name not in names:
            raise UnknownStrategyError(unknown_name("chunk strategy", name, names))
        return ChunkStrategyName(name)


@dataclass(frozen=True, slots=True)
class DelayEstimatorOptions:
    """The estimate of the delay between an observation and its chunk: an order statistic of the last delays.

    Attributes:
        window: Delays that are remembered.
        quantile: Of the remembered delays, the smallest that is at least this share of them. Delays beyond it, up to
            ``(1 - quantile) * window`` of them, do not move the estimate above the others.
        margin_ticks: Added, for the jitter of the ticks themselves; not where answers are instant.
    """

    window: int = 16
    quantile: float = 0.85
    margin_ticks: int = 1

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: An empty window, a quantile outside (0, 1], or a negative margin.
        """
        if self.window < 1 or not 0.0 < self.quantile <= 1.0 or self.margin_ticks < 0:
            raise ValueError(
                "expected a window of 1 or more, a quantile in (0, 1] and a margin of 0 or more ticks, found "
                f"{self.window}, {self.quantile} and {self.margin_ticks}"
            )


def remember_delay(delays: tuple[int, ...], ticks: int, options: DelayEstimatorOptions) -> tuple[int, ...]:
    """The window after one more delay, in ticks."""
    return (*delays, ticks)[-options.window :]


def estimated_delay(delays: tuple[int, ...], options: DelayEstimatorOptions) -> int:
    """Ticks to plan for; 0 where nothing is known yet or answers come within their own tick."""
    if not delays:
        return 0
    place = math.ceil(options.quantile * len(delays)) - 1
    quantile = sorted(delays)[place]
    return quantile + options.margin_ticks if quantile > 0 else 0


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """How chunks are executed.

    Attributes:
        strategy: Which of the strategies.
        ensembling_decay: Weight of a chunk's row in the average, ``exp(-decay * k)`` for the k-th oldest
            (ACT, https://arxiv.org/abs/2304.13705, section IV.B).
        max_delay_rows: Rows that one delay may cost. Where the model is slower, the executor's clock slows down until
            its delay takes no more, so that the chunk lasts until the next one arrives; 0 for what the horizon allows,
            ``(horizon - 2) / 2``: one delay to commit, one to play while the next chunk is inferred, two rows in
            reserve. Strategies that keep their place in rows only: ensembling and token_rtc.
        replan_error_m: Ask for a chunk as soon as the reference is this far from the sensed position.
        replan_error_rad: The same for orientation.
        replan_speed_scale: Ask for a chunk as soon as the safety filter slows the motion down to this.
        delay: The delay's estimate.
    """

    strategy: ChunkStrategyName = ChunkStrategyName.SWITCH
    ensembling_decay: float = 0.01
    max_delay_rows: float = 0.0
    replan_error_m: float = 0.045
    replan_error_rad: float = 0.35
    replan_speed_scale: float = 0.1
    delay: DelayEstimatorOptions = DelayEstimatorOptions()

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ValueError: A value that means nothing.
        """
        if self.max_delay_rows < 0.0 or self.ensembling_decay < 0.0:
            raise ValueError(
                "expected max_delay_rows and ensembling_decay of 0 or more, found "
                f"{self.max_delay_rows} and {self.ensembling_decay}"
            )
        if not (self.replan_error_m > 0.0 and self.replan_error_rad > 0.0 and self.replan_speed_scale >= 0.0):
            raise ValueError(
                "expected positive replan_error_m and replan_error_rad and a replan_speed_scale of 0 or more, found "
                f"{self.replan_error_m}, {self.replan_error_rad} and {self.replan_speed_scale}"
            )
