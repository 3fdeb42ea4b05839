"""Options that several subcommands share: which stack runs, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from controllers.robot import load_robot
from safety.profile import load_profile
from sim.stack import StackConfig, controller_options
from sim.tabletop import CAMERAS


@dataclass(frozen=True)
class StackOptions:
    """How tokens become motion."""

    robot: str = "panda"
    """Robot description: a built-in name or the path of a robot.yaml."""
    controller: str = "differential_ik"
    """differential_ik, operational_space or joint_impedance."""
    control_rate_hz: int = 200
    """Ticks per second; a multiple of the action rate whose period is a multiple of the physics step."""
    safety_profile: str = ""
    """Safety profile: a built-in name or a path; empty for ROBOT_tabletop."""
    safety_off: str = ""
    """Run WITHOUT safety, for the reason given here; logged in every tick."""


def build_config(options: StackOptions, *, cameras: bool = True) -> StackConfig:
    """The configuration that the options describe.

    Raises:
        ValueError: A name, rate or file that does not fit; says what was expected and found.
    """
    robot = load_robot(options.robot)
    safety = None if options.safety_off else load_profile(options.safety_profile or f"{robot.name}_tabletop")
    config = StackConfig(
        robot=options.robot,
        controller=controller_options(options.controller),
        control_rate_hz=options.control_rate_hz,
        safety=safety,
        safety_off_reason=options.safety_off,
    )
    return replace(config, cameras=dict(CAMERAS) if cameras else {})


def fresh_folder(out: Path) -> Path:
    """A folder to write results to: ``out`` itself, or ``out-2``, ``out-3``, ... if it already holds something."""
    candidate, number = out, 1
    while candidate.exists() and any(candidate.iterdir()):
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate
