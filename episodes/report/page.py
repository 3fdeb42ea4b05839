"""Puts a report together: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from episodes.errors import EpisodeError
from episodes.reader import open_episode
from episodes.report.sections import (
    counts_table,
    episode_section,
    episode_table,
    identity_table,
    intervened_ticks,
    task_table,
    tiles,
)
from episodes.results import ResultRow

MAX_BYTES = 15_000_000
DETAILED_EPISODES = 4


def write_report(
    episodes_dir: Path,
    results: Sequence[ResultRow],
    out_html: Path,
    *,
    title: str = "Evaluation",
    selected: Sequence[str] | None = None,
) -> Path:
    """Write the report of an evaluation.

    Args:
        episodes_dir: Folder of the recorded episodes.
        results: A row for each episode, recorded or not.
        out_html: The file to write.
        title: Its heading.
        selected: Names of the episodes to show in detail; default is a telling choice of at most four.

    Returns:
        ``out_html``.

    Raises:
        EpisodeError: A selected episode cannot be read.
    """
    rows = sorted(results, key=lambda row: (row.task, row.seed, row.instruction))
    names = list(select_episodes(rows) if selected is None else selected)
    names = [name for name in names if selected is not None or (episodes_dir / name).is_dir()]
    sections: list[str] = []
    shown: list[str] = []
    notes: list[str] = []
    identity, size = "", 0
    for name in names:
        try:
            episode = open_episode(episodes_dir / name)
            section = episode_section(episode)
        except EpisodeError as error:
            if selected is not None:
                raise
            notes.append(f"An episode could not be shown. {error}")
            continue
        if sections and size + len(section) > MAX_BYTES:
            notes.append(f"Left out to keep the file small: {name}.")
            continue
        identity = identity or identity_table(episode)
        size += len(section)
        shown.append(name)
        sections.append(section)
    template = resources.files("episodes.report").joinpath("page.html").read_text(encoding="utf-8")
    content = {
        "title": html.escape(title),
        "tiles": tiles(rows),
        "identity": identity,
        "tasks": task_table(rows),
        "counts": counts_table(rows),
        "episodes": episode_table(rows, shown),
        "notes": "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        "details": "".join(sections),
    }
    # One pass, so that braces in an instruction stay what they are.
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: content[match[1]], template)
    out_html.parent.mkdir(parents=True, exist_ok=True)
    out_html.write_text(page, encoding="utf-8")
    return out_html


def select_episodes(rows: Sequence[ResultRow], count: int = DETAILED_EPISODES) -> list[str]:
    """A telling choice: the busiest safety filter, the most rejections, a failure, a success; no name twice."""
    recorded = [row for row in rows if row.episode]
    wishes = [
        [row for row in sorted(recorded, key=lambda row: -intervened_ticks(row)) if intervened_ticks(row)][:1],
        [row for row in sorted(recorded, key=lambda row: -sum(row.rejections.values())) if row.rejections][:1],
        [row for row in recorded if not row.success],
        [row for row in recorded if row.success],
    ]
    names: list[str] = []
    for wish in wishes:
        names += [row.episode for row in wish if row.episode not in names][:1]
    names += [row.episode for row in recorded if row.episode not in names]
    return names[:count]
