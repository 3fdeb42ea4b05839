"""Camera frames to bytes and back: zstd, lossless, one frame a piece."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np

from controllers.types import ImageArray
from episodes.compression import compress
from episodes.journal import Payload
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
        digest: Digest of the pixels, zeros before compression.
        data: Pixels, or their zstd compression.
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

    def compressed(self) -> Frame:
        """The frame with its pixels compressed and their digest taken."""
        return Frame(
            self.observation,
            self.camera,
            self.height,
            self.width,
            pixel_digest(self.data),
            compress(self.data),
        )


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


def pixel_digest(pixels: Payload) -> bytes:
    """Digest of one frame's pixels."""
    return hashlib.blake2b(pixels, digest_size=DIGEST_BYTES).digest()
