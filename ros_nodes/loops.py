"""The two halves of a tick: executor and controller in one process, the safety filter in another. And their replay.

Each half is a pure fold of its own inputs, so each is recorded as an episode of its own, in the same format: the
control node's, where the verdict is what was heard from the safety node, and the safety node's, where the candidate is
what came from the control node. Both re-execute bit for bit from their logs, without ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from controllers.executor import ChunkExecutor
from controllers.kinematics import ArmModel
from controllers.loop import ControlLoop
from controllers.protocols import SafetyFilter
from controllers.remote_safety import LoggedVerdicts
from controllers.robot import load_robot
from controllers.types import (
    CommandMode,
    ExecutorReport,
    ExecutorStatus,
    JointCommand,
    JointTarget,
    RobotState,
    SafetyResult,
    TickInputs,
    TickOutputs,
)
from episodes.episode import Episode
from episodes.replay import ReplayParts, StackIdentity
from safety.building import build_filter
from safety.process.contract import KernelConfig
from sim.stack import StackConfig
from vla.tokenizers import decoder_from_id

HALF = "half"


class Half(Enum):
    """Which half of the loop an episode is of; under ``controller.half`` in its manifest."""

    CONTROL = "control_node"
    SAFETY = "safety_node"


def half_of(episode: Episode) -> Half | None:
    """Which half an episode is of, None for a whole loop's."""
    found = episode.manifest.controller.get(HALF)
    return None if found is None else Half(str(found))


def control_loop(config: StackConfig, safety: SafetyFilter[Any]) -> ControlLoop[Any]:
    """Executor and controller of a stack, joined to whatever stands in for its filter."""
    description = load_robot(config.robot)
    executor = ChunkExecutor(
        decoder_from_id(config.tokenizer_id, config.action_spec, config.tokenizer_definition),
        description.gripper.open,
        config.control_rate_hz,
        config.executor,
        config.chunking,
        config.doubt,
    )
    return ControlLoop(executor, config.make_controller(ArmModel(description)), safety, config.control_rate_hz)


def safety_outputs(state: RobotState, candidate: JointCommand, result: SafetyResult) -> TickOutputs:
    """The outputs of a tick of the safety half: it knows no chunk, and the candidate is all it knows of a target."""
    return TickOutputs(
        target=JointTarget(candidate.values, candidate.gripper_opening),
        command=candidate,
        safety=result,
        executor=ExecutorReport(ExecutorStatus.WAITING, -1, 0.0),
        request_inference=False,
        commanded_pose=state.ee_pose,
    )


@dataclass(frozen=True, slots=True)
class SafetyFold:
    """The filter's memory, and the index of the next tick."""

    memory: Any
    index: int


class SafetyLoop:
    """The safety half as a fold over logged candidates; a ``TickLoop`` for replay."""

    def __init__(self, safety: SafetyFilter[Any], episode: Episode, rate_hz: int) -> None:
        """Judge the candidates of ``episode`` again."""
        self._safety, self._decoder, self._dt = safety, episode.decoder, 1.0 / rate_hz

    def initial(self, state: RobotState) -> SafetyFold:
        """Before tick 0."""
        return SafetyFold(self._safety.initial(state), 0)

    def tick(self, loop_state: SafetyFold, inputs: TickInputs) -> tuple[SafetyFold, TickOutputs]:
        """One verdict."""
        candidate = self._decoder.outputs(loop_state.index).command
        memory, result = self._safety.enforce(
            loop_state.memory, inputs.state, candidate, inputs.events, inputs.now_ns, self._dt
        )
        return SafetyFold(memory, loop_state.index + 1), safety_outputs(inputs.state, candidate, result)


def safety_filter(config: StackConfig) -> SafetyFilter[Any]:
    """The filter exactly as the safety node builds it.

    Raises:
        ValueError: A stack without safety: there is no such node.
    """
    if config.safety is None:
        raise ValueError("expected a safety profile, found none: the graph always has a safety node")
    mode: CommandMode = config.command_mode
    enforced = KernelConfig(config.robot, config.safety, mode, config.control_rate_hz).enforced_profile()
    return build_filter(replace(load_robot(config.robot), actuator_mode=mode.value), enforced)


def rebuild_half(episode: Episode) -> ReplayParts[Any]:
    """Build one half again from its episode; see :func:`episodes.replay.replay`.

    Raises:
        ValueError: The episode is of no half, or its configuration cannot be rebuilt here.
    """
    half = half_of(episode)
    config = StackConfig.from_json(episode.manifest.stack)
    loop: Any
    if half is Half.CONTROL:
        decoder = episode.decoder
        loop = control_loop(config, LoggedVerdicts(lambda index: decoder.outputs(index).safety))
    elif half is Half.SAFETY:
        loop = SafetyLoop(safety_filter(config), episode, config.control_rate_hz)
    else:
        raise ValueError(f"{episode.path}: expected one half of a loop, found a whole one; replay it as it is")
    identity = StackIdentity(
        action_spec_hash=config.action_spec.hash,
        tokenizer_id=config.tokenizer_id,
        safety_profile_hash="" if config.safety is None else config.safety.hash,
    )
    return ReplayParts(loop, None, identity)
