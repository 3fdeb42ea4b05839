"""A process that records at 200 Hz until somebody ends it; it reports every recorded tick on standard output.

Usage: python -m tests.episodes.recording_process PATH (realtime | lockstep)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from episodes.writer import EpisodeWriter
from tests.episodes.builders import MODEL_XML, make_chunk, manifest, simple_observation, simple_tick


def main() -> None:
    path, mode = Path(sys.argv[1]), sys.argv[2]
    ticks = [simple_tick(tick) for tick in range(100)]
    pictures = simple_observation(0, size=96).images
    with EpisodeWriter(path, manifest(realtime=mode == "realtime"), model_xml=MODEL_XML) as writer:
        deadline = time.monotonic()
        for tick in range(100_000):
            inputs, outputs = ticks[tick % 100]
            arrivals = (make_chunk(tick, tick),) if tick % 20 == 0 else ()
            inputs = type(inputs)(tick, tick * 5_000_000, inputs.state, arrivals)
            if tick % 20 == 0:
                observation = simple_observation(tick % 100)
                writer.record_observation(type(observation)(pictures, inputs.state, outputs.commanded_pose, "go", tick))
            writer.record_tick(inputs, outputs, b"0123456789abcdef")
            os.write(1, tick.to_bytes(8, "little"))
            deadline += 0.005
            time.sleep(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    main()
