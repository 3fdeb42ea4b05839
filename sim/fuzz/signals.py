"""Numbers in [-1, 1] that attackers turn into commands."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from sim.fuzz.plan import Attack

_BANDWIDTHS_HZ = (0.5, 2.0, 8.0, 30.0)
_PERIODS_S = (0.01, 0.04, 0.15, 0.5, 1.5)


def signal_table(attack: Attack, rng: np.random.Generator, size: int, ticks: int, dt: float) -> FloatArray:
    """The signal of an attack, one row a tick.

    Args:
        attack: Which; those without a signal of their own get smooth noise.
        rng: Source of chance.
        size: Columns.
        ticks: Rows.
        dt: Control period, s.

    Returns:
        (ticks, size).
    """
    if attack is Attack.BANG_BANG:
        return _bang_bang(rng, size, ticks, dt)
    if attack is Attack.MAX:
        return _extremes(rng, size, ticks, dt)
    if attack is Attack.RANDOM and rng.random() < 0.25:
        return rng.uniform(-1.0, 1.0, (ticks, size))
    return _smooth(rng, size, ticks, dt)


def _smooth(rng: np.random.Generator, size: int, ticks: int, dt: float) -> FloatArray:
    """Noise through two low-pass filters, scaled to fill the range."""
    share = 1.0 - np.exp(-2.0 * np.pi * float(rng.choice(_BANDWIDTHS_HZ)) * dt)
    noise = rng.normal(size=(ticks, size))
    table = np.empty((ticks, size))
    first, second = np.zeros(size), np.zeros(size)
    for row in range(ticks):
        first = first + share * (noise[row] - first)
        second = second + share * (first - second)
        table[row] = second
    scale = max(float(np.abs(table).max()), 1e-9)
    return np.clip(1.5 * table / scale, -1.0, 1.0)


def _bang_bang(rng: np.random.Generator, size: int, ticks: int, dt: float) -> FloatArray:
    """Square waves: all columns at one period or each at its own, some of them still."""
    periods = rng.choice(_PERIODS_S, size=size if rng.random() < 0.5 else 1)
    phases = rng.choice([0.0, 0.25, 0.5, 0.75], size=size)
    active = rng.random(size) < 0.7
    time = dt * np.arange(ticks)[:, None]
    return np.where(np.floor(2.0 * (time / periods + phases)) % 2.0 == 0.0, 1.0, -1.0) * active


def _extremes(rng: np.random.Generator, size: int, ticks: int, dt: float) -> FloatArray:
    """Constant signs, changed about every second."""
    table = np.empty((ticks, size))
    row = 0
    while row < ticks:
        length = max(1, int(rng.uniform(0.3, 2.0) / dt))
        table[row : row + length] = rng.choice([-1.0, 0.0, 1.0], size=size, p=[0.45, 0.1, 0.45])
        row += length
    return table
