"""Video files, read and written with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np

from controllers.types import NANOSECONDS, ImageArray
from episodes.errors import EpisodeError
from episodes.extras import load

EXTRA = "exchange"
_TIME_BASE = Fraction(1, 90_000)  # ticks of an mp4 track: 11 microseconds


def video_frames(path: Path, start_s: float, count: int, fps: int) -> Iterator[ImageArray]:
    """``count`` frames (H, W, 3) uint8 RGB of a video, from ``start_s`` on.

    Raises:
        EpisodeError: The file is missing, or ends before.
    """
    av = load("av", EXTRA)
    if not path.is_file():
        raise EpisodeError(str(path), "a video", "nothing", "the data set is incomplete")
    given = 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time is None or frame.time < start_s - 0.5 / fps:
                continue
            if given == count:
                return
            yield cast(ImageArray, frame.to_ndarray(format="rgb24"))
            given += 1
    if given < count:
        raise EpisodeError(str(path), f"{count} frames from {start_s:.3f} s", str(given), "the video was cut")


class VideoWriter:
    """Writes H.264 in mp4, each frame shown from its own stamp on. Use it as a context manager."""

    def __init__(self, path: Path, width: int, height: int, crf: int) -> None:
        """Write ``path``; sizes must be even. ``crf`` is the constant rate factor: 0 lossless, 18 fine, 28 coarse."""
        self._path = path
        self._size = (width, height)
        self._crf = crf
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> Self:
        """Open the file."""
        av = load("av", EXTRA)
        self._container = av.open(str(self._path), mode="w")
        stream = self._container.add_stream("h264", rate=30, options={"crf": str(self._crf), "preset": "fast"})
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        self._stream = stream
        return self

    def write(self, picture: ImageArray, time_ns: int) -> None:
        """Append a frame (H, W, 3) uint8 RGB; times must increase, or the frame moves by one tick of the track."""
        frame = load("av", EXTRA).VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._last = max(self._last + 1, round(time_ns * _TIME_BASE.denominator / NANOSECONDS))
        frame.pts, frame.time_base = self._last, _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
