"""Re-execute logged episodes bit for bit; or ask what another policy, limit, controller or latency would have done."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cli.output import console, print_json
from cli.replay_latency import latency_model
from controllers.robot import load_robot
from episodes.comparison import Divergence
from episodes.episode import Episode
from episodes.reader import find_episodes, open_episode
from episodes.reinference import reinfer
from episodes.replay import ReplayParts, ReplayResult, replay
from episodes.replay_set import EpisodeReplay, replay_all
from episodes.what_if import delayed_arrivals, what_if
from ros_nodes.errors import require_rclpy
from ros_nodes.loops import half_of, rebuild_half
from sim.altered import altered_config, altered_parts, send_to_robot, sim_robot
from sim.assembly import rebuild_for_replay
from sim.stack import StackConfig


@dataclass(frozen=True)
class Options:
    """Options of ``vla replay``."""

    episodes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Episodes: NAME.zarr, folders of them, or globs."""
    waive: tuple[str, ...] = ()
    """Fields whose difference is accepted and listed, e.g. code_hash after a refactoring."""
    start: Annotated[str, tyro.conf.arg(name="from")] = ""
    """First tick, or a time such as 12.5s; begins at the key frame before."""
    to: str = ""
    """Last tick (excluded), or a time such as 14s."""
    workers: int = 1
    """Processes, for several episodes."""
    policy: str = ""
    """Infer again from the logged pictures: compact, or a policy folder."""
    exact: bool = False
    """With --policy: every token must be equal; refuses pictures that were not kept lossless."""
    overlay: Path | None = None
    """With --policy: write both policies' paths over the pictures to this HTML file."""
    safety: str = ""
    """What if: another safety profile, by name or path."""
    controller: str = ""
    """What if: another controller."""
    latency: str = ""
    """What if: other delays from observation to arrival: 80ms, or a file of milliseconds (.json, .txt, .npy)."""
    set: tuple[str, ...] = ()
    """What if: KEY=VALUE for any entry of the logged configuration, e.g. executor.execution_horizon=4."""
    sensed: bool = False
    """What if: feed the recorded readings instead of simulating the motion that would follow."""
    robot: str = ""
    """Send the recorded motion to a robot, through safety: sim, or ros2[:NAMESPACE] for that of a running graph."""
    robot_params: Path | None = None
    """With --robot ros2: ROS parameter file of that graph, where the robot has joint names of its own."""
    speed: float = 0.5
    """With --robot: share of the recorded speed."""
    view: bool = False
    """Show the episode in the viewer instead."""
    json: bool = False
    """Print one JSON object as the last line of stdout."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What ``vla replay --json`` prints for one episode."""

    mode: str
    identical: bool
    ticks: int
    first_divergence: Divergence | None
    refusal: str | None
    waived: tuple[Divergence, ...]
    notes: tuple[str, ...]
    realtime_factor: float
    first_tick: int
    seek_s: float


@dataclass(frozen=True, slots=True)
class VerifiedSet:
    """What it prints for several; ``first_failure`` is an episode with what was found in it."""

    mode: str
    identical: bool
    episodes: int
    identical_episodes: int
    ticks: int
    first_failure: str
    failures: tuple[str, ...]


def rebuild(episode: Episode, *, physics: bool = True) -> ReplayParts[Any]:
    """The parts of an episode; the ROS 2 graph records its two halves as episodes of their own."""
    if half_of(episode) is not None:
        return rebuild_half(episode)  # from sensed readings: a half has no physics
    return rebuild_for_replay(episode, physics=physics)


def main(options: Options) -> int:
    """Replay; 1 when something diverged, was refused or stopped."""
    if not options.episodes:
        raise ValueError("expected at least one episode, folder or glob, found none")
    paths = [path for pattern in options.episodes for path in find_episodes(pattern)]
    single = _single_mode(options)
    if len(paths) > 1:
        if single is not None:
            raise ValueError(f"expected one episode for this mode, found {len(paths)}; name one, or verify them all")
        return _verify_all(options, paths)
    return (single or _verify)(options, open_episode(paths[0]))


