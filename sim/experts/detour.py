"""Ways over declared keep-outs: what a skill aims at, reached without coming near a zone.

Like the skills, a detour is a function of the current state alone. It goes straight where the straight way is free,
else up and over. It relies on the column above what the skill aims at being free.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from safety.profile.zones import KeepOut
from sim.experts.motion import Aim, Hand, Item, holds, wrap
from sim.obstacles.geometry import HandHull, zone_top

_FREE_M = 0.006  # distance from zones at which a way counts as free; less than poses that tasks need are granted
_OVER_M = 0.018  # distance at which the hand passes over a zone
_SAMPLE_M = 0.02
_GRIP_SLACK_M = 0.006


@dataclass(frozen=True, slots=True)
class Detour:
    """Bends aims around keep-outs.

    Attributes:
        hull: The hand and what is near it.
        zones: Keep-outs, base frame. Over half-spaces there is no way: the hand stays where it is before them.
    """

    hull: HandHull
    zones: tuple[KeepOut, ...]

    def aim(self, hand: Hand, aim: Aim, items: Sequence[Item]) -> Aim:
        """The next aim on the way to ``aim``: itself where the straight way is free."""
        if aim.speed <= 0.0 or not self.zones:
            return aim
        carried = max((_ball(item) for item in items if item.width > 0.0 and holds(hand, item)), default=0.0)
        if self._free(hand, (aim.x, aim.y, aim.z), aim.yaw, carried):
            return aim
        tops = [top for top in (zone_top(zone) for zone in self.zones) if math.isfinite(top)]
        height = max(tops, default=0.0) + max(self.hull.below, carried) + _OVER_M
        # Up to a little above it, so that the hand does not creep the last millimetres.
        over = max(height + 0.012, aim.z)
        if hand.z >= height or self._free(hand, (aim.x, aim.y, over), aim.yaw, carried):
            return replace(aim, z=over)
        return replace(aim, x=hand.x, y=hand.y, z=over, yaw=hand.yaw)

    def _free(self, hand: Hand, goal: tuple[float, float, float], yaw: float, carried: float) -> bool:
        """Whether the hull keeps off all zones on the straight way; where it begins does not count."""
        start = np.array([hand.x, hand.y, hand.z])
        way = np.array(goal) - start
        turn = wrap(yaw - hand.yaw, 2.0 * math.pi)
        steps = max(math.ceil(float(np.linalg.norm(way)) / _SAMPLE_M), math.ceil(abs(turn) / 0.15), 1)
        shares = np.asarray(np.linspace(0.0, 1.0, steps + 1)[1:], dtype=np.float64)
        hull = self.hull.at(start + shares[:, None] * way, hand.yaw + shares * turn, carried)
        return hull.clearance(self.zones) > _FREE_M


def _ball(item: Item) -> float:
    return 0.5 * math.sqrt(3.0) * item.width + _GRIP_SLACK_M
