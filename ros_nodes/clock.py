"""The time that all nodes of a graph count in."""

from __future__ import annotations

import time

_CLOCK_SAMPLES = 5


class GraphClock:
    """The graph's time: the monotonic clock, shifted once to where ROS stamps count from.

    Stamps of different nodes can be compared, and time goes on evenly in each node, whoever else has died. A step of
    the system's clock makes all foreign stamps stale or early: the graph holds until it is activated again.
    """

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._samples = 0

    def follow(self, clock_ns: int) -> bool:
        """Take a sample of a simulated clock; True once there are enough.

        The sample with the shortest way through the middleware counts.
        """
        offset = clock_ns - time.monotonic_ns()
        self._offset_ns = offset if not self._samples else max(self._offset_ns, offset)
        self._samples += 1
        return self._samples >= _CLOCK_SAMPLES

    def now_ns(self) -> int:
        """Now."""
        return time.monotonic_ns() + self._offset_ns

    def at(self, monotonic_ns: int) -> int:
        """A moment of the monotonic clock on this clock."""
        return monotonic_ns + self._offset_ns
