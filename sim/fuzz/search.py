"""The adversary: searches for the commands that leave the smallest margin, restarting from where it got farthest."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray, JointCommand, frozen_array
from safety.monitor import LIMITS, MonitoredLimit
from sim.fuzz.cell import Cell
from sim.fuzz.joints import JointDemand, View
from sim.fuzz.plan import EpisodePlan
from sim.fuzz.seeker import LimitSeeker
from sim.fuzz.session import Moment, Session

_SEGMENT_S = 0.2
_KNOTS = 4
_CANDIDATES = 5
# Margins of rounding size: they say nothing about which way to go.
_UNINFORMATIVE = (MonitoredLimit.COMMANDED_FORM, MonitoredLimit.COMMANDED_ACCELERATION, MonitoredLimit.GRIPPER_FORCE)


class Adversary:
    """Evolves segments of commands, knots of relative joint velocity, and keeps the worst of each round.

    A round tries the segment that was worst before, variations of it, a bang-bang segment and one that seeks a limit,
    all from the same moment; it goes on from the end of the worst. Each round looks at one limit, or at all.
    """

    def __init__(self, plan: EpisodePlan, cell: Cell, session: Session) -> None:
        """Set up the search."""
        rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 8]))
        dt = 1.0 / plan.rate_hz
        self._rng, self._session, self._mode = rng, session, plan.mode
        self._length = max(4, round(_SEGMENT_S / dt))
        self._n = cell.description.n
        self._demand = JointDemand(cell.description, plan.mode, session.plant, rng, dt)
        self._seeker = LimitSeeker(cell.description, cell.profile, session.plant, rng, dt)
        self._best = rng.uniform(-1.0, 1.0, (_KNOTS, self._n))

    def run(self, ticks: int) -> None:
        """Search for a number of ticks, abandoned branches included."""
        session = self._session
        while session.ticks < ticks:
            focus = self._focus()
            start = session.moment()
            lowest, end, best = np.inf, start, self._best
            for index in range(_CANDIDATES):
                if index:
                    session.return_to(start)
                knots = None if index == 1 else self._candidate(index)
                score = self._try(knots, focus)
                if score < lowest:
                    lowest, end, best = score, session.moment(), self._best if knots is None else knots
            self._best = best
            session.return_to(end)

    def _focus(self) -> tuple[int, ...]:
        useful = [index for index, limit in enumerate(LIMITS) if limit not in _UNINFORMATIVE]
        if self._rng.random() < 0.4:
            return tuple(useful)
        return (int(self._rng.choice(useful)),)

    def _candidate(self, index: int) -> FloatArray:
        rng = self._rng
        if index == 0:
            return self._best
        if index == 2:
            return 2.0 * rng.choice([-1.0, 0.0, 1.0], size=(_KNOTS, self._n))
        return self._best + rng.normal(0.0, 0.3 if index == 3 else 1.0, (_KNOTS, self._n))

    def _try(self, knots: FloatArray | None, focus: tuple[int, ...]) -> float:
        """Run a segment and return the smallest margin in focus; without knots, the seeker drives."""
        session = self._session
        lowest = np.inf
        for tick in range(self._length):
            state = session.plant.sense()
            relative = self._seeker.velocity() if knots is None else knots[tick * _KNOTS // self._length]
            view = View(tick, session.plant.now_ns, state, session.applied)
            values = frozen_array(self._demand.values(relative, view))
            opening = self._demand.opening(session.plant.tick)
            session.filtered(state, JointCommand(self._mode, values, opening, session.plant.now_ns), ())
            margins = session.monitor.relative_margins
            lowest = min(lowest, *(margins[index] for index in focus))
        return lowest


__all__ = ["Adversary", "Moment"]
