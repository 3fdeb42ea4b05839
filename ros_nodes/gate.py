"""Who sends garbage is not listened to for a while: a gate before whatever acts on messages.

The safety filter holds on each bad command. A sender that mixes good and bad ones would make the arm stutter; one that
sends too many would decide which of them counts. So a fault closes the gate until a clean time has passed.
"""

from __future__ import annotations

from collections import deque

_WINDOW_PERIODS = 10
_BURST = 1.3  # times the expected number in a window


class Gate:
    """Counts faults and arrivals of one stream.

    Attributes:
        fault: What the last fault was, empty if there was none.
        refused: Messages that were not let through.
        total: Messages that came.
    """

    def __init__(self, what: str, expected_hz: float, quarantine_ms: float = 250.0) -> None:
        """Watch a stream.

        Args:
            what: Name of the stream, for messages.
            expected_hz: Its rate; a third more within ten periods is babble. 0 does not look at the rate.
            quarantine_ms: How long the gate stays closed after the last fault.
        """
        self._what = what
        self._expected_hz = expected_hz
        self._window_ns = round(_WINDOW_PERIODS / expected_hz * 1e9) if expected_hz > 0 else 0
        self._most = round(_WINDOW_PERIODS * _BURST)
        self._quarantine_ns = round(quarantine_ms * 1e6)
        self._times: deque[int] = deque(maxlen=self._most + 1)
        self._closed_until = 0
        self.fault = ""
        self.refused = self.total = 0

    def arrived(self, now_ns: int) -> bool:
        """Note an arrival; whether it may be looked at."""
        self.total += 1
        times = self._times
        times.append(now_ns)
        if self._window_ns and len(times) > self._most and now_ns - times[0] < self._window_ns:
            found = (len(times) - 1) / max(now_ns - times[0], 1) * 1e9
            self.refuse(now_ns, f"{self._what}: babble, {found:.0f} Hz where {self._expected_hz:g} Hz are expected")
            return False
        if now_ns < self._closed_until:
            self.refused += 1
            return False
        return True

    def refuse(self, now_ns: int, why: str) -> None:
        """Close the gate."""
        self.refused += 1
        self.fault = why
        self._closed_until = now_ns + self._quarantine_ns

    def closed(self, now_ns: int) -> bool:
        """Whether nothing is let through now."""
        return now_ns < self._closed_until
