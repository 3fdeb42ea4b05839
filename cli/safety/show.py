"""Draw a profile's zones and the arm's hull, and print every limit in force with its absolute value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Column, Table

from cli.output import console, print_json
from cli.safety.limits_table import LimitRow, limits_in_force
from controllers.robot import RobotDescription, load_robot
from safety.body_regions import DISCLAIMER, SOURCE, RegionVerdict, compare
from safety.profile import SafetyProfile, SafetyProfileError, load_profile


@dataclass(frozen=True)
class Options:
    """Options of ``vla safety show``."""

    profile: Annotated[str, tyro.conf.Positional]
    """Safety profile: a built-in name, or the path to a YAML file."""
    out: Path | None = None
    """PNG to draw; NAME.png here if not given."""
    robot: str = ""
    """Robot description, where the profile's robot is not a built-in one: the path to its robot.yaml."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What was shown.

    Attributes:
        profile: Name of the profile.
        hash: Its hash.
        robot: Name of the robot.
        enforcement: What happens to a command that may not pass.
        out: The picture.
        limits: Every limit in force.
        body_regions: How the declared force ceilings compare with published biomechanical limits.
        body_regions_source: Where those come from.
        note: What none of this says.
    """

    profile: str
    hash: str
    robot: str
    enforcement: str
    out: str
    limits: tuple[LimitRow, ...]
    body_regions: tuple[RegionVerdict, ...]
    body_regions_source: str
    note: str


def main(options: Options) -> int:
    """Draw and print.

    Raises:
        ValueError: A profile, robot or file name that does not fit.
    """
    from cli.safety.drawing import draw  # matplotlib takes a second to import

    profile = load_profile(options.profile)
    robot = load_robot(options.robot or profile.robot)
    if robot.name != profile.robot:
        raise SafetyProfileError(
            f"profile {profile.name!r}: expected robot {profile.robot!r}, found {robot.name!r}: leave --robot out, or "
            "choose another profile"
        )
    out = options.out or Path(f"{profile.name}.png")
    if out.suffix != ".png":
        raise ValueError(f"--out: expected a name that ends in .png, found {out}")
    draw(profile, robot, out)
    shown = Shown(
        profile=profile.name,
        hash=profile.hash,
        robot=robot.name,
        enforcement=profile.enforcement.value,
        out=str(out),
        limits=limits_in_force(profile, robot),
        body_regions=compare(profile.force),
        body_regions_source=SOURCE,
        note=DISCLAIMER,
    )
    _print(shown, profile, robot)
    if options.json:
        print_json(shown)
    return 0


def _print(shown: Shown, profile: SafetyProfile, robot: RobotDescription) -> None:
    console.print(f"[bold]{shown.profile}[/]  hash {shown.hash}  robot {shown.robot}  enforcement {shown.enforcement}")
    console.print(_joint_table(shown.limits, robot))
    console.print(_other_table(shown.limits))
    console.print(_region_table(shown, profile))
    console.print(f"[yellow]{DISCLAIMER}[/]")
    console.print(f"picture: {shown.out}")


def _joint_table(limits: tuple[LimitRow, ...], robot: RobotDescription) -> Table:
    """A row for each kind of limit, a column for each joint."""
    joints = [row for row in limits if row.section == "joints"]
    headers = (Column(name.replace("_", " "), justify="right") for name in robot.joint_names)
    table = Table(Column("", no_wrap=True), *headers, title="joint limits, fractions applied")
    for kind, unit in dict.fromkeys((row.limit, row.unit) for row in joints):
        cells = (_text(row).strip(r"\[]").replace(", ", "\n") for row in joints if row.limit == kind)
        table.add_row(f"{kind}, {unit}", *cells)
    return table


def _other_table(limits: tuple[LimitRow, ...]) -> Table:
    """A block for each section, a row for each limit."""
    table = Table("limit", "value", "note", title="limits of the tool, the cell and the clock")
    section = "joints"
    for row in limits:
        if row.section == "joints":
            continue
        if row.section != section:
            table.add_section()
            table.add_row(f"[bold]{row.section.replace('_', ' ')}[/]")
            section = row.section
        table.add_row(f"  {row.name} {row.limit}".rstrip(), f"{_text(row)} {row.unit}".rstrip(), row.note)
    return table


def _region_table(shown: Shown, profile: SafetyProfile) -> Table:
    force = profile.force
    title = (
        f"declared force ceilings ({force.quasi_static_n:g} N quasi-static, {force.transient_n:g} N transient) "
        "beside ISO/TS 15066"
    )
    table = Table("body region", "quasi-static N", "transient N", "ceilings no higher", title=title)
    for verdict in shown.body_regions:
        transient = "not admitted" if verdict.transient_limit_n is None else f"{verdict.transient_limit_n:g}"
        wrong = [
            name
            for name, respected in (
                ("quasi-static", verdict.quasi_static_respected),
                ("transient", verdict.transient_respected),
            )
            if not respected
        ]
        answer = "[green]yes[/]" if verdict.respected else f"[red]no: {', '.join(wrong)}[/]"
        table.add_row(verdict.region, f"{verdict.quasi_static_limit_n:g}", transient, answer)
    return table


def _text(row: LimitRow) -> str:
    if isinstance(row.value, str):
        return row.value
    if isinstance(row.value, tuple):
        items = ", ".join(f"{item:.4g}" for item in row.value)
        return rf"\[{items}]"
    return f"{row.value:.4g}"
