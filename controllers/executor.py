"""The chunk executor: tokens in, targets out, fail-closed.

It plays admissible chunks on its own clock, which the safety filter and the policy's doubt may slow down, and asks for
the next chunk when the execution horizon is used up, when the arm cannot follow, or when safety slows it down much. How
an answer is joined to what is being played is the chunk strategy's part (:mod:`controllers.strategies`), what doubt
asks for that of :mod:`controllers.doubt`. A chunk that is malformed in any way is refused with a typed reason and the
arm comes to rest; nothing is ever clipped into a motion.
"""

from __future__ import annotations

import math

from controllers.admission import decode_chunk, observed_mark
from controllers.chunking import ChunkingOptions, estimated_delay, remember_delay
from controllers.doubt import DoubtGate, DoubtLevel, DoubtOptions, DoubtTransition
from controllers.executor_memory import ExecutorOptions, ExecutorState
from controllers.plan import ROW_EPSILON, PathBuilder, ReferenceMark, Request, waypoint
from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.reference import Reference, at_rest, limit_lead, rehearse, resting_point, track
from controllers.strategies import Arrival, make_strategy
from controllers.types import (
    NANOSECONDS,
    ActionChunk,
    ChunkArrival,
    ExecutorReport,
    ExecutorStatus,
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
    TokenPrefix,
    frozen_array,
)
from controllers.waypoints import sample, slowed

_STOPPED = (SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP)
_RESERVE_ROWS = 2.0  # rows that a request cycle leaves unplayed, so that a late answer need not stop the arm
_SLOW_DOWN_ROWS = 1.5  # the clock slows down over these last rows of a plan, and stands at its end
_PACE_RATE = 2.0  # largest change of the pace, 1/s
_RETRY_DELAYS = 3.0  # ask again after this many expected delays without an answer
_RETRY_NS = NANOSECONDS // 5  # but not before this


