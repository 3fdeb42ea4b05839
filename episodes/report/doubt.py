"""The report's chart of doubt: each chunk's, the thresholds, and what was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from controllers.doubt import DoubtLevel, DoubtMeasure
from controllers.types import FloatArray
from episodes.episode import Episode
from episodes.jsontypes import as_mapping
from episodes.report.charts import Chart, Series, Span, Stem
from episodes.schema import ChunkTable, EventKind

_UNITS = {
    DoubtMeasure.MEAN_ENTROPY: "mean entropy, nat",
    DoubtMeasure.MEAN_PROBABILITY: "one minus the mean probability",
    DoubtMeasure.MIN_PROBABILITY: "one minus the smallest probability",
    DoubtMeasure.AGREEMENT: "one minus the agreement",
}


def doubt_column(chunks: ChunkTable, measure: DoubtMeasure) -> FloatArray:
    """(N,) the doubt of each chunk by one measure, NaN where it is not told."""
    values: FloatArray = getattr(chunks, f"doubt_{measure.value}")
    return values if measure is DoubtMeasure.MEAN_ENTROPY else np.subtract(1.0, values, dtype=np.float64)


def doubt_chart(episode: Episode, time: FloatArray) -> Chart | None:
    """Doubt by chunk over time, None where the policy told none.

    Args:
        episode: The episode.
        time: (T,) s, of its ticks.
    """
    options = as_mapping(episode.manifest.stack.get("doubt"))
    measure = DoubtMeasure(str(options.get("measure", DoubtMeasure.MIN_PROBABILITY.value)))
    values = doubt_column(episode.chunks, measure)
    if not len(time) or not np.isfinite(values).any():
        return None
    first = int(episode.ticks.tick[0])
    stems: list[Stem] = []
    for index, value in enumerate(values.tolist()):
        if math.isfinite(value):
            at = float(time[int(episode.chunks.arrival_tick[index]) - first])
            kind = "taken" if episode.chunks.accepted[index] else "refused"
            stems.append(Stem(at, value, kind, f"chunk {episode.chunks.chunk_id[index]} {kind}: {value:.4g}"))
    spans = _levels(episode, time, first)
    return Chart(
        "Doubt",
        _UNITS[measure],
        time,
        _thresholds(options, time),
        spans=spans,
        stems=stems,
        floor=0.0,
        notes=_summary(spans) if options else "no thresholds",
    )


def _thresholds(options: Mapping[str, object], time: FloatArray) -> tuple[Series, ...]:
    found = ((name, float(str(options.get(name, 0.0)))) for name in ("slow_above", "hold_above"))
    return tuple(
        Series(name.replace("_", " "), np.full(len(time), value), 3 + index, dashed=True)
        for index, (name, value) in enumerate(found)
        if value > 0.0
    )


def _levels(episode: Episode, time: FloatArray, first: int) -> list[Span]:
    """What was asked for, from event to event; nothing where there never was a doubt event."""
    changes = [(row.tick, row.name) for row in episode.events if row.kind is EventKind.DOUBT]
    if not changes:
        return []
    starts = [0.0, *(float(time[tick - first]) for tick, _ in changes), float(time[-1])]
    kinds = [DoubtLevel.CLEAR.value, *(name for _, name in changes)]
    return [Span(start, end, f"doubt-{kind}") for (start, end), kind in zip(pairwise(starts), kinds, strict=True)]


def _summary(spans: list[Span]) -> str:
    total = {level: sum(s.end - s.start for s in spans if s.kind == f"doubt-{level.value}") for level in DoubtLevel}
    return f"slow {total[DoubtLevel.SLOW]:.2f} s, held {total[DoubtLevel.HOLD]:.2f} s"
