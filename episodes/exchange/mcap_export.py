"""Episodes as ROS 2 bags with MCAP storage: standard messages for everyone, attachments for what they cannot carry."""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from controllers.types import Observation, frozen_array
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.exchange import ros2
from episodes.exchange.bag import BagWriter
from episodes.exchange.files import new_folder
from episodes.exchange.joints import joint_names
from episodes.exchange.losses import Loss, LossKind, merged, write_losses
from episodes.exchange.mcap_layout import (
    ARRAYS_NAME,
    CARRIED_COLUMNS,
    DOCUMENT_NAME,
    LAYOUT_VERSION,
    array_names,
    group_attributes,
)
from episodes.exchange.protocols import Exported
from episodes.profile import LOSSLESS
from episodes.reader import open_episode

_Placed = tuple[int, int, ros2.Message]  # stamp, row, message


@dataclass(frozen=True)
class McapOptions:
    """How episodes become bags."""

    images: Literal["png", "raw"] = "png"
    """Pictures as sensor_msgs/CompressedImage with a lossless PNG, or as sensor_msgs/Image."""


class McapExporter:
    """Writes one bag an episode: OUT/NAME/NAME_0.mcap and OUT/NAME/metadata.yaml."""

    def __init__(self, options: McapOptions | None = None) -> None:
        """Choose how."""
        self._options = options or McapOptions()

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write every episode as a bag of its own."""
        losses: list[Loss] = []
        names: list[str] = []
        with new_folder(out) as scratch:
            for path in episodes:
                episode = open_episode(path)
                _check_pictures(episode)
                names.append(path.stem)
                write_bag(episode, scratch / path.stem, png=self._options.images == "png")
                losses += bag_losses(episode)
        write_losses(out, merged(losses))
        return Exported(out, tuple(out / name for name in names), len(names), merged(losses))


def bag_losses(episode: Episode) -> Iterator[Loss]:
    """What a bag does not keep; nothing of a closed episode."""
    if episode.recovered:
        yield Loss("journal", LossKind.ABSENT, "the recording was not closed; the bag holds its tables")


def write_bag(episode: Episode, folder: Path, *, png: bool) -> None:
    """Write the bag ``folder``.

    Raises:
        EpisodeError: The episode cannot be read, or a stamp does not fit ROS 2.
    """
    with BagWriter(folder) as bag:
        for _, row, message in heapq.merge(_ticks(episode), _observations(episode, png=png), key=lambda item: item[:2]):
            bag.write(message, row)
        bag.attach(ARRAYS_NAME, "application/x-npz", _arrays(episode))
        bag.attach(DOCUMENT_NAME, "application/json", json.dumps(_document(episode)).encode())
        bag.note(
            "vla-stack episode",
            {
                "layout_version": str(LAYOUT_VERSION),
                "episode_id": episode.manifest.episode_id,
                "task": episode.manifest.task,
                "instruction": episode.manifest.instruction,
                "robot": episode.manifest.robot,
            },
        )


def _log_time(stamp_ns: int) -> int:
    return max(0, stamp_ns)  # MCAP counts from 0; the true stamp is in the header and in the attachment


def _ticks(episode: Episode) -> Iterator[_Placed]:
    encoder = ros2.MessageEncoder(episode.manifest.robot, joint_names(episode))
    decoder = episode.decoder
    regular = ~episode.chunks.malformed.astype(bool)
    chunks: dict[int, list[int]] = {}
    for index in np.flatnonzero(regular).tolist():
        chunks.setdefault(int(episode.chunks.arrival_tick[index]), []).append(index)
    for row in range(len(decoder)):
        now = _log_time(decoder.now_ns(row))
        messages = encoder.state(now, decoder.state(row))
        messages += [
            ros2.Message(ros2.TOKENS, now, ros2.integers(episode.chunks.tokens[index], ("horizon", "dims")))
            for index in chunks.get(decoder.tick(row), ())
        ]
        messages += encoder.outputs(now, decoder.outputs(row))
        for message in messages:
            yield now, row, message


def _observations(episode: Episode, *, png: bool) -> Iterator[_Placed]:
    encoder = ros2.MessageEncoder(episode.manifest.robot, joint_names(episode))
    said = ""
    latest = 0
    for row in range(len(episode.observations.stamp_ns)):
        observation: Observation = episode.observation(row)
        latest = max(latest, _log_time(observation.stamp_ns))
        if observation.instruction != said:
            said = observation.instruction
            yield latest, row, ros2.Message(ros2.INSTRUCTION, latest, ros2.string(said))
        for message in encoder.observation(latest, observation, png=png):
            yield latest, row, message


def _arrays(episode: Episode) -> bytes:
    stream = io.BytesIO()
    rest = {name: episode.array(name) for name in array_names(episode) if name not in CARRIED_COLUMNS}
    rest["cameras/sizes"] = frozen_array([_size(episode, camera) for camera in episode.cameras] or np.zeros((0, 2)))
    np.savez_compressed(stream, allow_pickle=False, **rest)
    return stream.getvalue()


def _check_pictures(episode: Episode) -> None:
    profile = episode.manifest.camera_profile
    if episode.cameras and profile != LOSSLESS:
        raise EpisodeError(
            str(episode.path),
            "lossless pictures, for a bag must come back bit for bit",
            f"the camera log {profile}",
            "record with --camera-log lossless, or export to lerobot, rerun or mp4",
        )


def _size(episode: Episode, camera: str) -> tuple[int, int]:
    frames = episode.frames(camera, 0, 1)
    return (int(frames.shape[1]), int(frames.shape[2]))


def _document(episode: Episode) -> dict[str, object]:
    return {
        "layout_version": LAYOUT_VERSION,
        "name": episode.path.name,
        "manifest": episode.manifest.to_json(),
        "attributes": group_attributes(episode),
        "integrity": episode.integrity,
    }