def _single_mode(options: Options) -> Callable[[Options, Episode], int] | None:
    """The mode that needs exactly one episode, None for plain verification."""
    altered = options.safety or options.controller or options.latency or options.set
    chosen = {
        "--view": (options.view, _view),
        "--policy": (bool(options.policy), _reinfer),
        "--robot": (bool(options.robot), _send),
        "--safety, --controller, --latency, --set": (bool(altered) and not options.robot, _what_if),
        "--from, --to": (bool(options.start or options.to), _verify),
    }
    asked = [name for name, (wanted, _) in chosen.items() if wanted]
    if len(asked) > 1:
        raise ValueError(f"expected one mode, found {' with '.join(asked)}; run them one after the other")
    return chosen[asked[0]][1] if asked else None


# ----------------------------------------------------------------------------------------------- verify


def _verify(options: Options, episode: Episode) -> int:
    span = None
    if options.start or options.to:
        rate = episode.manifest.control_rate_hz
        span = (_tick(options.start or "0", rate), _tick(options.to, rate) if options.to else 1 << 62)
    found = replay(episode, rebuild, waive=options.waive, span=span)
    _explain(found)
    if options.json:
        print_json(
            Verified(
                "verify",
                found.identical,
                found.ticks,
                found.first_divergence,
                None if found.refusal is None else found.refusal.value,
                found.waived,
                found.notes,
                found.realtime_factor,
                found.first_tick,
                found.seek_s,
            )
        )
    return 0 if found.identical else 1


def _tick(text: str, rate_hz: int) -> int:
    try:
        return round(float(text[:-1]) * rate_hz) if text.endswith("s") else int(text)
    except ValueError:
        raise ValueError(f"expected a tick such as 2400 or a time such as 12.5s, found {text!r}") from None


def _explain(found: ReplayResult) -> None:
    divergence = found.first_divergence
    if found.identical:
        seek = f" from the key frame at tick {found.first_tick} ({found.seek_s:.2f} s to seek)" if found.seek_s else ""
        console.print(
            f"[green]identical[/] at all {found.ticks} ticks{seek}, "
            f"{found.realtime_factor:.1f} times faster than real time"
        )
    elif divergence is not None:
        verdict = f"refused ({found.refusal.value})" if found.refusal else f"diverged at tick {divergence.tick}"
        console.print(f"[red]{verdict}[/]: field {divergence.field} ({divergence.stage or 'whole episode'})")
        console.print(f"  recorded: {divergence.recorded}\n  here:     {divergence.replayed}", highlight=False)
        if divergence.inputs:
            console.print(f"  inputs of that tick that differ: {', '.join(divergence.inputs)}", highlight=False)
        elif divergence.stage:
            console.print("  all inputs of that tick are equal", highlight=False)
    for waived in found.waived:
        console.print(f"[yellow]waived[/] {waived.field}: recorded {waived.recorded}, here {waived.replayed}")
    for note in found.notes:
        console.print(f"note: {note}", highlight=False)


def _verify_all(options: Options, paths: list[Path]) -> int:
    done: list[EpisodeReplay] = []
    failures: list[str] = []
    for item in replay_all(paths, rebuild, options.workers, options.waive):
        done.append(item)
        if not item.identical:
            why = item.error if item.result is None else str(item.result.first_divergence)
            failures.append(f"{item.episode}: {why}")
            console.print(f"[red]not identical[/] {failures[-1]}", highlight=False)
    ticks = sum(item.result.ticks for item in done if item.result is not None)
    identical = len(done) - len(failures)
    console.print(f"{identical} of {len(done)} episodes identical at every tick, {ticks} ticks")
    if options.json:
        first = failures[0] if failures else ""
        print_json(VerifiedSet("verify", not failures, len(done), identical, ticks, first, tuple(failures)))
    return 0 if not failures else 1


# ---------------------------------------------------------------------------------------------- what if


