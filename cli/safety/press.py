"""Drive the arm into surfaces of known stiffness as hard as it can be commanded, and measure the force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rich.progress import track
from rich.table import Table

from cli.output import console, print_json
from controllers.types import CommandMode
from safety.profile import load_profile
from sim.press.contact import TOLERANCE, PressOutcome
from sim.press.experiment import Bin, Figures, by_speed, by_stiffness, figures, run_contacts
from sim.press.grasps import GraspFigures, run_grasps

_LEAST_SHARE = 0.999
_LONGEST_REACTION_MS = 10.0


@dataclass(frozen=True)
class Options:
    """Options of ``vla safety press``."""

    contacts: int = 200
    """Contacts with each arm in each mode; 0 to leave them out."""
    seed: int = 0
    """Seed of everything random."""
    arms: tuple[str, ...] = ("panda",)
    """Robot descriptions."""
    modes: tuple[Literal["position", "velocity", "torque"], ...] = ("position",)
    """What is commanded."""
    profile: str = ""
    """Safety profile, without its walls; the tabletop profile of each arm if not given."""
    reference: bool = True
    """Also without the filter, on the same seeds."""
    grasps: int = 0
    """Also so many grasps and placements by the scripted expert, in which nothing may trip."""
    workers: int = 2
    """Processes; 0 runs in this one."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Pressed:
    """Contacts of one arm in one mode.

    Attributes:
        arm: Robot description.
        mode: What was commanded.
        ceiling_transient_n: Declared for any moment.
        ceiling_quasi_static_n: Declared for what lasts.
        tolerance: Share of the ceilings that is allowed on top.
        guarded: With the filter.
        without_filter: Without; None where that was not asked for.
        missed: Contacts that did not come about: the filter kept the arm off, or four draws found no way.
        early_stops: Protective stops before anything was touched.
        by_stiffness: By the surface's stiffness, N/mm.
        by_speed: By the speed at first touch, m/s.
    """

    arm: str
    mode: str
    ceiling_transient_n: float
    ceiling_quasi_static_n: float
    tolerance: float
    guarded: Figures
    without_filter: Figures | None
    missed: int
    early_stops: int
    by_stiffness: tuple[Bin, ...]
    by_speed: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of ``vla safety press``: the first six figures are over all arms and modes.

    Attributes:
        contacts: Contacts with the filter on.
        within_ceiling: Share of them within the declared ceilings and tolerance.
        peak_n: Largest force.
        p999_n: 99.9th percentile of the peaks.
        reaction_ms_p99: 99th percentile of the time to the filter's first answer.
        false_trips: Protective stops where there was no reason: in grasps and placements, before anything was touched,
            or by a measured force that was not there.
        peak_n_without_filter: Largest force of the same contacts without the filter.
        within_ceiling_without_filter: Share of them within the ceilings.
        passed: All bars were met.
        pressed: By arm and mode.
        grasps: Normal work of each arm.
    """

    contacts: int
    within_ceiling: float | None
    peak_n: float | None
    p999_n: float | None
    reaction_ms_p99: float | None
    false_trips: int
    peak_n_without_filter: float | None
    within_ceiling_without_filter: float | None
    passed: bool
    pressed: tuple[Pressed, ...]
    grasps: tuple[GraspFigures, ...]


def main(options: Options) -> int:
    """Press, and print what came of it.

    Raises:
        ValueError: An option out of range, or an unknown arm or profile.
    """
    if options.contacts < 0 or options.grasps < 0 or options.workers < 0:
        raise ValueError(
            "expected 0 or more for --contacts, --grasps and --workers, "
            f"found {options.contacts}, {options.grasps}, {options.workers}"
        )
    pressed: list[Pressed] = []
    every: list[PressOutcome] = []
    for arm in options.arms if options.contacts else ():
        for name in options.modes:
            outcomes = _press(options, arm, CommandMode(name))
            every.extend(outcomes)
            pressed.append(_pressed(options, arm, name, outcomes))
    grasps = tuple(
        run_grasps(arm, options.grasps, options.seed, profile=options.profile, workers=options.workers)
        for arm in (options.arms if options.grasps else ())
    )
    result = _result(every, tuple(pressed), grasps)
    _print(result)
    if options.json:
        print_json(result)
    return 0 if result.passed else 1


def _press(options: Options, arm: str, mode: CommandMode) -> tuple[PressOutcome, ...]:
    return tuple(
        track(
            run_contacts(
                arm,
                mode,
                options.contacts,
                options.seed,
                profile=options.profile,
                workers=options.workers,
                bare=options.reference,
            ),
            total=options.contacts,
            description=f"{arm}, {mode.value}",
            console=console,
        )
    )


def _pressed(options: Options, arm: str, mode: str, outcomes: tuple[PressOutcome, ...]) -> Pressed:
    force = load_profile(options.profile or f"{arm}_tabletop").force
    return Pressed(
        arm=arm,
        mode=mode,
        ceiling_transient_n=force.transient_n,
        ceiling_quasi_static_n=force.quasi_static_n,
        tolerance=TOLERANCE,
        guarded=figures([o.guarded for o in outcomes if o.guarded is not None]),
        without_filter=figures([o.bare for o in outcomes if o.bare is not None]) if options.reference else None,
        missed=sum(o.guarded is None for o in outcomes),
        early_stops=sum(o.early_stops for o in outcomes),
        by_stiffness=by_stiffness(outcomes),
        by_speed=by_speed(outcomes),
    )


def _result(every: list[PressOutcome], pressed: tuple[Pressed, ...], grasps: tuple[GraspFigures, ...]) -> Result:
    guarded = figures([o.guarded for o in every if o.guarded is not None])
    bare = figures([o.bare for o in every if o.bare is not None])
    false_trips = guarded.needless_stops + sum(one.early_stops for one in pressed) + sum(g.false_trips for g in grasps)
    passed = (
        (guarded.within_ceiling is None or guarded.within_ceiling >= _LEAST_SHARE)
        and (guarded.reaction_ms_p99 is None or guarded.reaction_ms_p99 <= _LONGEST_REACTION_MS)
        and false_trips == 0
    )
    return Result(
        contacts=guarded.contacts,
        within_ceiling=guarded.within_ceiling,
        peak_n=guarded.peak_n,
        p999_n=guarded.p999_n,
        reaction_ms_p99=guarded.reaction_ms_p99,
        false_trips=false_trips,
        peak_n_without_filter=bare.peak_n,
        within_ceiling_without_filter=bare.within_ceiling,
        passed=passed,
        pressed=pressed,
        grasps=grasps,
    )


def _print(result: Result) -> None:
    table = Table(
        "arm",
        "mode",
        "contacts",
        "within",
        "peak N",
        "99.9% N",
        "lasting N",
        "reaction ms",
        "stops",
        "unfiltered N",
        title="forces between robot and surface",
    )
    for one in result.pressed:
        got, bare = one.guarded, one.without_filter
        table.add_row(
            one.arm,
            one.mode,
            str(got.contacts),
            _text(got.within_ceiling, 4),
            _text(got.peak_n),
            _text(got.p999_n),
            _text(got.lasting_n),
            _text(got.reaction_ms_p99),
            str(got.stops),
            _text(bare.peak_n if bare else None),
        )
    console.print(table)
    for one in result.pressed:
        for title, unit, bins in (("stiffness", "N/mm", one.by_stiffness), ("speed", "m/s", one.by_speed)):
            rows = Table(
                f"{title}, {unit}", "contacts", "within", "peak N", "unfiltered N", title=f"{one.arm}, {one.mode}"
            )
            for row in bins:
                got = row.guarded
                span = f"{row.low:g} to {row.high:g}"
                unfiltered = _text(row.peak_n_without_filter)
                rows.add_row(span, str(got.contacts), _text(got.within_ceiling, 4), _text(got.peak_n), unfiltered)
            console.print(rows)
    for work in result.grasps:
        console.print(
            f"{work.episodes} grasps and placements, {work.successes} done: {work.false_trips} with a protective stop, "
            f"{100 * work.limiting_share:.1f}% of ticks slowed, {work.mean_s:.2f} s each"
        )
    console.print("[green]passed[/]" if result.passed else "[red]failed[/]")


def _text(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"
