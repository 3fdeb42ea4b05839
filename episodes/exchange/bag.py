"""A ROS 2 bag with MCAP storage: the file, and the ``metadata.yaml`` beside it that ``ros2 bag`` wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import yaml

from episodes.exchange.ros2 import EXTRA, Message, Topic, definition, type_hash
from episodes.extras import load

METADATA_VERSION = 9  # of rosbag2_storage, since ROS 2 Jazzy
METADATA_NAME = "metadata.yaml"
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class _Channel:
    id: int
    topic: Topic
    messages: int = 0


class BagWriter:
    """Writes one bag. Use it as a context manager; leaving the block writes the index and the metadata."""

    def __init__(self, folder: Path) -> None:
        """Write the bag ``folder``, which must not exist yet; nothing is written before :meth:`open`.

        Raises:
            EpisodeError: ``mcap`` or ``rosbags`` is not installed.
        """
        self.folder = folder
        self.file = folder / f"{folder.name}_0.mcap"
        self._writer: Any = None
        self._stream: Any = None
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, _Channel] = {}
        self._start: int | None = None
        self._end = 0

    def open(self) -> Self:
        """Create the folder and the file."""
        module = load("mcap.writer", EXTRA)
        self.folder.mkdir(parents=True)
        self._stream = self.file.open("wb")
        self._writer = module.Writer(self._stream, chunk_size=_CHUNK_BYTES, compression=module.CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="vla-stack")
        return self

    def __enter__(self) -> Self:
        """Open."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; also after an error, so that what was written can be read."""
        self.close()

    def write(self, message: Message, sequence: int = 0) -> None:
        """Append a message."""
        channel = self._channels.get(message.topic.name)
        if channel is None:
            channel = self._register(message.topic)
        when = message.stamp_ns
        self._writer.add_message(channel.id, when, message.data, when, sequence)
        channel.messages += 1
        self._start = when if self._start is None else min(self._start, when)
        self._end = max(self._end, when)

    def _register(self, topic: Topic) -> _Channel:
        schema = self._schemas.get(topic.type)
        if schema is None:
            schema = self._writer.register_schema(topic.type, "ros2msg", definition(topic.type).encode())
            self._schemas[topic.type] = schema
        number = self._writer.register_channel(
            topic.name,
            "cdr",
            schema,
            {"offered_qos_profiles": "[]", "topic_type_hash": type_hash(topic.type)},
        )
        channel = _Channel(number, topic)
        self._channels[topic.name] = channel
        return channel

    def attach(self, name: str, media_type: str, data: bytes) -> None:
        """Attach a file; readers of messages pass over it."""
        self._writer.add_attachment(0, 0, name, media_type, data)

    def note(self, name: str, values: Mapping[str, str]) -> None:
        """Add a metadata record."""
        self._writer.add_metadata(name, dict(values))

    def close(self) -> None:
        """Write the index and ``metadata.yaml``."""
        if self._writer is None:
            return
        self._writer.finish()
        self._stream.close()
        self._writer = None
        text = cast(Any, yaml).safe_dump({"rosbag2_bagfile_information": self._information()}, sort_keys=False)
        (self.folder / METADATA_NAME).write_text(text)

    def _information(self) -> dict[str, object]:
        start = self._start or 0
        count = sum(channel.messages for channel in self._channels.values())
        span = {
            "starting_time": {"nanoseconds_since_epoch": start},
            "duration": {"nanoseconds": max(0, self._end - start)},
            "message_count": count,
        }
        topics: list[object] = [
            {
                "topic_metadata": {
                    "name": channel.topic.name,
                    "type": channel.topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": type_hash(channel.topic.type),
                },
                "message_count": channel.messages,
            }
            for channel in self._channels.values()
        ]
        return {
            "version": METADATA_VERSION,
            "storage_identifier": "mcap",
            **span,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.file.name],
            "files": [{"path": self.file.name, **span}],
            "custom_data": None,
            "ros_distro": "kilted",
        }
