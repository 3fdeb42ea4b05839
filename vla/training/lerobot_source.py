"""LeRobotDataset v3 as training data: exactly what was recorded where `vla export` wrote it, else as it is declared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from controllers.types import ActionSpec, FloatArray, ImageArray
from vla.compact.preprocess import observation_proprioception
from vla.foreign.boundary import OutOfRange
from vla.foreign.declaration import ForeignDeclaration
from vla.serving.fields import MappingError
from vla.tokenizers import COMPACT_TOKENIZER
from vla.training.lerobot_files import DOCUMENT_NAME, LerobotFiles
from vla.training.resampling import chunks_ahead
from vla.training.sources import (
    EpisodeError,
    EpisodeFile,
    Layout,
    Recorded,
    Source,
    check_tokenizer,
    check_tokens,
    recorded_state,
    short_digest,
    stacked_pictures,
)
from vla.training.zarr_source import STATE_COLUMNS, succeeded

_EXACT = "vla."  # what our export keeps with all its bits, see docs/exchange.md
_SUCCESS = "next.success"
_ROUNDING = 1e-6  # shares of a range that float32 columns miss its ends by


def lerobot_episodes(source: Source) -> Iterator[EpisodeFile]:
    """The episodes of a data set.

    Raises:
        EpisodeError: It is damaged, or nobody says what its columns mean.
    """
    files = LerobotFiles(source.path.resolve())
    if source.declaration is not None:
        declared = DeclaredData(files, source.declaration)
        yield from (DeclaredEpisode(declared, index) for index in range(len(files.episodes)))
    elif files.documents:
        state = short_digest(json.dumps(files.documents))
        yield from (ExportedEpisode(files, index, state) for index in range(len(files.episodes)))
    else:
        raise EpisodeError(
            f"{source.path}: expected meta/{DOCUMENT_NAME}, which `vla export` writes, or a mapping that says what the "
            f"columns mean; found neither, and the columns {', '.join(files.features)}; write a mapping "
            f"(docs/training.md) and name it with --data-mapping {source.path}=FILE"
        )


@dataclass(frozen=True)
class ExportedEpisode:
    """An episode that `vla export` wrote: the exact columns, the labels and the manifest are all there.

    Attributes:
        files: The data set.
        index: Number of the episode.
        digest: Of what was exported, so that another export to the same folder is another episode.
    """

    files: LerobotFiles
    index: int
    digest: str

    @property
    def key(self) -> str:
        """A path below the data set."""
        return str(self.files.root / f"episode-{self.index:06d}-{self.digest}")

    @property
    def borrows_spec(self) -> bool:
        """Its manifest has one."""
        return False

    def read(self, layout: Layout, spec: ActionSpec | None) -> tuple[ActionSpec, Recorded] | str:
        """Its labelled frames; see :class:`~vla.training.sources.EpisodeFile`."""
        files, where = self.files, self.key
        manifest = files.documents[self.index]["manifest"]
        table = files.table(self.index)
        if f"{_EXACT}label_tokens" not in table.column_names:
            return "no labels: it was not recorded by vla collect"
        check_tokenizer(where, manifest.get("tokenizer_id"))
        for camera in layout.cameras:
            if f"{_EXACT}present.{camera}" not in table.column_names:
                raise EpisodeError(f"{where}: expected a camera {camera!r}, found no such pictures")
        tokens = files.column(table, f"{_EXACT}label_tokens").astype(np.int64)
        labelled = (tokens >= 0).all(axis=(1, 2))
        seen = [files.column(table, f"{_EXACT}present.{camera}").astype(bool) for camera in layout.cameras]
        rows = np.flatnonzero(np.all([labelled, *seen], axis=0))
        check_tokens(where, tokens[rows], layout)
        columns = (files.column(table, f"{_EXACT}{name}").astype(np.float64)[rows] for name in STATE_COLUMNS)
        pictures = [
            np.stack(list(files.pictures(self.index, table, f"observation.images.{camera}")))[rows]
            for camera in layout.cameras
        ]
        return ActionSpec.from_json(manifest["action_spec"]), Recorded(
            instruction=str(manifest["instruction"]),
            task=str(manifest["task"]),
            seed=int(manifest["seed"]),
            success=succeeded(manifest),
            skipped=len(table) - len(rows),
            images=stacked_pictures(where, layout, pictures),
            state=recorded_state(where, *columns),
            tokens=tokens[rows],
        )


@dataclass(frozen=True)
class DeclaredData:
    """A data set and what its columns were declared to mean."""

    files: LerobotFiles
    declaration: ForeignDeclaration

    @property
    def digest(self) -> str:
        """Of data set and declaration: episodes that were packed under another one are others."""
        declared = self.declaration
        spec = declared.stack.action_spec
        parts = [
            declared.observation.to_json(),
            declared.observation.joints,
            asdict(declared.actions),
            declared.out_of_range.value,
            spec.hash if spec else "",
            len(self.files.episodes),
            [episode["length"] for episode in self.files.episodes],
        ]
        return short_digest(json.dumps(parts, sort_keys=True))


@dataclass(frozen=True)
class DeclaredEpisode:
    """An episode of a data set of other origin.

    An action is what a frame's robot was commanded until the next frame; its column, its units and its gripper are as
    :class:`~vla.serving.mapping.ActionMapping` says. The chunk of a frame is its own action and those of the frames
    that follow, brought to the rate of the action spec.
    """

    data: DeclaredData
    index: int

    @property
    def key(self) -> str:
        """A path below the data set."""
        return str(self.data.files.root / f"episode-{self.index:06d}-{self.data.digest}")

    @property
    def borrows_spec(self) -> bool:
        """Whether the mapping declares no action spec."""
        return self.data.declaration.stack.action_spec is None

    def read(self, layout: Layout, spec: ActionSpec | None) -> tuple[ActionSpec, Recorded] | str:
        """Its frames; see :class:`~vla.training.sources.EpisodeFile`."""
        files, declared = self.data.files, self.data.declaration
        spec = declared.stack.action_spec or spec
        if spec is None:
            raise EpisodeError(
                f"{files.root}: expected an action spec, found none; declare stack.action_spec in the mapping, or "
                "train on episodes that have one, too"
            )
        table = files.table(self.index)
        if not len(table):
            return "no frames"
        instruction = files.instruction(table)
        try:
            actions = self._actions(table, spec)
            chunks = chunks_ahead(actions, files.fps, spec)
        except (MappingError, ValueError) as error:
            raise EpisodeError(f"{self.key}: {error}") from error
        self._check_range(chunks, spec)
        tokens = COMPACT_TOKENIZER.encode(chunks, spec)
        check_tokens(self.key, tokens, layout)
        images, state = self._observed(table, layout, instruction)
        success = bool(np.any(files.column(table, _SUCCESS))) if _SUCCESS in table.column_names else True
        return spec, Recorded(
            instruction=instruction,
            task=files.root.name,
            seed=self.index,
            success=success,
            skipped=0,
            images=images,
            state=state,
            tokens=tokens,
        )

    def _actions(self, table: Any, spec: ActionSpec) -> FloatArray:
        mapping = self.data.declaration.actions
        mapping.check(spec)
        values = self.data.files.column(table, mapping.key).astype(np.float64)
        if values.ndim != 2 or values.shape[1] != spec.dims:
            raise MappingError(
                f"{mapping.key}: expected {spec.dims} values a frame ({', '.join(spec.names)}), found shape "
                f"{values.shape[1:]}; the mapping's action spec must describe this column"
            )
        if not np.isfinite(values).all():
            raise MappingError(f"{mapping.key}: expected finite values, found others")
        return mapping.in_units(values)

    def _check_range(self, chunks: FloatArray, spec: ActionSpec) -> None:
        """Refuse what the end bins would cut, unless the mapping says so."""
        if self.data.declaration.out_of_range is OutOfRange.SATURATE:
            return
        slack = _ROUNDING * (spec.upper - spec.lower)
        outside = (chunks < spec.lower - slack) | (chunks > spec.upper + slack)
        if outside.any():
            frame, row, dim = (int(place) for place in np.argwhere(outside)[0])
            raise EpisodeError(
                f"{self.key}: frame {frame}, {spec.names[dim]}: expected an action in [{spec.lower[dim]:g}, "
                f"{spec.upper[dim]:g}] {spec.units[dim]}, found {chunks[frame, row, dim]:g}; correct actions.scale, "
                "choose another action spec, or declare out_of_range: saturate"
            )

    def _observed(self, table: Any, layout: Layout, instruction: str) -> tuple[ImageArray, np.ndarray]:
        """Pictures (n, cameras, side, side, 3) and state (n, 16) of every frame."""
        files, mapping = self.data.files, self.data.declaration.observation
        cameras = {image.camera: image for image in mapping.images}
        missing = [name for name in layout.cameras if name not in cameras]
        if missing:
            raise EpisodeError(
                f"{files.root}: expected pictures of the cameras {', '.join(layout.cameras)}, found none of "
                f"{missing[0]!r} in the mapping; declare which key holds them"
            )
        images = [
            [
                _square(cameras[name].prepare(picture), layout.image_size)
                for picture in files.pictures(self.index, table, cameras[name].key)
            ]
            for name in layout.cameras
        ]
        stacked = stacked_pictures(self.key, layout, [np.stack(pictures) for pictures in images])
        if not layout.state:
            return stacked, np.zeros((len(table), 16), np.float32)
        vectors = {key: files.column(table, key) for key in mapping.state}
        states = np.empty((len(table), 16), np.float32)
        for row in range(len(table)):
            message: dict[str, Any] = {key: values[row] for key, values in vectors.items()}
            message |= {image.key: np.zeros((1, 1, 3), np.uint8) for image in mapping.images}
            message[mapping.prompt] = instruction
            try:
                states[row] = observation_proprioception(mapping.read(message, 0))
            except MappingError as error:
                raise EpisodeError(f"{self.key}, frame {row}: {error}") from error
        if not np.isfinite(states).all():
            raise EpisodeError(
                f"{self.key}: expected the end effector's pose and the gripper's opening, found a mapping without one "
                "of them; declare the parts ee_position, an orientation (e.g. ee_quaternion_wxyz) and gripper_opening"
            )
        return stacked, states


def _square(image: ImageArray, side: int) -> ImageArray:
    """(side, side, 3): scaled to the square, whatever the aspect ratio, as at inference the camera gives a square."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    smaller = side < max(height, width)
    return np.asarray(
        cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), np.uint8
    )
