"""Many contacts over several processes, and what they add up to: the same for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from controllers.types import CommandMode
from sim.press.contact import ContactOutcome, PressOutcome, press
from sim.press.plan import PressCase
from sim.press.rig import rig_of

_CHUNK = 4
_STIFFNESS_BINS = (10.0, 45.0, 80.0, 115.0, 150.0)
_SPEED_BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What some contacts add up to.

    Attributes:
        contacts: How many.
        within: How many stayed within the declared ceilings, with the declared tolerance.
        within_ceiling: Their share; None without contacts.
        peak_n: Largest force of all.
        p999_n: 99.9th percentile of the contacts' peaks.
        p50_n: Median of the peaks.
        lasting_n: Largest force that lasted.
        impulse_ns: Largest impulse, N s.
        retreat_p50_m: Median way back from the deepest point.
        reaction_ms_p99: 99th percentile, of the contacts whose force asked for an answer.
        reaction_ms_max: The longest.
        stops: Contacts that ended in a protective stop.
        needless_stops: Of those, the ones whose force had not passed the quasi-static ceiling.
    """

    contacts: int
    within: int
    within_ceiling: float | None
    peak_n: float | None
    p999_n: float | None
    p50_n: float | None
    lasting_n: float | None
    impulse_ns: float | None
    retreat_p50_m: float | None
    reaction_ms_p99: float | None
    reaction_ms_max: float | None
    stops: int
    needless_stops: int


@dataclass(frozen=True, slots=True)
class Bin:
    """The contacts in one range of stiffness or speed.

    Attributes:
        low: Lower end, N/mm or m/s.
        high: Upper end.
        guarded: With the filter.
        peak_n_without_filter: Largest force of the same contacts without it.
    """

    low: float
    high: float
    guarded: Figures
    peak_n_without_filter: float | None


def run_contacts(
    arm: str,
    mode: CommandMode,
    contacts: int,
    seed: int,
    *,
    profile: str = "",
    workers: int = 1,
    bare: bool = True,
) -> Iterator[PressOutcome]:
    """Carry out contacts, in the order of their index whatever finished first.

    Args:
        arm: Robot description.
        mode: What is commanded.
        contacts: How many.
        seed: Of everything random.
        profile: Safety profile; empty for the arm's tabletop.
        workers: Processes; 0 runs in this one.
        bare: Each also without the filter.
    """
    cases = [PressCase(arm, mode, seed, index) for index in range(contacts)]
    one = partial(_press, profile, bare)
    if workers == 0:
        yield from map(one, cases)
        return
    context = multiprocessing.get_context("spawn")
    threads = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(threads, "1"))
    try:
        pool = context.Pool(min(workers, max(1, contacts)))
    finally:
        for name, value in threads.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    with pool:
        yield from pool.imap(one, cases, chunksize=_CHUNK)


def _press(profile: str, bare: bool, case: PressCase) -> PressOutcome:
    return press(rig_of(case.arm, case.mode, profile), case, bare=bare)


def figures(outcomes: Sequence[ContactOutcome]) -> Figures:
    """Sum up."""
    count = len(outcomes)
    within = sum(outcome.within for outcome in outcomes)
    peaks = np.array([outcome.peak_n for outcome in outcomes])
    reactions = np.array([outcome.reaction_ms for outcome in outcomes if outcome.reaction_ms is not None])

    def over(values: np.ndarray, percent: float) -> float | None:
        # Never between two readings: an answer that did not come is infinitely late.
        return float(np.percentile(values, percent, method="higher")) if len(values) else None

    return Figures(
        contacts=count,
        within=within,
        within_ceiling=within / count if count else None,
        peak_n=over(peaks, 100.0),
        p999_n=over(peaks, 99.9),
        p50_n=over(peaks, 50.0),
        lasting_n=max((outcome.lasting_n for outcome in outcomes), default=None),
        impulse_ns=max((outcome.impulse_ns for outcome in outcomes), default=None),
        retreat_p50_m=over(np.array([outcome.retreat_m for outcome in outcomes]), 50.0),
        reaction_ms_p99=over(reactions, 99.0),
        reaction_ms_max=over(reactions, 100.0),
        stops=sum(bool(outcome.stopped) for outcome in outcomes),
        needless_stops=sum(outcome.needless for outcome in outcomes),
    )


def by_stiffness(outcomes: Sequence[PressOutcome]) -> tuple[Bin, ...]:
    """In ranges of the surface's stiffness, N/mm."""
    return _bins(outcomes, _STIFFNESS_BINS, lambda contact: contact.stiffness_n_mm)


def by_speed(outcomes: Sequence[PressOutcome]) -> tuple[Bin, ...]:
    """In ranges of the end effector's speed at first touch, with the filter, m/s."""
    return _bins(outcomes, _SPEED_BINS, lambda contact: contact.impact_m_s)


def _bins(
    outcomes: Sequence[PressOutcome], edges: Sequence[float], value: Callable[[ContactOutcome], float]
) -> tuple[Bin, ...]:
    found: list[Bin] = []
    for low, high in pairwise(edges):
        last = high == edges[-1]
        inside = [
            o
            for o in outcomes
            if o.guarded is not None and low <= value(o.guarded) and (value(o.guarded) < high or last)
        ]
        guarded = figures([o.guarded for o in inside if o.guarded is not None])
        bare = figures([o.bare for o in inside if o.bare is not None])
        found.append(Bin(low, high, guarded, bare.peak_n))
    return tuple(found)
