"""The arm keeps off itself, braking included."""

from __future__ import annotations

from safety.limits.base import Inequalities, Judgement
from safety.limits.rows import RowLimit
from safety.motion import Motion


class SelfCollisionLimit(RowLimit):
    """Hull capsules of links that are not neighbours keep a distance.

    At the start of a tick each pair is parted by two parallel planes, across the shortest way between the two. Tick and
    stop must keep each capsule beyond its plane, measured along the planes' normal.
    """

    name = "self_collision"
    unit = "m"
    margin_scale = 0.1

    def judge(self, motion: Motion) -> Judgement:
        """Every end of one capsule, against every end of the other."""
        return self.judge_rows(motion, motion.hull.pairs)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each near pair of ends."""
        return self.bound_rows(motion, motion.hull.pairs)
