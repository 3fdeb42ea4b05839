"""Delays for ``vla replay --latency``: one number, or a trace that is repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

_MS = 1_000_000


def latency_model(text: str) -> Callable[[int], int]:
    """The delay in ns of the chunk with a number.

    Args:
        text: ``80ms``, or a file with a delay in ms for each chunk, begun again at its end: JSON list, text with one a
            line, or ``.npy``.

    Raises:
        ValueError: Neither; or a delay that is negative or no number.
    """
    if text.endswith("ms"):
        try:
            delays = [float(text[:-2])]
        except ValueError:
            raise ValueError(f"expected a delay such as 80ms, found {text!r}") from None
    else:
        path = Path(text)
        if not path.is_file():
            raise ValueError(f"expected a delay such as 80ms or a file of delays in ms, found {text!r}")
        delays = _read(path)
    if not delays or not all(np.isfinite(value) and value >= 0.0 for value in delays):
        raise ValueError(f"{text}: expected delays of 0 ms or more, found {delays[:5]}")
    trace = [round(value * _MS) for value in delays]
    return lambda number: trace[number % len(trace)]


def _read(path: Path) -> list[float]:
    try:
        if path.suffix == ".npy":
            return [float(value) for value in np.load(path, allow_pickle=False).ravel()]
        content = path.read_text()
        values = json.loads(content) if path.suffix == ".json" else content.split()
        return [float(value) for value in values]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected delays in ms, found something else ({error})") from error
