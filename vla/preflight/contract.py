"""The action contract: everything that two sides must mean alike before a policy may move an arm.

One is read from the policy (its folder, its server's metadata, or a ``contract.json``), one from the stack; no weights
are loaded for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from controllers.names import unknown_name
from controllers.types import ActionSpace, ActionSpec, FloatArray, frozen_array


class ContractError(ValueError):
    """A contract that cannot be read; says what was expected and what was found."""


class Scaling(Enum):
    """How statistics map actions to [-1, 1]."""

    QUANTILES = "quantiles"  # q01 to -1, q99 to +1
    MIN_MAX = "min_max"  # smallest to -1, largest to +1
    MEAN_STD = "mean_std"  # (a - mean) / std


class Rotation(Enum):
    """How a rotation is written in an action."""

    ROTATION_VECTOR = "rotation_vector"
    EULER_XYZ = "euler_xyz"
    QUATERNION = "quaternion"
    NONE = "none"  # joint space


class QuaternionOrder(Enum):
    """Order of the quaternions that the policy is given or writes."""

    WXYZ = "wxyz"
    XYZW = "xyzw"


class ColorOrder(Enum):
    """Order of the channels of a picture."""

    RGB = "rgb"
    BGR = "bgr"


class Turn(Enum):
    """How a picture is turned against what the camera gives."""

    NONE = "none"
    ROTATE_180 = "rotate_180"
    FLIP_VERTICAL = "flip_vertical"
    FLIP_HORIZONTAL = "flip_horizontal"


@dataclass(frozen=True, slots=True)
class StatisticsContract:
    """Normalization statistics, in the units of the actions.

    Attributes:
        scaling: What ``low`` and ``high`` are.
        low: (dims,) q01, smallest value, or mean.
        high: (dims,) q99, largest value, or standard deviation.
        mask: False where a dimension passes through.
        source: Data set or key that they come from, empty where unknown.
    """

    scaling: Scaling
    low: FloatArray
    high: FloatArray
    mask: tuple[bool, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class PictureContract:
    """One camera's pictures."""

    height: int
    width: int
    color: ColorOrder = ColorOrder.RGB
    turn: Turn = Turn.NONE


@dataclass(frozen=True, slots=True)
class GripperContract:
    """The gripper's action values at its two ends."""

    closed: float = 0.0
    open: float = 1.0


@dataclass(frozen=True)
class ActionContract:
    """What one side means.

    Attributes:
        owner: Whose it is, for messages.
        space: Meaning of the dimensions; delta or absolute, end effector or joints.
        frame: Frame of Cartesian quantities, or ``joint``.
        names: Name of each dimension; in joint space the joints in order, then the gripper.
        units: Unit of each dimension.
        lower: (dims,) smallest action that may be commanded.
        upper: (dims,) largest.
        rate_hz: Rows per second.
        horizon: Rows in a chunk.
        tokenizer_id: Tokenizer of the chunks.
        statistics: None where the policy has none.
        rotation: How rotations are written.
        quaternions: Order of quaternions.
        gripper: Values of the gripper's ends.
        joints: Names of the arm's joints in order; empty for a policy that does not know joints.
        pictures: By camera name.
        prompt: What the model reads, with ``{instruction}`` in it.
    """

    owner: str
    space: ActionSpace
    frame: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: FloatArray
    upper: FloatArray
    rate_hz: int
    horizon: int
    tokenizer_id: str
    statistics: StatisticsContract | None
    rotation: Rotation = Rotation.ROTATION_VECTOR
    quaternions: QuaternionOrder = QuaternionOrder.WXYZ
    gripper: GripperContract = field(default_factory=GripperContract)
    joints: tuple[str, ...] = ()
    pictures: Mapping[str, PictureContract] = field(default_factory=dict[str, PictureContract])
    prompt: str = "{instruction}"

    @property
    def dims(self) -> int:
        """Number of action dimensions."""
        return len(self.names)


def contract_of_spec(
    owner: str,
    spec: ActionSpec,
    tokenizer_id: str,
    pictures: Mapping[str, PictureContract],
    joints: tuple[str, ...] = (),
) -> ActionContract:
    """The contract of a policy or stack that keeps to the conventions of ``controllers.types``."""
    statistics = spec.statistics
    joint_space = spec.space is ActionSpace.JOINT_POSITION
    return ActionContract(
        owner=owner,
        space=spec.space,
        frame=spec.frame,
        names=spec.names,
        units=spec.units,
        lower=spec.lower,
        upper=spec.upper,
        rate_hz=spec.rate_hz,
        horizon=spec.horizon,
        tokenizer_id=tokenizer_id,
        statistics=StatisticsContract(Scaling.QUANTILES, statistics.q01, statistics.q99, statistics.mask),
        rotation=Rotation.NONE if joint_space else Rotation.ROTATION_VECTOR,
        joints=joints,
        pictures=pictures,
    )


