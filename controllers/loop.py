"""The tick: one control step as a pure fold, ``tick(state, inputs) -> (state', outputs)``.

The same function runs in lock-step simulation, in real time, inside a ROS 2 node and in replay. It reads no clock, no
sensor and no queue; whatever is not deterministic comes in through :class:`~controllers.types.TickInputs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic

from controllers.executor import ChunkExecutor, ExecutorState, is_finite
from controllers.protocols import Controller, MemoryT, SafetyFilter
from controllers.types import (
    NANOSECONDS,
    ExecutorReport,
    ExecutorStatus,
    JointCommand,
    Pose,
    RobotState,
    SafetyResult,
    Target,
    TickInputs,
    TickOutputs,
    TokenPrefix,
)


@dataclass(frozen=True, slots=True)
class LoopState(Generic[MemoryT]):
    """All that one tick hands to the next.

    Attributes:
        executor: The chunk executor's memory.
        safety: The safety filter's memory.
        verdict: The last safety verdict, None before the first tick.
        applied: The last applied command; the controller continues from it.
        target: The last target.
    """

    executor: ExecutorState
    safety: MemoryT
    verdict: SafetyResult | None
    applied: JointCommand
    target: Target | None

    def essential(self) -> LoopState[MemoryT]:
        """The same for writing down: without what no later tick can depend on."""
        return replace(self, executor=self.executor.essential())


class ControlLoop(Generic[MemoryT]):
    """Executor, controller and safety filter, joined into one tick."""

    def __init__(
        self, executor: ChunkExecutor, controller: Controller, safety: SafetyFilter[MemoryT], rate_hz: int
    ) -> None:
        """Join the parts.

        Args:
            executor: Tokens to targets.
            controller: Targets to joint commands.
            safety: Joint commands to verdicts.
            rate_hz: Ticks per second.
        """
        if rate_hz <= 0 or NANOSECONDS % rate_hz:
            raise ValueError(f"expected a control rate that divides 1e9 ns, found {rate_hz} Hz; try 50, 100 or 200")
        self.executor = executor
        self.controller = controller
        self.safety = safety
        self.rate_hz = rate_hz
        self.period_ns = NANOSECONDS // rate_hz
        self._dt = 1.0 / rate_hz

    def initial(self, state: RobotState) -> LoopState[MemoryT]:
        """The loop state before tick 0, for a robot found in ``state``.

        Raises:
            ValueError: The state is not finite: there is nothing to hold on to.
        """
        if not is_finite(state):
            raise ValueError("expected a finite robot state to start from, found NaN or infinity; check the sensors")
        return LoopState(
            executor=self.executor.initial(state),
            safety=self.safety.initial(state),
            verdict=None,
            applied=self.controller.hold(state),
            target=None,
        )

    def commanded_pose(self, loop_state: LoopState[MemoryT], state: RobotState) -> Pose:
        """Where the executor's reference stands before the next tick; observations carry it."""
        return self.executor.commanded_pose(loop_state.executor, state)

    def prefix(self, loop_state: LoopState[MemoryT]) -> TokenPrefix | None:
        """Rows that the chunk to be asked for next must begin with, None for none; observations carry it."""
        return self.executor.prefix(loop_state.executor)

    def tick(self, loop_state: LoopState[MemoryT], inputs: TickInputs) -> tuple[LoopState[MemoryT], TickOutputs]:
        """One control step.

        Args:
            loop_state: What the last tick returned.
            inputs: Everything that happened since.

        Returns:
            The new state and the outputs; ``outputs.safety.command`` is what may be sent to the robot.
        """
        dt, state = self._dt, inputs.state
        if is_finite(state):
            executor, target, report, request = self.executor.update(
                loop_state.executor, inputs, loop_state.verdict, dt
            )
            command = self.controller.update(state, target, loop_state.applied, dt)
            command = JointCommand(command.mode, command.values, command.gripper_opening, inputs.now_ns)
        elif loop_state.target is None:
            raise ValueError("expected a finite robot state on the first tick, found NaN or infinity")
        else:
            # Nothing can be computed from a broken state; the filter sees it too and brings the arm to a stop.
            executor, target, request = loop_state.executor, loop_state.target, False
            report = ExecutorReport(ExecutorStatus.HOLDING, executor.chunk_id, 0.0)
            command = replace(loop_state.applied, stamp_ns=inputs.now_ns)
        memory, verdict = self.safety.enforce(loop_state.safety, state, command, inputs.events, inputs.now_ns, dt)
        outputs = TickOutputs(
            target=target,
            command=command,
            safety=verdict,
            executor=report,
            request_inference=request,
            commanded_pose=self.executor.commanded_pose(executor, state, target),
        )
        return LoopState(executor, memory, verdict, verdict.command, target), outputs
