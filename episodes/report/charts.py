"""Line charts, strips and bars as inline SVG: small, sharp, and themed by the page's style sheet."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from controllers.types import FloatArray

WIDTH = 620
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20
_BUCKETS = 280  # each keeps its smallest and largest value, so no spike is lost
_COLORS = 8


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        label: Name in the legend.
        values: (T,) values; what is not finite leaves a gap.
        color: Index into the palette.
        dashed: Draw dashed.
        strong: Draw thicker.
    """

    label: str
    values: FloatArray
    color: int
    dashed: bool = False
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time on a strip.

    Attributes:
        start: s.
        end: s.
        kind: Its meaning: a CSS class and the text of its tooltip.
    """

    start: float
    end: float
    kind: str


@dataclass(frozen=True, slots=True)
class Stem:
    """An event with a height.

    Attributes:
        time: s.
        value: Height, in the unit of the axis.
        kind: CSS class.
        text: Tooltip.
    """

    time: float
    value: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over time.

    Attributes:
        title: Above it.
        unit: Of the vertical axis.
        time: (T,) s.
        series: Lines.
        spans: A strip along the top.
        stems: Events.
        height: In units of the view box.
        floor: Value that the axis must include, None for any.
    """

    title: str
    unit: str
    time: FloatArray
    series: Sequence[Series] = ()
    spans: Sequence[Span] = ()
    stems: Sequence[Stem] = ()
    height: int = 150
    floor: float | None = None
    notes: str = field(default="")


def render(chart: Chart) -> str:
    """The chart as an HTML figure."""
    end = max(float(chart.time[-1]), 1e-3) if len(chart.time) else 1.0
    strip = 14 if chart.spans else 0
    top, bottom = _TOP + strip + (6 if strip else 0), chart.height - _BOTTOM
    low, high = _limits(chart)
    body = [_grid(low, high, end, top, bottom), _strip(chart.spans, end, strip)]
    body += [_line(chart.time, series, end, low, high, top, bottom) for series in chart.series]
    body += [_stem(stem, end, low, high, top, bottom) for stem in chart.stems]
    body.append(f'<line class="cursor" x1="0" x2="0" y1="{_TOP}" y2="{bottom}"/>')
    legend = "".join(
        f'<span class="key c{s.color % _COLORS}{" dashed" if s.dashed else ""}">{html.escape(s.label)}'
        f'<b data-series="{index}"></b></span>'
        for index, s in enumerate(chart.series)
    )
    digits = max(0, min(6, 2 - math.floor(math.log10(high - low))))
    data = json.dumps(_readout(chart, digits), separators=(",", ":"))
    note = f"<small>{html.escape(chart.notes)}</small>" if chart.notes else ""
    return (
        f'<figure class="chart" data-end="{end:.4f}" data-left="{_LEFT}" data-right="{_RIGHT}" data-width="{WIDTH}">'
        f"<figcaption><strong>{html.escape(chart.title)}</strong> <i>{html.escape(chart.unit)}</i>{legend}{note}"
        f"</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {chart.height}" role="img" aria-label="{html.escape(chart.title)}">'
        f'{"".join(body)}</svg><script type="application/json">{data}</script></figure>'
    )


def runs(codes: Sequence[str], time: FloatArray, end: float) -> list[Span]:
    """Join equal neighbours to spans; the last lasts until ``end``."""
    spans: list[Span] = []
    for index, code in enumerate(codes):
        start = float(time[index])
        if spans and spans[-1].kind == code:
            continue
        if spans:
            spans[-1] = Span(spans[-1].start, start, spans[-1].kind)
        spans.append(Span(start, end, code))
    return spans


