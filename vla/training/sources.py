"""What training reads: folders of recorded episodes and LeRobotDatasets, each episode as arrays of one layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from controllers.types import ActionSpec, FloatArray, ImageArray, IntArray
from vla.compact.preprocess import Float32Array, proprioception
from vla.foreign.declaration import ForeignDeclaration
from vla.tokenizers import COMPACT_TOKENIZER

CAMERAS = ("workspace", "wrist")
LEROBOT_INFO = Path("meta/info.json")


class EpisodeError(ValueError):
    """An episode that cannot be trained on; the message says which and why."""


@dataclass(frozen=True)
class Source:
    """A folder of episodes, or one LeRobotDataset v3.

    Attributes:
        path: Folder that is searched for ``*.zarr`` at any depth, or one that holds ``meta/info.json``.
        weight: How often its frames are drawn, relative to other sources.
        successes_only: Leave out episodes that did not succeed (recorded experts); relabelled rollouts keep all.
        share: Share of all drawn frames that come from here, whatever the number of frames, in (0, 1]; None leaves it
            to the weight. Sources without a share divide among themselves what those with one leave.
        declaration: What the columns of a LeRobotDataset of other origin mean.
    """

    path: Path
    weight: float = 1.0
    successes_only: bool = True
    share: float | None = None
    declaration: ForeignDeclaration | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are no weights.

        Raises:
            ValueError: Says what was expected.
        """
        if not (np.isfinite(self.weight) and self.weight > 0.0):
            raise ValueError(f"{self.path}: expected a weight above 0, found {self.weight:g}; leave the folder out")
        if self.share is not None and not 0.0 < self.share <= 1.0:
            raise ValueError(f"{self.path}: expected a share above 0% and up to 100%, found {100 * self.share:g}%")

    @property
    def is_lerobot(self) -> bool:
        """Whether it is a LeRobotDataset."""
        return (self.path / LEROBOT_INFO).is_file()


@dataclass(frozen=True)
class Layout:
    """What is kept of each frame.

    Attributes:
        cameras: Whose pictures, in this order.
        image_size: Side of the square pictures, px.
        horizon: Rows of a label.
        dims: Dimensions of an action.
        state: Whether the robot's own state is needed; otherwise it may be missing, and is zero.
    """

    cameras: tuple[str, ...] = CAMERAS
    image_size: int = 128
    horizon: int = 8
    dims: int = 7
    state: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(cameras, side, side, 3) of the pictures of a frame, uint8."""
        return (len(self.cameras), self.image_size, self.image_size, 3)


@dataclass(frozen=True)
class Recorded:
    """The labelled frames of one episode, in order of time.

    Attributes:
        instruction: Language goal.
        task: Task name.
        seed: Seed of the scene, or the number of the episode.
        success: Whether it succeeded.
        skipped: Observations that were left out: no label, or a camera frame was dropped.
        images: (n, cameras, side, side, 3) uint8.
        state: (n, 16) float32, see :func:`vla.compact.preprocess.proprioception`.
        tokens: (n, horizon, dims) of :data:`~vla.tokenizers.COMPACT_TOKENIZER`.
    """

    instruction: str
    task: str
    seed: int
    success: bool
    skipped: int
    images: ImageArray
    state: Float32Array
    tokens: IntArray


class EpisodeFile(Protocol):
    """One episode, not read yet."""

    @property
    def key(self) -> str:
        """Its absolute path, or one that only it has below its source's."""
        ...

    @property
    def borrows_spec(self) -> bool:
        """Whether its actions are written under the action spec of other episodes, since it declares none."""
        ...

    def read(self, layout: Layout, spec: ActionSpec | None) -> tuple[ActionSpec, Recorded] | str:
        """Its frames and the spec of its labels, or the reason why it is not finished.

        Args:
            layout: What is kept.
            spec: That of the other episodes; None if there are none.

        Raises:
            EpisodeError: It is malformed, or lacks what the layout needs.
        """
        ...


