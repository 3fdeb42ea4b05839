"""The parts of the page: overview, table of tasks, one section for each selected episode."""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from controllers.types import CommandMode, ExecutorStatus, FloatArray, SafetyStatus
from episodes.episode import Episode
from episodes.profile import LOSSLESS
from episodes.report.charts import Chart, Series, Span, Stem, rate_bar, render, runs
from episodes.report.deadlines import deadline_table
from episodes.report.doubt import doubt_chart
from episodes.report.latency import latency_table
from episodes.report.video import ContactSheet, contact_sheets
from episodes.results import ResultRow
from episodes.schema import EventKind
from episodes.statistics import Proportion, wilson

_AXES = ("x", "y", "z")
_STATUSES = tuple(status.value for status in SafetyStatus)
_EXECUTOR = tuple(status.value for status in ExecutorStatus)
_MODES = tuple(CommandMode)
_UNTOUCHED = (SafetyStatus.RUN.value, SafetyStatus.OFF.value)


def _text(value: object) -> str:
    return html.escape(str(value))


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}%"


def intervened_ticks(row: ResultRow) -> int:
    """Ticks on which the safety filter did something."""
    return sum(count for name, count in row.safety_ticks.items() if name not in _UNTOUCHED)


# ---------------------------------------------------------------------------------------------- overview


def tiles(rows: Sequence[ResultRow]) -> str:
    """The headline numbers."""
    total = wilson(sum(row.success for row in rows), len(rows))
    ticks = sum(row.ticks for row in rows)
    touched = sum(intervened_ticks(row) for row in rows)
    refused = sum(sum(row.rejections.values()) for row in rows)
    stops = sum(row.safety_ticks.get(SafetyStatus.PROTECTIVE_STOP.value, 0) > 0 for row in rows)
    unchecked = sum(row.safety_ticks.get(SafetyStatus.OFF.value, 0) for row in rows)
    items = [
        ("success", _percent(total.rate), f"95% interval {_percent(total.low)} to {_percent(total.high)}"),
        ("episodes", f"{len(rows)}", f"{total.successes} succeeded, {len(rows) - total.successes} did not"),
        ("robot time", _duration(sum(row.duration_s for row in rows)), f"{ticks:,} ticks"),
        ("safety intervened", _percent(touched / ticks if ticks else math.nan), f"of ticks; {stops} protective stops"),
        ("rejected chunks", f"{refused:,}", f"of {refused + sum(row.chunks for row in rows):,} that arrived"),
    ]
    cards = "".join(
        f'<div class="tile"><span>{_text(name)}</span><strong>{_text(value)}</strong><small>{_text(note)}</small></div>'
        for name, value, note in items
    )
    warning = f'<p class="alarm">Safety was off on {unchecked:,} ticks.</p>' if unchecked else ""
    return f'<section class="tiles">{cards}</section>{warning}'


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def task_table(rows: Sequence[ResultRow]) -> str:
    """Success by task with intervals and bars."""
    tasks = sorted({row.task for row in rows})
    lines = [_task_line(task, [row for row in rows if row.task == task]) for task in tasks]
    if len(tasks) > 1:
        lines.append(_task_line("all tasks", rows, "total"))
    head = (
        "<th>task</th><th class=n>success</th><th>Wilson 95% interval</th><th class=n>episodes</th>"
        "<th class=n>mean time, successes</th><th class=n>ticks limited or stopped</th><th class=n>rejected chunks</th>"
    )
    return f'<table class="tasks"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _task_line(name: str, rows: Sequence[ResultRow], kind: str = "") -> str:
    rate: Proportion = wilson(sum(row.success for row in rows), len(rows))
    times = [row.duration_s for row in rows if row.success]
    ticks = sum(row.ticks for row in rows)
    touched = sum(intervened_ticks(row) for row in rows)
    refused = sum(sum(row.rejections.values()) for row in rows)
    bar = rate_bar(rate.low, 0.0 if math.isnan(rate.rate) else rate.rate, rate.high)
    return (
        f'<tr class="{kind}"><td>{_text(name)}</td><td class=n><b>{_percent(rate.rate)}</b></td>'
        f"<td class=interval>{bar}<span>{100 * rate.low:.1f} – {100 * rate.high:.1f}</span></td>"
        f"<td class=n>{rate.successes} / {rate.trials}</td>"
        f"<td class=n>{f'{np.mean(times):.1f} s' if times else '–'}</td>"
        f"<td class=n>{_percent(touched / ticks if ticks else math.nan)}</td><td class=n>{refused}</td></tr>"
    )


