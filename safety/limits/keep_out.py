"""No part of the arm enters a keep-out zone, braking included."""

from __future__ import annotations

from safety.kernel.rows import Rows
from safety.limits.base import Inequalities, Judgement
from safety.limits.rows import RowLimit
from safety.motion import Motion


class KeepOutLimit(RowLimit):
    """Every hull capsule stays out of every zone, and so does what the gripper carries.

    At the start of a tick each capsule is parted from each zone by a plane, through the shortest way between the two.
    Tick and stop must keep the capsule on its side of that plane: a zone is convex, so it is then never touched.
    """

    name = "keep_out"
    unit = "m"
    margin_scale = 0.1

    def judge(self, motion: Motion) -> Judgement:
        """Both ends of every capsule, against every zone's plane."""
        return self.judge_rows(motion, _rows(motion))

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row for each near capsule end and zone."""
        return self.bound_rows(motion, _rows(motion))


def _rows(motion: Motion) -> Rows:
    return motion.hull.zones_carrying if motion.carrying else motion.hull.zones
