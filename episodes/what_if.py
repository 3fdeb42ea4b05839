"""What if: an episode's inputs through another stack, and what would have been different.

The chunks, their arrivals, the clock and the operator's events are those of the recording. Where the robot can be
simulated its motion follows from the new commands; where it cannot (a real robot), the recorded readings are fed, and
the answer is what the new stack would have said to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controllers.protocols import Robot
from controllers.types import ChunkArrival, SafetyReason, SafetyStatus, TickInputs, TickOutputs
from episodes.comparison import Divergence
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.replay import TickLoop

_INTERVENTIONS = (SafetyStatus.LIMITING, SafetyStatus.HOLD, SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP)


@dataclass(frozen=True, slots=True)
class Intervention:
    """A tick in which the safety filter did not let the command pass.

    Attributes:
        tick: The tick.
        time_s: Since tick 0.
        status: Verdict.
        limit: First reason's limit.
        margin: By how much, in the limit's own unit; < 0 is beyond it.
        message: Its words.
        position: Where the end effector was sensed, base frame, m.
    """

    tick: int
    time_s: float
    status: str
    limit: str
    margin: float
    message: str
    position: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class LimitCount:
    """How often a limit spoke: ``ticks`` now, ``recorded_ticks`` in the recording, and its worst margin now."""

    limit: str
    ticks: int
    recorded_ticks: int
    worst_margin: float


@dataclass(frozen=True, slots=True)
class WhatIfResult:
    """What would have been different.

    Attributes:
        identical: Nothing would.
        ticks: Ticks executed.
        simulated: The motion followed from the new commands; otherwise the recorded readings were fed.
        interventions: Ticks in which the filter would have intervened.
        recorded_interventions: The same in the recording.
        first_intervention: The first, None for none.
        limits: By limit.
        rejected_chunks: Chunks that the executor would have refused.
        recorded_rejected_chunks: The same in the recording.
        min_margin: Smallest margin over all limits, dimensionless.
        first_change: First tick and value that differ from the recording.
        max_command_difference: Largest difference of an applied joint command, in its own unit; None where the
            controller commands something else.
        max_position_difference_m: Largest distance between the sensed end-effector positions.
        failure: Why it ended early, empty if it did not.
        mode: What kind of result this is.
    """

    identical: bool
    ticks: int
    simulated: bool
    interventions: int
    recorded_interventions: int
    first_intervention: Intervention | None
    limits: tuple[LimitCount, ...]
    rejected_chunks: int
    recorded_rejected_chunks: int
    min_margin: float
    first_change: Divergence | None
    max_command_difference: float | None
    max_position_difference_m: float
    failure: str = ""
    mode: str = "what_if"


Retimed = Callable[[Sequence[ChunkArrival]], Sequence[tuple[int, ChunkArrival]]]


def delayed_arrivals(episode: Episode, latency_ns: Callable[[int], int]) -> dict[int, tuple[ChunkArrival, ...]]:
    """The recording's chunks, each ``latency_ns(number)`` after its observation, by the index of the tick they reach.

    Chunks whose stamp is no number keep their tick. Those that would come after the last tick are left out.
    """
    decoder = episode.decoder
    clock = np.array([decoder.now_ns(index) for index in range(len(decoder))])
    arrivals: dict[int, list[ChunkArrival]] = {}
    number = 0
    for index in range(len(decoder)):
        for arrival in decoder.arrivals(index):
            stamp: Any = arrival.chunk.observation_stamp_ns
            place = index
            if isinstance(stamp, int):
                place = int(np.searchsorted(clock, stamp + latency_ns(number)))
            number += 1
            if place < len(clock):
                arrivals.setdefault(place, []).append(arrival)
    return {place: tuple(items) for place, items in arrivals.items()}


def what_if(
    episode: Episode,
    loop: TickLoop[Any],
    robot: Robot | None,
    arrivals: dict[int, tuple[ChunkArrival, ...]] | None = None,
) -> WhatIfResult:
    """Run the recording's inputs through ``loop``.

    Args:
        episode: The recording, from tick 0 on.
        loop: The other stack.
        robot: Set to the initial state; None to feed the recorded readings.
        arrivals: Chunks by index of the tick, None for the recorded ones.

    Raises:
        EpisodeError: The episode holds no ticks.
    """
    if not len(episode):
        raise EpisodeError(str(episode.path), "an episode with ticks", "none", "choose another")
    tally = _Tally(episode)
    decoder, stamps_are_inputs = episode.decoder, episode.manifest.realtime
    loop_state, failure = None, ""
    for index in range(len(decoder)):
        state = decoder.state(index) if robot is None else robot.read()
        if robot is not None and stamps_are_inputs:
            state = replace(state, stamp_ns=decoder.stamp_ns(index))
        came = decoder.arrivals(index) if arrivals is None else arrivals.get(index, ())
        inputs = TickInputs(decoder.tick(index), decoder.now_ns(index), state, came, decoder.events(index))
        try:
            if loop_state is None:
                loop_state = loop.initial(state)
            loop_state, outputs = loop.tick(loop_state, inputs)
            tally.take(index, inputs, outputs)
            if robot is not None:
                robot.write(outputs.safety.command)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            failure = f"tick {decoder.tick(index)}: {type(error).__name__}: {error}"
            break
    return tally.result(robot is not None, failure)


class _Tally:
    """Compares tick by tick and counts."""

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._table = episode.ticks
        self._ticks = 0
        self._first: Intervention | None = None
        self._change: Divergence | None = None
        self._interventions = self._rejected = 0
        self._limits: dict[str, tuple[int, float]] = {}
        self._margin = np.inf
        self._command: float | None = 0.0
        self._position = 0.0

    def take(self, index: int, inputs: TickInputs, outputs: TickOutputs) -> None:
        table, verdict = self._table, outputs.safety
        self._ticks += 1
        self._rejected += len(outputs.executor.rejections)
        if verdict.status is not SafetyStatus.OFF:
            self._margin = min(self._margin, verdict.min_margin)
        if verdict.status in _INTERVENTIONS:
            self._interventions += 1
            if self._first is None:
                self._first = self._intervention(inputs, outputs)
        for reason in {reason.limit: reason for reason in reversed(verdict.reasons)}.values():
            ticks, worst = self._limits.get(reason.limit, (0, np.inf))
            self._limits[reason.limit] = (ticks + 1, min(worst, reason.margin))
        recorded, found = table.applied_values[index], verdict.command.values
        same_mode = list(type(verdict.command.mode)).index(verdict.command.mode) == int(table.applied_mode[index])
        if not same_mode:
            self._command = None
        elif self._command is not None:
            self._command = max(self._command, float(np.abs(found - recorded).max()))
        there = inputs.state.ee_pose.position - table.state_ee_pose[index][:3]
        self._position = max(self._position, float(np.sqrt(there @ there)))
        if self._change is None:
            self._change = self._compare(index, inputs, outputs, same_mode)

    def _intervention(self, inputs: TickInputs, outputs: TickOutputs) -> Intervention:
        verdict = outputs.safety
        reason = verdict.reasons[0] if verdict.reasons else SafetyReason("", 0.0)
        x, y, z = inputs.state.ee_pose.position.tolist()
        seconds = inputs.tick / self._episode.manifest.control_rate_hz
        return Intervention(
            inputs.tick, seconds, verdict.status.value, reason.limit, reason.margin, reason.message, (x, y, z)
        )

    def _compare(self, index: int, inputs: TickInputs, outputs: TickOutputs, same_mode: bool) -> Divergence | None:
        table, verdict, tick = self._table, outputs.safety, inputs.tick
        pairs = (
            ("input", "state_joint_position", table.state_joint_position[index], inputs.state.joint_position),
            ("executor", "executor_chunk_id", table.executor_chunk_id[index], outputs.executor.chunk_id),
            ("executor", "commanded_pose", table.commanded_pose[index], _pose(outputs)),
            ("controller", "command_values", table.command_values[index], outputs.command.values),
            ("safety", "safety_speed_scale", table.safety_speed_scale[index], verdict.speed_scale),
            ("safety", "applied_values", table.applied_values[index], verdict.command.values),
        )
        for stage, name, recorded, found in pairs:
            before, now = np.atleast_1d(recorded), np.atleast_1d(found)
            unequal = np.flatnonzero(before != now)
            if len(unequal):
                at = int(unequal[0])
                label = f"{name}[{at}]" if len(before) > 1 else name
                return Divergence(tick, label, repr(before[at].item()), repr(now[at].item()), stage)
        return (
            None
            if same_mode
            else Divergence(tick, "applied_mode", "another mode", verdict.command.mode.value, "safety")
        )

    def result(self, simulated: bool, failure: str) -> WhatIfResult:
        statuses = [list(SafetyStatus).index(status) for status in _INTERVENTIONS]
        recorded = self._table.safety_status
        spoke: dict[str, set[int]] = {}
        for event in self._episode.events:
            if event.kind.value == "safety_reason":
                spoke.setdefault(event.name, set()).add(event.tick)
        limits = tuple(
            LimitCount(name, *(self._limits.get(name, (0, np.inf))[:1]), len(spoke.get(name, ())), worst)
            for name, worst in sorted((n, self._limits.get(n, (0, np.inf))[1]) for n in {*self._limits, *spoke})
        )
        refused = sum(event.kind.value == "rejection" for event in self._episode.events)
        return WhatIfResult(
            identical=self._change is None and not failure,
            ticks=self._ticks,
            simulated=simulated,
            interventions=self._interventions,
            recorded_interventions=int(np.isin(recorded, statuses).sum()),
            first_intervention=self._first,
            limits=limits,
            rejected_chunks=self._rejected,
            recorded_rejected_chunks=refused,
            min_margin=float(self._margin),
            first_change=self._change,
            max_command_difference=self._command,
            max_position_difference_m=self._position,
            failure=failure,
        )


def _pose(outputs: TickOutputs) -> Any:
    return np.concatenate((outputs.commanded_pose.position, outputs.commanded_pose.quaternion))
