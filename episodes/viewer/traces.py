"""Time series of an episode for the viewer's plots, and the short stretch of them around one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.types import FloatArray
from episodes.episode import Episode

WINDOW_S = 3.0  # before and after the moment
_POINTS = 240


@dataclass(frozen=True, slots=True)
class Trace:
    """One line.

    Attributes:
        label: What it is.
        values: (T,) over the ticks.
        color: CSS.
        dashed: Drawn dashed: what was wanted rather than what was.
    """

    label: str
    values: FloatArray
    color: str
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines with a common axis.

    Attributes:
        title: Heading, with the unit.
        traces: The lines.
    """

    title: str
    traces: tuple[Trace, ...]


_COLORS = ("#2f6fde", "#d9480f", "#2b8a3e", "#9c36b5")


def times_s(episode: Episode) -> FloatArray:
    """(T,) seconds since the first tick."""
    stamps = episode.ticks.now_ns
    return np.asarray((stamps - (stamps[0] if len(stamps) else 0)) * 1e-9, np.float64)


def plots(episode: Episode) -> tuple[Plot, ...]:
    """What is worth a line: targets against measured, lag, forces, the safety filter's scale and margin."""
    ticks = episode.ticks
    reference, sensed = ticks.commanded_pose, ticks.state_ee_pose
    with np.errstate(over="ignore", invalid="ignore"):
        lag = 1e3 * np.linalg.norm(reference[:, :3] - sensed[:, :3], axis=1)
        force = np.linalg.norm(ticks.state_wrench[:, :3], axis=1)
    axes = tuple(
        Plot(
            f"end effector {axis}, m",
            (
                Trace("target", reference[:, index], _COLORS[1], dashed=True),
                Trace("measured", sensed[:, index], _COLORS[0]),
            ),
        )
        for index, axis in enumerate("xyz")
    )
    return (
        *axes,
        Plot("lag behind the target, mm", (Trace("lag", lag, _COLORS[0]),)),
        Plot("wrist force, N", (Trace("force", force, _COLORS[0]),)),
        Plot(
            "safety: speed scale and smallest margin",
            (
                Trace("speed scale", ticks.safety_speed_scale, _COLORS[2]),
                Trace("smallest margin", np.clip(ticks.safety_min_margin, -1.0, 1.5), _COLORS[3]),
            ),
        ),
        Plot(
            "gripper, m",
            (
                Trace("commanded", ticks.applied_gripper_opening, _COLORS[1], dashed=True),
                Trace("measured", ticks.state_gripper_opening, _COLORS[0]),
            ),
        ),
    )


def window(times: FloatArray, plot: Plot, index: int) -> tuple[FloatArray, ...]:
    """Times relative to tick ``index`` (W,), then the values (W,) of each trace; thinned, not finite as NaN."""
    now = float(times[index])
    start, stop = int(np.searchsorted(times, now - WINDOW_S)), int(np.searchsorted(times, now + WINDOW_S))
    rows = np.unique(np.linspace(start, max(start, stop - 1), _POINTS).astype(np.int64))
    lines = (np.where(np.isfinite(trace.values[rows]), trace.values[rows], np.nan) for trace in plot.traces)
    return (times[rows] - times[index], *lines)
