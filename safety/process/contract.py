"""What the kernel is built from, and the contract that a controller must share with it before they talk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Protocol

from controllers.protocols import Robot
from controllers.robot import RobotDescription, load_robot
from controllers.types import CommandMode, OperatorEvent, SafetyStatus
from safety.process.errors import ContractMismatchError, SafetyKernelError
from safety.profile import SafetyProfile

PROTOCOL_VERSION = 1
MODES = tuple(CommandMode)
STATUSES = tuple(SafetyStatus)
# Events of one tick are handed to the filter in this order: the more careful one comes last and has the last word.
EVENTS = (
    OperatorEvent.RESUME,
    OperatorEvent.RESET,
    OperatorEvent.ACKNOWLEDGE,
    OperatorEvent.HOLD,
    OperatorEvent.EMERGENCY_STOP,
)


class RobotFactory(Protocol):
    """Builds the robot inside the kernel's process; a picklable dataclass of a module that imports no torch."""

    def build(self) -> Robot:
        """The robot, at rest and ready. Its stamps are ``time.monotonic_ns()`` of the moment of sensing.

        ``read`` and ``write`` are called from two threads, one after the other; only when one of them hangs may the
        other be called meanwhile.
        """
        ...


@dataclass(frozen=True, slots=True)
class KernelContract:
    """What both sides must agree on.

    Attributes:
        robot: Name of the robot.
        robot_hash: ``RobotDescription.content_hash``.
        profile: Name of the safety profile.
        profile_hash: ``SafetyProfile.hash``.
        mode: What commands are: position, velocity or torque.
        rate_hz: Ticks per second of the kernel.
        joints: Number of arm joints.
        version: Version of the layout in shared memory.
    """

    robot: str
    robot_hash: str
    profile: str
    profile_hash: str
    mode: str
    rate_hz: int
    joints: int
    version: int = PROTOCOL_VERSION

    @staticmethod
    def of(description: RobotDescription, profile: SafetyProfile, mode: CommandMode, rate_hz: int) -> KernelContract:
        """The contract of a robot under a profile."""
        return KernelContract(
            robot=description.name,
            robot_hash=description.content_hash,
            profile=profile.name,
            profile_hash=profile.hash,
            mode=mode.value,
            rate_hz=rate_hz,
            joints=description.n,
        )

    @property
    def key(self) -> bytes:
        """16 bytes that key every checksum: a message under another contract is no message."""
        words = [str(getattr(self, field.name)) for field in fields(self)]
        words += [item.value for item in (*MODES, *STATUSES, *EVENTS)]
        return hashlib.blake2b("\0".join(words).encode(), digest_size=16).digest()

    def require(self, found: KernelContract) -> None:
        """Refuse another contract.

        Raises:
            ContractMismatchError: Names each field that differs, what this side expects and what the kernel has.
        """
        differ = [
            f"{field.name}: expected {getattr(self, field.name)}, found {getattr(found, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(found, field.name)
        ]
        if differ:
            raise ContractMismatchError(
                f"the safety kernel serves another contract than this controller was built for: {'; '.join(differ)}; "
                "load the same robot description and profile on both sides, or restart the kernel with this one"
            )


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """All that the kernel's process needs besides the robot.

    Attributes:
        robot: Built-in robot name, or path to a ``robot.yaml``.
        profile: What to enforce; its ``watchdog_ms`` is the longest time from the stamp of the last valid command to
            the start of braking.
        mode: What the robot takes.
        rate_hz: Ticks per second.
        ring_ticks: Ticks kept in shared memory for readers.
        orphan_grace_s: How long to keep holding the arm after the parent died, from rest on; then the kernel exits.
        physics_digests: Record ``Robot.physics_digest`` with every tick (simulation only).
        fifo_priority: Real-time priority to ask for.
    """

    robot: str
    profile: SafetyProfile
    mode: CommandMode
    rate_hz: int = 200
    ring_ticks: int = 1024
    orphan_grace_s: float = 60.0
    physics_digests: bool = False
    fifo_priority: int = 60

    @property
    def period_ns(self) -> int:
        """Control period, ns."""
        return 1_000_000_000 // self.rate_hz

    def contract(self) -> KernelContract:
        """What a controller must agree on."""
        return KernelContract.of(load_robot(self.robot), self.profile, self.mode, self.rate_hz)

    def enforced_profile(self) -> SafetyProfile:
        """The profile with the transport's share taken off the watchdog.

        The filter counts from the tick that took a command; a command has by then waited up to one period. One period
        for that wait, and half a period so that a late tick cannot shift which tick decides: braking then starts at
        most ``watchdog_ms`` (plus the lateness of one tick) after the *stamp* of the last valid command.

        Raises:
            SafetyKernelError: The watchdog is too short for the rate.
        """
        period_ms = 1000.0 / self.rate_hz
        timing = self.profile.timing
        if timing.watchdog_ms < 3.0 * period_ms:
            raise SafetyKernelError(
                f"profile {self.profile.name!r}: expected a watchdog of at least three control periods "
                f"({3.0 * period_ms:g} ms at {self.rate_hz} Hz), found {timing.watchdog_ms:g} ms; raise watchdog_ms or "
                "the kernel's rate"
            )
        return replace(self.profile, timing=replace(timing, watchdog_ms=timing.watchdog_ms - 1.5 * period_ms))
