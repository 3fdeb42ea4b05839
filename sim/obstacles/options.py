"""Which obstacles an episode has: the part of a stack's configuration that says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ObstacleLevel(Enum):
    """Where obstacles stand; the levels are those of SafeLIBERO."""

    NEAR_TARGET = "I"  # as near to what the hand must reach as the hand's width permits
    ON_PATH = "II"  # on the way that the hand takes when it knows of no obstacle
    BOTH = "both"  # one of each in the same scene


@dataclass(frozen=True, slots=True, kw_only=True)
class ObstacleOptions:
    """Obstacles of every episode; which and where exactly follows from task and seed.

    Attributes:
        level: Where they stand.
        zone_margin_m: How far the declared zones reach beyond the obstacles, m.
        declared: Whether the safety profile is told; if not, the filter does not know of them.
    """

    level: str = ObstacleLevel.ON_PATH.value
    zone_margin_m: float = 0.004
    declared: bool = True

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            ValueError: An unknown level, or a margin that leaves no room or does not enclose.
        """
        levels = [level.value for level in ObstacleLevel]
        if self.level not in levels:
            raise ValueError(f"expected an obstacle level of {', '.join(levels)}, found {self.level!r}")
        if not 0.0005 <= self.zone_margin_m <= 0.05:
            raise ValueError(f"expected zone_margin_m of 0.0005 to 0.05, found {self.zone_margin_m}; mind the unit")

    @property
    def levels(self) -> tuple[ObstacleLevel, ...]:
        """The level of each obstacle of a scene."""
        level = ObstacleLevel(self.level)
        if level is ObstacleLevel.BOTH:
            return (ObstacleLevel.ON_PATH, ObstacleLevel.NEAR_TARGET)
        return (level,)
