"""A recorded stack with something changed: another safety profile, another controller, any declared parameter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import mujoco
import numpy as np

from controllers.loop import ControlLoop
from controllers.names import nearest_name_hint
from controllers.protocols import Robot
from controllers.robot import load_robot
from controllers.types import CommandMode, JointCommand, SafetyStatus, frozen_array
from episodes.episode import Episode
from safety.building import build_filter
from safety.profile import load_profile
from sim.assembly import assemble_loop
from sim.robot import SimRobot, apply_actuator_mode
from sim.stack import StackConfig, StackConfigError, controller_options

_APPROACH_RAD_S = 0.2  # towards the recording's first configuration, before its own speed begins


def altered_config(
    recorded: StackConfig, *, safety: str = "", controller: str = "", settings: Sequence[str] = ()
) -> StackConfig:
    """The configuration with changes.

    Args:
        recorded: What the episode was recorded with.
        safety: Another safety profile, by name or path.
        controller: Another controller, by name, with its default options.
        settings: ``key=value`` for entries of ``StackConfig.to_json()``, e.g. ``executor.execution_horizon=4``.

    Raises:
        StackConfigError: No such entry, or a value that does not fit it; names the near match.
        ValueError: No such profile.
    """
    config = recorded
    if safety:
        config = replace(config, safety=load_profile(safety), safety_off_reason="")
    if controller:
        config = replace(config, controller=controller_options(controller))
    if not settings:
        return config
    data = cast("dict[str, Any]", json.loads(json.dumps(config.to_json())))
    for setting in settings:
        _set(data, setting)
    return StackConfig.from_json(data)


def _set(data: dict[str, Any], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not equals:
        raise StackConfigError(f"expected KEY=VALUE, found {setting!r}; e.g. executor.execution_horizon=4")
    *parents, last = path.strip().split(".")
    place: Any = data
    for index, name in enumerate([*parents, last]):
        if not isinstance(place, Mapping) or name not in place:
            names = [str(key) for key in cast("Mapping[str, Any]", place)] if isinstance(place, Mapping) else []
            where = ".".join(["stack", *parents[:index]])
            raise StackConfigError(
                f"{where}: no entry {name!r}{nearest_name_hint(name, names)}; it has {', '.join(names) or 'no entries'}"
            )
        if index < len(parents):
            place = cast("dict[str, Any]", place)[name]
    try:
        value = json.loads(text)
    except ValueError:
        value = text.strip()
    cast("dict[str, Any]", place)[last] = value


def altered_parts(episode: Episode, config: StackConfig, *, physics: bool) -> tuple[ControlLoop, Robot | None]:
    """The loop of ``config``, and the episode's simulation for it; None without physics.

    Raises:
        StackConfigError: The recorded actuators cannot take the new controller's commands.
    """
    loop = assemble_loop(config)
    xml = episode.model_xml
    if not xml or not physics:
        return loop, None
    recorded = StackConfig.from_json(episode.manifest.stack)
    spec = mujoco.MjSpec.from_string(xml.decode())
    description = load_robot(config.robot)
    if config.command_mode is not recorded.command_mode:
        if config.command_mode is not CommandMode.TORQUE:
            raise StackConfigError(
                "expected a controller that commands torques, as the recorded actuators take them, found "
                f"{config.controller_name!r}; their servo gains are not in the log: use --sensed"
            )
        apply_actuator_mode(spec, description, config.command_mode)
    robot = SimRobot(spec.compile(), description, config.control_rate_hz)
    robot.set_state(np.array(episode.physics.initial_state))
    return loop, robot


@dataclass(frozen=True, slots=True)
class SentResult:
    """What became of a recording that was sent to a robot.

    Attributes:
        ticks: Ticks commanded, the approach included.
        approach_ticks: Of them on the way to the first configuration.
        speed: Share of the recorded speed.
        interventions: Ticks in which the safety filter did not let the command pass.
        first_intervention: Limit that spoke first, empty for none.
        stopped: Why it ended early, empty if it did not.
        max_tracking_error_rad: Largest distance of a sensed joint from its recorded place, after the approach.
        mode: What kind of result this is.
    """

    ticks: int
    approach_ticks: int
    speed: float
    interventions: int
    first_intervention: str
    stopped: str
    max_tracking_error_rad: float
    mode: str = "robot"


def send_to_robot(episode: Episode, config: StackConfig, robot: Robot, speed: float) -> SentResult:
    """Move ``robot`` along the recorded joint path, through the safety filter, at a share of the recorded speed.

    Raises:
        ValueError: A speed outside (0, 1], or a stack without safety.
    """
    if not 0.0 < speed <= 1.0:
        raise ValueError(f"expected a speed in (0, 1], found {speed:g}")
    if config.safety is None:
        raise ValueError("expected a stack with a safety profile to move a robot with, found none; use --safety")
    description = load_robot(config.robot)
    safety = build_filter(description, config.safety)
    dt, period_ns = 1.0 / config.control_rate_hz, 1_000_000_000 // config.control_rate_hz
    state = robot.read()
    memory = safety.initial(state)
    path = np.array(episode.ticks.state_joint_position)
    opening = np.array(episode.ticks.applied_gripper_opening)
    approach = int(np.ceil(float(np.abs(path[0] - state.joint_position).max()) / (_APPROACH_RAD_S * dt)))
    start = np.array(state.joint_position)
    places = [start + (path[0] - start) * (k + 1) / approach for k in range(approach)]
    times = np.arange(0.0, len(path) - 1 + 1e-9, speed)
    columns = [np.interp(times, np.arange(len(path)), column) for column in path.T]
    places += list(np.stack(columns, axis=1))
    interventions, first, stopped, error, tick = 0, "", "", 0.0, 0
    for tick, place in enumerate(places):
        state = robot.read()
        width = float(
            opening[0] if tick < approach else np.interp(times[tick - approach], np.arange(len(path)), opening)
        )
        now_ns = max(state.stamp_ns, tick * period_ns)
        command = JointCommand(CommandMode.POSITION, frozen_array(place), width, now_ns)
        memory, verdict = safety.enforce(memory, state, command, (), now_ns, dt)
        if verdict.status is not SafetyStatus.RUN:
            interventions += 1
            first = first or (verdict.reasons[0].limit if verdict.reasons else verdict.status.value)
        if tick > approach:
            error = max(error, float(np.abs(state.joint_position - places[tick - 1]).max()))
        robot.write(verdict.command)
        if verdict.status in (SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP):
            stopped = f"{verdict.status.value}: {first}"
            break
    return SentResult(tick + 1, approach, speed, interventions, first, stopped, error)


def sim_robot(episode: Episode, config: StackConfig) -> SimRobot:
    """The episode's scene as a robot to send something to, standing at home.

    Raises:
        ValueError: The episode has no scene, or its actuators take no positions.
    """
    if not episode.model_xml:
        raise ValueError(f"{episode.path}: expected a recorded scene to simulate, found none (a real robot's episode)")
    if config.command_mode is not CommandMode.POSITION:
        raise ValueError("expected a scene with position actuators, found torque actuators; choose another episode")
    model = mujoco.MjModel.from_xml_string(episode.model_xml.decode())
    robot = SimRobot(model, load_robot(config.robot), config.control_rate_hz)
    robot.set_state(np.array(episode.physics.initial_state))
    return robot
