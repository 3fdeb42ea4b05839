"""The safety kernel in a process of its own, between any controller and any robot.

The kernel owns the robot: it alone reads and writes it, at the control rate, and passes every candidate through the
safety filter. If the controller dies, hangs or babbles, the arm stops within the profile's watchdog time.

* :class:`SafetyKernelProcess` starts and stops the kernel (parent side).
* :class:`SafetyKernelClient` hands in commands (controller side); its ``robot()`` is a ``Robot``.
* :class:`EmergencyStop` is the button, for any process.
* :class:`OutboxReader` drains every tick, for a recorder.
"""

from safety.process.client import KernelRobot, SafetyKernelClient
from safety.process.contract import KernelConfig, KernelContract, RobotFactory
from safety.process.errors import ContractMismatchError, KernelSilentError, SafetyKernelError, TakenOverError
from safety.process.estop import EmergencyStop
from safety.process.host import SafetyKernelProcess
from safety.process.outbox import OutboxReader
from safety.process.records import EventKind, KernelCounters, KernelEvent, KernelStatistics, KernelTick

__all__ = [
    "ContractMismatchError",
    "EmergencyStop",
    "EventKind",
    "KernelConfig",
    "KernelContract",
    "KernelCounters",
    "KernelEvent",
    "KernelRobot",
    "KernelSilentError",
    "KernelStatistics",
    "KernelTick",
    "OutboxReader",
    "RobotFactory",
    "SafetyKernelClient",
    "SafetyKernelError",
    "SafetyKernelProcess",
    "TakenOverError",
]