class ChunkExecutor:
    """Plays action chunks as targets. Holds no memory of its own: see :class:`ExecutorState`."""

    def __init__(
        self,
        decoder: ActionDecoder,
        gripper_open_m: float,
        control_rate_hz: int,
        options: ExecutorOptions,
        chunking: ChunkingOptions | None = None,
        doubt: DoubtOptions | None = None,
    ) -> None:
        """Check that the rates fit.

        Args:
            decoder: The one decoder whose chunks are accepted.
            gripper_open_m: Opening that corresponds to a gripper action of 1.
            control_rate_hz: Ticks per second.
            options: How to play.
            chunking: How to go from chunk to chunk; default :class:`ChunkingOptions`.

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
        self.chunking = chunking or ChunkingOptions()
        self._builder = PathBuilder(spec, gripper_open_m)
        self.strategy = make_strategy(self.chunking, self._builder, options.execution_horizon)
        self._joint_space = self._builder.joint_space
        self._max_age_ns = round(options.max_chunk_age_s * NANOSECONDS)
        self._request_timeout_ns = round(options.request_timeout_s * NANOSECONDS)
        self._history_length = 1 + round(options.max_chunk_age_s * control_rate_hz)
        self._period_ns = NANOSECONDS // control_rate_hz
        self._rows_per_tick = spec.rate_hz / control_rate_hz
        self._max_delay_rows = self.chunking.max_delay_rows or max(0.5 * (spec.horizon - _RESERVE_ROWS), 0.5)
        self._pace_step = _PACE_RATE / control_rate_hz
        self._replan_cosine = 1.0 - 0.125 * self.chunking.replan_error_rad**2
        self._replan_error_m2 = self.chunking.replan_error_m**2
        self._gate = DoubtGate(doubt, control_rate_hz) if doubt is not None and doubt.enabled else None
        self._horizon_ns = options.execution_horizon * NANOSECONDS // spec.rate_hz
        rehearse(options.tracker)

    def initial(self, state: RobotState) -> ExecutorState:
        """Stand where the robot stands."""
        reference = self._reference_at(state)
        return ExecutorState(
            reference=reference,
            gripper_opening=state.gripper_opening,
            clock_s=0.0,
            plan=None,
            rest=resting_point(reference, self.options.tracker),
            history=(),
            newest_stamp_ns=-1,
            requested_ns=state.stamp_ns,  # drivers ask before the first tick
            request=Request(-1, None),
            delays=(),
            pace=1.0,
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
        # Added, not unpacked: every tick copies 300 marks, and unpacking would do it once more.
        history = memory.history[1 - self._history_length :] + (mark,)  # noqa: RUF005
        asked = memory.request
        if asked is not None and asked.stamp_ns < 0:  # its observation is taken before this tick
            asked = Request(asked.row, asked.prefix, inputs.state.stamp_ns)
        rejections: tuple[Rejection, ...] = ()
        accepted: tuple[int, ...] = ()
        transitions: tuple[DoubtTransition, ...] = ()
        if inputs.arrivals:
            memory = memory._replace(history=history, request=asked)
            memory, rejections, accepted, transitions = self._admit_all(memory, inputs)
            asked = memory.request

        scale = 1.0 if feedback is None else feedback.speed_scale
        pace = self._paced(memory) if self.strategy.keeps_rows else 1.0
        doubt, reference_dt = memory.doubt, dt * scale
        if self._gate is not None:
            doubt = self._gate.advance(doubt)
            reference_dt *= doubt.scale
        clock, reference, gripper, phase = self._advance(memory, inputs.state, reference_dt, pace)
        wanted = self._wants_chunk(memory, reference, phase, inputs, scale, pace)
        request = wanted and not (feedback is not None and feedback.status in _STOPPED)
        if request:
            delay_rows = estimated_delay(memory.delays, self.chunking.delay) * self._rows_per_tick * pace
            asked = self.strategy.request(memory.plan, phase, delay_rows)
        # Spelled out and by position, because _replace and keywords cost a microsecond at each tick.
        memory = ExecutorState(
            reference,
            gripper,
            clock,
            memory.plan,
            memory.rest,
            history,
            memory.newest_stamp_ns,
            inputs.now_ns if request else memory.requested_ns,
            asked,
            memory.delays,
            pace,
            memory.holding,
            doubt,
        )
        report = ExecutorReport(self._status(memory, phase), memory.chunk_id, phase, rejections, accepted, transitions)
        return memory, self._target(memory), report, request

    def commanded_pose(self, memory: ExecutorState, state: RobotState, target: Target | None = None) -> Pose:
        """Where the next chunk's deltas start, in the base frame.

        It is the reference; for a request that keeps its place in rows, the waypoint of that row; the sensed pose for
        joint actions.

        Args:
            memory: The executor's memory.
            state: Sensed state.
            target: The target that :meth:`update` made of this memory, where it is known: it has the reference's pose.
        """
        if self._joint_space:
            return state.ee_pose
        request, plan = memory.request, memory.plan
        if request is not None and plan is not None and request.stamp_ns < 0 and request.row >= plan.first_row:
            return waypoint(plan.path, request.row - plan.first_row, state)
        return target.pose if isinstance(target, PoseTarget) else memory.reference.pose()

    def prefix(self, memory: ExecutorState) -> TokenPrefix | None:
        """Rows that the chunk to be asked for next must begin with; None for none."""
        request = memory.request
        return None if request is None or request.stamp_ns >= 0 else request.prefix

    # -------------------------------------------------------------------------------- operator, safety

    def _obey(self, memory: ExecutorState, inputs: TickInputs, feedback: SafetyResult | None) -> ExecutorState:
        """Apply operator events, and follow the robot while safety keeps it stopped."""
        for event in inputs.events:
            if event is OperatorEvent.HOLD:
                memory = self._come_to_rest(memory)._replace(holding=True)
            elif event is OperatorEvent.RESUME:
                memory = memory._replace(holding=False, requested_ns=-1, request=None)
        if feedback is None or feedback.status in (SafetyStatus.RUN, SafetyStatus.LIMITING, SafetyStatus.OFF):
            return memory
        # The arm is not where the reference is: start again from where it stands, so that nothing jumps.
        reference = self._reference_at(inputs.state)
        return self._come_to_rest(memory._replace(reference=reference))

    def _come_to_rest(self, memory: ExecutorState) -> ExecutorState:
        return memory._replace(plan=None, rest=resting_point(memory.reference, self.options.tracker))

    def _reference_at(self, state: RobotState) -> Reference:
        position = state.joint_position if self._joint_space else state.ee_pose.position
        return at_rest(position, state.ee_pose.quaternion)

    # --------------------------------------------------------------------------------------- admission

    def _admit_all(
        self, memory: ExecutorState, inputs: TickInputs
    ) -> tuple[ExecutorState, tuple[Rejection, ...], tuple[int, ...], tuple[DoubtTransition, ...]]:
        rejections: list[Rejection] = []
        accepted: list[int] = []
        transitions: list[DoubtTransition] = []
        for arrival in inputs.arrivals:
            chunk = arrival.chunk
            try:
                after, refusal, change = self._admit(memory, arrival, inputs)
            except ActionDecodeError as error:
                rejections.append(Rejection(chunk.chunk_id, error.reason, str(error)))
                memory = memory._replace(requested_ns=-1)
                # A late duplicate does not make the chunk that is playing any worse; all else brings us to rest.
                if error.reason is not RejectionReason.OUT_OF_ORDER:
                    memory = self._come_to_rest(memory)
                continue
            memory = after
            if change is not None:
                transitions.append(change)
            if refusal is None:
                accepted.append(chunk.chunk_id)
            else:
                rejections.append(refusal)
        return memory, tuple(rejections), tuple(accepted), tuple(transitions)

    def _admit(
        self, memory: ExecutorState, arrival: ChunkArrival, inputs: TickInputs
    ) -> tuple[ExecutorState, Rejection | None, DoubtTransition | None]:
        """The memory after a chunk, why it is not played (only since it is too doubtful), and a change of level.

        Raises:
            ActionDecodeError: The chunk is no good.
        """
        chunk, now_ns = arrival.chunk, inputs.now_ns
        if memory.holding:
            raise ActionDecodeError(RejectionReason.STALE, "the executor was told to hold")
        mark = observed_mark(chunk, memory.history, memory.newest_stamp_ns, now_ns, self._max_age_ns)
        actions = decode_chunk(chunk, self.decoder)
        change: DoubtTransition | None = None
        if self._gate is not None:
            value = self._doubt_of(self._gate, chunk)
            before, level = memory.doubt.level, self._gate.level(value)
            if level is not before:
                change = self._gate.transition(before, level, value, chunk.chunk_id)
                memory = memory._replace(doubt=memory.doubt._replace(level=level))
            if level is DoubtLevel.HOLD:
                # Nothing is wrong with what is being played: the arm comes to a stand along it, in the clock's time.
                stamp = chunk.observation_stamp_ns
                memory = memory._replace(newest_stamp_ns=stamp, requested_ns=-1, request=None)
                return memory, self._too_doubtful(self._gate.options, chunk, value), change
        request = memory.request
        if request is not None and request.stamp_ns != chunk.observation_stamp_ns:
            request = None
        asked = Arrival(chunk, actions, mark, memory.history[-1], inputs.state, request)
        plan = self.strategy.join(memory.plan, asked)
        ticks = (now_ns - chunk.observation_stamp_ns + self._period_ns // 2) // self._period_ns
        delays = remember_delay(memory.delays, ticks, self.chunking.delay)
        memory = memory._replace(
            plan=plan,
            newest_stamp_ns=chunk.observation_stamp_ns,
            requested_ns=-1,
            request=None,
            delays=delays,
            pace=self._affordable_pace(delays) if memory.plan is None else memory.pace,
        )
        return memory, None, change

    @staticmethod
    def _doubt_of(gate: DoubtGate, chunk: ActionChunk) -> float:
        value = gate.value(chunk.doubt)
        if value is None:
            raise ActionDecodeError(
                RejectionReason.UNKNOWN_DOUBT,
                f"expected a chunk that tells its {gate.options.measure.value}, which the stack has thresholds for, "
                "found one that does not; choose a policy that tells it, another measure, or no thresholds",
            )
        return value

    @staticmethod
    def _too_doubtful(options: DoubtOptions, chunk: ActionChunk, value: float) -> Rejection:
        return Rejection(
            chunk.chunk_id,
            RejectionReason.DOUBTFUL,
            f"doubt by {options.measure.value} is {value:.6g}, held above {options.hold_above:.6g}",
        )

    # ------------------------------------------------------------------------------------------ motion

    def pace_for(self, delay_ticks: int) -> float:
        """Rate of the clock, in (0, 1], once every answer takes so many ticks."""
        window = (delay_ticks,) * self.chunking.delay.window
        return self._affordable_pace(window) if self.strategy.keeps_rows else 1.0

    def _affordable_pace(self, delays: tuple[int, ...]) -> float:
        """Rate of the clock at which the expected delay takes no more rows than it may."""
        rows = estimated_delay(delays, self.chunking.delay) * self._rows_per_tick
        return 1.0 if rows <= self._max_delay_rows else self._max_delay_rows / rows

    def _paced(self, memory: ExecutorState) -> float:
        """The pace after a tick: it moves towards what the delay allows."""
        goal, step = self._affordable_pace(memory.delays), self._pace_step
        return min(max(goal, memory.pace - step), memory.pace + step)

    def _advance(
        self, memory: ExecutorState, state: RobotState, dt: float, pace: float
    ) -> tuple[float, Reference, float, float]:
        """Clock, reference, gripper's opening and phase after ``dt`` s of the reference's time."""
        plan, options = memory.plan, self.options
        clock = memory.clock_s + dt * pace
        if plan is None:
            phase, point, gripper = 0.0, memory.rest, memory.gripper_opening
        else:
            if self.strategy.keeps_rows:
                left = (plan.end_s - memory.clock_s) * plan.path.rate_hz
                if left < _SLOW_DOWN_ROWS:
                    pace *= math.sqrt(max(left, 0.0) / _SLOW_DOWN_ROWS)
                    clock = memory.clock_s + dt * pace
                clock = min(clock, plan.end_s)
            phase = plan.phase(clock)
            point = sample(plan.path, phase)
            if pace != 1.0:
                point = slowed(point, pace)
            gripper = point.gripper
        reference = track(memory.reference, point, options.tracker, dt)
        if not self._joint_space:
            reference = limit_lead(reference, state.ee_pose, options.max_lead_m, options.max_lead_rad)
        return clock, reference, gripper, phase

    # ---------------------------------------------------------------------------------------- requests

    def _wants_chunk(
        self, memory: ExecutorState, reference: Reference, phase: float, inputs: TickInputs, scale: float, pace: float
    ) -> bool:
        if memory.holding:
            return False
        now_ns, plan = inputs.now_ns, memory.plan
        if memory.requested_ns >= 0:
            return now_ns - memory.requested_ns >= self._patience_ns(memory)
        if memory.doubt.level is DoubtLevel.HOLD:
            # The clock stands: look again as often as when it runs.
            return now_ns - memory.newest_stamp_ns >= self._horizon_ns
        if plan is None:
            return True
        horizon = self.options.execution_horizon
        under_way = self.strategy.keeps_rows and phase < plan.path.horizon - ROW_EPSILON
        if under_way and int(phase + ROW_EPSILON) == int(plan.phase(memory.clock_s) + ROW_EPSILON):
            return False  # rows are whole: ask where one begins
        if phase >= horizon - ROW_EPSILON or (phase >= 1.0 and self._troubled(reference, inputs.state, scale)):
            return True
        # Safety may stop our clock short of the horizon: look again after as long as the horizon should have taken.
        return now_ns - memory.newest_stamp_ns >= 2 * self._horizon_ns / pace

    def _patience_ns(self, memory: ExecutorState) -> int:
        """How long to wait for an answer before asking again."""
        if not (self.strategy.keeps_rows and memory.delays):
            return self._request_timeout_ns
        expected = estimated_delay(memory.delays, self.chunking.delay) * self._period_ns
        return min(self._request_timeout_ns, max(round(_RETRY_DELAYS * expected), _RETRY_NS))

    def _troubled(self, reference: Reference, state: RobotState, scale: float) -> bool:
        """Whether the arm cannot follow, or safety slows it down so much that the plan is out of date."""
        if scale <= self.chunking.replan_speed_scale:
            return True
        if self._joint_space:
            sensed = state.joint_position.tolist()
        else:
            sensed = state.ee_pose.position.tolist()
            if abs(float(reference.quaternion.dot(state.ee_pose.quaternion))) < self._replan_cosine:
                return True
        error = sum([(r - x) ** 2 for r, x in zip(reference.position, sensed, strict=True)])
        return error > self._replan_error_m2

    def _status(self, memory: ExecutorState, phase: float) -> ExecutorStatus:
        if memory.holding:
            return ExecutorStatus.HOLDING
        if memory.doubt.level is DoubtLevel.HOLD:
            return ExecutorStatus.DOUBTFUL
        if memory.plan is None:
            return ExecutorStatus.WAITING
        if phase >= memory.plan.path.horizon - (ROW_EPSILON if self.strategy.keeps_rows else 0.0):
            return ExecutorStatus.EXHAUSTED
        return ExecutorStatus.EXECUTING

    def _target(self, memory: ExecutorState) -> Target:
        reference = memory.reference
        if self._joint_space:
            return JointTarget(frozen_array(reference.position), memory.gripper_opening)
        twist, slowdown = reference.twist(), memory.doubt.scale
        if slowdown != 1.0:  # the reference's velocity is per second of its own time
            twist = twist * slowdown
            twist.setflags(write=False)
        return PoseTarget(reference.pose(), twist, memory.gripper_opening, "base")


def is_finite(state: RobotState) -> bool:
    """Whether every number of a sensed state is finite."""
    q, qd, effort, wrench = state.joint_position, state.joint_velocity, state.joint_effort, state.wrench
    position, quaternion = state.ee_pose.position, state.ee_pose.quaternion
    # Squares: one NaN or infinity anywhere, and the sum is not finite.
    total = q.dot(q) + qd.dot(qd) + position.dot(position) + quaternion.dot(quaternion)
    return math.isfinite(float(total + effort.dot(effort) + wrench.dot(wrench)) + state.gripper_opening)
