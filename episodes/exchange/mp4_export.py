"""Episodes as videos to look at: all cameras side by side, with instruction, time and safety status below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from controllers.types import ImageArray, SafetyStatus
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.exchange.files import new_folder
from episodes.exchange.losses import Loss, LossKind, merged, write_losses
from episodes.exchange.protocols import Exported
from episodes.exchange.videos import VideoWriter
from episodes.reader import open_episode

_STATUSES = tuple(SafetyStatus)
_CAPTION_HEIGHT = 36
_MIN_HEIGHT = 256  # smaller pictures are enlarged, pixel by pixel


@dataclass(frozen=True)
class Mp4Options:
    """How episodes become videos."""

    crf: int = 18
    """Constant rate factor of H.264: 0 is lossless but for the colour space, 18 looks it, 28 is small."""
    caption: bool = True
    """Write instruction, time and safety status below the pictures."""


class Mp4Exporter:
    """Writes OUT/NAME.mp4, each frame at its true time."""

    def __init__(self, options: Mp4Options | None = None) -> None:
        """Choose how."""
        self._options = options or Mp4Options()

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write a video of every episode."""
        with new_folder(out) as scratch:
            for path in episodes:
                _write(open_episode(path), scratch / f"{path.stem}.mp4", self._options)
        losses = merged(_LOSSES)
        write_losses(out, losses)
        return Exported(out, tuple(out / f"{path.stem}.mp4" for path in episodes), len(episodes), losses)


_LOSSES = (
    Loss("pictures", LossKind.COMPRESSED, "H.264 with half the colour resolution"),
    Loss("observations/stamp_ns", LossKind.ROUNDED, "to 1/90000 s, counted from the first picture"),
    Loss("everything else", LossKind.ABSENT, "a video holds pictures; the caption tells instruction and safety status"),
)


def _write(episode: Episode, path: Path, options: Mp4Options) -> None:
    seen = np.zeros(len(episode.observations.stamp_ns), bool)
    for camera in episode.cameras:
        seen |= episode.present(camera)
    rows = np.flatnonzero(seen).tolist()
    if not rows:
        raise EpisodeError(str(episode.path), "pictures", "none", "there is nothing to show; export to csv or mcap")
    stamps = episode.observations.stamp_ns
    shown: dict[str, ImageArray] = {
        camera: np.zeros(episode.frames(camera, 0, 1).shape[1:], np.uint8) for camera in episode.cameras
    }
    first = _picture(episode, rows[0], shown, options)
    with VideoWriter(path, first.shape[1], first.shape[0], options.crf) as video:
        for row in rows:
            video.write(_picture(episode, row, shown, options), int(stamps[row] - stamps[rows[0]]))


def _picture(episode: Episode, row: int, shown: dict[str, ImageArray], options: Mp4Options) -> ImageArray:
    """All cameras beside each other; one that was dropped keeps its last picture."""
    for camera in episode.cameras:
        image = episode.image(camera, row)
        if image is not None:
            shown[camera] = image
    height = max(_MIN_HEIGHT, *(image.shape[0] for image in shown.values()))
    beside = np.hstack([_scaled(image, height) for image in shown.values()])
    if options.caption:
        beside = np.vstack([beside, _caption(episode, row, beside.shape[1])])
    return np.pad(beside, ((0, beside.shape[0] % 2), (0, beside.shape[1] % 2), (0, 0)))


def _scaled(image: ImageArray, height: int) -> ImageArray:
    width = round(image.shape[1] * height / image.shape[0])
    module = cast(Any, cv2)
    return cast(ImageArray, module.resize(image, (width, height), interpolation=module.INTER_NEAREST))


def _caption(episode: Episode, row: int, width: int) -> ImageArray:
    strip = np.full((_CAPTION_HEIGHT, width, 3), 24, np.uint8)
    stamp = int(episode.observations.stamp_ns[row])
    start = int(episode.observations.stamp_ns[0])
    ticks = episode.ticks
    tick = max(0, int(np.searchsorted(ticks.state_stamp_ns, stamp, "right")) - 1)
    status = _STATUSES[int(ticks.safety_status[tick])].value.replace("_", " ") if len(episode) else ""
    words = episode.observation(row).instruction.encode("ascii", "replace").decode()
    for line, text in enumerate((words, f"{(stamp - start) * 1e-9:7.2f} s   {status}")):
        module = cast(Any, cv2)
        module.putText(
            strip, text, (6, 14 + 16 * line), module.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, module.LINE_AA
        )
    return strip
