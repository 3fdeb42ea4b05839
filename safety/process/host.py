"""The kernel's process and the handle on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

from controllers.realtime import RealtimeGrants, go_realtime
from controllers.robot import load_robot
from safety.building import build_filter
from safety.process.contract import KernelConfig, KernelContract, RobotFactory
from safety.process.errors import SafetyKernelError
from safety.process.estop import BUTTON_SIZE, ButtonReader, EmergencyStop
from safety.process.inbox import INBOX_SIZE, InboxReader
from safety.process.kernel import KernelFlags, SafetyKernel
from safety.process.memory import Segment
from safety.process.outbox import Outbox, OutboxReader
from safety.process.records import KernelStatistics


class SafetyKernelProcess:
    """Parent-side handle: starts the kernel, says where it is, stops it. A context manager, or start and stop.

    The kernel outlives its parent: it then holds the arm, and leaves after ``KernelConfig.orphan_grace_s`` at rest.
    SIGUSR1 to :attr:`pid` is an emergency stop; SIGTERM asks it to hold and to leave once the arm is at rest.
    """

    def __init__(self, config: KernelConfig, factory: RobotFactory) -> None:
        """Keep the settings; :meth:`start` spawns the process.

        Raises:
            SafetyKernelError: The profile's watchdog is too short for the rate.
        """
        config.enforced_profile()
        self.config = config
        self.contract: KernelContract = config.contract()
        self._factory = factory
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._outbox: OutboxReader | None = None
        self._address = ""
        self._grants: RealtimeGrants | None = None

    # -- life

    def start(self) -> SafetyKernelProcess:
        """Spawn the process; :meth:`wait_ready` waits for it."""
        if self._process is not None:
            raise SafetyKernelError("the safety kernel was started already; make another SafetyKernelProcess")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, self.config, self._factory), name="safety-kernel")
        process.start()
        self._process = process
        theirs.close()
        return self

    def wait_ready(self, timeout_s: float = 120.0) -> str:
        """Wait until the kernel ticks.

        Returns:
            Its address, for clients, emergency stops and readers in any process of the same user.

        Raises:
            SafetyKernelError: It could not start; carries its traceback.
        """
        if self._address:
            return self._address
        if self._pipe is None or self._process is None:
            raise SafetyKernelError("the safety kernel was not started")
        try:
            raw = self._pipe.recv_bytes() if self._pipe.poll(timeout_s) else b""
        except EOFError:
            self._process.join(1.0)
            raise SafetyKernelError(
                f"the safety kernel ended while starting (exit code {self._process.exitcode})"
            ) from None
        if not raw:
            self._process.kill()
            raise SafetyKernelError(f"expected the safety kernel to be ready within {timeout_s:g} s; it was ended")
        reply = json.loads(raw)
        if "error" in reply:
            self._process.join(1.0)
            raise SafetyKernelError(f"the safety kernel could not start:\n{reply['error']}")
        self._address = str(reply["address"])
        self._grants = RealtimeGrants(bool(reply["fifo"]), bool(reply["locked"]), str(reply["message"]))
        self._outbox = OutboxReader(self._address)
        return self._address

    def stop(self, timeout_s: float = 10.0) -> KernelStatistics:
        """Have the kernel hold the arm, and end once it is at rest.

        Returns:
            Its last statistics.

        Raises:
            SafetyKernelError: It did not see the arm at rest within ``timeout_s``, and was ended all the same.
        """
        process = self._process
        if process is None:
            raise SafetyKernelError("the safety kernel was not started")
        if process.is_alive() and self._address:
            os.kill(self.pid, signal.SIGTERM)
            process.join(timeout_s)
        late = process.is_alive()
        if late:
            process.kill()
        process.join()
        if late and self._address:
            raise SafetyKernelError(
                f"expected the arm at rest within {timeout_s:g} s, found no such reading; the kernel was ended and the "
                "robot's own command time-out must stop the arm: look at it"
            )
        return self.statistics()

    def __enter__(self) -> SafetyKernelProcess:
        """Start and wait until ready."""
        if self._process is None:
            self.start()
        try:
            self.wait_ready()
        except SafetyKernelError:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; after an error, end it whatever the arm does."""
        if error is None:
            self.stop()
        else:
            try:
                self.stop()
            except SafetyKernelError:
                self.kill()

    def kill(self) -> None:
        """End the process at once, without bringing the arm to rest. For a robot that no longer answers."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    # -- what it says

    @property
    def address(self) -> str:
        """Where clients, emergency stops and readers find the kernel."""
        return self.wait_ready()

    @property
    def pid(self) -> int:
        """Process id of the kernel."""
        if self._process is None or self._process.pid is None:
            raise SafetyKernelError("the safety kernel was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """The process exists."""
        return self._process is not None and self._process.is_alive()

    @property
    def grants(self) -> RealtimeGrants:
        """What the system permitted of real-time priority and locked memory."""
        self.wait_ready()
        assert self._grants is not None
        return self._grants

    def statistics(self) -> KernelStatistics:
        """Counts, lateness and the newest events; also after the kernel has ended."""
        self.wait_ready()
        assert self._outbox is not None
        return self._outbox.statistics()

    def reader(self) -> OutboxReader:
        """A reader for an episode recorder: :meth:`OutboxReader.drain` hands out every tick, from the oldest kept."""
        return OutboxReader(self.address, oldest=True)

    def emergency_stop(self) -> EmergencyStop:
        """A handle on the emergency-stop button."""
        return EmergencyStop(self.address)


def _serve(pipe: Connection, config: KernelConfig, factory: RobotFactory) -> None:
    """The kernel's process."""
    flags = KernelFlags()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    def on_signal(number: int, _: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            flags.emergency_stop = True
        else:
            flags.told_to_stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGUSR1, on_signal)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        kernel, address, grants = _assemble(config, factory, flags)
    except Exception:
        pipe.send_bytes(json.dumps({"error": traceback.format_exc()}).encode())
        return
    threading.Thread(target=_watch_parent, args=(flags,), name="safety-parent", daemon=True).start()
    reply = {"address": address, "fifo": grants.fifo, "locked": grants.locked, "message": grants.message}
    try:
        pipe.send_bytes(json.dumps(reply).encode())
    except OSError:
        flags.orphaned = True
    pipe.close()
    kernel.run()


def _assemble(
    config: KernelConfig, factory: RobotFactory, flags: KernelFlags
) -> tuple[SafetyKernel, str, RealtimeGrants]:
    contract = config.contract()
    # A hold before the first command is in the mode of the description; the robot may be driven in another.
    description = replace(load_robot(config.robot), actuator_mode=config.mode.value)
    safety = build_filter(description, config.enforced_profile())
    inbox = Segment.create("safety-inbox", INBOX_SIZE, only_mine=False)
    button = Segment.create("safety-button", BUTTON_SIZE, only_mine=False)
    outbox = Outbox(contract, config.ring_ticks, inbox, button)
    robot = factory.build()
    grants = go_realtime(config.fifo_priority)  # before the threads that call the robot: they inherit it
    future_ns = round(config.profile.timing.future_tolerance_ms * 1e6)
    kernel = SafetyKernel(
        config,
        safety,
        robot,
        InboxReader(inbox, contract.key, future_ns),
        ButtonReader(button),
        outbox,
        flags,
    )
    return kernel, f"/proc/{os.getpid()}/fd/{outbox.segment.fd}", grants


def _watch_parent(flags: KernelFlags) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        flags.orphaned = True
