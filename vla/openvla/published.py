"""What a published folder says of itself, without torch: configuration, statistics, and the contract of its actions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from controllers.names import nearest_name_hint
from controllers.types import ActionSpace, ActionSpec, FloatArray, NormalizationStatistics, frozen_array

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_STATISTICS = "dataset_statistics.json"
_EMBEDDING = "language_model.model.embed_tokens.weight"
_NAMES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
_UNITS = ("m", "m", "m", "rad", "rad", "rad", "fraction_open")


class CheckpointError(ValueError):
    """A checkpoint that is damaged, incomplete, or of another kind than it says."""


@dataclass(frozen=True)
class ActionStatistics:
    """Statistics of one data set's actions.

    Attributes:
        q01: (dims,) 1% quantiles.
        q99: (dims,) 99% quantiles.
        mask: (dims,) False marks dimensions that pass through; all True where the file has no mask.
        minimum: (dims,) or None.
        maximum: (dims,) or None.
    """

    q01: FloatArray
    q99: FloatArray
    mask: tuple[bool, ...]
    minimum: FloatArray | None
    maximum: FloatArray | None

    @property
    def normalization(self) -> NormalizationStatistics:
        """What our action spec carries."""
        return NormalizationStatistics(self.q01, self.q99, self.mask)


@dataclass(frozen=True)
class CheckpointConfig:
    """What ``config.json`` says, as far as loading needs it.

    Attributes:
        vision_ids: Names of the towers in timm's catalogue, in the order of their channels.
        fused: Whether there are two towers.
        text: The Llama's own entries; missing ones have the defaults of ``LlamaConfig``.
        action_bins: Edges of the action bins.
        pad_to_multiple_of: How far the vocabulary was padded.
        image_size: Side of the square pictures, px.
        statistics: By data set.
    """

    vision_ids: tuple[str, ...]
    fused: bool
    text: Mapping[str, Any]
    action_bins: int
    pad_to_multiple_of: int
    image_size: int
    statistics: Mapping[str, ActionStatistics]

    def statistics_of(self, key: str) -> ActionStatistics:
        """Statistics of the data set ``key``, which must be named: a wrong guess just moves the arm wrong.

        Raises:
            CheckpointError: No such data set.
        """
        known = sorted(self.statistics)
        if key not in self.statistics:
            found = f"found {key!r}{nearest_name_hint(key, known)}" if key else "found none"
            raise CheckpointError(
                f"expected the data set whose statistics un-normalize the actions (unnorm_key), {found}; "
                f"this checkpoint has: {', '.join(known) or 'none'}"
            )
        return self.statistics[key]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: No such file, or something else in it.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"expected the file {path}, found none; download the whole checkpoint") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: no valid JSON ({error}); download it again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data


def read_config(folder: Path) -> CheckpointConfig:
    """What ``config.json`` and, where there is one, ``dataset_statistics.json`` say.

    Raises:
        CheckpointError: A file is missing or is not what its name says.
    """
    path = folder / "config.json"
    data = read_json(path)
    if data.get("model_type") != "openvla":
        raise CheckpointError(
            f"{path}: expected model_type 'openvla', found {data.get('model_type')!r}; choose the policy kind that fits"
        )
    missing = [key for key in ("timm_model_ids", "text_config") if key not in data]
    if missing:
        raise CheckpointError(f"{path}: expected the entry {missing[0]!r}, found {sorted(data)}")
    raw = raw_statistics(folder)
    vision = tuple(str(name) for name in data["timm_model_ids"])
    return CheckpointConfig(
        vision_ids=vision,
        fused=bool(data.get("use_fused_vision_backbone", len(vision) == 2)),
        text=data["text_config"],
        action_bins=int(data.get("n_action_bins", 256)),
        pad_to_multiple_of=int(data.get("pad_to_multiple_of", 64)),
        image_size=int(data.get("image_sizes", [224])[0]),
        statistics={str(key): _statistics(f"{path}: {key}", entry) for key, entry in raw.items()},
    )


def _statistics(where: str, entry: Any) -> ActionStatistics:
    action = entry.get("action") if isinstance(entry, dict) else None
    if not isinstance(action, dict) or "q01" not in action or "q99" not in action:
        raise CheckpointError(f"{where}: expected statistics with action.q01 and action.q99, found {entry!r:.80}")
    q01, q99 = frozen_array(action["q01"]), frozen_array(action["q99"])
    mask = tuple(bool(item) for item in action.get("mask", [True] * q01.size))
    if not (q01.ndim == 1 and q01.shape == q99.shape and len(mask) == q01.size):
        raise CheckpointError(
            f"{where}: expected q01, q99 and mask of one length, found {q01.shape}, {q99.shape} and {len(mask)}"
        )
    if not (np.isfinite(q01).all() and np.isfinite(q99).all() and (q01 <= q99).all()):
        raise CheckpointError(f"{where}: expected finite q01 <= q99, found {q01.tolist()} and {q99.tolist()}")
    minimum, maximum = (frozen_array(action[key]) if key in action else None for key in ("min", "max"))
    return ActionStatistics(q01, q99, mask, minimum, maximum)


def raw_statistics(folder: Path) -> Mapping[str, Any]:
    """Data set -> its statistics, as the files have them.

    A folder of a fine-tuned model carries its own; they replace those of the configuration.

    Raises:
        CheckpointError: A file is missing or is not what its name says.
    """
    if (folder / _STATISTICS).is_file():
        return read_json(folder / _STATISTICS)
    return read_json(folder / "config.json").get("norm_stats", {})


def tensor_files(folder: Path) -> dict[str, Path]:
    """Name of each tensor -> the file that holds it.

    Raises:
        CheckpointError: No weights, or a shard is missing.
    """
    if (folder / _INDEX).is_file():
        weight_map = read_json(folder / _INDEX).get("weight_map", {})
        files = {str(name): folder / str(file) for name, file in weight_map.items()}
        for file in sorted(set(files.values())):
            if not file.is_file():
                raise CheckpointError(f"expected the shard {file}, found none; download the whole checkpoint")
        return files
    path = folder / _SINGLE
    if not path.is_file():
        raise CheckpointError(f"expected {_INDEX} or {_SINGLE} in {folder}, found neither; download the checkpoint")
    try:
        with safe_open(path, framework="numpy") as file:
            return dict.fromkeys(file.keys(), path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from error


def text_vocabulary(folder: Path, config: CheckpointConfig) -> int:
    """Size of the text vocabulary, without padding; the action ids are its last ones.

    Raises:
        CheckpointError: There is no embedding of words.
    """
    files = tensor_files(folder)
    if _EMBEDDING not in files:
        raise CheckpointError(f"{folder}: expected a tensor {_EMBEDDING!r}{nearest_name_hint(_EMBEDDING, files)}")
    with safe_open(files[_EMBEDDING], framework="numpy") as file:
        return int(file.get_slice(_EMBEDDING).get_shape()[0]) - config.pad_to_multiple_of


def action_spec(statistics: ActionStatistics, rate_hz: int, horizon: int = 1) -> ActionSpec:
    """The contract of a data set's actions: end-effector deltas, roll-pitch-yaw, gripper 0 closed to 1 open.

    For the small turns of one row, roll-pitch-yaw and rotation vector agree to second order.

    Args:
        statistics: Of the data set, in m and rad.
        rate_hz: Rows per second.
        horizon: Rows in a chunk.

    Raises:
        CheckpointError: Other than seven dimensions.
    """
    dims = statistics.q01.size
    if dims != len(_NAMES):
        raise CheckpointError(
            f"expected statistics of {len(_NAMES)} action dimensions ({', '.join(_NAMES)}), found {dims}"
        )
    mask = np.array(statistics.mask)
    return ActionSpec(
        space=ActionSpace.EE_DELTA,
        frame="base",
        names=_NAMES,
        units=_UNITS,
        lower=frozen_array(np.where(mask, statistics.q01, 0.0)),
        upper=frozen_array(np.where(mask, statistics.q99, 1.0)),
        rate_hz=rate_hz,
        horizon=horizon,
        statistics=statistics.normalization,
    )