def counts_table(rows: Sequence[ResultRow]) -> str:
    """Why chunks were refused, which limits intervened, and how episodes ended, over all episodes."""
    refused: Counter[str] = Counter()
    limits: Counter[str] = Counter()
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        refused.update(row.rejections)
        limits.update(row.limits)
        status.update(row.safety_ticks)
        reasons[row.reason] += 1
    parts = [
        _counts("Rejected chunks by reason", refused, "none"),
        _counts("Ticks by safety status", status, "none"),
        _counts("Ticks by limit that intervened", limits, "none"),
        _counts("How episodes ended", reasons, "none"),
    ]
    return f'<section class="counts">{"".join(parts)}</section>'


def _counts(title: str, counts: Mapping[str, int], empty: str) -> str:
    total = max(counts.values(), default=1)
    lines = "".join(
        f"<tr><td>{_text(name.replace('_', ' '))}</td><td class=n>{count:,}</td>"
        f'<td class=meter><i style="width:{100 * count / total:.1f}%"></i></td></tr>'
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return f"<div><h3>{_text(title)}</h3><table>{lines or f'<tr><td>{empty}</td></tr>'}</table></div>"


def episode_table(rows: Sequence[ResultRow], shown: Iterable[str]) -> str:
    """Every episode, folded away."""
    linked = set(shown)
    lines: list[str] = []
    for row in rows:
        name = _text(row.episode)
        cell = f'<a href="#{name}">{name}</a>' if row.episode in linked else name
        lines.append(
            f"<tr><td>{_text(row.task)}</td><td class=n>{row.seed}</td><td>{_badge(row.success)}</td>"
            f"<td>{_text(row.reason)}</td><td class=n>{row.duration_s:.1f} s</td>"
            f"<td class=n>{intervened_ticks(row)}</td><td class=n>{sum(row.rejections.values())}</td>"
            f"<td>{_text(row.instruction)}</td><td>{cell}</td></tr>"
        )
    head = (
        "<th>task</th><th class=n>seed</th><th></th><th>ended by</th><th class=n>time</th>"
        "<th class=n>limited ticks</th><th class=n>rejected</th><th>instruction</th><th>log</th>"
    )
    return (
        f"<details><summary>All {len(rows)} episodes</summary>"
        f'<table class="episodes"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></details>'
    )


def _badge(success: bool | None) -> str:
    if success is None:
        return '<span class="badge open">not judged</span>'
    return '<span class="badge good">success</span>' if success else '<span class="badge bad">failure</span>'


def identity_table(episode: Episode) -> str:
    """What the episodes ran on, from the manifest of one of them."""
    m = episode.manifest
    controller = m.controller.get("name", "")
    items = {
        "policy": f"{m.policy.name} {m.policy.weights_sha256[:12]}",
        "robot": f"{m.robot}, {m.joints} joints, {m.control_rate_hz} Hz",
        "controller": str(controller),
        "tokenizer": m.tokenizer_id,
        "action spec": m.action_spec_hash,
        "safety profile": "OFF" if m.safety_off else f"{m.safety_profile.get('name', '')} {m.safety_profile_hash}",
        "clock": "real time" if m.realtime else "lock-step (virtual time)",
        "engine": f"MuJoCo {m.engine.mujoco}, numpy {m.engine.numpy}, Python {m.engine.python}",
        "code": m.code_hash[:16],
    }
    cells = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in items.items())
    return f'<dl class="identity">{cells}</dl>'


# ----------------------------------------------------------------------------------------- one episode


def episode_section(episode: Episode) -> str:
    """Video and charts of one episode, on one time axis."""
    manifest, ticks = episode.manifest, episode.ticks
    start = int(ticks.now_ns[0]) if len(episode) else 0
    time: FloatArray = np.multiply(ticks.now_ns - start, 1e-9, dtype=np.float64)
    sheets = contact_sheets(episode, start)
    outcome = manifest.outcome
    badge = _badge(None if outcome is None else outcome.success)
    charts = [*_motion_charts(episode, time), _speed_chart(episode, time), _force_chart(episode, time)]
    charts += [_safety_chart(episode, time), _chunk_chart(episode, time)]
    doubt = doubt_chart(episode, time)
    charts += [] if doubt is None else [doubt]
    figures = "".join(render(chart) for chart in charts)
    return (
        f'<section class="episode" id="{_text(episode.path.name)}"><header><h2>{_text(manifest.instruction)}</h2>'
        f"{badge}<p>{_text(manifest.task)} · seed {manifest.seed} · {_text(episode.path.name)}</p></header>"
        f"{_facts(episode, time)}{_player(sheets)}"
        f'<div class="charts">{figures}</div>{latency_table(episode)}'
        f"{deadline_table(None if outcome is None else outcome.deadlines)}{_event_list(episode, start)}</section>"
    )


