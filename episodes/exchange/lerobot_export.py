"""Episodes as a LeRobotDataset v3, written by LeRobot itself.

This is the one module of ``episodes`` that imports ``lerobot`` and thereby torch, inside the function that needs it.
The process of the control loop never imports ``episodes.exchange``; two import contracts say so.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.exchange.actions import ActionKind, Actions, actions
from episodes.exchange.files import check_free, new_folder
from episodes.exchange.joints import joint_names
from episodes.exchange.lerobot_layout import (
    ACTION,
    DOCUMENT_NAME,
    EXACT,
    LAYOUT_VERSION,
    STATE,
    UNJUDGED,
    Array,
    Feature,
    chunk_columns,
    feature_of,
    image_key,
    label_columns,
    observation_columns,
    present_key,
    sized,
)
from episodes.exchange.losses import Loss, LossKind, merged, write_losses
from episodes.exchange.protocols import Exported
from episodes.extras import load, missing
from episodes.reader import open_episode

_IMAGE_WRITERS = 4  # threads that compress PNGs while the next frames are read


@dataclass(frozen=True)
class LerobotOptions:
    """How episodes become a data set."""

    repo_id: str = "local/vla-stack"
    """Name of the data set, OWNER/NAME."""
    action: ActionKind = "ee_delta"
    """What the action of a frame is: the motion of the end effector's reference until the next observation, or the
    joint positions commanded last before it."""
    video: bool = False
    """Pictures as lossy mp4 instead of lossless PNG."""
    fps: int = 0
    """Frames per second that LeRobot assumes; 0 for the median rate of the observations."""


class LerobotExporter:
    """Writes one data set of all episodes."""

    def __init__(self, options: LerobotOptions | None = None) -> None:
        """Choose how."""
        self._options = options or LerobotOptions()

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write the data set ``out``."""
        options = self._options
        check_free(out)
        columns = [_frames(open_episode(path), options) for path in episodes[:1]]
        features = columns[0].features
        fps = options.fps or _median_rate(episodes)
        losses: list[Loss] = []
        documents: list[dict[str, object]] = []
        with new_folder(out) as scratch:
            scratch.rmdir()  # LeRobot insists on making its folder
            dataset = _create(options, scratch, features, fps, open_episode(episodes[0]).manifest.robot)
            for path in episodes:
                episode = open_episode(path)
                frames = _frames(episode, options)
                _check_features(path, features, frames.features)
                _save(dataset, episode, frames)
                documents.append(_document(episode))
                losses += lerobot_losses(episode, options, fps)
            dataset.finalize()
            shutil.rmtree(scratch / "images", ignore_errors=True)  # LeRobot's scratch pictures
            text = "".join(json.dumps(document) + "\n" for document in documents)
            (scratch / "meta" / DOCUMENT_NAME).write_text(text)
        write_losses(out, merged(losses))
        return Exported(out, (out,), len(episodes), merged(losses))


def _create(options: LerobotOptions, root: Path, features: Mapping[str, Feature], fps: int, robot: str) -> Any:
    # LeRobot tells at length that torchcodec found no FFmpeg; its pyav fallback is all that is needed here.
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        from lerobot.datasets import lerobot_dataset  # pyright: ignore[reportMissingTypeStubs]
    except ModuleNotFoundError as error:
        raise missing(error.name or "lerobot", "lerobot") from error
    load("datasets", "lerobot").disable_progress_bars()
    return cast(Any, lerobot_dataset).LeRobotDataset.create(
        options.repo_id,
        fps,
        sized(features),
        root=root,
        robot_type=robot,
        use_videos=options.video,
        image_writer_threads=_IMAGE_WRITERS,
    )


# ---------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class _Frames:
    """Columns of one episode, without pictures."""

    columns: Mapping[str, Array]
    features: Mapping[str, Feature]


