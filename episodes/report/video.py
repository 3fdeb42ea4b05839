"""Camera frames as contact sheets: one WebP a camera, which the page plays back in step with the charts."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from controllers.types import ImageArray
from episodes.episode import Episode

MAX_FRAMES = 150
MAX_SIDE = 256
_SHEET_SIDE = 12_000  # WebP ends at 16,383 pixels
_QUALITY = 78


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """All frames of one camera in one picture, row by row.

    Attributes:
        camera: Camera name.
        width: Of one frame.
        height: Of one frame.
        columns: Frames in a row.
        times: Time of each frame, s.
        webp: The encoded picture.
    """

    camera: str
    width: int
    height: int
    columns: int
    times: tuple[float, ...]
    webp: bytes

    @property
    def data_uri(self) -> str:
        """For the page."""
        return "data:image/webp;base64," + base64.b64encode(self.webp).decode()


def contact_sheets(episode: Episode, start_ns: int) -> list[ContactSheet]:
    """One sheet for each camera; dropped frames are left out, long episodes thinned."""
    sheets = (_sheet(episode, camera, start_ns) for camera in episode.cameras)
    return [sheet for sheet in sheets if sheet is not None]


def _sheet(episode: Episode, camera: str, start_ns: int) -> ContactSheet | None:
    present = np.flatnonzero(episode.present(camera))
    if not len(present):
        return None
    if len(present) > MAX_FRAMES:
        present = present[np.linspace(0, len(present) - 1, MAX_FRAMES).astype(np.int64)]
    pictures = (episode.image(camera, int(index)) for index in present)
    frames = [_scaled(picture) for picture in pictures if picture is not None]
    height, width = frames[0].shape[:2]
    columns = max(1, min(len(frames), _SHEET_SIDE // width, int(np.ceil(np.sqrt(len(frames))))))
    rows = -(-len(frames) // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, frame in enumerate(frames):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    times = (episode.observations.stamp_ns[present] - start_ns) * 1e-9
    return ContactSheet(camera, width, height, columns, tuple(times.tolist()), _encode(sheet))


def _scaled(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    factor = MAX_SIDE / max(height, width)
    if factor >= 1.0:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cast(ImageArray, cast(Any, cv2).resize(image, size, interpolation=cv2.INTER_AREA))


def _encode(image: npt.NDArray[np.uint8]) -> bytes:
    encoder = cast(Any, cv2)
    done, data = encoder.imencode(".webp", image[..., ::-1], [encoder.IMWRITE_WEBP_QUALITY, _QUALITY])
    if not done:
        raise ValueError(f"OpenCV could not encode a WebP of shape {image.shape}")
    return bytes(data.tobytes())
