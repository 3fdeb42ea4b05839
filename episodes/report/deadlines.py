"""How an episode kept its deadlines, as a part of its section of the page."""

from __future__ import annotations

from controllers.lateness import DeadlineRecord

_FIRST_MS = 1.0 / 128.0  # the first row holds all that is earlier; each further one holds an octave


def deadline_table(record: DeadlineRecord | None) -> str:
    """How late the ticks began, by octaves of milliseconds; empty in lock-step, which has no deadlines.

    Args:
        record: Of the episode.
    """
    if record is None or not record.histogram_ns:
        return ""
    edges, counts = [_FIRST_MS], [0]
    for edge_ns, number in record.histogram_ns:
        while edge_ns * 1e-6 > edges[-1]:
            edges.append(2.0 * edges[-1])
            counts.append(0)
        counts[-1] += number
    most = max(counts)
    rows = "".join(
        f"<tr><td class=n>{'up to' if index else 'less than'} {edge:.3g} ms</td><td class=n>{count:,}</td>"
        f'<td class=meter><i style="width:{100 * count / most:.1f}%"></i></td></tr>'
        for index, (edge, count) in enumerate(zip(edges, counts, strict=True))
    )
    priority = "with real-time priority" if record.realtime_priority else "without real-time priority"
    words = (
        f"Lateness of {record.ticks:,} ticks at {record.rate_hz} Hz, {priority}: median {record.late_p50_ms:.3g}, "
        f"p99 {record.late_p99_ms:.3g}, p99.9 {record.late_p999_ms:.3g}, worst {record.late_max_ms:.3g} ms; "
        f"{record.missed:,} deadlines missed ({100 * record.missed_share:.3g}%), {record.holds} holds for overruns"
    )
    return f'<details class="deadlines"><summary>{words}</summary><table>{rows}</table></details>'
