"""How an episode lies in a LeRobotDataset v3: one frame for each observation, exact values under keys of our own.

LeRobot's policies read ``observation.*`` and ``action`` as float32. Everything under ``vla.`` keeps its bits; LeRobot
loads it and its policies pass over it. LeRobot's own ``timestamp`` is always ``frame_index / fps``, so the true stamps
are under ``vla.stamp_ns``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from episodes.chunks import CERTAINTY, DOUBT
from episodes.episode import Episode
from episodes.jsontypes import as_mapping
from episodes.schema import ObservationTable, columns
from episodes.tables import token_shape

STATE = "observation.state"
ACTION = "action"
EXACT = "vla."
DOCUMENT_NAME = "vla_stack.jsonl"  # in meta/, one line an episode
LAYOUT_VERSION = 1
UNJUDGED = -1
_CHUNK_NUMBERS = (
    "chunk_id",
    "arrival_tick",
    "inference_ns",
    "inferred_ns",
    "accepted",
    "tokenizer_id",
    "spec_hash",
)

Array = npt.NDArray[Any]


def image_key(camera: str) -> str:
    """Where the pictures of a camera are."""
    return f"observation.images.{camera}"


def present_key(camera: str) -> str:
    """Where dropped frames are told from black ones."""
    return f"{EXACT}present.{camera}"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of the data set.

    Attributes:
        dtype: numpy name, or ``image`` or ``video``.
        shape: Of one frame.
        names: Of its components; empty for ``c0``, ``c1``, ...
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    def to_lerobot(self) -> dict[str, object]:
        """As LeRobot writes it."""
        names = list(self.names) or ([f"c{index}" for index in range(self.shape[0])] if self.shape != (1,) else None)
        return {"dtype": self.dtype, "shape": self.shape, "names": names}


def observation_columns(episode: Episode) -> dict[str, Array]:
    """Every column of the observations table under its exact key, (N, ...) each."""
    table = episode.observations
    exact: dict[str, Array] = {}
    for name in columns(ObservationTable):
        if name != "instruction":  # the task string says it
            exact[f"{EXACT}{name}"] = getattr(table, name)
    for camera in episode.cameras:
        exact[present_key(camera)] = episode.present(camera)
    return exact


def chunk_columns(episode: Episode) -> dict[str, Array]:
    """The first well-formed chunk that answered each observation, under exact keys; chunk_id -1 where none did."""
    count = len(episode.observations.stamp_ns)
    horizon, dims = token_shape(episode.manifest)
    chunks = episode.chunks
    row_of: dict[int, int] = {}
    for row in np.flatnonzero(chunks.malformed == 0).tolist():
        row_of.setdefault(int(chunks.observation_stamp_ns[row]), row)
    tokens = np.full((count, horizon, dims), -1, np.int64)
    certainty = {name: np.full((count, horizon, dims), np.nan) for name in CERTAINTY}
    certainty |= {f"doubt_{name}": np.full(count, np.nan) for name in DOUBT}
    forced = as_mapping(episode.attributes("chunks").get("forced_rows"))
    forced_rows = np.zeros(count, np.int64)
    numbers = {name: np.full(count, -1, np.int64) for name in _CHUNK_NUMBERS}
    for index in range(count):
        row = row_of.get(int(episode.observations.stamp_ns[index]))
        if row is None:
            continue
        tokens[index] = chunks.tokens[row]
        for name, values in certainty.items():
            values[index] = getattr(chunks, name)[row]
        forced_rows[index] = int(str(forced.get(str(row), 0)))
        for name, values in numbers.items():
            values[index] = getattr(chunks, name)[row]
    found: dict[str, Array] = {"tokens": tokens, "forced_rows": forced_rows, **numbers}
    found |= {name: values for name, values in certainty.items() if np.isfinite(values).any()}
    return {f"{EXACT}{name}": values for name, values in found.items()}


def label_columns(episode: Episode) -> dict[str, Array]:
    """The clean label of each observation, -1 where there is none; empty without labels."""
    labels = episode.labels
    if not len(labels.stamp_ns):
        return {}
    row_of = {int(stamp): row for row, stamp in enumerate(labels.stamp_ns.tolist())}
    tokens = np.full((len(episode.observations.stamp_ns), *labels.tokens.shape[1:]), -1, np.int64)
    for index, stamp in enumerate(episode.observations.stamp_ns.tolist()):
        row = row_of.get(int(stamp))
        if row is not None:
            tokens[index] = labels.tokens[row]
    return {f"{EXACT}label_tokens": tokens}


def feature_of(name: str, values: Array) -> Feature:
    """The feature that holds a column (N, ...)."""
    return Feature(values.dtype.name, values.shape[1:] or (1,))


def sized(features: Mapping[str, Feature]) -> dict[str, dict[str, object]]:
    """All features as LeRobot writes them."""
    return {name: feature.to_lerobot() for name, feature in features.items()}
