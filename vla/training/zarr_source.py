"""Recorded episodes: zarr stores, one each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from controllers.types import ActionSpec, ImageArray
from vla.training.sources import (
    EpisodeError,
    Layout,
    Recorded,
    check_tokenizer,
    check_tokens,
    decoded_picture,
    recorded_state,
    stacked_pictures,
)


@dataclass(frozen=True)
class ZarrEpisode:
    """One store."""

    path: Path

    @property
    def key(self) -> str:
        """Its absolute path."""
        return str(self.path)

    @property
    def borrows_spec(self) -> bool:
        """Its manifest has one."""
        return False

    def read(self, layout: Layout, spec: ActionSpec | None) -> tuple[ActionSpec, Recorded] | str:
        """Its labelled frames; see :class:`~vla.training.sources.EpisodeFile`."""
        try:
            group = zarr.open_group(str(self.path), mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            return f"cannot be opened: {error}"
        manifest: Any = group.attrs.get("manifest")
        if not isinstance(manifest, dict) or not manifest.get("closed"):
            return "not closed yet"
        if "labels" not in group or "observations" not in group:
            return "no labels yet"
        check_tokenizer(self.key, manifest.get("tokenizer_id"))
        return ActionSpec.from_json(manifest["action_spec"]), self._recorded(group, manifest, layout)

    def _recorded(self, group: zarr.Group, manifest: dict[str, Any], layout: Layout) -> Recorded:
        def read(name: str) -> np.ndarray:
            if name not in group:
                raise EpisodeError(f"{self.path}: no array {name!r}")
            return read_array(group, name)

        stamps, label_stamps = read("observations/stamp_ns"), read("labels/stamp_ns")
        _, rows, labels = np.intersect1d(stamps, label_stamps, return_indices=True)
        seen = np.all([read(f"observations/present/{name}")[rows] for name in layout.cameras], axis=0)
        rows, labels = rows[seen], labels[seen]
        tokens = read("labels/tokens")
        check_tokens(self.key, tokens, layout)
        columns = (read(f"observations/{name}")[rows] for name in STATE_COLUMNS)
        pictures = [_pictures(read(f"observations/images/{name}")[rows]) for name in layout.cameras]
        return Recorded(
            instruction=str(manifest["instruction"]),
            task=str(manifest["task"]),
            seed=int(manifest["seed"]),
            success=succeeded(manifest),
            skipped=len(stamps) - len(rows),
            images=stacked_pictures(self.key, layout, pictures),
            state=recorded_state(self.key, *columns),
            tokens=tokens[labels],
        )


STATE_COLUMNS = ("commanded_pose", "ee_pose", "gripper_opening", "wrench")


def succeeded(manifest: dict[str, Any]) -> bool:
    """Whether the episode of a manifest succeeded."""
    outcome = manifest.get("outcome")
    return isinstance(outcome, dict) and outcome.get("success") is True


def _pictures(kept: np.ndarray) -> ImageArray:
    """Pictures (N, H, W, 3) uint8 RGB as an episode keeps them: as they are, or as (N, bytes) of JPEGs."""
    if kept.ndim != 2 or not len(kept):
        return kept
    return np.stack([decoded_picture(row) for row in kept])


def read_array(group: zarr.Group, name: str) -> np.ndarray:
    """All of one array of a group."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name!r} is not an array")
    return np.asarray(array[...])
