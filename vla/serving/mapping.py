"""What a server of the openpi protocol calls things: typed configuration instead of guesses.

The protocol carries one map of named values each way and says nothing about their meaning: every training set has its
own keys. A mapping is used in both directions: to write an observation for a foreign
server, and to read one from a foreign client (``mapping_file`` reads it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from controllers.names import nearest_name_hint, unknown_name
from controllers.types import ActionSpec, FloatArray, ImageArray, Observation
from vla.serving.fields import (
    JOINT_FIELDS,
    SIZES,
    MappingError,
    StateField,
    commanded_pose,
    read_part,
    state_from_parts,
)


@dataclass(frozen=True)
class ImageKey:
    """One image of the foreign map.

    Attributes:
        key: Its name there, e.g. ``observation/wrist_image``.
        camera: The camera's name here.
        size: Side of the square it is scaled to before it goes to the policy, keeping the aspect ratio and padding
            with black; 0 leaves it as it is.
        rotate_180: Turn it half a turn, as LIBERO's pictures need.
    """

    key: str
    camera: str
    size: int = 0
    rotate_180: bool = False

    def prepare(self, image: ImageArray) -> ImageArray:
        """Turn and scale an (H, W, 3) uint8 picture."""
        if self.rotate_180:
            image = image[::-1, ::-1]
        if self.size and image.shape[:2] != (self.size, self.size):
            image = _fit(image, self.size)
        return np.ascontiguousarray(image)


@dataclass(frozen=True)
class ObservationMapping:
    """How an observation is laid out in the foreign map.

    Attributes:
        images: The pictures.
        state: Key -> the parts of its vector, in order.
        prompt: Key of the instruction.
        joints: Arm joints, where joint values are mapped; 0 otherwise.
    """

    images: tuple[ImageKey, ...]
    state: Mapping[str, tuple[StateField, ...]]
    prompt: str = "prompt"
    joints: int = 0

    def __post_init__(self) -> None:
        keys = [*(image.key for image in self.images), *self.state, self.prompt]
        if len(set(keys)) != len(keys):
            raise MappingError(f"expected each key once, found {', '.join(keys)}")
        parts = [part for vector in self.state.values() for part in vector]
        if len(set(parts)) != len(parts):
            raise MappingError(f"expected each part of the state once, found {', '.join(p.value for p in parts)}")
        if self.joints < 1 and any(part in JOINT_FIELDS for part in parts):
            raise MappingError("expected the number of joints beside joint values: add `joints: 7` to the mapping")

    def size(self, part: StateField) -> int:
        """Values that a part takes."""
        return self.joints if part in JOINT_FIELDS else SIZES[part]

    def write(self, observation: Observation) -> dict[str, Any]:
        """The foreign map for one observation; state vectors are float32.

        Raises:
            MappingError: A camera that the observation lacks, or another number of joints.
        """
        message: dict[str, Any] = {self.prompt: observation.instruction}
        for image in self.images:
            if image.camera not in observation.images:
                raise MappingError(unknown_name("camera", image.camera, observation.images))
            message[image.key] = image.prepare(observation.images[image.camera])
        for key, parts in self.state.items():
            values = [self._checked(part, read_part(part, observation)) for part in parts]
            message[key] = np.concatenate(values).astype(np.float32)
        return message

    def read(self, message: Mapping[str, Any], stamp_ns: int) -> Observation:
        """The observation that a foreign map describes.

        What the map does not tell: the reference pose is the sensed pose, the wrench is zero, and everything else of
        the state is NaN, which a policy that needs it refuses.

        Raises:
            MappingError: A missing, unknown or mistyped entry.
        """
        expected = [*(image.key for image in self.images), *self.state, self.prompt]
        for key in expected:
            if key not in message:
                have = ", ".join(map(str, message)) or "nothing"
                raise MappingError(f"expected an entry {key!r}, found {have}{nearest_name_hint(key, message)}")
        for key in message:
            if key not in expected:
                raise MappingError(unknown_name("entry", str(key), expected))
        prompt = message[self.prompt]
        if not isinstance(prompt, str):
            raise MappingError(f"{self.prompt}: expected text, found {type(prompt).__name__}")
        images = {image.camera: image.prepare(_picture(image.key, message[image.key])) for image in self.images}
        parts: dict[StateField, FloatArray] = {}
        for key, names in self.state.items():
            parts.update(self._split(key, names, message[key]))
        state = state_from_parts(parts, self.joints, stamp_ns)
        commanded = commanded_pose(parts)
        return Observation(images, state, commanded or state.ee_pose, prompt, stamp_ns)

    def to_json(self) -> dict[str, Any]:
        """What the server tells its clients about the entries it expects."""
        return {
            "images": {
                image.key: {"camera": image.camera, "size": image.size, "rotate_180": image.rotate_180}
                for image in self.images
            },
            "state": {key: [part.value for part in parts] for key, parts in self.state.items()},
            "prompt": self.prompt,
        }

    def _checked(self, part: StateField, values: FloatArray) -> FloatArray:
        if values.shape != (self.size(part),):
            raise MappingError(f"expected {self.size(part)} values of {part.value}, found {values.size}")
        return values

    def _split(self, key: str, names: tuple[StateField, ...], value: Any) -> dict[StateField, FloatArray]:
        vector = np.asarray(value) if isinstance(value, (list, tuple, np.ndarray, np.generic)) else np.empty(0)
        sizes = [self.size(part) for part in names]
        if vector.dtype.kind not in "fiu" or vector.shape != (sum(sizes),):
            layout = ", ".join(f"{part.value} ({size})" for part, size in zip(names, sizes, strict=True))
            raise MappingError(f"{key}: expected {sum(sizes)} numbers: {layout}; found {described(value)}")
        if not np.isfinite(vector).all():
            raise MappingError(f"{key}: expected finite numbers, found {vector.tolist()}")
        ends = np.cumsum(sizes)
        vector = vector.astype(np.float64)
        return {part: vector[end - size : end] for part, size, end in zip(names, sizes, ends, strict=True)}


@dataclass(frozen=True)
class ActionMapping:
    """How a foreign chunk becomes actions in the stack's units: ``action = scale * value + offset``.

    Attributes:
        key: Its name in the foreign map.
        scale: (dims,) or empty for ones; e.g. 0.05 m for one unit of LIBERO's translation, -0.5 where +1 closes a
            gripper that is 1 when open here.
        offset: (dims,) or empty for zeros.
        rows: ``exact``: the chunk has the spec's horizon; ``first``: a longer one gives its first rows.
    """

    key: str = "actions"
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    rows: Literal["exact", "first"] = "exact"

    def check(self, spec: ActionSpec) -> None:
        """Refuse a mapping for another number of dimensions.

        Raises:
            MappingError: Says which.
        """
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            if values and len(values) != spec.dims:
                raise MappingError(
                    f"actions.{name}: expected {spec.dims} values ({', '.join(spec.names)}), found {len(values)}"
                )

    def read(self, message: Mapping[str, Any], spec: ActionSpec) -> FloatArray:
        """The (horizon, dims) float64 actions of a foreign reply, in the spec's units.

        Raises:
            MappingError: No chunk, another shape or type, or a value that is not finite.
        """
        value = message.get(self.key)
        if value is None:
            raise MappingError(f"expected an entry {self.key!r} with the actions, found {', '.join(message)}")
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 2:
            raise MappingError(f"{self.key}: expected a float array (horizon, dims), found {described(value)}")
        if value.shape[1] != spec.dims:
            raise MappingError(
                f"{self.key}: expected {spec.dims} dimensions ({', '.join(spec.names)}), found {value.shape[1]}"
            )
        enough = value.shape[0] == spec.horizon or (self.rows == "first" and value.shape[0] > spec.horizon)
        if not enough:
            more = "" if self.rows == "first" else "; `rows: first` takes the first rows of longer chunks"
            raise MappingError(f"{self.key}: expected {spec.horizon} rows, found {value.shape[0]}{more}")
        actions = value[: spec.horizon].astype(np.float64)
        if not np.isfinite(actions).all():
            row, dim = np.argwhere(~np.isfinite(actions))[0]
            raise MappingError(f"{self.key}: row {row}, {spec.names[dim]}: expected a finite value")
        return self.in_units(actions)

    def in_units(self, values: FloatArray) -> FloatArray:
        """Foreign values (..., dims) as actions in the spec's units."""
        scale = np.array(self.scale) if self.scale else 1.0
        return values * scale + (np.array(self.offset) if self.offset else 0.0)


@dataclass(frozen=True)
class RemoteMapping:
    """Everything that has to be declared to work with a foreign server."""

    observation: ObservationMapping
    actions: ActionMapping


def _picture(key: str, value: Any) -> ImageArray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise MappingError(f"{key}: expected an RGB picture (height, width, 3) of uint8, found {described(value)}")
    if min(value.shape) < 1:
        raise MappingError(f"{key}: expected a picture of at least one pixel, found {value.shape}")
    return value


def _fit(image: ImageArray, side: int) -> ImageArray:
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = scaled
    return canvas


def described(value: object) -> str:
    """What was found, for an error: shape and type of an array, else type and value."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
