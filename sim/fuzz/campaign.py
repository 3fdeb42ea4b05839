"""Many episodes over arms and attacks, in parallel, and what came of them."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import mujoco

from safety.monitor import LimitMargin, MonitoredLimit, Violation
from sim.fuzz.episode import EpisodeOutcome, run_episode
from sim.fuzz.plan import Attack, EpisodeName, plan_episode

EPISODE_TICKS = 400
# The adversary abandons four branches of five.
ADVERSARY_TICKS = 1600
_TYPICAL_STOP_TICKS = 120
_KEPT_FINDINGS = 40
_CHUNK = 2

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    """What to run.

    Attributes:
        ticks: Least number of ticks that the filter shall face.
        seed: Of everything.
        attacks: Which.
        arms: Names of robots that have a profile ``NAME_tabletop``.
        workers: Processes; results do not depend on it.
        reference: Also run every episode without the filter.
        only: A single episode instead.
    """

    ticks: int
    seed: int
    attacks: tuple[Attack, ...]
    arms: tuple[str, ...]
    workers: int = 1
    reference: bool = True
    only: EpisodeName | None = None


@dataclass(slots=True)
class Tally:
    """Sums over some episodes.

    Attributes:
        ticks: Ticks that the filter faced.
        violations: Ticks of these on which the monitor found a violation.
        ticks_without_filter: Ticks of the same episodes without the filter, until MuJoCo gave up.
        violations_without_filter: Ticks of these with a violation.
        min_margin: Smallest relative margin with the filter; negative if there is a violation.
        crashes: Episodes that ended because the stack raised something.
    """

    ticks: int = 0
    violations: int = 0
    ticks_without_filter: int = 0
    violations_without_filter: int = 0
    min_margin: float = math.inf
    crashes: int = 0

    def add(self, guarded: EpisodeOutcome, reference: EpisodeOutcome | None) -> None:
        """Count an episode."""
        self.ticks += guarded.ticks
        self.violations += guarded.violations
        self.min_margin = min(self.min_margin, guarded.min_margin)
        self.crashes += bool(guarded.crash)
        if reference is not None:
            self.ticks_without_filter += reference.ticks
            self.violations_without_filter += reference.violations


@dataclass(frozen=True, slots=True)
class Finding:
    """An episode in which the filter failed.

    Attributes:
        episode: Its name; with the campaign's seed it can be run again alone.
        violation: The first violation; None after a crash.
        violations: Ticks with violations.
        crash: What the stack raised.
    """

    episode: EpisodeName
    violation: Violation | None
    violations: int
    crash: str


@dataclass(slots=True)
class LimitTally:
    """One limit over all episodes with the filter.

    Attributes:
        violations: Readings that were violations.
        violations_without_filter: The same without the filter.
        lowest: The smallest margin.
    """

    violations: int = 0
    violations_without_filter: int = 0
    lowest: LimitMargin | None = None


@dataclass(slots=True)
class CampaignReport:
    """What came of a campaign."""

    total: Tally = field(default_factory=Tally)
    attacks: dict[Attack, Tally] = field(default_factory=dict)
    arms: dict[str, Tally] = field(default_factory=dict)
    limits: dict[MonitoredLimit, LimitTally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    episodes: int = 0

    def add(self, guarded: EpisodeOutcome, reference: EpisodeOutcome | None) -> None:
        """Count an episode."""
        self.episodes += 1
        name = guarded.plan.name
        for tally in (
            self.total,
            self.attacks.setdefault(name.attack, Tally()),
            self.arms.setdefault(name.arm, Tally()),
        ):
            tally.add(guarded, reference)
        for margin in guarded.margins:
            limit = self._limit(margin.limit)
            if limit.lowest is None or margin.relative < limit.lowest.relative:
                limit.lowest = margin
        for count in guarded.counts:
            self._limit(count.limit).violations += count.readings
        for count in () if reference is None else reference.counts:
            self._limit(count.limit).violations_without_filter += count.readings
        if (guarded.violations or guarded.crash) and len(self.findings) < _KEPT_FINDINGS:
            self.findings.append(Finding(name, guarded.first, guarded.violations, guarded.crash))

    def _limit(self, limit: MonitoredLimit) -> LimitTally:
        return self.limits.setdefault(limit, LimitTally())


def run_campaign(options: CampaignOptions, progress: Progress | None = None) -> CampaignReport:
    """Attack until the filter has faced enough ticks.

    Args:
        options: What to run.
        progress: Called with ticks done and ticks wanted after each episode.
    """
    report = CampaignReport()
    if options.only is not None:
        for outcome in map(partial(_both, options.seed, options.reference), [options.only]):
            report.add(*outcome)
        return report
    with _Runner(options) as runner:
        rounds = {(arm, attack): 0 for arm in options.arms for attack in options.attacks}
        share = options.ticks / len(rounds)
        done: Counter[tuple[str, Attack]] = Counter()
        while names := _next_round(rounds, done, share):
            for guarded, reference in runner.run(names):
                report.add(guarded, reference)
                done[guarded.plan.name.arm, guarded.plan.name.attack] += guarded.ticks
                if progress is not None:
                    progress(report.total.ticks, options.ticks)
    return report


def _next_round(
    rounds: dict[tuple[str, Attack], int], done: Counter[tuple[str, Attack]], share: float
) -> list[EpisodeName]:
    """The episodes still wanted; those of one arm and attack stay together, so that their worlds are built once."""
    names: list[EpisodeName] = []
    for (arm, attack), begun in rounds.items():
        missing = math.ceil(max(share - done[arm, attack], 0.0) / (_ticks_of(attack) + _TYPICAL_STOP_TICKS))
        names.extend(EpisodeName(arm, attack, begun + index) for index in range(missing))
        rounds[arm, attack] = begun + missing
    return names


def _ticks_of(attack: Attack) -> int:
    return ADVERSARY_TICKS if attack is Attack.ADVERSARIAL else EPISODE_TICKS


def _both(seed: int, reference: bool, name: EpisodeName) -> tuple[EpisodeOutcome, EpisodeOutcome | None]:
    plan = plan_episode(seed, name, _ticks_of(name.attack))
    return run_episode(plan), run_episode(plan, guarded=False) if reference else None


class _Runner:
    """Runs episodes here or in worker processes, in order."""

    def __init__(self, options: CampaignOptions) -> None:
        self._job = partial(_both, options.seed, options.reference)
        self._pool: ProcessPoolExecutor | None = None
        _quiet()
        if options.workers > 1:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is all the parallelism there is
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(options.workers, mp_context=context, initializer=_quiet)

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        mujoco.set_mju_user_warning(None)

    def run(self, names: Iterable[EpisodeName]) -> Iterator[tuple[EpisodeOutcome, EpisodeOutcome | None]]:
        if self._pool is None:
            return map(self._job, names)
        return self._pool.map(self._job, names, chunksize=_CHUNK)


def _quiet() -> None:
    """Without the filter, simulations diverge by the hundred; MuJoCo would write a file about each."""
    mujoco.set_mju_user_warning(_ignore)


def _ignore(message: str) -> None:
    del message
