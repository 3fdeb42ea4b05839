"""Running figures of the last seconds, for diagnostics."""

from __future__ import annotations

from collections import deque

import numpy as np


class Statistics:
    """Median, 99th percentile and largest of the newest values."""

    def __init__(self, size: int = 1000) -> None:
        """Keep ``size`` values."""
        self._values: deque[float] = deque(maxlen=size)

    def add(self, value: float) -> None:
        """Take one value."""
        self._values.append(value)

    def percentiles(self, scale: float) -> tuple[float, float, float]:
        """Median, 99th percentile and largest, times ``scale``; NaN where there is nothing."""
        if not self._values:
            nan = float("nan")
            return nan, nan, nan
        p50, p99, most = np.percentile(np.fromiter(self._values, float), (50, 99, 100)) * scale
        return float(p50), float(p99), float(most)

    def words(self, scale: float) -> str:
        """The three figures as text."""
        p50, p99, most = self.percentiles(scale)
        return f"p50 {p50:.3f} p99 {p99:.3f} max {most:.3f}"