def _facts(episode: Episode, time: FloatArray) -> str:
    ticks, manifest = episode.ticks, episode.manifest
    period_ms = np.diff(ticks.now_ns) * 1e-6
    force = _norm(ticks.state_wrench[:, :3])
    codes: list[int] = ticks.safety_status.tolist()
    status = Counter(_STATUSES[code] for code in codes)
    touched = sum(count for name, count in status.items() if name not in _UNTOUCHED)
    refused = sum(row.kind is EventKind.REJECTION for row in episode.events)
    items = {
        "duration": f"{time[-1] if len(time) else 0:.2f} s",
        "ended by": manifest.outcome.reason if manifest.outcome else "not closed",
        "chunks taken": int(episode.chunks.accepted.sum()),
        "chunks rejected": refused,
        "safety intervened": _percent(touched / max(1, len(episode))),
        "peak wrist force": f"{np.nanmax(force, initial=0.0):.1f} N",
        "peak joint speed": f"{np.nanmax(np.abs(ticks.state_joint_velocity), initial=0.0):.2f} rad/s",
        "longest tick gap": f"{period_ms.max():.2f} ms" if len(period_ms) else "–",
        "dropped frames": sum(manifest.dropped_frames.values()),
    }
    if manifest.log_faults:
        items["log not written"] = "; ".join(map(str, manifest.log_faults))
    if manifest.camera_profile != LOSSLESS:
        items["pictures"] = f"{manifest.camera_profile}: not quite what the policy saw"
    cells = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in items.items())
    return f'<dl class="facts">{cells}</dl>'


