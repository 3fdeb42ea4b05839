"""The configuration of a whole stack, from tokenizer to safety: enough to build the same loop again.

Every episode logs it as JSON; replay reads it back. Reading is strict: an unknown, missing or mistyped entry is an
error that names what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar, cast, get_type_hints

from controllers.chunking import ChunkingOptions
from controllers.differential_ik import DifferentialIK, DifferentialIKOptions
from controllers.doubt import DoubtOptions
from controllers.executor import ExecutorOptions
from controllers.joint_impedance import JointImpedance, JointImpedanceOptions
from controllers.kinematics import ArmModel
from controllers.latency import LatencyModel, TraceLatency, parse_latency
from controllers.names import nearest_name_hint, unknown_name
from controllers.operational_space import OperationalSpace, OperationalSpaceOptions
from controllers.protocols import Controller
from controllers.robot import load_robot
from controllers.types import ActionSpec, CommandMode
from safety.profile import SafetyProfile, load_profile, parse_profile
from sim.obstacles.options import ObstacleOptions
from sim.scene import PHYSICS_TIMESTEP
from sim.tabletop import CAMERAS, CONTROL_RATE_HZ, EXECUTION_HORIZON, SETTLE_S, TABLETOP_ACTION_SPEC
from vla.tokenizers import COMPACT_TOKENIZER

ControllerOptions = DifferentialIKOptions | OperationalSpaceOptions | JointImpedanceOptions
_OPTIONS: Mapping[str, type[ControllerOptions]] = MappingProxyType(
    {
        "differential_ik": DifferentialIKOptions,
        "operational_space": OperationalSpaceOptions,
        "joint_impedance": JointImpedanceOptions,
    }
)
# Keys that a writer of this version logs; from_json refuses any other set.
_KEYS = (
    "robot",
    "controller",
    "controller_options",
    "control_rate_hz",
    "physics_timestep_s",
    "settle_s",
    "action_spec",
    "tokenizer_id",
    "safety",
    "safety_off_reason",
    "executor",
    "cameras",
)
# Logged only where it is not the default.
_OPTIONAL_KEYS = ("obstacles", "tokenizer_definition", "chunking", "doubt", "latency")


class StackConfigError(ValueError):
    """A stack configuration that is malformed or contradicts itself."""


def _no_options() -> ControllerOptions:
    return DifferentialIKOptions()


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """Everything that decides how tokens become motion.

    Attributes:
        robot: Name of a built-in robot, or the path of its ``robot.yaml``.
        controller: Options of the controller; their type chooses it.
        control_rate_hz: Ticks per second.
        physics_timestep_s: Physics step; the control period is a whole multiple of it.
        settle_s: Physics before tick 0 in which objects come to rest.
        action_spec: Contract of the actions.
        tokenizer_id: Identity of the tokenizer.
        tokenizer_definition: What that identity names by a hash (bin edges, a vocabulary); empty if it says all.
        safety: The safety profile, None to run without safety.
        safety_off_reason: Why there is no safety; required then, empty otherwise.
        executor: How chunks are played.
        chunking: How they follow each other while the model thinks.
        doubt: When the policy's doubt slows or holds the arm; never by default.
        latency: How long the policy's answers take in lock-step, None for no time at all; the loop does not know.
        cameras: Camera name -> (height, width) in pixels; empty for policies that need no pictures.
        obstacles: Things in the way of the task, None for none. What an episode logs holds their zones, too, among the
            safety profile's keep-outs.
    """

    robot: str = "panda"
    controller: ControllerOptions = field(default_factory=_no_options)
    control_rate_hz: int = CONTROL_RATE_HZ
    physics_timestep_s: float = PHYSICS_TIMESTEP
    settle_s: float = SETTLE_S
    action_spec: ActionSpec = TABLETOP_ACTION_SPEC
    tokenizer_id: str = COMPACT_TOKENIZER.tokenizer_id
    tokenizer_definition: str = ""
    safety: SafetyProfile | None = field(default_factory=lambda: load_profile("panda_tabletop"))
    safety_off_reason: str = ""
    executor: ExecutorOptions = field(default_factory=lambda: ExecutorOptions(execution_horizon=EXECUTION_HORIZON))
    chunking: ChunkingOptions = ChunkingOptions()
    doubt: DoubtOptions = DoubtOptions()
    latency: LatencyModel | None = None
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=lambda: MappingProxyType(dict(CAMERAS)))
    obstacles: ObstacleOptions | None = None

    def __post_init__(self) -> None:
        """Check what no part could check alone.

        Raises:
            StackConfigError: Neither a safety profile nor a reason to run without one, both, or another robot's
                profile.
        """
        reason = self.safety_off_reason.strip()
        if self.safety is None and not reason:
            raise StackConfigError(
                "expected a safety profile, or safety_off_reason with the reason to run without one; found neither"
            )
        if self.safety is not None and reason:
            raise StackConfigError(
                f"expected a safety profile or a reason to run without one, found profile {self.safety.name!r} "
                f"and the reason {reason!r}; drop one of them"
            )
        if self.safety is not None and self.safety.robot != (name := load_robot(self.robot).name):
            raise StackConfigError(
                f"expected a safety profile for the robot {name!r}, found {self.safety.name!r}, "
                f"which is for {self.safety.robot!r}; choose another profile"
            )

    @property
    def controller_name(self) -> str:
        """Name of the controller."""
        return next(name for name, kind in _OPTIONS.items() if isinstance(self.controller, kind))

    @property
    def command_mode(self) -> CommandMode:
        """What the controller commands; the simulated actuators take the same."""
        position = isinstance(self.controller, DifferentialIKOptions)
        return CommandMode.POSITION if position else CommandMode.TORQUE

    def make_controller(self, arm: ArmModel) -> Controller:
        """Build the controller."""
        options = self.controller
        if isinstance(options, DifferentialIKOptions):
            return DifferentialIK(arm, options)
        if isinstance(options, OperationalSpaceOptions):
            return OperationalSpace(arm, options)
        return JointImpedance(arm, options)

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description; equal configurations give equal JSON."""
        data: dict[str, object] = {
            "robot": self.robot,
            "controller": self.controller_name,
            "controller_options": options_to_json(self.controller),
            "control_rate_hz": self.control_rate_hz,
            "physics_timestep_s": self.physics_timestep_s,
            "settle_s": self.settle_s,
            "action_spec": self.action_spec.to_json(),
            "tokenizer_id": self.tokenizer_id,
            "safety": None if self.safety is None else self.safety.to_json(),
            "safety_off_reason": self.safety_off_reason,
            "executor": options_to_json(self.executor),
            "cameras": {name: list(size) for name, size in self.cameras.items()},
        }
        if self.tokenizer_definition:
            data["tokenizer_definition"] = self.tokenizer_definition
        if self.obstacles is not None:
            data["obstacles"] = options_to_json(self.obstacles)
        if self.chunking != ChunkingOptions():
            data["chunking"] = options_to_json(self.chunking)
        if self.doubt != DoubtOptions():
            data["doubt"] = options_to_json(self.doubt)
        if self.latency is not None:
            data["latency"] = latency_to_json(self.latency)
        return data

    @staticmethod
    def from_json(data: Mapping[str, object]) -> StackConfig:
        """Rebuild a configuration from :meth:`to_json`.

        Raises:
            StackConfigError: An unknown, missing or mistyped entry.
        """
        _check_keys("stack", data, _KEYS, _OPTIONAL_KEYS)
        safety, obstacles = data["safety"], data.get("obstacles")
        chunking, doubt, latency = data.get("chunking"), data.get("doubt"), data.get("latency")
        return StackConfig(
            robot=_as("stack.robot", data["robot"], str),
            controller=controller_options(
                _as("stack.controller", data["controller"], str),
                _as("stack.controller_options", data["controller_options"], dict),
            ),
            control_rate_hz=_as("stack.control_rate_hz", data["control_rate_hz"], int),
            physics_timestep_s=_as("stack.physics_timestep_s", data["physics_timestep_s"], float),
            settle_s=_as("stack.settle_s", data["settle_s"], float),
            action_spec=ActionSpec.from_json(_as("stack.action_spec", data["action_spec"], dict)),
            tokenizer_id=_as("stack.tokenizer_id", data["tokenizer_id"], str),
            tokenizer_definition=_as("stack.tokenizer_definition", data.get("tokenizer_definition", ""), str),
            safety=None if safety is None else parse_profile(_as("stack.safety", safety, dict)),
            safety_off_reason=_as("stack.safety_off_reason", data["safety_off_reason"], str),
            executor=options_from_json(
                "stack.executor", ExecutorOptions, _as("stack.executor", data["executor"], dict)
            ),
            chunking=ChunkingOptions()
            if chunking is None
            else options_from_json("stack.chunking", ChunkingOptions, _as("stack.chunking", chunking, dict)),
            doubt=DoubtOptions()
            if doubt is None
            else options_from_json("stack.doubt", DoubtOptions, _as("stack.doubt", doubt, dict)),
            latency=None if latency is None else latency_from_json(_as("stack.latency", latency, dict)),
            cameras=_cameras(_as("stack.cameras", data["cameras"], dict)),
            obstacles=None
            if obstacles is None
            else options_from_json("stack.obstacles", ObstacleOptions, _as("stack.obstacles", obstacles, dict)),
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as JSON, for worker processes."""
        return (StackConfig.from_json, (self.to_json(),))

    def __eq__(self, other: object) -> bool:
        """Equal when they describe the same stack."""
        return isinstance(other, StackConfig) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        """Consistent with equality."""
        return hash(json.dumps(self.to_json(), sort_keys=True))


def controller_options(name: str, overrides: Mapping[str, object] | None = None) -> ControllerOptions:
    """Options of the controller ``name``, with some replaced.

    Raises:
        StackConfigError: Unknown controller or option; the message lists the valid names.
    """
    if name not in _OPTIONS:
        names = tuple(_OPTIONS)
        raise StackConfigError(
            f"unknown controller {name!r}: expected one of {', '.join(names)}{nearest_name_hint(name, names)}"
        )
    defaults = options_to_json(_OPTIONS[name]())
    merged = {**defaults, **(overrides or {})}
    return options_from_json(f"options of {name}", _OPTIONS[name], merged)


# ---------------------------------------------------------------------------------- dataclasses and JSON

_T = TypeVar("_T")


def options_to_json(options: object) -> dict[str, object]:
    """A dataclass of scalars and further such dataclasses, as nested dictionaries."""
    data: dict[str, object] = {}
    for item in fields(cast(Any, options)):
        value = getattr(options, item.name)
        if isinstance(value, Enum):
            value = value.value
        data[item.name] = options_to_json(value) if is_dataclass(value) else value
    return data


def options_from_json(where: str, kind: type[_T], data: Mapping[str, object]) -> _T:
    """Build a dataclass of scalars from a dictionary that has exactly its fields.

    Raises:
        StackConfigError: An unknown, missing or mistyped entry.
    """
    hints = get_type_hints(kind)
    names = tuple(item.name for item in fields(cast(Any, kind)))
    _check_keys(where, data, names)
    values: dict[str, object] = {}
    for name in names:
        place, hint = f"{where}.{name}", hints[name]
        if is_dataclass(hint):
            values[name] = options_from_json(place, cast("type[Any]", hint), _as(place, data[name], dict))
        elif issubclass(hint, Enum):
            values[name] = _member(place, data[name], hint)
        else:
            values[name] = _as(place, data[name], hint)
    return kind(**values)


def _as(where: str, value: object, kind: type[_T]) -> _T:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return cast(_T, float(value))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StackConfigError(f"{where}: expected {kind.__name__}, found {value!r}")
    return value


def _member(where: str, value: object, kind: type[Enum]) -> Enum:
    names = [str(item.value) for item in kind]
    if value not in names:
        raise StackConfigError(f"{where}: {unknown_name('name', str(value), names)}")
    return kind(value)


def latency_to_json(latency: LatencyModel) -> dict[str, object]:
    """A latency model as text; a trace with its numbers, since its file may be gone when the log is read."""
    data: dict[str, object] = {"model": str(latency)}
    if isinstance(latency.distribution, TraceLatency):
        data["trace_ms"] = list(latency.distribution.latencies_ms)
    return data


def latency_from_json(data: Mapping[str, object]) -> LatencyModel:
    """Rebuild a latency model from :func:`latency_to_json`.

    Raises:
        StackConfigError: An unknown, missing or mistyped entry.
        LatencyError: A text that is no model.
    """
    _check_keys("stack.latency", data, ("model",), ("trace_ms",))
    text, trace = _as("stack.latency.model", data["model"], str), data.get("trace_ms")
    if trace is None:
        return parse_latency(text)
    numbers = tuple(None if v is None else _as("stack.latency.trace_ms", v, float) for v in cast("list[object]", trace))
    path, *options = text.removeprefix("trace:").split(",")
    rest = parse_latency(",".join(("0ms", *options)))
    return replace(rest, distribution=TraceLatency(numbers, path))


def _cameras(data: Mapping[str, object]) -> Mapping[str, tuple[int, int]]:
    cameras: dict[str, tuple[int, int]] = {}
    for name, size in data.items():
        if not isinstance(size, (list, tuple)) or len(size) != 2:
            raise StackConfigError(f"stack.cameras.{name}: expected [height, width], found {size!r}")
        height, width = (_as(f"stack.cameras.{name}", item, int) for item in size)
        cameras[name] = (height, width)
    return MappingProxyType(cameras)


def _check_keys(where: str, data: Mapping[str, object], names: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    known = names + optional
    for key in data:
        if key not in known:
            raise StackConfigError(
                f"{where}: unknown entry {key!r}{nearest_name_hint(str(key), known)}; valid: {', '.join(known)}"
            )
    missing = [name for name in names if name not in data]
    if missing:
        raise StackConfigError(f"{where}: missing {', '.join(missing)}")
