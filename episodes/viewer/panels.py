"""The viewer's panels as HTML: state of the tick, tokens of the chunk being played, margins, events."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from controllers.types import ExecutorStatus, FloatArray, SafetyStatus
from episodes.episode import Episode
from episodes.packing import EventRow
from episodes.schema import EventKind

_STATUSES = tuple(SafetyStatus)
_EXECUTOR = tuple(ExecutorStatus)
_COLORS = {
    SafetyStatus.RUN: "#2b8a3e",
    SafetyStatus.LIMITING: "#e67700",
    SafetyStatus.HOLD: "#d9480f",
    SafetyStatus.PROTECTIVE_STOP: "#c92a2a",
    SafetyStatus.EMERGENCY_STOP: "#c92a2a",
    SafetyStatus.OFF: "#868e96",
}
_STYLE = "font:12px/1.45 system-ui,sans-serif;padding:2px 8px"
_EVENTS_SHOWN = 12


def _page(body: str) -> str:
    return f'<div style="{_STYLE}">{body}</div>'


def state_panel(episode: Episode, index: int, time_s: float) -> str:
    """Time, safety verdict and executor of one tick."""
    ticks = episode.ticks
    status = _STATUSES[int(ticks.safety_status[index])]
    reasons = episode.decoder.outputs(index).safety.reasons
    why = "".join(
        f"<br>{html.escape(reason.limit)} {reason.margin:.3g} {html.escape(reason.message)}" for reason in reasons
    )
    executor = _EXECUTOR[int(ticks.executor_status[index])].value
    badge = (
        f'<b style="color:#fff;background:{_COLORS[status]};padding:1px 6px;border-radius:3px">'
        f"{status.value.replace('_', ' ')}</b>"
    )
    return _page(
        f"<b>{time_s:.3f} s</b> &middot; tick {int(ticks.tick[index])}<br>"
        f"safety {badge} scale {float(ticks.safety_speed_scale[index]):.2f}, "
        f"smallest margin {float(ticks.safety_min_margin[index]):.3g}{why}<br>"
        f"executor {executor}, chunk {int(ticks.executor_chunk_id[index])}, "
        f"row {float(ticks.executor_phase[index]):.2f}"
    )


def tokens_panel(episode: Episode, index: int) -> str:
    """The tokens of the chunk being played, its present row marked."""
    ticks, chunks = episode.ticks, episode.chunks
    playing = int(ticks.executor_chunk_id[index])
    rows = np.flatnonzero((chunks.chunk_id == playing) & (chunks.malformed == 0))
    if playing < 0 or not len(rows):
        return _page("no chunk")
    tokens = chunks.tokens[rows[-1]]
    phase = float(ticks.executor_phase[index])
    current = int(phase) if np.isfinite(phase) else -1
    names = episode.manifest.action_spec.get("names")
    heads = [str(name) for name in names] if isinstance(names, list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    lines: list[str] = []
    for row, values in enumerate(tokens.tolist()):
        mark = "background:#ffe8cc;color:#000" if row == current else ""
        cells = "".join(f'<td style="text-align:right;padding:0 4px">{value}</td>' for value in values)
        lines.append(f'<tr style="{mark}"><td>{row + 1}</td>{cells}</tr>')
    arrival = int(chunks.arrival_tick[rows[-1]])
    age_ms = float(chunks.inference_ns[rows[-1]]) * 1e-6
    return _page(
        f"chunk {playing}, arrived on tick {arrival}, inference {age_ms:.1f} ms"
        f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"
    )


def margins_panel(margins: Mapping[str, FloatArray], index: int) -> str:
    """A bar for each limit: full is comfortable, empty is the limit, red is beyond."""
    found = {name: float(values[index]) for name, values in margins.items() if np.isfinite(values[index])}
    if not found:
        return _page("not known: the margins come from simulating the episode again")
    lines: list[str] = []
    for name, margin in sorted(found.items(), key=lambda item: item[1]):
        width = 100 * min(1.0, max(0.0, margin))
        color = "#c92a2a" if margin < 0 else "#e67700" if margin < 0.1 else "#2b8a3e"
        lines.append(
            f'<tr><td>{html.escape(name.replace("_", " "))}</td><td style="width:90px;background:#e9ecef">'
            f'<i style="display:block;height:8px;width:{width:.0f}%;background:{color}"></i></td>'
            f'<td style="text-align:right;padding-left:6px">{margin:.3f}</td></tr>'
        )
    return _page(f"<table>{''.join(lines)}</table>")


def events_panel(events: Sequence[EventRow], tick: int) -> str:
    """The events up to a tick, the latest first, and how many are to come."""
    shown = [event for event in events if event.kind is not EventKind.TARGET_FRAME]
    past = [event for event in shown if event.tick <= tick]
    lines = "".join(
        f"<tr><td>{event.tick}&emsp;</td><td>{html.escape(_words(event))}</td></tr>"
        for event in reversed(past[-_EVENTS_SHOWN:])
    )
    return _page(f"{len(past)} so far, {len(shown) - len(past)} to come<table>{lines}</table>")


def _words(event: EventRow) -> str:
    match event.kind:
        case EventKind.ACCEPTED:
            return f"chunk {event.chunk_id} taken"
        case EventKind.REJECTION:
            return f"chunk {event.chunk_id} refused: {event.name} {event.message}"
        case EventKind.SAFETY_REASON:
            return f"{event.name} {event.value:.3g} {event.message}"
        case _:
            return f"{event.kind.value} {event.name} {event.message}".strip()
