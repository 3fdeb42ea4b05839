"""The seams of the stack. Each protocol is small enough to implement in one sitting.

Anything stateful that takes part in a tick hands its memory out and takes it back (``initial`` and an explicit
``memory``), so that a tick stays a pure fold and replays bit for bit.
"""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

from controllers.types import (
    ActionChunk,
    ActionSpec,
    ChunkArrival,
    FloatArray,
    IntArray,
    JointCommand,
    Observation,
    OperatorEvent,
    Pose,
    RejectionReason,
    RobotState,
    SafetyResult,
    Target,
    TickInputs,
    TickOutputs,
)

MemoryT = TypeVar("MemoryT")


class Policy(Protocol):
    """A vision-language-action model, or anything that acts like one."""

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        ...

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        ...

    def reset(self) -> None:
        """Forget the past episode."""
        ...

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation; ``chunk_id`` is overwritten by the client."""
        ...


class PolicyClient(Protocol):
    """The loop's side of a policy, wherever the policy runs."""

    def request(self, observation: Observation) -> None:
        """Ask for a chunk. Returns without waiting, except in lock-step at zero latency."""
        ...

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        """Chunks that have arrived by ``now_ns`` and were not handed out before."""
        ...


@runtime_checkable
class PolicyHealth(Protocol):
    """Signs of life of a policy that runs elsewhere. Neither call waits."""

    @property
    def alive(self) -> bool:
        """Whether it is there and answers in time; while it is not, the arm holds."""
        ...

    def heard(self) -> bool:
        """Whether it gave a sign of life since the last call."""
        ...


class LogHealth(Protocol):
    """Whether what the loop does can be written down. Does not wait."""

    @property
    def trouble(self) -> str:
        """Why nothing reaches the disk at the moment, empty while all is well."""
        ...


class ActionDecodeError(ValueError):
    """A chunk that cannot be decoded; carries the typed reason."""

    def __init__(self, reason: RejectionReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ActionDecoder(Protocol):
    """Turns tokens into actions, or refuses. Never clips."""

    @property
    def tokenizer_id(self) -> str:
        """The only tokenizer id it accepts."""
        ...

    @property
    def spec(self) -> ActionSpec:
        """The only action spec it accepts."""
        ...

    def decode(self, tokens: IntArray) -> FloatArray:
        """Decode (horizon, dims) tokens to (horizon, dims) un-normalized actions.

        Raises:
            ActionDecodeError: A token outside the action vocabulary, wrong shape or type, non-finite result.
        """
        ...


class Controller(Protocol):
    """Turns a target into a joint command. A pure function: its only memory is the last applied command."""

    def update(self, state: RobotState, target: Target, previous: JointCommand, dt: float) -> JointCommand:
        """One control step.

        Args:
            state: Sensed state.
            target: What to reach.
            previous: The command that was applied on the last tick (after safety).
            dt: Control period, s.
        """
        ...

    def hold(self, state: RobotState) -> JointCommand:
        """The command that keeps the sensed configuration: stands in for ``previous`` on the first tick."""
        ...


class SafetyFilter(Protocol[MemoryT]):
    """Bounds every command, whoever sends it."""

    def initial(self, state: RobotState) -> MemoryT:
        """Memory before the first tick."""
        ...

    def enforce(
        self,
        memory: MemoryT,
        state: RobotState,
        command: JointCommand,
        events: tuple[OperatorEvent, ...],
        now_ns: int,
        dt: float,
    ) -> tuple[MemoryT, SafetyResult]:
        """Judge one command.

        Args:
            memory: What the last call returned.
            state: Sensed state; its stamp is checked against ``now_ns``.
            command: Candidate; its stamp is checked against ``now_ns``.
            events: Operator events of this tick.
            now_ns: The tick's clock.
            dt: Control period, s.
        """
        ...


class Robot(Protocol):
    """An arm with a gripper: simulated, on ROS 2, or anything else."""

    def read(self) -> RobotState:
        """The newest sensed state."""
        ...

    def write(self, command: JointCommand) -> None:
        """Apply a command until the next one. In lock-step simulation this also advances time by one tick."""
        ...

    def physics_digest(self) -> bytes:
        """16 bytes that identify the full physics state; empty where there is none (a real robot)."""
        ...


class ObservationSource(Protocol):
    """Takes the pictures that a policy sees."""

    def observe(self, state: RobotState, commanded_pose: Pose) -> Observation:
        """Capture all cameras now and join them with the state; the observation's stamp is the state's."""
        ...


class TickSink(Protocol):
    """Receives every tick and every observation; the episode log is one."""

    def offer_memory(self, tick: int, loop_state: object) -> None:
        """See all that the loop remembers before ``tick``, which has been sensed; called at every tick.

        Kept at key frames, so that a replay can begin there. Must not block.
        """
        ...

    def record_tick(
        self,
        inputs: TickInputs,
        outputs: TickOutputs,
        physics_digest: bytes,
        sent_ns: int = -1,
        applied_ns: int = -1,
    ) -> None:
        """Take one tick. Must not block.

        Args:
            inputs: What entered.
            outputs: What left.
            physics_digest: Digest of the state that ``inputs.state`` was read from.
            sent_ns: The loop's clock when the command was handed to the robot; -1 if unknown.
            applied_ns: The loop's clock when the robot had taken it; -1 if unknown.
        """
        ...

    def record_observation(self, observation: Observation) -> None:
        """Take one observation that was sent to the policy. Must not block."""
        ...
