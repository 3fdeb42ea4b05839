"""The folder that LeRobot publishes a policy as, read and checked without LeRobot and without torch.

LeRobot itself passes values through where statistics are missing, fills in pictures that are missing, and pads states
that are too short. Here each of these is an error before anything starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from controllers.names import nearest_name_hint
from controllers.types import ActionSpec
from vla.foreign.declaration import ForeignDeclaration

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
ACTION, TASK = "action", "task"
_EMPTY_CAMERA = "empty_camera"  # a place that the policy itself fills with black
_NORMALIZER, _UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
_NEEDED = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}
# Types whose prediction has as many rows as are executed; that of the others has `chunk_size`.
_ROWS_EXECUTED = ("diffusion", "pi0_fast")


class LeRobotFolderError(ValueError):
    """A folder that is no LeRobot policy, or one that the mapping and the stack do not fit."""


@dataclass(frozen=True)
class PolicyFeature:
    """One input or output.

    Attributes:
        kind: VISUAL, STATE, ENV or ACTION.
        shape: (channels, height, width) of a picture, (dims,) of a vector.
    """

    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LeRobotFolder:
    """What the files say.

    Attributes:
        path: The folder.
        kind: LeRobot's type of the policy, e.g. ``act``.
        inputs: By name.
        action_dims: Dimensions of an action.
        rows: Rows of a chunk as the policy predicts it; 0 where its configuration does not say.
        n_obs_steps: Observations, one row apart, that it sees at a time.
        tokenizers: Names or paths of the tokenizers that its processors load.
    """

    path: Path
    kind: str
    inputs: Mapping[str, PolicyFeature]
    action_dims: int
    rows: int
    n_obs_steps: int
    tokenizers: tuple[str, ...]

    @property
    def pictures(self) -> Mapping[str, PolicyFeature]:
        """Pictures that somebody has to take."""
        return {
            key: feature
            for key, feature in self.inputs.items()
            if feature.kind == "VISUAL" and _EMPTY_CAMERA not in key
        }

    @property
    def vectors(self) -> Mapping[str, PolicyFeature]:
        """State vectors."""
        return {key: feature for key, feature in self.inputs.items() if feature.kind in ("STATE", "ENV")}


def read_folder(path: Path | str) -> LeRobotFolder:
    """Read configuration and processors, and check that the statistics are all there.

    Raises:
        LeRobotFolderError: A file is missing or is not what its name says, or statistics are missing.
    """
    path = Path(path)
    if not path.is_dir():
        raise LeRobotFolderError(f"expected the folder of a LeRobot policy, found none at {path}")
    for name in (CONFIG, WEIGHTS, PREPROCESSOR, POSTPROCESSOR):
        if not (path / name).is_file():
            raise LeRobotFolderError(_missing(path, name))
    config = _json(path / CONFIG)
    if "type" not in config:
        raise LeRobotFolderError(f"{path / CONFIG}: expected LeRobot's entry 'type', found {', '.join(sorted(config))}")
    if config.get("use_peft"):
        raise LeRobotFolderError(
            f"{path}: expected whole weights, found an adapter; merge it into its base policy first"
        )
    kind = str(config["type"])
    inputs = _features(path, "input_features", config.get("input_features"))
    outputs = _features(path, "output_features", config.get("output_features"))
    if ACTION not in outputs or len(outputs[ACTION].shape) != 1:
        raise LeRobotFolderError(f"{path / CONFIG}: expected the output {ACTION!r} (dims,), found {', '.join(outputs)}")
    executed, predicted = config.get("n_action_steps", 0), config.get("chunk_size", 0)
    folder = LeRobotFolder(
        path=path,
        kind=kind,
        inputs=inputs,
        action_dims=outputs[ACTION].shape[0],
        rows=int(executed if kind in _ROWS_EXECUTED else predicted or executed or 0),
        n_obs_steps=int(config.get("n_obs_steps", 1)),
        tokenizers=tuple(
            str(step["config"]["tokenizer_name"])
            for step in _steps(path / PREPROCESSOR)
            if step.get("config", {}).get("tokenizer_name")
        ),
    )
    _check_statistics(folder, PREPROCESSOR, _NORMALIZER, [*folder.vectors, *folder.pictures])
    _check_statistics(folder, POSTPROCESSOR, _UNNORMALIZER, [ACTION], config.get("normalization_mapping"))
    return folder


def check_fit(
    folder: LeRobotFolder,
    declaration: ForeignDeclaration,
    spec: ActionSpec,
    cameras: Mapping[str, tuple[int, int]],
    execution_horizon: int,
) -> None:
    """Refuse a mapping or a stack that the policy does not fit.

    Args:
        folder: The policy.
        declaration: The mapping.
        spec: Contract of the stack's actions.
        cameras: The stack's cameras, (height, width) px.
        execution_horizon: Rows that the stack executes between two observations.

    Raises:
        LeRobotFolderError: Lists every difference with what was expected, what was found and what to change.
        MappingError: A camera that the stack does not have, or another number of scales.
    """
    declaration.check_cameras(cameras)
    declaration.actions.check(spec)
    differences = [
        *_pictures(folder, declaration, cameras),
        *_vectors(folder, declaration),
        *_actions(folder, declaration, spec),
    ]
    if declaration.observation.prompt != TASK:
        differences.append(
            f"instruction: expected the key {TASK!r}, found {declaration.observation.prompt!r}; write `prompt: {TASK}`"
        )
    if folder.n_obs_steps > 1 and execution_horizon != 1:
        differences.append(
            f"observations: expected one a row, for it sees {folder.n_obs_steps} that are one row apart, found one in "
            f"{execution_horizon} rows; use --stack.execution-horizon 1, or declare it in the mapping"
        )
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise LeRobotFolderError(f"{folder.path} ({folder.kind}) does not fit, nothing was moved:\n{lines}")


# ------------------------------------------------------------------------------------------- differences


def _pictures(
    folder: LeRobotFolder, declaration: ForeignDeclaration, cameras: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    mapped = {image.key: image for image in declaration.observation.images}
    for key, feature in folder.pictures.items():
        if key not in mapped:
            yield (
                f"{key}: expected a camera for this picture {_shape(feature.shape)}, found none in the mapping"
                f"{nearest_name_hint(key, mapped)}; add `{key}: {{camera: NAME}}` to observation.images "
                f"(cameras: {', '.join(cameras)})"
            )
            continue
        image = mapped[key]
        height, width = (image.size, image.size) if image.size else cameras[image.camera]
        if feature.shape != (3, height, width):
            yield (
                f"{key}: expected a picture {_shape(feature.shape)} (channels x height x width), found "
                f"{_shape((3, height, width))} of the camera {image.camera!r}; {_resize(feature, image.camera)}"
            )
    for key in mapped:
        if key not in folder.inputs:
            yield _unknown(key, folder)


def _vectors(folder: LeRobotFolder, declaration: ForeignDeclaration) -> Iterator[str]:
    mapping = declaration.observation
    for key, feature in folder.vectors.items():
        if key not in mapping.state:
            yield (
                f"{key}: expected the parts of this vector of {feature.shape[0]}, found none in the mapping"
                f"{nearest_name_hint(key, mapping.state)}; add `{key}: [PART, ...]` to observation.state"
            )
            continue
        parts = mapping.state[key]
        size = sum(mapping.size(part) for part in parts)
        if feature.shape != (size,):
            layout = " + ".join(f"{part.value} ({mapping.size(part)})" for part in parts)
            yield (
                f"{key}: expected {feature.shape[0]} values, found {size}: {layout}; list the parts of the vector that "
                "the policy was trained with"
            )
    for key in mapping.state:
        if key not in folder.inputs:
            yield _unknown(key, folder)


def _actions(folder: LeRobotFolder, declaration: ForeignDeclaration, spec: ActionSpec) -> Iterator[str]:
    if declaration.actions.key != ACTION:
        yield f"actions: expected the key {ACTION!r}, found {declaration.actions.key!r}; write `key: {ACTION}`"
    if folder.action_dims != spec.dims:
        yield (
            f"actions: expected {spec.dims} dimensions ({', '.join(spec.names)}), as the stack executes, found "
            f"{folder.action_dims}; declare stack.action_spec with the meaning of each dimension"
        )
    exact = declaration.actions.rows == "exact"
    if folder.rows and (folder.rows < spec.horizon or (exact and folder.rows != spec.horizon)):
        more = "declare stack.action_spec with a horizon of at most that"
        yield (
            f"actions: expected {spec.horizon} rows in a chunk, found {folder.rows}; "
            + ("write `rows: first` to take the first of them" if folder.rows > spec.horizon else more)
        )


def _unknown(key: str, folder: LeRobotFolder) -> str:
    return (
        f"{key}: expected an input of the policy, found none of that name{nearest_name_hint(key, folder.inputs)}; "
        f"it has {', '.join(folder.inputs)}"
    )


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _resize(feature: PolicyFeature, camera: str) -> str:
    if len(feature.shape) != 3:
        return "it is no picture with channels, height and width"
    _, height, width = feature.shape
    square = f"write `size: {height}`, or " if height == width else ""
    return f"{square}declare `stack.cameras: {{{camera}: [{height}, {width}]}}`"


# ------------------------------------------------------------------------------------------- statistics


def _check_statistics(
    folder: LeRobotFolder, file: str, name: str, keys: list[str], declared: Mapping[str, str] | None = None
) -> None:
    """Everything that is normalized must have its statistics: LeRobot passes it through otherwise."""
    path = folder.path / file
    step = next((item for item in _steps(path) if item.get("registry_name") == name), None)
    if step is None:
        if declared is not None and declared.get("ACTION", "IDENTITY") != "IDENTITY":
            raise LeRobotFolderError(
                f"{path}: expected a step {name!r}, for actions are normalized ({declared['ACTION']}), found none; "
                "save the policy's processors with the statistics of its data set"
            )
        return
    modes = {str(kind): str(mode) for kind, mode in step["config"].get("norm_map", {}).items()}
    found = _tensors(folder.path / str(step["state_file"])) if step.get("state_file") else {}
    for key in keys:
        feature = folder.inputs.get(key)
        kind = "ACTION" if key == ACTION else feature.kind if feature else ""
        for statistic in _NEEDED.get(modes.get(kind, "IDENTITY"), ()):
            values = found.get(f"{key}.{statistic}")
            if values is None:
                have = ", ".join(sorted(found)) or "none"
                raise LeRobotFolderError(
                    f"{path}: expected the statistics {key}.{statistic} ({modes[kind]}), "
                    f"found {have}; without them LeRobot would pass the values through: save the processors with "
                    "the statistics of the data set"
                )
            if not np.isfinite(values).all():
                raise LeRobotFolderError(
                    f"{path}: expected finite statistics, found {key}.{statistic} = {values.ravel().tolist()}; compute "
                    "the data set's statistics again"
                )


# ------------------------------------------------------------------------------------------------ files


def _missing(path: Path, name: str) -> str:
    found = ", ".join(sorted(item.name for item in path.iterdir())) or "nothing"
    if name in (PREPROCESSOR, POSTPROCESSOR):
        return (
            f"{path}: expected {name}, found {found}; a policy of before LeRobot 0.4 keeps its statistics in its "
            "weights: convert it with lerobot's migrate_policy_normalization"
        )
    return f"{path}: expected {name}, found {found}; name the folder that LeRobot calls pretrained_model"


def _features(path: Path, entry: str, data: Any) -> Mapping[str, PolicyFeature]:
    try:
        return {
            str(key): PolicyFeature(str(item["type"]), tuple(int(size) for size in item["shape"]))
            for key, item in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LeRobotFolderError(
            f"{path / CONFIG}: expected {entry} with type and shape, found {data!r:.200}"
        ) from error


def _steps(path: Path) -> list[dict[str, Any]]:
    steps = _json(path).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise LeRobotFolderError(f"{path}: expected a list of steps, found {steps!r:.100}")
    return steps


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LeRobotFolderError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise LeRobotFolderError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: np.asarray(file.get_tensor(name), np.float64) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, TypeError) as error:
        raise LeRobotFolderError(f"{path}: the statistics cannot be read: {error}") from error
