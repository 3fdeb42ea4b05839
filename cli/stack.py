"""Options that several subcommands share: which stack runs, and how it is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from controllers.chunking import ChunkingOptions, ChunkStrategyName
from controllers.doubt import DoubtMeasure, DoubtOptions
from controllers.executor import ExecutorOptions
from controllers.latency import parse_latency
from controllers.robot import load_robot
from safety.profile import Enforcement, load_profile
from sim.obstacles.options import ObstacleOptions
from sim.stack import StackConfig, controller_options
from sim.tabletop import CAMERAS, EXECUTION_HORIZON


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
    enforcement: Literal["profile", "path_consistent", "sliding"] = "profile"
    """What happens to a command that may not pass: as the profile says, slow down along the path, or slide."""
    chunking: str = "switch"
    """How chunks follow each other while the model thinks: synchronous, switch, ensembling or token_rtc."""
    max_delay_rows: float = 0.0
    """Rows that one delay may cost; a slower model slows the motion down instead. 0 for what the horizon allows."""
    doubt_measure: Literal["mean_entropy", "mean_probability", "min_probability", "agreement"] = "min_probability"
    """Which doubt of a chunk the thresholds are for: nat, or one minus a probability or share (docs/runtime.md)."""
    doubt_slow_above: float = 0.0
    """Slow the arm down above this doubt; 0 for never."""
    doubt_hold_above: float = 0.0
    """Hold the arm above this doubt, until a chunk with less arrives; 0 for never."""
    doubt_slow_scale: float = 0.5
    """Rate of the motion while slow."""
    execution_horizon: int = EXECUTION_HORIZON
    """Rows to execute before asking for the next chunk."""
    obstacles: Literal["none", "I", "II", "both"] = "none"
    """Things in the way, declared as keep-outs: I near the target, II on the way to it, both, or none."""


def build_config(options: StackOptions, *, cameras: bool = True, latency: str = "") -> StackConfig:
    """The configuration that the options describe; ``latency`` is a model as text, empty for none.

    Raises:
        ValueError: A name, rate or file that does not fit; says what was expected and found.
    """
    robot = load_robot(options.robot)
    safety = None if options.safety_off else load_profile(options.safety_profile or f"{robot.name}_tabletop")
    if safety is not None and options.enforcement != "profile":
        safety = replace(safety, enforcement=Enforcement(options.enforcement))
    config = StackConfig(
        robot=options.robot,
        controller=controller_options(options.controller),
        control_rate_hz=options.control_rate_hz,
        safety=safety,
        safety_off_reason=options.safety_off,
        executor=ExecutorOptions(execution_horizon=options.execution_horizon),
        chunking=ChunkingOptions(
            strategy=ChunkStrategyName.named(options.chunking), max_delay_rows=options.max_delay_rows
        ),
        doubt=DoubtOptions(
            DoubtMeasure(options.doubt_measure),
            options.doubt_slow_above,
            options.doubt_hold_above,
            options.doubt_slow_scale,
        ),
        latency=parse_latency(latency) if latency else None,
        obstacles=None if options.obstacles == "none" else ObstacleOptions(level=options.obstacles),
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
