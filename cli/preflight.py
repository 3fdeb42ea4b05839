"""Check that a policy means what the robot's stack means, before it may move an arm."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from cli.output import console, print_json
from cli.stack import StackOptions, build_config
from episodes.reader import open_episode
from sim.foreign import ForeignAccess
from sim.policies import EXPERTS, PolicyChoice
from sim.preflight import episode_findings, predictor, preflight, running_contract
from sim.remote import RemoteAccess, is_remote
from sim.stack import StackConfig
from vla.preflight.findings import Finding


@dataclass(frozen=True)
class Options:
    """Options of ``vla preflight``."""

    policy: str = "compact"
    """compact, the path of a policy folder, lerobot:PATH, rt2:PATH, openvla:PATH, openvla-oft:PATH, or ws://host:port."""
    robot: str = "panda"
    """Robot description: a built-in name or the path of a robot.yaml."""
    episode: Path | None = None
    """A recorded episode: its actions are compared with those that the policy predicts. Loads the weights, once."""
    instruction: str = ""
    """Words that the policy will be told."""
    remote: RemoteAccess = field(default_factory=RemoteAccess)
    """How to talk to a policy server."""
    foreign: tyro.conf.OmitArgPrefixes[ForeignAccess] = field(default_factory=ForeignAccess)
    """How to run another project's policy."""
    stack: StackOptions = field(default_factory=StackOptions)
    """How tokens become motion; its robot is --robot."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One finding."""

    check: str
    expected: str
    found: str
    fix: str


@dataclass(frozen=True, slots=True)
class Result:
    """What ``vla preflight --json`` prints."""

    ok: bool
    mistakes: tuple[Mistake, ...]
    seconds: float


def main(options: Options) -> int:
    """Check; 1 when something does not fit."""
    started = time.perf_counter()
    choice = PolicyChoice(options.policy, remote=options.remote, foreign=options.foreign)
    if choice.name in EXPERTS:
        raise ValueError(f"expected a model, found {choice.name!r}, which sees the simulation's true state")
    config = choice.configure(build_config(replace(options.stack, robot=options.robot)))
    findings = preflight(choice, config, options.instruction)
    if not findings and (options.episode is not None or is_remote(choice.name)):
        findings = _with_policy(options.episode, choice, config)
    result = Result(
        ok=not findings,
        mistakes=tuple(Mistake(item.check.value, item.expected, item.found, item.fix) for item in findings),
        seconds=time.perf_counter() - started,
    )
    for finding in findings:
        console.print(f"[red]{finding.check.value}[/]: expected {finding.expected}", highlight=False)
        console.print(f"    found {finding.found}\n    {finding.fix}", highlight=False)
    if not findings:
        console.print(f"[green]{options.policy} fits {options.robot}[/] ({result.seconds:.1f} s)", highlight=False)
    if options.json:
        print_json(result)
    return 1 if findings else 0


def _with_policy(episode: Path | None, choice: PolicyChoice, config: StackConfig) -> list[Finding]:
    """What only the running policy can tell; its weights are loaded here and nowhere else."""
    source = choice.model()
    try:
        source.check(config)
        if episode is None:
            return []
        contract = running_contract(choice, config)
        return episode_findings(open_episode(episode), contract, predictor(source, config))
    finally:
        source.close()
