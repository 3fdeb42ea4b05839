"""The controller's side of the safety kernel."""

from __future__ import annotations

import secrets
import time
from types import TracebackType

from controllers.types import JointCommand, OperatorEvent, RobotState, SafetyResult
from safety.process.contract import KernelContract
from safety.process.errors import KernelSilentError, TakenOverError
from safety.process.inbox import InboxWriter
from safety.process.memory import Segment
from safety.process.outbox import OutboxReader
from safety.process.records import KernelTick

_SILENT_S = 0.25  # a kernel that has not ticked for so long is taken for dead
_POLL_S = 2e-4
_WAIT_SHARE = 0.8  # of a period: a caller's clock, taken before, must not lie too far behind the state's stamp


class SafetyKernelClient:
    """Hands candidate commands to the kernel and sees what the kernel sees.

    Holds nothing that the kernel waits for: it may be killed at any moment. The newest client that attaches is the one
    that the kernel listens to.

    Attributes:
        rate_hz: Ticks per second of the kernel.
    """

    def __init__(self, address: str, contract: KernelContract) -> None:
        """Attach.

        Args:
            address: ``SafetyKernelProcess.address``.
            contract: What this controller was built for.

        Raises:
            ContractMismatchError: The kernel serves another robot, profile, mode, rate or version.
            SafetyKernelError: There is no kernel at ``address``.
        """
        self._outbox = OutboxReader(address)
        try:
            contract.require(self._outbox.header.contract)
            self._inbox_segment = Segment.open(self._outbox.header.inbox, writable=True)
        except Exception:
            self._outbox.close()
            raise
        self._inbox = InboxWriter(self._inbox_segment, contract.key, secrets.randbits(63) + 1)
        self.rate_hz = contract.rate_hz
        self._seen = -1

    def read(self) -> tuple[RobotState, SafetyResult]:
        """The newest sensed state and the verdict of the tick that read it. Never waits.

        Raises:
            KernelSilentError: The kernel has not ticked for a quarter of a second, or never did.
        """
        tick = self._newest()
        return tick.state, tick.result

    def read_next(self, timeout_s: float = 0.1) -> tuple[RobotState, SafetyResult]:
        """Like :meth:`read`, but wait for a tick that was not read before.

        Raises:
            KernelSilentError: No tick within ``timeout_s``.
        """
        if not self.await_tick(timeout_s):
            raise KernelSilentError(f"expected a tick of the safety kernel within {timeout_s:g} s, found none")
        return self.read()

    def await_tick(self, timeout_s: float) -> bool:
        """Wait for a tick that was not read before; whether it came within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self._outbox.count - 1 <= self._seen:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def send(self, command: JointCommand, events: tuple[OperatorEvent, ...] = ()) -> None:
        """Hand in a candidate and operator events; the next tick judges the newest. Never waits.

        Args:
            command: Values (n,) in the mode of the contract, stamped with ``time.monotonic_ns()`` or the state's stamp.
            events: Operator events; none is lost, even if a later message replaces this one.

        Raises:
            TakenOverError: Another controller attached after this one.
        """
        if self._inbox.replaced:
            raise TakenOverError("another controller attached to the safety kernel; attach again to take it back")
        self._inbox.send(command, events)

    def robot(self) -> KernelRobot:
        """The same as a ``Robot``, for the drivers of the control loop."""
        return KernelRobot(self)

    def newest_tick(self) -> KernelTick:
        """All of the newest tick.

        Raises:
            KernelSilentError: As in :meth:`read`.
        """
        return self._newest()

    def _newest(self) -> KernelTick:
        while True:
            tick = self._outbox.newest()
            if tick is None:
                raise KernelSilentError("expected a tick of the safety kernel, found none yet; wait until it is ready")
            silent_s = (time.monotonic_ns() - tick.now_ns) * 1e-9
            if silent_s <= _SILENT_S:
                self._seen = tick.tick
                return tick
            if self._outbox.count - 1 == tick.tick:  # otherwise it is this process that was not running
                raise KernelSilentError(
                    f"expected the safety kernel to tick, found its last tick {silent_s:.3g} s ago; the robot's own "
                    "command time-out must have stopped the arm: look at it before starting the kernel again"
                )

    def close(self) -> None:
        """Let go; the kernel holds the arm once the watchdog time is over."""
        self._outbox.close()
        self._inbox_segment.close()

    def __enter__(self) -> SafetyKernelClient:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class KernelRobot:
    """The robot behind the kernel as a ``controllers.protocols.Robot``.

    ``run_realtime`` drives it unchanged with ``clock=time.monotonic_ns``. The loop's own filter then judges first, and
    the kernel's, which stands between any controller and the arm, last.
    """

    def __init__(self, client: SafetyKernelClient) -> None:
        """Speak through ``client``."""
        self._client = client
        self._period_s = 1.0 / client.rate_hz
        self._tick: KernelTick | None = None

    def read(self) -> RobotState:
        """The newest sensed state, stamped by the robot on CLOCK_MONOTONIC.

        Waits for a tick that was not read before, for less than a period: the caller then runs in step with the kernel,
        and each of its commands is judged once. Out of step, the kernel would see a position command twice and
        then a double step, and slow it down.
        """
        self._client.await_tick(_WAIT_SHARE * self._period_s)
        self._tick = self._client.newest_tick()
        return self._tick.state

    def write(self, command: JointCommand) -> None:
        """Hand in a candidate; what the arm does is the kernel's to decide."""
        self._client.send(command)

    def physics_digest(self) -> bytes:
        """Digest of the state that :meth:`read` returned, if the kernel records it; empty otherwise."""
        return b"" if self._tick is None else self._tick.physics_digest

    @property
    def verdict(self) -> SafetyResult | None:
        """The kernel's verdict on the tick that was read; None before the first."""
        return None if self._tick is None else self._tick.result
