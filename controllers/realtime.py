"""Real-time priority, locked memory, a fixed processor: what the system permits of it.

Linux lets real-time threads have 95% of a second in all (``sched_rt_runtime_us``). The tick is far below that, so
nothing is throttled as long as only the tick, and helpers that wait for most of the time, ask for this priority.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_SWITCH_INTERVAL_S = 2e-4  # how long another Python thread may keep the interpreter lock from the tick


@dataclass(frozen=True)
class RealtimeOptions:
    """What the control loop's thread asks of the system."""

    priority: int = 50
    """SCHED_FIFO priority of the tick, 1 to 98; 0 to stay an ordinary thread."""
    lock_memory: bool = True
    """Keep all memory of the process in RAM."""
    cpus: tuple[int, ...] = ()
    """Processors that the tick may run on; none given: any."""

    def __post_init__(self) -> None:
        """Refuse what no system grants.

        Raises:
            ValueError: A priority outside 0 to 98, or a processor that this process may not use.
        """
        if not 0 <= self.priority <= 98:
            raise ValueError(f"expected a real-time priority from 0 (none) to 98, found {self.priority}")
        check_cpus(self.cpus)


@dataclass(frozen=True, slots=True)
class RealtimeGrants:
    """What the system permitted.

    Attributes:
        fifo: SCHED_FIFO scheduling.
        locked: All memory is locked.
        message: What to change to get what was refused; empty if nothing was.
    """

    fifo: bool
    locked: bool
    message: str


def check_cpus(cpus: tuple[int, ...]) -> None:
    """Refuse processors that this process may not use.

    Raises:
        ValueError: Names them, and those that there are.
    """
    if not cpus:
        return
    usable = sorted(os.sched_getaffinity(os.getpid()))
    unknown = sorted(set(cpus) - set(usable))
    if unknown:
        raise ValueError(
            f"expected processors out of {usable}, found {unknown}; `taskset -pc $$` shows what is allowed"
        )


def go_realtime(priority: int) -> RealtimeGrants:
    """Ask for everything and end garbage collection, for good; threads that the caller starts later inherit it."""
    fifo, refused = _ask_fifo(priority, os.SCHED_FIFO)
    locked, complaint = _ask_lock()
    gc.collect()
    gc.freeze()
    gc.disable()
    return RealtimeGrants(fifo, locked, "; ".join(filter(None, (refused, complaint))))


@contextmanager
def realtime(options: RealtimeOptions) -> Generator[RealtimeGrants]:
    """Ask for everything for the calling thread while the block runs; what is refused is missing, and said.

    Threads and processes that start meanwhile do not inherit the priority: a second process at real-time priority
    could starve the tick, or spend what the system leaves to real time.
    """
    scheduler, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    affinity = os.sched_getaffinity(0)
    interval = sys.getswitchinterval()
    fifo, locked, refused, complaint = False, False, "", ""
    if options.cpus:
        os.sched_setaffinity(0, options.cpus)
    if options.priority:
        fifo, refused = _ask_fifo(options.priority, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)
    if options.lock_memory:
        locked, complaint = _ask_lock()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield RealtimeGrants(fifo, locked, "; ".join(filter(None, (refused, complaint))))
    finally:
        sys.setswitchinterval(interval)
        if locked:
            ctypes.CDLL(None).munlockall()
        if fifo:
            os.sched_setscheduler(0, scheduler, parameters)
        os.sched_setaffinity(0, affinity)


@contextmanager
def assisting(priority: int) -> Generator[bool]:
    """Real-time priority for a helper thread of the loop's process, just below the tick at ``priority``.

    Helpers share the interpreter's lock with the tick: one that was pushed off its processor while it held the lock
    would keep the tick waiting for as long as the machine is busy. Yields whether it was granted.
    """
    if priority < 2:
        yield False
        return
    scheduler, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    granted, _ = _ask_fifo(priority - 1, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)
    try:
        yield granted
    finally:
        if granted:
            os.sched_setscheduler(0, scheduler, parameters)


def _ask_fifo(priority: int, scheduler: int) -> tuple[bool, str]:
    try:
        os.sched_setscheduler(0, scheduler, os.sched_param(priority))
    except OSError as error:
        return False, (
            f"SCHED_FIFO {priority} refused ({error.strerror}): raise `ulimit -r` (add `@realtime - rtprio 98` to "
            "/etc/security/limits.conf) or grant CAP_SYS_NICE"
        )
    return True, ""


def _ask_lock() -> tuple[bool, str]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) == 0:
        return True, ""
    found = os.strerror(ctypes.get_errno())
    return False, f"mlockall refused ({found}): raise `ulimit -l` or grant CAP_IPC_LOCK"
