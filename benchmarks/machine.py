"""What a figure needs beside it: the machine and its load."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and under what load a benchmark ran.

    Attributes:
        cpu: Processor.
        cores: Logical processors.
        load: Load average of the last minute when the benchmark began.
        python: Version.
    """

    cpu: str
    cores: int
    load: float
    python: str

    @staticmethod
    def here() -> Machine:
        """This machine, now."""
        return Machine(_cpu(), os.cpu_count() or 1, round(os.getloadavg()[0], 2), platform.python_version())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of what is timed, as the real-time driver does while it runs."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
