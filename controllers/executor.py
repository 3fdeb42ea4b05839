"""The chunk executor: tokens in, targets out, fail-closed.

It plays the newest admissible chunk on its own clock, which the safety filter may slow down, and asks for the next
chunk when the execution horizon is used up. A chunk that is malformed in any way is refused with a typed reason and
the arm comes to rest; nothing is ever clipped into a motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.reference import Reference, TrackerOptions, at_rest, limit_lead, resting_point, track
from controllers.types import (
    NANOSECONDS,
    ActionChunk,
    ActionSpace,
    ExecutorReport,
    ExecutorStatus,
    FloatArray,
    JointTarget,
    OperatorEvent,
    Pose,
    PoseTarget,
    Rejection,
    RejectionReason,
    RobotState,
    SafetyResult,
    SafetyStatus,
    Target,
    TickInputs,
    frozen_array,
)
from controllers.waypoints import PathPoint, WaypointPath, sample, waypoints_from_actions

_STOPPED = (SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP)
_PHASE_EPSILON = 1e-6  # rows; the clock is a sum of many small floats


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """How chunks are played.

    Attributes:
        execution_horizon: Rows to execute before asking for the next chunk.
        max_chunk_age_s: A chunk whose observation is older than this on arrival is stale.
        request_timeout_s: Ask again when a request has brought nothing for this long.
        tracker: Dynamics of the reference.
        max_lead_m: Largest distance of the reference ahead of the sensed pose.
        max_lead_rad: Largest angle of the reference ahead of the sensed pose.
    """

    execution_horizon: int = 2
    max_chunk_age_s: float = 1.5
    request_timeout_s: float = 2.0
    tracker: TrackerOptions = TrackerOptions()
    max_lead_m: float = 0.05
    max_lead_rad: float = 0.4


@dataclass(frozen=True, slots=True)
class ReferenceMark:
    """Where the reference was when a state was sensed: the anchor for a chunk inferred from that moment."""

    stamp_ns: int
    clock_s: float
    reference: Reference


@dataclass(frozen=True, slots=True)
class ExecutorState:
    """The executor's whole memory.

    Attributes:
        reference: The smooth setpoint.
        gripper_opening: Commanded opening, m.
        clock_s: The executor's own time; runs at the safety filter's speed scale.
        path: Chunk being played, None while holding.
        chunk_id: Its id, -1 for none.
        path_start_s: Value of the clock at the chunk's observation.
        rest: Where to hold while there is no path.
        history: Marks of the last ticks, oldest first.
        newest_stamp_ns: Observation stamp of the newest accepted chunk.
        requested_ns: When the outstanding request was made, -1 for none.
        holding: Told to hold by an operator.
    """

    reference: Reference
    gripper_opening: float
    clock_s: float
    path: WaypointPath | None
    chunk_id: int
    path_start_s: float
    rest: PathPoint
    history: tuple[ReferenceMark, ...]
    newest_stamp_ns: int
    requested_ns: int
    holding: bool


class ChunkExecutor:
    """Plays action chunks as targets. Holds no memory of its own: see :class:`ExecutorState`."""

    def __init__(
        self, decoder: ActionDecoder, gripper_open_m: float, control_rate_hz: int, options: ExecutorOptions
    ) -> None:
        """Check that the rates fit.

        Args:
            decoder: The one decoder whose chunks are accepted.
            gripper_open_m: Opening that corresponds to a gripper action of 1.
            control_rate_hz: Ticks per second.
            options: How to play.

        Raises:
            ValueError: The control rate is no multiple of the action rate, or the horizons do not fit.
        """
        spec = decoder.spec
        if control_rate_hz % spec.rate_hz:
            raise ValueError(
                f"expected a control rate that is a multiple of the action rate {spec.rate_hz} Hz, "
                f"found {control_rate_hz} Hz; choose one of {[spec.rate_hz * k for k in (1, 2, 5, 10)]} Hz"
            )
        if not 1 <= options.execution_horizon <= spec.horizon:
            raise ValueError(
                f"expected an execution horizon of 1 to {spec.horizon} rows (the chunk's horizon), "
                f"found {options.execution_horizon}"
            )
        self.decoder = decoder
        self.options = options
        self._spec_hash = spec.hash
        self._gripper_open_m = gripper_open_m
        self._joint_space = spec.space is ActionSpace.JOINT_POSITION
        self._max_age_ns = round(options.max_chunk_age_s * NANOSECONDS)
        self._request_timeout_ns = round(options.request_timeout_s * NANOSECONDS)
        self._history_length = 1 + round(options.max_chunk_age_s * control_rate_hz)

    def initial(self, state: RobotState) -> ExecutorState:
        """Stand where the robot stands."""
        reference = self._reference_at(state)
        return ExecutorState(
            reference=reference,
            gripper_opening=state.gripper_opening,
            clock_s=0.0,
            path=None,
            chunk_id=-1,
            path_start_s=0.0,
            rest=resting_point(reference, self.options.tracker),
            history=(),
            newest_stamp_ns=-1,
            requested_ns=-1,
            holding=False,
        )

    def update(
        self, memory: ExecutorState, inputs: TickInputs, feedback: SafetyResult | None, dt: float
    ) -> tuple[ExecutorState, Target, ExecutorReport, bool]:
        """One tick.

        Args:
            memory: What the last call returned.
            inputs: The tick's inputs.
            feedback: The last tick's safety verdict, None on the first tick.
            dt: Control period, s.

        Returns:
            The new memory, the target, the report, and whether to request an inference.
        """
        memory = self._obey(memory, inputs, feedback)
        mark = ReferenceMark(inputs.state.stamp_ns, memory.clock_s, memory.reference)
        history = (*memory.history[1 - self._history_length :], mark)
        rejections: tuple[Rejection, ...] = ()
        accepted: tuple[int, ...] = ()
        if inputs.arrivals:
            memory, rejections, accepted = self._admit_all(replace(memory, history=history), inputs)

        scale = 1.0 if feedback is None else feedback.speed_scale
        clock = memory.clock_s + dt * scale
        reference, gripper, phase = self._advance(memory, inputs.state, clock, dt * scale)
        stopped = feedback is not None and feedback.status in _STOPPED
        request = self._wants_chunk(memory, phase, inputs.now_ns) and not stopped
        # Spelled out, because dataclasses.replace costs several microseconds at each tick.
        memory = ExecutorState(
            reference=reference,
            gripper_opening=gripper,
            clock_s=clock,
            path=memory.path,
            chunk_id=memory.chunk_id,
            path_start_s=memory.path_start_s,
            rest=memory.rest,
            history=history,
            newest_stamp_ns=memory.newest_stamp_ns,
            requested_ns=inputs.now_ns if request else memory.requested_ns,
            holding=memory.holding,
        )
        report = ExecutorReport(self._status(memory, phase), memory.chunk_id, phase, rejections, accepted)
        return memory, self._target(memory), report, request

    def commanded_pose(self, memory: ExecutorState, state: RobotState) -> Pose:
        """The reference as a pose in the base frame; joint references are reported as the sensed pose."""
        return state.ee_pose if self._joint_space else memory.reference.pose()

    # -------------------------------------------------------------------------------- operator, safety

    def _obey(self, memory: ExecutorState, inputs: TickInputs, feedback: SafetyResult | None) -> ExecutorState:
        """Apply operator events, and follow the robot while safety keeps it stopped."""
        for event in inputs.events:
            if event is OperatorEvent.HOLD:
                memory = replace(self._come_to_rest(memory), holding=True)
            elif event is OperatorEvent.RESUME:
                memory = replace(memory, holding=False, requested_ns=-1)
        if feedback is None or feedback.status in (SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.OFF):
            return memory
        # The arm is not where the reference is: start again from where it stands, so that nothing jumps.
        reference = self._reference_at(inputs.state)
        return self._come_to_rest(replace(memory, reference=reference))

    def _come_to_rest(self, memory: ExecutorState) -> ExecutorState:
        rest = resting_point(memory.reference, self.options.tracker)
        return replace(memory, path=None, chunk_id=-1, rest=rest)

    def _reference_at(self, state: RobotState) -> Reference:
        position = state.joint_position if self._joint_space else state.ee_pose.position
        return at_rest(position, state.ee_pose.quaternion)

    # --------------------------------------------------------------------------------------- admission

    def _admit_all(
        self, memory: ExecutorState, inputs: TickInputs
    ) -> tuple[ExecutorState, tuple[Rejection, ...], tuple[int, ...]]:
        rejections: list[Rejection] = []
        accepted: list[int] = []
        for arrival in inputs.arrivals:
            chunk = arrival.chunk
            memory = replace(memory, requested_ns=-1)
            try:
                if memory.holding:
                    raise ActionDecodeError(RejectionReason.STALE, "the executor was told to hold")
                mark = self._anchor(memory, chunk, inputs.now_ns)
                actions = self._decode(chunk)
            except ActionDecodeError as error:
                rejections.append(Rejection(chunk.chunk_id, error.reason, str(error)))
                # A late duplicate does not make the chunk that is playing any worse; all else brings us to rest.
                if error.reason is not RejectionReason.OUT_OF_ORDER:
                    memory = self._come_to_rest(memory)
                continue
            accepted.append(chunk.chunk_id)
            memory = replace(
                memory,
                path=self._path(actions, mark, inputs.state),
                chunk_id=chunk.chunk_id,
                path_start_s=mark.clock_s,
                newest_stamp_ns=chunk.observation_stamp_ns,
            )
        return memory, tuple(rejections), tuple(accepted)

    def _anchor(self, memory: ExecutorState, chunk: ActionChunk, now_ns: int) -> ReferenceMark:
        """Find where the reference was at the chunk's observation."""
        stamp = cast(object, chunk.observation_stamp_ns)
        if not isinstance(stamp, int):
            raise ActionDecodeError(
                RejectionReason.WRONG_TYPE,
                f"expected an integer observation stamp, found {type(stamp).__name__}",
            )
        if stamp > now_ns:
            raise ActionDecodeError(
                RejectionReason.FUTURE_STAMP, f"observation stamp {stamp} ns is after now, {now_ns} ns"
            )
        oldest = memory.history[0].stamp_ns
        if now_ns - stamp > self._max_age_ns or stamp < oldest:
            raise ActionDecodeError(
                RejectionReason.STALE,
                f"observation is {(now_ns - stamp) / 1e6:.0f} ms old, allowed {self._max_age_ns / 1e6:.0f} ms",
            )
        if stamp <= memory.newest_stamp_ns:
            raise ActionDecodeError(
                RejectionReason.OUT_OF_ORDER,
                f"observation stamp {stamp} ns is not newer than that of the last chunk, {memory.newest_stamp_ns} ns",
            )
        for mark in reversed(memory.history):
            if mark.stamp_ns <= stamp:
                return mark
        return memory.history[0]

    def _decode(self, chunk: ActionChunk) -> FloatArray:
        if chunk.tokenizer_id != self.decoder.tokenizer_id:
            raise ActionDecodeError(
                RejectionReason.UNKNOWN_TOKENIZER,
                f"expected tokenizer {self.decoder.tokenizer_id!r}, found {chunk.tokenizer_id!r}",
            )
        if chunk.spec_hash != self._spec_hash:
            raise ActionDecodeError(
                RejectionReason.SPEC_MISMATCH,
                f"expected action spec {self._spec_hash!r}, found {chunk.spec_hash!r}: the policy was built for "
                "other actions, statistics or rates",
            )
        return self.decoder.decode(chunk.tokens)

    def _path(self, actions: FloatArray, mark: ReferenceMark, state: RobotState) -> WaypointPath:
        reference = mark.reference
        if self._joint_space:
            joints = frozen_array(reference.position)
            return waypoints_from_actions(actions, self.decoder.spec, state.ee_pose, joints, self._gripper_open_m)
        return waypoints_from_actions(
            actions, self.decoder.spec, reference.pose(), state.joint_position, self._gripper_open_m
        )

    # ------------------------------------------------------------------------------------------ motion

    def _advance(
        self, memory: ExecutorState, state: RobotState, clock: float, dt: float
    ) -> tuple[Reference, float, float]:
        """The reference and the gripper's opening after ``dt`` s of the executor's time, and the phase."""
        path, options = memory.path, self.options
        if path is None:
            phase, point, gripper = 0.0, memory.rest, memory.gripper_opening
        else:
            phase = (clock - memory.path_start_s) * path.rate_hz
            point = sample(path, phase)
            gripper = point.gripper
        reference = track(memory.reference, point, options.tracker, dt)
        if not self._joint_space:
            reference = limit_lead(reference, state.ee_pose, options.max_lead_m, options.max_lead_rad)
        return reference, gripper, phase

    def _wants_chunk(self, memory: ExecutorState, phase: float, now_ns: int) -> bool:
        if memory.holding:
            return False
        if memory.requested_ns >= 0:
            return now_ns - memory.requested_ns >= self._request_timeout_ns
        if memory.path is None or phase >= self.options.execution_horizon - _PHASE_EPSILON:
            return True
        # Safety may stop our clock short of the horizon: look again after as long as the horizon should have taken.
        horizon_ns = self.options.execution_horizon * NANOSECONDS // self.decoder.spec.rate_hz
        return now_ns - memory.newest_stamp_ns >= 2 * horizon_ns

    def _status(self, memory: ExecutorState, phase: float) -> ExecutorStatus:
        if memory.holding:
            return ExecutorStatus.HOLDING
        if memory.path is None:
            return ExecutorStatus.WAITING
        if phase >= memory.path.horizon:
            return ExecutorStatus.EXHAUSTED
        return ExecutorStatus.EXECUTING

    def _target(self, memory: ExecutorState) -> Target:
        reference = memory.reference
        if self._joint_space:
            return JointTarget(frozen_array(reference.position), memory.gripper_opening)
        return PoseTarget(reference.pose(), reference.twist(), memory.gripper_opening, "base")


def is_finite(state: RobotState) -> bool:
    """Whether every number of a sensed state is finite."""
    total = (
        np.dot(state.joint_position, state.joint_position)
        + np.dot(state.joint_velocity, state.joint_velocity)
        + np.dot(state.ee_pose.position, state.ee_pose.position)
        + np.dot(state.ee_pose.quaternion, state.ee_pose.quaternion)
        + np.dot(state.joint_effort, state.joint_effort)
        + np.dot(state.wrench, state.wrench)
        + state.gripper_opening
    )
    return bool(np.isfinite(total))
