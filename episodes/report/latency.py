"""From a picture's stamp to the first command that follows from it, as a part of an episode's section of the page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.types import FloatArray
from episodes.episode import Episode
from episodes.schema import UNKNOWN_STAMP

_BINS = 12


@dataclass(frozen=True, slots=True)
class ChunkLatency:
    """What each accepted chunk that was played took, ms; all (n,), in order of arrival.

    Attributes:
        inferred: From the stamp of the observation to the end of inference; NaN where that is unknown.
        arrived: From there to the tick that took the chunk in; NaN likewise.
        played: From that tick to the first one that played the chunk: its command was applied then.
        whole: From the stamp to that command.
        never_played: How many accepted chunks were replaced before they were played.
    """

    inferred: FloatArray
    arrived: FloatArray
    played: FloatArray
    whole: FloatArray
    never_played: int


def chunk_latency(episode: Episode) -> ChunkLatency:
    """Trace every accepted chunk of an episode."""
    ticks, chunks = episode.ticks, episode.chunks
    ids, first = np.unique(ticks.executor_chunk_id, return_index=True)
    began = dict(zip(ids.tolist(), first.tolist(), strict=True))
    start = int(ticks.tick[0]) if len(episode) else 0
    applied = np.where(ticks.applied_ns == UNKNOWN_STAMP, ticks.now_ns, ticks.applied_ns)
    rows: list[tuple[float, float, float, float]] = []
    never_played = 0
    for index in np.flatnonzero(chunks.accepted).tolist():
        tick = began.get(int(chunks.chunk_id[index]))
        if tick is None:
            never_played += 1
            continue
        stamp, inferred = int(chunks.observation_stamp_ns[index]), int(chunks.inferred_ns[index])
        arrival, command = int(ticks.now_ns[int(chunks.arrival_tick[index]) - start]), int(applied[tick])
        known = inferred != UNKNOWN_STAMP
        rows.append(
            (
                (inferred - stamp) * 1e-6 if known else np.nan,
                (arrival - inferred) * 1e-6 if known else np.nan,
                (command - arrival) * 1e-6,
                (command - stamp) * 1e-6,
            )
        )
    inferred, arrived, played, whole = np.array(rows).reshape(-1, 4).T
    return ChunkLatency(inferred, arrived, played, whole, never_played)


def latency_table(episode: Episode) -> str:
    """A histogram of the whole way, and the medians of its parts; empty where nothing took any time."""
    latency = chunk_latency(episode)
    whole = latency.whole
    if not whole.any():  # none, or lock-step without a delay
        return ""
    counts, edges = np.histogram(whole, bins=_BINS)
    most = int(counts.max())
    rows = "".join(
        f"<tr><td class=n>{low:.3g} to {high:.3g} ms</td><td class=n>{count:,}</td>"
        f'<td class=meter><i style="width:{100 * count / most:.1f}%"></i></td></tr>'
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    )
    parts = {"inference done": latency.inferred, "taken in": latency.arrived, "played": latency.played}
    steps = ", then ".join(
        f"{name} after {np.nanmedian(part):.3g}" for name, part in parts.items() if not np.isnan(part).all()
    )
    words = (
        f"Picture to first command, {len(whole):,} chunks: median {np.median(whole):.3g}, p99 "
        f"{np.percentile(whole, 99):.3g}, worst {whole.max():.3g} ms ({steps} ms); "
        f"{latency.never_played:,} more were replaced before they were played"
    )
    return f'<details class="latency"><summary>{words}</summary><table>{rows}</table></details>'
