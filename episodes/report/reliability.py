"""A reliability plot as a page of its own: predicted probability of success against the share that succeeded."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from episodes.calibration import ReliabilityBin

_SIDE, _LEFT, _TOP = 320, 48, 12


def _x(share: float) -> float:
    return _LEFT + _SIDE * share


def _y(share: float) -> float:
    return _TOP + _SIDE * (1.0 - share)


def reliability_plot(bins: Sequence[ReliabilityBin]) -> str:
    """Inline SVG: a dot a bin with its Wilson interval; a model that is right lies on the diagonal."""
    parts: list[str] = []
    for step in range(0, 11, 2):
        share = step / 10.0
        parts.append(f'<line x1="{_x(0)}" x2="{_x(1)}" y1="{_y(share):.1f}" y2="{_y(share):.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{_y(share) + 3:.1f}">{share:g}</text>')
        parts.append(f'<text class="x" x="{_x(share):.1f}" y="{_y(0) + 16:.1f}">{share:g}</text>')
    dots: list[str] = []
    for item in bins:
        x, rate = _x(item.predicted), item.observed
        text = (
            f"predicted {item.predicted:.3f}, observed {rate.successes}/{rate.trials}, "
            f"{rate.low:.3f} to {rate.high:.3f}"
        )
        dots.append(
            f'<g class="stem taken"><title>{html.escape(text)}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(rate.low):.1f}" y2="{_y(rate.high):.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{_y(rate.rate):.1f}" r="4"/></g>'
        )
    diagonal = f'<polyline class="line c0 dashed" points="{_x(0)},{_y(0)} {_x(1)},{_y(1)}"/>'
    width, height = _LEFT + _SIDE + 16, _TOP + _SIDE + 40
    label = f'<text class="x" x="{_x(0.5):.1f}" y="{height - 6}">predicted probability of success</text>'
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="reliability" style="max-width:{width}px">'
        f'<g class="grid">{"".join(parts)}{label}</g>{diagonal}{"".join(dots)}</svg>'
    )


def write_reliability(
    path: Path, title: str, bins: Sequence[ReliabilityBin], tables: Sequence[tuple[str, Sequence[Sequence[str]]]]
) -> Path:
    """Write the page.

    Args:
        path: The file to write.
        title: Its heading.
        bins: What to plot.
        tables: Titles and rows of cells; the first row of each is its head.
    """
    template = resources.files("episodes.report").joinpath("page.html").read_text(encoding="utf-8")
    figure = (
        '<section><figure class="chart"><figcaption><strong>Reliability on held-out episodes</strong> '
        f"<i>share that succeeded, Wilson 95% intervals</i></figcaption>{reliability_plot(bins)}</figure></section>"
    )
    content = {"title": html.escape(title), "tiles": figure, "counts": "".join(_table(*table) for table in tables)}
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: content.get(match[1], ""), template)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    head, *body = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(rows))
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return (
        f"<section><h3>{html.escape(title)}</h3><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{lines}</tbody></table></section>"
    )


def _tagged(rows: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    return [("th" if index == 0 else "td", row) for index, row in enumerate(rows)]
