"""Camera frames to bytes and back, one frame a piece: zstd, which is lossless, or JPEG, which the manifest tells."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace

import cv2
import numpy as np

from controllers.types import ImageArray
from episodes.compression import compress
from episodes.journal import Payload
from episodes.profile import LOSSLESS_CAMERAS, CameraProfile
from episodes.schema import DIGEST_BYTES

_HEADER = struct.Struct(f"<qIIH{DIGEST_BYTES}s")  # observation, height, width, length of camera name, digest


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture, as bytes.

    Attributes:
        observation: Index of its observation.
        camera: Camera name.
        height: Rows.
        width: Columns.
        digest: Digest of what is kept: the pixels, or the bytes of the JPEG; zeros before compression.
        data: Pixels, their zstd compression, or a JPEG.
    """

    observation: int
    camera: str
    height: int
    width: int
    digest: bytes
    data: Payload

    def header(self) -> bytes:
        """What precedes the data in a record."""
        name = self.camera.encode()
        return _HEADER.pack(self.observation, self.height, self.width, len(name), self.digest) + name

    def compressed(self, profile: CameraProfile = LOSSLESS_CAMERAS) -> Frame:
        """The frame of raw pixels with these compressed, and the digest of what is kept."""
        if profile.lossy:
            data = _jpeg(np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 3), profile.jpeg_quality)
            return replace(self, digest=kept_digest(data), data=data)
        return replace(self, digest=kept_digest(self.data), data=compress(self.data))


def raw_frame(observation: int, camera: str, image: ImageArray) -> Frame:
    """A frame of ``image``; copies it unless it owns its pixels and nobody can change them."""
    flags = image.flags
    if flags.writeable or not flags.owndata or not flags.c_contiguous:
        image = np.array(image, order="C")
    height, width, _ = image.shape
    pixels = memoryview(image).cast("B") if image.size else memoryview(b"")
    return Frame(observation, camera, height, width, bytes(DIGEST_BYTES), pixels)


def decode_frame(payload: Payload) -> Frame:
    """Decode a record's header; the data stay a view."""
    view = memoryview(payload)
    observation, height, width, name_length, digest = _HEADER.unpack_from(view)
    end = _HEADER.size + name_length
    return Frame(observation, bytes(view[_HEADER.size : end]).decode(), height, width, digest, view[end:])


def kept_digest(data: Payload) -> bytes:
    """Digest of what is kept of one frame: its pixels, or its JPEG."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _jpeg(pixels: ImageArray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"expected pixels that JPEG can hold, found a picture of {pixels.shape}")
    return data.tobytes()


def decode_jpeg(data: Payload, height: int, width: int) -> ImageArray:
    """The picture (H, W, 3) uint8 RGB of a JPEG, which may be followed by zeros.

    Raises:
        ValueError: It is damaged, or has another size.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None or pixels.shape != (height, width, 3):
        found = "no picture" if pixels is None else f"a picture of {pixels.shape[:2]}"
        raise ValueError(f"expected a JPEG of {height} x {width}, found {found}")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
