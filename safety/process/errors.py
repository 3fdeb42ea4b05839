"""Errors of the safety kernel's two sides."""


class SafetyKernelError(RuntimeError):
    """The safety kernel cannot be started, reached or spoken to."""


class ContractMismatchError(SafetyKernelError):
    """The two sides were built for different robots, profiles, modes, rates or versions; they refuse to talk."""


class KernelSilentError(SafetyKernelError):
    """The kernel no longer ticks; the robot's own command time-out must stop the arm now."""


class TakenOverError(SafetyKernelError):
    """Another controller attached after this one; the kernel listens to the newest only."""
