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


class Stolen:
    """The share of the processors' time that a host gave to others since this was made: nobody here could use it."""

    def __init__(self) -> None:
        """From now."""
        self._before = _processor_ticks()

    def share(self) -> float:
        """Until now; 0 where the system does not tell."""
        spent = [now - before for before, now in zip(self._before, _processor_ticks(), strict=True)]
        return spent[_STEAL] / sum(spent) if len(spent) > _STEAL and sum(spent) else 0.0


_STEAL = 7  # column of /proc/stat's first line: user nice system idle iowait irq softirq steal; see proc(5)


def _processor_ticks() -> list[int]:
    stat = Path("/proc/stat")
    return [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]] if stat.is_file() else []


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