def _norm(vectors: FloatArray) -> FloatArray:
    """Length of each row; what a broken sensor reported may overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.linalg.norm(vectors, axis=1), np.float64)


def _motion_charts(episode: Episode, time: FloatArray) -> list[Chart]:
    commanded, sensed = episode.ticks.commanded_pose, episode.ticks.state_ee_pose
    charts = [
        Chart(
            f"End effector {axis}",
            "m",
            time,
            (
                Series("commanded", commanded[:, index], 1, dashed=True),
                Series("measured", sensed[:, index], 0, strong=True),
            ),
        )
        for index, axis in enumerate(_AXES)
    ]
    error_mm = 1e3 * _norm(commanded[:, :3] - sensed[:, :3])
    aligned = np.abs(np.sum(commanded[:, 3:] * sensed[:, 3:], axis=1))
    error_deg = np.degrees(2.0 * np.arccos(np.clip(aligned, 0.0, 1.0)))
    lines = (Series("position, mm", error_mm, 0, strong=True), Series("rotation, deg", error_deg, 3))
    return [*charts, Chart("Lag behind the reference", "mm, deg", time, lines, floor=0.0)]


def _speed_chart(episode: Episode, time: FloatArray) -> Chart:
    velocity = episode.ticks.state_joint_velocity
    lines = [Series(f"{index + 1}", velocity[:, index], index) for index in range(velocity.shape[1])]
    return Chart("Joint velocity", "rad/s", time, lines)


def _force_chart(episode: Episode, time: FloatArray) -> Chart:
    force = episode.ticks.state_wrench[:, :3]
    lines = [Series(axis, force[:, index], index + 1) for index, axis in enumerate(_AXES)]
    return Chart(
        "Wrist force",
        "N, sensor frame",
        time,
        (Series("magnitude", _norm(force), 0, strong=True), *lines),
        floor=0.0,
    )


def _end(time: FloatArray) -> float:
    return float(time[-1]) if len(time) else 0.0


def _safety_chart(episode: Episode, time: FloatArray) -> Chart:
    ticks = episode.ticks
    codes = [f"safety-{_STATUSES[code]}" for code in ticks.safety_status.tolist()]
    margin = np.clip(ticks.safety_min_margin, -1.0, 1.5)
    return Chart(
        "Safety",
        "speed scale and smallest margin",
        time,
        (
            Series("speed scale", ticks.safety_speed_scale, 0, strong=True),
            Series("smallest margin", margin, 3),
        ),
        spans=runs(codes, time, _end(time)),
        floor=0.0,
        notes="margin clipped to [-1, 1.5]",
    )


def _chunk_chart(episode: Episode, time: FloatArray) -> Chart:
    chunks, ticks = episode.chunks, episode.ticks
    codes = [f"executor-{_EXECUTOR[code]}" for code in ticks.executor_status.tolist()]
    first = int(ticks.tick[0]) if len(episode) else 0
    stems: list[Stem] = []
    for index, tick in enumerate(chunks.arrival_tick.tolist()):
        row = int(tick) - first
        age_ms = 1e-6 * float(int(ticks.now_ns[row]) - int(chunks.observation_stamp_ns[index]))
        inference_ms = 1e-6 * float(chunks.inference_ns[index])
        kind = "taken" if chunks.accepted[index] else "refused"
        text = f"chunk {chunks.chunk_id[index]} {kind}: {age_ms:.1f} ms old on arrival, inference {inference_ms:.1f} ms"
        stems.append(Stem(float(time[row]), min(max(age_ms, 0.0), 1e4), kind, text))
    gaps = _gaps(codes, time)
    return Chart(
        "Chunks",
        "age on arrival, ms",
        time,
        spans=runs(codes, time, _end(time)),
        stems=stems,
        floor=0.0,
        notes=f"{_inference(episode)}; {gaps}",
    )


def _inference(episode: Episode) -> str:
    inference = episode.chunks.inference_ns * 1e-6
    if not len(inference):
        return "no chunks"
    return f"inference median {np.median(inference):.1f} ms, slowest {inference.max():.1f} ms"


def _gaps(codes: Sequence[str], time: FloatArray) -> str:
    """Time without a chunk to play, after the first one."""
    playing = f"executor-{ExecutorStatus.EXECUTING.value}"
    spans: list[Span] = runs(codes, time, _end(time))
    begun = next((index for index, span in enumerate(spans) if span.kind == playing), len(spans))
    gaps = [span.end - span.start for span in spans[begun:] if span.kind != playing]
    return f"{len(gaps)} gaps, {sum(gaps):.2f} s in all" if gaps else "no gaps"


def _player(sheets: Sequence[ContactSheet]) -> str:
    if not sheets:
        return ""
    canvases = "".join(
        f'<figure><canvas width="{sheet.width}" height="{sheet.height}" data-columns="{sheet.columns}" '
        f'data-times="{_text(json.dumps([round(t, 4) for t in sheet.times]))}" data-sheet="{sheet.data_uri}"></canvas>'
        f"<figcaption>{_text(sheet.camera)}</figcaption></figure>"
        for sheet in sheets
    )
    return (
        f'<div class="player">{canvases}<div class="controls"><button type="button">Play</button>'
        '<input type="range" min="0" max="1000" value="0" aria-label="time"><output>0.00 s</output></div></div>'
    )


def _event_list(episode: Episode, start_ns: int) -> str:
    """The first events that a reader should see: operator events, rejections, doubt, changes of the safety status."""
    ticks = episode.ticks
    first = int(ticks.tick[0]) if len(episode) else 0
    lines: list[tuple[int, str, str]] = []
    for row in episode.events:
        if row.kind is EventKind.OPERATOR:
            lines.append((row.tick, "operator", row.name))
        elif row.kind is EventKind.REJECTION:
            lines.append((row.tick, "rejected", f"chunk {row.chunk_id}: {row.name}: {row.message}"))
        elif row.kind is EventKind.DOUBT:
            lines.append((row.tick, "doubt", f"{row.name}: chunk {row.chunk_id}, {row.value:.4g}, {row.message}"))
    reasons = {row.tick: f"{row.name} {row.message}" for row in episode.events if row.kind is EventKind.SAFETY_REASON}
    status = ticks.safety_status.astype(np.int64)
    for index in np.flatnonzero(np.diff(status)).tolist():
        tick = first + index + 1
        text = f"{_STATUSES[status[index]]} → {_STATUSES[status[index + 1]]} {reasons.get(tick, '')}"
        lines.append((tick, "safety", text.replace("_", " ")))
    lines.sort()
    shown = "".join(
        f"<tr><td class=n>{(int(ticks.now_ns[tick - first]) - start_ns) * 1e-9:.3f} s</td><td class=n>{tick}</td>"
        f"<td>{kind}</td><td>{_text(text)}</td></tr>"
        for tick, kind, text in lines[:200]
    )
    if not shown:
        return ""
    more = f"<p>{len(lines) - 200} more are in the log.</p>" if len(lines) > 200 else ""
    return f'<details><summary>{len(lines)} events</summary><table class="events">{shown}</table>{more}</details>'