def _what_if(options: Options, episode: Episode) -> int:
    recorded = StackConfig.from_json(episode.manifest.stack)
    config = altered_config(recorded, safety=options.safety, controller=options.controller, settings=options.set)
    loop, robot = altered_parts(episode, config, physics=not options.sensed)
    arrivals = delayed_arrivals(episode, latency_model(options.latency)) if options.latency else None
    found = what_if(episode, loop, robot, arrivals)
    way = "simulated" if found.simulated else "from the recorded readings"
    console.print(
        f"{found.ticks} ticks, {way}: {found.interventions} interventions (recorded {found.recorded_interventions}), "
        f"{found.rejected_chunks} chunks refused (recorded {found.recorded_rejected_chunks})"
    )
    first = found.first_intervention
    if first is not None:
        place = ", ".join(f"{value:.3f}" for value in first.position)
        console.print(
            f"first at tick {first.tick} ({first.time_s:.2f} s): {first.status}, {first.limit} by {first.margin:g}, "
            f"end effector at ({place}) m. {first.message}",
            highlight=False,
        )
    for limit in found.limits:
        console.print(
            f"  {limit.limit}: {limit.ticks} ticks (recorded {limit.recorded_ticks}), "
            f"worst margin {limit.worst_margin:g}",
            highlight=False,
        )
    if found.first_change is not None:
        console.print(f"first change: {found.first_change}", highlight=False)
        console.print(f"the end effector is at most {found.max_position_difference_m * 1e3:.1f} mm from the recording")
    if found.failure:
        console.print(f"[red]ended early[/]: {found.failure}")
    if options.json:
        print_json(found)
    return 1 if found.failure else 0


def _reinfer(options: Options, episode: Episode) -> int:
    from sim.policies import PolicyChoice
    from vla.catalog import build_policy

    choice = PolicyChoice(options.policy)
    policy = build_policy("compact", weights=str(choice.folder))
    overlay = None
    if options.overlay is not None:
        from episodes.report.overlay import Overlay

        overlay = Overlay(episode, options.policy)
    found = reinfer(episode, policy, None if overlay is None else overlay.add, exact=options.exact)
    console.print(
        f"{found.token_agreement:.1%} of the tokens of {found.chunks} chunks agree, {found.identical_chunks} chunks "
        f"are equal; mean distance {found.mean_token_distance:.3f} tokens; {found.skipped} observations left out"
    )
    if found.first_differing_chunk is not None:
        console.print(f"first difference: {found.first_differing_chunk}", highlight=False)
    if found.lossy_pictures:
        console.print(
            f"[yellow]the pictures were kept as {episode.manifest.camera_profile}[/]: the policy saw other pixels, so "
            "any token may differ without a difference of the policy"
        )
    if overlay is not None and options.overlay is not None:
        overlay.write(options.overlay)
        console.print(f"overlay: {options.overlay}", highlight=False)
    if options.json:
        print_json(found)
    return 1 if options.exact and found.identical_chunks < found.chunks else 0


def _send(options: Options, episode: Episode) -> int:
    kind, _, namespace = options.robot.partition(":")
    if kind not in ("sim", "ros2") or (kind == "sim" and namespace):
        raise ValueError(f"expected a robot to send to: sim or ros2[:NAMESPACE]; found {options.robot!r}")
    recorded = StackConfig.from_json(episode.manifest.stack)
    config = altered_config(recorded, safety=options.safety, settings=options.set)
    if kind == "sim":
        found = send_to_robot(episode, config, sim_robot(episode, config), options.speed)
    else:
        require_rclpy()
        from ros_nodes.commanding import CommandedRobot

        params, rate_hz = options.robot_params, config.control_rate_hz
        with CommandedRobot(load_robot(config.robot), rate_hz, namespace=namespace, params=params) as robot:
            found = send_to_robot(episode, config, robot, options.speed)
    console.print(
        f"{found.ticks} ticks ({found.approach_ticks} of approach) at {found.speed:g} of the speed: "
        f"{found.interventions} interventions, tracking within {found.max_tracking_error_rad:.4f} rad"
    )
    if found.stopped:
        console.print(f"[red]stopped[/]: {found.stopped}")
    if options.json:
        print_json(found)
    return 1 if found.stopped else 0


def _view(options: Options, episode: Episode) -> int:
    if importlib.util.find_spec("cli.view") is None:
        raise ValueError("expected the viewer, found none in this release; export it: vla export --to rerun")
    command = importlib.import_module("cli.view")
    parsed = tyro.cli(command.Options, args=[str(episode.path)], prog="vla view")
    return command.main(parsed)