# -------------------------------------------------------------------------------------------------- JSON

_REQUIRED = ("space", "frame", "names", "units", "lower", "upper", "rate_hz", "horizon", "tokenizer_id")
_OPTIONAL = ("statistics", "rotation", "quaternions", "gripper", "joints", "pictures", "prompt")


def contract_to_json(contract: ActionContract) -> dict[str, Any]:
    """A JSON-ready description, for ``contract.json``."""
    statistics = contract.statistics
    return {
        "space": contract.space.value,
        "frame": contract.frame,
        "names": list(contract.names),
        "units": list(contract.units),
        "lower": contract.lower.tolist(),
        "upper": contract.upper.tolist(),
        "rate_hz": contract.rate_hz,
        "horizon": contract.horizon,
        "tokenizer_id": contract.tokenizer_id,
        "statistics": statistics
        and {
            "scaling": statistics.scaling.value,
            "low": statistics.low.tolist(),
            "high": statistics.high.tolist(),
            "mask": list(statistics.mask),
            "source": statistics.source,
        },
        "rotation": contract.rotation.value,
        "quaternions": contract.quaternions.value,
        "gripper": {"closed": contract.gripper.closed, "open": contract.gripper.open},
        "joints": list(contract.joints),
        "pictures": {
            name: {"height": view.height, "width": view.width, "color": view.color.value, "turn": view.turn.value}
            for name, view in contract.pictures.items()
        },
        "prompt": contract.prompt,
    }


def contract_from_json(data: object, owner: str) -> ActionContract:
    """Read what :func:`contract_to_json` wrote, or somebody else.

    Raises:
        ContractError: An unknown, missing or mistyped entry.
    """
    if not isinstance(data, dict):
        raise ContractError(f"{owner}: expected a JSON object, found {type(data).__name__}")
    for key in data:
        if key not in _REQUIRED + _OPTIONAL:
            raise ContractError(f"{owner}: {unknown_name('entry', str(key), _REQUIRED + _OPTIONAL)}")
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise ContractError(f"{owner}: missing {', '.join(missing)}")
    try:
        return _read(data, owner)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{owner}: cannot be read: {error!r}") from error


def _read(data: dict[str, Any], owner: str) -> ActionContract:
    names = tuple(map(str, data["names"]))
    found = data.get("statistics")
    gripper = data.get("gripper", {"closed": 0.0, "open": 1.0})
    pictures = {
        str(name): PictureContract(
            int(view["height"]),
            int(view["width"]),
            ColorOrder(view.get("color", "rgb")),
            Turn(view.get("turn", "none")),
        )
        for name, view in data.get("pictures", {}).items()
    }
    return ActionContract(
        owner=owner,
        space=ActionSpace(data["space"]),
        frame=str(data["frame"]),
        names=names,
        units=tuple(map(str, data["units"])),
        lower=_vector(owner, "lower", data["lower"], len(names)),
        upper=_vector(owner, "upper", data["upper"], len(names)),
        rate_hz=int(data["rate_hz"]),
        horizon=int(data["horizon"]),
        tokenizer_id=str(data["tokenizer_id"]),
        statistics=found
        and StatisticsContract(
            Scaling(found["scaling"]),
            _vector(owner, "statistics.low", found["low"], len(names)),
            _vector(owner, "statistics.high", found["high"], len(names)),
            tuple(map(bool, found["mask"])),
            str(found.get("source", "")),
        ),
        rotation=Rotation(data.get("rotation", "rotation_vector")),
        quaternions=QuaternionOrder(data.get("quaternions", "wxyz")),
        gripper=GripperContract(float(gripper["closed"]), float(gripper["open"])),
        joints=tuple(map(str, data.get("joints", ()))),
        pictures=pictures,
        prompt=str(data.get("prompt", "{instruction}")),
    )


def _vector(owner: str, name: str, values: Any, size: int) -> FloatArray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (size,):
        raise ContractError(f"{owner}: {name}: expected {size} numbers, found {vector.size}")
    return frozen_array(vector)