def _limits(chart: Chart) -> tuple[float, float]:
    parts = [series.values[np.isfinite(series.values)] for series in chart.series]
    parts.append(np.array([stem.value for stem in chart.stems if math.isfinite(stem.value)]))
    if chart.floor is not None:
        parts.append(np.array([chart.floor]))
    values = np.concatenate(parts)
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if low == chart.floor else (low - 0.5, high + 0.5)
    pad = 0.06 * (high - low)
    return (low if low == chart.floor else low - pad), high + pad


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers within [low, high]."""
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1.0, 2.0, 5.0, 10.0) if m * magnitude >= raw)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _x(time: float, end: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * time / end


def _y(value: float, low: float, high: float, top: float, bottom: float) -> float:
    return bottom - (bottom - top) * (value - low) / (high - low)


def _grid(low: float, high: float, end: float, top: float, bottom: float) -> str:
    parts: list[str] = []
    for value in _ticks(low, high, 4):
        y = _y(value, low, high, top, bottom)
        zero = ' class="zero"' if value == 0 else ""
        parts.append(f'<line{zero} x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y + 3:.1f}">{value:.6g}</text>')
    parts += [
        f'<text class="x" x="{_x(value, end):.1f}" y="{bottom + 14:.1f}">{value:g}{" s" if value == 0 else ""}</text>'
        for value in _ticks(0.0, end, 8)
    ]
    return f'<g class="grid">{"".join(parts)}</g>'


def _strip(spans: Sequence[Span], end: float, height: int) -> str:
    return "".join(
        f'<rect class="span {span.kind}" x="{_x(span.start, end):.2f}" y="{_TOP}" '
        f'width="{max(_x(span.end, end) - _x(span.start, end), 0.8):.2f}" height="{height}">'
        f"<title>{html.escape(span.kind.replace('_', ' '))} {span.start:.2f} to {span.end:.2f} s</title></rect>"
        for span in spans
    )


def thin(time: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Fewer points with the same outline: the extremes of each bucket, in order of time."""
    count = len(values)
    if count <= 2 * _BUCKETS:
        return time, values
    edges = np.linspace(0, count, _BUCKETS + 1).astype(np.int64)
    keep: list[int] = []
    for start, stop in pairwise(edges.tolist()):
        part = values[start:stop]
        if np.isfinite(part).all():
            keep.extend(sorted({int(start + part.argmin()), int(start + part.argmax())}))
        else:
            keep.extend((int(start), int(stop - 1)))
    return time[keep], values[keep]


def _line(time: FloatArray, series: Series, end: float, low: float, high: float, top: float, bottom: float) -> str:
    times, values = thin(time, series.values)
    pieces: list[list[str]] = [[]]
    for t, value in zip(times.tolist(), values.tolist(), strict=True):
        if math.isfinite(value):
            pieces[-1].append(f"{_x(t, end):.1f},{_y(value, low, high, top, bottom):.1f}")
        elif pieces[-1]:
            pieces.append([])
    style = f"line c{series.color % _COLORS}{' dashed' if series.dashed else ''}{' strong' if series.strong else ''}"
    return "".join(f'<polyline class="{style}" points="{" ".join(piece)}"/>' for piece in pieces if piece)


def _stem(stem: Stem, end: float, low: float, high: float, top: float, bottom: float) -> str:
    x, y = _x(stem.time, end), _y(min(max(stem.value, low), high), low, high, top, bottom)
    return (
        f'<g class="stem {stem.kind}"><title>{html.escape(stem.text)}</title>'
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6"/></g>'
    )


def _readout(chart: Chart, digits: int) -> dict[str, object]:
    """Values for the numbers in the legend that follow the cursor, evenly spaced in time."""
    count = min(len(chart.time), 300)
    if not count or not chart.series:
        return {"values": []}
    index = np.linspace(0, len(chart.time) - 1, count).astype(np.int64)
    rows = [
        [f"{value:.{digits}f}" if math.isfinite(value) else None for value in series.values[index].tolist()]
        for series in chart.series
    ]
    return {"values": rows}


def rate_bar(low: float, rate: float, high: float) -> str:
    """A bar for a success rate with the whiskers of its interval."""
    return (
        '<svg class="rate" viewBox="0 0 200 18" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" x="0" y="3" width="200" height="12" rx="3"/>'
        f'<rect class="bar" x="0" y="3" width="{200 * rate:.1f}" height="12" rx="3"/>'
        f'<line x1="{200 * low:.1f}" x2="{200 * high:.1f}" y1="9" y2="9"/>'
        f'<line x1="{200 * low:.1f}" x2="{200 * low:.1f}" y1="5" y2="13"/>'
        f'<line x1="{200 * high:.1f}" x2="{200 * high:.1f}" y1="5" y2="13"/></svg>'
    )