def _frames(episode: Episode, options: LerobotOptions) -> _Frames:
    count = len(episode.observations.stamp_ns)
    if not count:
        raise EpisodeError(
            str(episode.path), "observations", "none", "LeRobot's frames are observations; export to mcap or csv"
        )
    table = episode.observations
    state = np.hstack((table.joint_position, table.gripper_opening[:, None])).astype(np.float32)
    action: Actions = actions(episode, options.action)
    columns: dict[str, Array] = {STATE: state, ACTION: action.values}
    features = {
        STATE: Feature("float32", state.shape[1:], (*joint_names(episode), "gripper")),
        ACTION: Feature("float32", action.values.shape[1:], action.names),
    }
    outcome = episode.manifest.outcome
    judged = UNJUDGED if outcome is None or outcome.success is None else int(outcome.success)
    last = np.arange(count) == count - 1
    rest: dict[str, Array] = {
        "next.done": last,
        "next.success": last & (judged == 1),
        f"{EXACT}outcome": np.full(count, judged, np.int64),
        **observation_columns(episode),
        **chunk_columns(episode),
        **label_columns(episode),
    }
    columns |= rest
    features |= {name: feature_of(name, values) for name, values in rest.items()}
    kind = "video" if options.video else "image"
    for camera in episode.cameras:
        height, width = episode.frames(camera, 0, 1).shape[1:3]
        features[image_key(camera)] = Feature(kind, (height, width, 3), ("height", "width", "channels"))
    return _Frames(columns, features)


def _check_features(path: Path, expected: Mapping[str, Feature], found: Mapping[str, Feature]) -> None:
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            raise EpisodeError(
                f"{path}: {name}",
                f"{expected.get(name) or 'nothing'} as in the first episode",
                str(found.get(name) or "nothing"),
                "export episodes of one robot, camera set and action spec together",
            )


def _save(dataset: Any, episode: Episode, frames: _Frames) -> None:
    black = {camera: np.zeros(episode.frames(camera, 0, 1).shape[1:], np.uint8) for camera in episode.cameras}
    for index in range(len(episode.observations.stamp_ns)):
        frame: dict[str, object] = {name: np.atleast_1d(values[index]) for name, values in frames.columns.items()}
        observation = episode.observation(index)
        for camera in episode.cameras:
            frame[image_key(camera)] = observation.images.get(camera, black[camera])
        frame["task"] = observation.instruction
        dataset.add_frame(frame)
    dataset.save_episode()


def _median_rate(episodes: Sequence[Path]) -> int:
    gaps = [np.diff(open_episode(path).observations.stamp_ns) for path in episodes]
    every = np.concatenate(gaps)
    if not len(every) or np.median(every) <= 0:
        return 1
    return max(1, round(1e9 / float(np.median(every))))


def _document(episode: Episode) -> dict[str, object]:
    return {
        "layout_version": LAYOUT_VERSION,
        "name": episode.path.name,
        "manifest": episode.manifest.to_json(),
        "cameras": list(episode.cameras),
        "tokenizer_ids": episode.attributes("chunks").get("tokenizer_ids"),
        "spec_hashes": episode.attributes("chunks").get("spec_hashes"),
    }


# ---------------------------------------------------------------------------------------------- losses


def lerobot_losses(episode: Episode, options: LerobotOptions, fps: int) -> Iterator[Loss]:
    """What the data set does not keep."""
    yield Loss(
        "ticks", LossKind.ABSENT, "a frame is an observation; targets, commands and verdicts between them stay here"
    )
    yield Loss("events", LossKind.ABSENT, "LeRobot has no place for events")
    yield Loss("physics", LossKind.ABSENT, "no physics states and no scene: an import cannot be executed again")
    yield Loss(
        "timestamp",
        LossKind.RESAMPLED,
        f"LeRobot's own is frame_index / {fps}; the true stamps are under {EXACT}stamp_ns",
    )
    yield Loss(f"{STATE}, {ACTION}", LossKind.ROUNDED, f"float32 for policies; the exact values are under {EXACT}*")
    if options.video:
        yield Loss("pictures", LossKind.COMPRESSED, "lossy video; leave out --lerobot.video for lossless pictures")
    elif episode.cameras:
        dropped = sum(int((~episode.present(camera)).sum()) for camera in episode.cameras)
        if dropped:
            yield Loss("dropped pictures", LossKind.ABSENT, f"black, and marked under {present_key('CAMERA')}")
    kept = int((chunk_columns(episode)[f"{EXACT}chunk_id"] >= 0).sum())
    if kept < len(episode.chunks.chunk_id):
        yield Loss("chunks", LossKind.ABSENT, "a frame keeps the first well-formed chunk that answered it, no other")