def episode_files(source: Source) -> Iterator[EpisodeFile]:
    """The episodes of a source, in a fixed order.

    Raises:
        FileNotFoundError: No such folder.
        EpisodeError: A LeRobotDataset that is damaged, or whose columns nobody declared.
    """
    from vla.training.lerobot_source import lerobot_episodes
    from vla.training.zarr_source import ZarrEpisode

    if not source.path.is_dir():
        raise FileNotFoundError(f"no folder of episodes at {source.path}")
    if source.is_lerobot:
        yield from lerobot_episodes(source)
        return
    if source.declaration is not None:
        raise EpisodeError(
            f"{source.path}: expected a LeRobotDataset for a declared mapping, found no {LEROBOT_INFO}; recorded "
            "episodes say themselves what they mean"
        )
    yield from (ZarrEpisode(path) for path in sorted(path.resolve() for path in source.path.rglob("*.zarr")))


def recorded_state(
    where: str, commanded_pose: FloatArray, ee_pose: FloatArray, gripper_opening: FloatArray, wrench: FloatArray
) -> Float32Array:
    """(n, 16) proprioception of recorded columns (n, 7), (n, 7), (n,), (n, 6).

    Raises:
        EpisodeError: It is not finite.
    """
    state = proprioception(commanded_pose, ee_pose, gripper_opening, wrench)
    if not np.isfinite(state).all():
        raise EpisodeError(f"{where}: non-finite proprioception")
    return state


def check_tokens(where: str, tokens: IntArray, layout: Layout) -> None:
    """Refuse labels (n, horizon, dims) of another shape, or outside the tokenizer's bins.

    Raises:
        EpisodeError: Says what was expected and found.
    """
    expected = (layout.horizon, layout.dims)
    if tokens.shape[1:] != expected:
        raise EpisodeError(f"{where}: expected label chunks of shape {expected}, found {tokens.shape[1:]}")
    if tokens.size and (tokens.min() < 0 or tokens.max() >= COMPACT_TOKENIZER.bins):
        raise EpisodeError(f"{where}: label tokens outside 0..{COMPACT_TOKENIZER.bins - 1}")


def check_tokenizer(where: str, tokenizer_id: object) -> None:
    """Refuse labels of another tokenizer.

    Raises:
        EpisodeError: Says what was expected and found.
    """
    if tokenizer_id != COMPACT_TOKENIZER.tokenizer_id:
        raise EpisodeError(f"{where}: expected tokenizer {COMPACT_TOKENIZER.tokenizer_id!r}, found {tokenizer_id!r}")


def stacked_pictures(where: str, layout: Layout, cameras: list[ImageArray]) -> ImageArray:
    """(n, cameras, side, side, 3) of each camera's pictures (n, side, side, 3).

    Raises:
        EpisodeError: Pictures of another size.
    """
    for name, images in zip(layout.cameras, cameras, strict=True):
        if images.shape[1:] != layout.image_shape[1:] or images.dtype != np.uint8:
            raise EpisodeError(
                f"{where}: camera {name!r}: expected {layout.image_shape[1:]} uint8, "
                f"found {images.shape[1:]} {images.dtype}"
            )
    return np.stack(cameras, axis=1)


def decoded_picture(data: np.ndarray) -> ImageArray:
    """(H, W, 3) uint8 RGB of an encoded picture, bytes (n,) uint8; (0, 0, 3) where it is none."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.zeros((0, 0, 3), np.uint8) if image is None else np.ascontiguousarray(image[..., ::-1], np.uint8)


def way_to_next_grip(positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """For each frame the (3,) way m from its position to where the gripper next opens or closes, or the end.

    Args:
        positions: (n, 3) m, in order of time.
        tokens: (n, horizon, dims) labels; the last dimension is the gripper.
    """
    middle = (int(tokens[..., -1].min()) + int(tokens[..., -1].max())) / 2 if len(tokens) else 0
    opened = tokens[:, 0, -1] > middle
    goals, goal = np.empty_like(positions), positions[-1:] if len(positions) else positions
    for i in range(len(positions) - 1, -1, -1):
        if i + 1 < len(positions) and opened[i] != opened[i + 1]:
            goal = positions[i + 1 : i + 2]
        goals[i] = goal - positions[i]
    return goals


def short_digest(text: str) -> str:
    """Eight hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
