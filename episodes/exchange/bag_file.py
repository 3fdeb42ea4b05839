"""Reads MCAP files with CDR messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from controllers.types import ImageArray
from episodes.errors import EpisodeError
from episodes.exchange import ros2
from episodes.extras import load

MAGIC = b"\x89MCAP0\r\n"


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message as it lies in the file."""

    topic: str
    type: str
    sequence: int
    log_time_ns: int
    data: bytes

    def decoded(self) -> Any:
        """The message object.

        Raises:
            EpisodeError: The bytes are not a message of its type.
        """
        try:
            return ros2.deserialize(self.type, self.data)
        except Exception as error:  # rosbags raises struct.error, IndexError, UnicodeDecodeError and its own
            raise EpisodeError(
                f"{self.topic}, message at {self.log_time_ns} ns",
                self.type,
                f"{len(self.data)} bytes that are none ({type(error).__name__})",
                "the message is damaged or of another definition",
            ) from error


class BagFile:
    """One MCAP file."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet.

        Raises:
            EpisodeError: ``mcap`` is not installed.
        """
        self.path = path
        self._module = load("mcap.reader", ros2.EXTRA)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Messages of ``topics``, default all, in the order of their times.

        Raises:
            EpisodeError: The file is cut or damaged.
        """
        with self.path.open("rb") as stream:
            try:
                reader = self._module.make_reader(stream, validate_crcs=True)
                for schema, channel, message in reader.iter_messages(topics=topics):
                    if channel.message_encoding == "cdr" and schema is not None:
                        yield BagMessage(
                            channel.topic, schema.name, message.sequence, message.log_time, bytes(message.data)
                        )
            except EpisodeError:
                raise
            except Exception as error:  # mcap raises its own classes, struct.error and those of the decompressor
                raise _damaged(self.path, error) from error

    def attachments(self) -> dict[str, bytes]:
        """Attached files by name."""
        with self.path.open("rb") as stream:
            try:
                reader = self._module.make_reader(stream)
                return {item.name: bytes(item.data) for item in reader.iter_attachments()}
            except Exception as error:  # see messages
                raise _damaged(self.path, error) from error

    def topics(self) -> Mapping[str, str]:
        """Type of every topic with CDR messages, in order of their names."""
        with self.path.open("rb") as stream:
            try:
                reader = self._module.make_reader(stream)
                summary = reader.get_summary()
            except Exception as error:  # see messages
                raise _damaged(self.path, error) from error
            if summary is None or not summary.channels:
                return dict(sorted({message.topic: message.type for message in self.messages()}.items()))
            found = {
                channel.topic: summary.schemas[channel.schema_id].name
                for channel in summary.channels.values()
                if channel.message_encoding == "cdr" and channel.schema_id in summary.schemas
            }
        return dict(sorted(found.items()))


def _damaged(path: Path, error: Exception) -> EpisodeError:
    text = str(error).strip() or type(error).__name__
    return EpisodeError(
        str(path), "a whole MCAP file", text, "it was cut or damaged; 'mcap recover' may save a part of it"
    )


def bag_files(source: Path) -> list[Path]:
    """The MCAP files of a bag folder, of a folder of bags, or the file itself."""
    if source.is_file():
        return [source] if is_mcap(source) else []
    own = sorted(item for item in source.glob("*.mcap") if is_mcap(item))
    return own or sorted(item for item in source.glob("*/*.mcap") if is_mcap(item))


def is_mcap(path: Path) -> bool:
    """Whether a file begins like MCAP."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


# ----------------------------------------------------------------------------------------------- pictures

# encoding of sensor_msgs/Image -> channels in the message, and which of them are red, green and blue
_ENCODINGS: Mapping[str, tuple[int, tuple[int, int, int]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "8UC3": (3, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
}


def decode_picture(data: bytes, where: str) -> ImageArray:
    """(H, W, 3) uint8 RGB of a PNG or JPEG.

    Raises:
        EpisodeError: It is no picture.
    """
    picture = cast(Any, cv2).imdecode(np.frombuffer(data, np.uint8), 1)
    if picture is None:
        raise EpisodeError(where, "a PNG or JPEG picture", f"{len(data)} other bytes", "the message is damaged")
    return np.ascontiguousarray(picture[..., ::-1])


def picture_of(message: BagMessage, decoded: Any) -> ImageArray:
    """(H, W, 3) uint8 RGB of a ``sensor_msgs`` Image or CompressedImage.

    Raises:
        EpisodeError: The encoding has no colours of 8 bits, or the data do not fit the size.
    """
    if message.type == ros2.COMPRESSED_IMAGE:
        return decode_picture(decoded.data.tobytes(), f"{message.topic} at {message.log_time_ns} ns")
    encoding = _ENCODINGS.get(str(decoded.encoding))
    if encoding is None:
        raise EpisodeError(
            f"{message.topic}: encoding",
            f"one of {', '.join(_ENCODINGS)}",
            repr(decoded.encoding),
            "leave this camera out with --mcap.cameras",
        )
    channels, order = encoding
    height, width, step = int(decoded.height), int(decoded.width), int(decoded.step)
    if step < width * channels or len(decoded.data) < height * step:
        raise EpisodeError(
            f"{message.topic} at {message.log_time_ns} ns",
            f"{height} rows of {step} bytes for {width} pixels",
            f"{len(decoded.data)} bytes",
            "the message is damaged",
        )
    rows = decoded.data[: height * step].reshape(height, step)[:, : width * channels]
    return np.ascontiguousarray(rows.reshape(height, width, channels)[..., list(order)])
