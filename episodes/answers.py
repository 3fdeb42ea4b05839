"""How long the policy's answers took in a recorded episode: a latency trace to run others with."""

from __future__ import annotations

from episodes.episode import Episode


def answer_latencies_ms(episode: Episode) -> list[float | None]:
    """Time from each observation to the tick that took its chunk in, ms, in the order of the observations.

    None for an observation that was never answered, though later ones were; those after the last answer are left out,
    since the episode ended before it could be told. Arrivals are known to one control period.
    """
    arrived: dict[int, int] = {}
    decoder = episode.decoder
    for index in range(len(decoder)):
        for arrival in decoder.arrivals(index):
            arrived.setdefault(arrival.chunk.observation_stamp_ns, decoder.now_ns(index))
    stamps: list[int] = episode.observations.stamp_ns.tolist()
    waits = [(arrived[stamp] - stamp) * 1e-6 if stamp in arrived else None for stamp in stamps]
    while waits and waits[-1] is None:
        waits.pop()
    return waits
