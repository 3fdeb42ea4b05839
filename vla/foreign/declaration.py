"""What a foreign policy's inputs and outputs mean, declared in a YAML file and read strictly.

The same entries as for a foreign policy server (``vla/serving/mapping.py``), and how the stack has to be set up for it.
docs/models.md explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from controllers.names import unknown_name
from controllers.types import ActionSpec
from vla.foreign.boundary import OutOfRange, check_tokenizer
from vla.serving.entries import entries_of, listed, named, typed
from vla.serving.fields import MappingError
from vla.serving.mapping import ActionMapping, ObservationMapping
from vla.serving.mapping_file import parse_mapping
from vla.tokenizers.normalization import check_spec

_FOLDER = Path(__file__).parent / "mappings"
_SPEC_KEYS = ("space", "frame", "names", "units", "lower", "upper", "rate_hz", "horizon", "q01", "q99", "mask")


class Leading(Enum):
    """What stands before the actions in a row of a text policy."""

    NONE = "none"
    TERMINATE = "terminate"  # RT-2's flag: 1 where the model takes the episode for finished


@dataclass(frozen=True)
class TextFormat:
    """How a text policy is asked and how it answers.

    Attributes:
        prompt: What it reads, with ``{instruction}`` in it once.
        leading: What stands before the actions in a row.
        rows_apart: What stands between two rows; between two numbers stands a space.
    """

    prompt: str = "What action should the robot take to {instruction}?"
    leading: Leading = Leading.NONE
    rows_apart: str = " "

    def __post_init__(self) -> None:
        """Refuse a prompt without the instruction.

        Raises:
            MappingError: Says what was expected.
        """
        if self.prompt.count("{instruction}") != 1:
            raise MappingError(f"text.prompt: expected {{instruction}} in it once, found {self.prompt!r}")
        if not self.rows_apart or any(character.isdigit() for character in self.rows_apart):
            raise MappingError(f"text.rows_apart: expected text without digits, found {self.rows_apart!r}")


@dataclass(frozen=True)
class StackDeclaration:
    """What the stack has to be for the policy; what is not declared stays as it is.

    Attributes:
        action_spec: Contract of the actions.
        tokenizer_id: Tokenizer of the boundary; one token for each row and dimension.
        cameras: Camera name -> (height, width) in pixels.
        execution_horizon: Rows to execute before asking for the next chunk; 0 is not declared.
    """

    action_spec: ActionSpec | None = None
    tokenizer_id: str = ""
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    execution_horizon: int = 0


@dataclass(frozen=True)
class ForeignDeclaration:
    """Everything that has to be declared to run a foreign policy.

    Attributes:
        observation: Its inputs.
        actions: Its actions, as they become those of the spec.
        out_of_range: What happens to actions outside the tokenizer's range.
        stack: What the stack has to be.
        text: For policies that answer in text.
    """

    observation: ObservationMapping
    actions: ActionMapping = ActionMapping()
    out_of_range: OutOfRange = OutOfRange.REFUSE
    stack: StackDeclaration = field(default_factory=StackDeclaration)
    text: TextFormat = TextFormat()

    def check_cameras(self, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Refuse cameras that the stack does not have.

        Raises:
            MappingError: Names the input, and the nearest camera.
        """
        for image in self.observation.images:
            if image.camera not in cameras:
                raise MappingError(f"mapping of {image.key}: {unknown_name('camera', image.camera, cameras)}")


def built_in_declarations() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_declaration(name: str | Path) -> ForeignDeclaration:
    """Read a mapping: a built-in name, or the path of a file.

    Raises:
        MappingError: No such mapping, not YAML, or an unknown, missing or mistyped entry.
    """
    known = built_in_declarations()
    if not str(name):
        raise MappingError(
            "expected a mapping from the robot's cameras and state to the policy's inputs, found none: write one "
            f"(docs/models.md) and name it with --policy-mapping, or take a built-in one ({', '.join(known)})"
        )
    path = _FOLDER / f"{name}.yaml" if str(name) in known else Path(name)
    if not path.is_file():
        raise MappingError(unknown_name("mapping", str(name), known) + ", or the path of a YAML file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MappingError(f"{path}: cannot read the mapping: {error}") from error
    try:
        return parse_declaration(data)
    except MappingError as error:
        raise MappingError(f"{path}: {error}") from None


def parse_declaration(data: object) -> ForeignDeclaration:
    """Build a declaration from what the YAML file holds.

    Raises:
        MappingError: An unknown, missing or mistyped entry.
    """
    top = entries_of("mapping", data, ("observation",), ("actions", "stack", "text"))
    actions = dict(named("actions", top.get("actions", {})))
    outside = actions.pop("out_of_range", OutOfRange.REFUSE.value)
    common = parse_mapping({"observation": top["observation"], "actions": actions})
    return ForeignDeclaration(
        common.observation,
        common.actions,
        _member("actions.out_of_range", outside, OutOfRange),
        _stack(top.get("stack", {})),
        _text(top.get("text", {})),
    )


def _stack(data: object) -> StackDeclaration:
    optional = ("action_spec", "tokenizer", "cameras", "execution_horizon")
    entry = entries_of("stack", data, (), optional)
    spec = _spec(entry["action_spec"]) if "action_spec" in entry else None
    tokenizer_id = typed("stack.tokenizer", entry.get("tokenizer", ""), str)
    if tokenizer_id:
        check_tokenizer("stack.tokenizer", tokenizer_id)
    cameras = {
        name: _size(f"stack.cameras.{name}", size)
        for name, size in named("stack.cameras", entry.get("cameras", {})).items()
    }
    horizon = typed("stack.execution_horizon", entry.get("execution_horizon", 0), int)
    return StackDeclaration(spec, tokenizer_id, cameras, horizon)


def _spec(data: object) -> ActionSpec:
    """Bounds serve as statistics where none are declared, as in the tabletop suite."""
    place = "stack.action_spec"
    optional = ("q01", "q99", "mask")
    entry = dict(entries_of(place, data, tuple(key for key in _SPEC_KEYS if key not in optional), optional))
    dims = len(listed(f"{place}.names", entry["names"]))
    for key, value in (("q01", entry["lower"]), ("q99", entry["upper"]), ("mask", [True] * dims)):
        entry.setdefault(key, value)
    for key in ("rate_hz", "horizon"):
        typed(f"{place}.{key}", entry[key], int)
    try:
        spec = ActionSpec.from_json(entry)
        check_spec(spec)
    except (ValueError, TypeError, KeyError) as error:
        raise MappingError(f"{place}: {error}") from error
    return spec


def _text(data: object) -> TextFormat:
    entry = entries_of("text", data, (), ("prompt", "leading", "rows_apart"))
    default = TextFormat()
    return TextFormat(
        typed("text.prompt", entry.get("prompt", default.prompt), str),
        _member("text.leading", entry.get("leading", default.leading.value), Leading),
        typed("text.rows_apart", entry.get("rows_apart", default.rows_apart), str),
    )


def _size(place: str, value: object) -> tuple[int, int]:
    size = listed(place, value)
    if len(size) != 2:
        raise MappingError(f"{place}: expected [height, width], found {value!r}")
    height, width = (typed(place, item, int) for item in size)
    return height, width


def _member[E: Enum](place: str, value: Any, kind: type[E]) -> E:
    names = [str(item.value) for item in kind]
    if value not in names:
        raise MappingError(f"{place}: {unknown_name('name', str(value), names)}")
    return kind(value)
