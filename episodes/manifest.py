"""The manifest: what an episode is, and all that must be equal for it to re-execute bit for bit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import controllers
from episodes.errors import EpisodeError
from episodes.jsontypes import JsonDict
from episodes.schema import FORMAT_VERSION

_RESTORE = "the manifest was edited or cut; restore it from the array 'sealed_manifest'"


@dataclass(frozen=True, slots=True)
class EngineVersions:
    """Versions that an episode was recorded with; ``mujoco`` decides whether its physics can re-execute."""

    mujoco: str
    numpy: str
    python: str
    vla_stack: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an episode ended.

    Attributes:
        success: Whether the task succeeded, None when nobody judged.
        reason: Why it ended, e.g. ``"success"``, ``"time_limit"``, ``"interrupted"``.
        ticks: Ticks in the log; filled in by the writer.
    """

    success: bool | None
    reason: str
    ticks: int = 0


@dataclass(frozen=True, slots=True)
class PolicyIdentity:
    """Which policy produced the chunks."""

    name: str
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Identity of an episode and of everything that produced it.

    Attributes:
        episode_id: Name of the episode.
        task: Task name.
        instruction: The language goal.
        seed: Seed of scene and task.
        robot: Robot name.
        robot_hash: Hash of the robot description.
        joints: Number of arm joints.
        controller: Controller configuration.
        control_rate_hz: Ticks per second.
        physics_timestep_s: Physics step, None on a real robot.
        action_spec: ``ActionSpec.to_json()``.
        action_spec_hash: ``ActionSpec.hash``.
        tokenizer_id: Identity of the tokenizer.
        safety_profile: ``SafetyProfile.to_json()``.
        safety_profile_hash: Hash of the profile.
        policy: Which policy.
        stack: The assembler's configuration, enough to rebuild the loop.
        model_xml_sha256: SHA-256 of the compiled scene's XML, empty where there is none.
        realtime: Recorded against the wall clock.
        safety_off: Recorded with the safety filter disabled.
        engine: Library versions.
        code_hash: SHA-256 over the sources that take part in a tick.
        machine: Where it ran.
        created: ISO wall-clock time; informational, nothing depends on it.
        format_version: Version of the store's layout.
        closed: Whether the recording was closed properly.
        outcome: How it ended, None while recording or after a crash.
        dropped_frames: Frames by camera that were dropped on overload.
    """

    episode_id: str
    task: str
    instruction: str
    seed: int
    robot: str
    robot_hash: str
    joints: int
    controller: JsonDict
    control_rate_hz: int
    physics_timestep_s: float | None
    action_spec: JsonDict
    action_spec_hash: str
    tokenizer_id: str
    safety_profile: JsonDict
    safety_profile_hash: str
    policy: PolicyIdentity
    stack: JsonDict
    model_xml_sha256: str = ""
    realtime: bool = False
    safety_off: bool = False
    engine: EngineVersions = field(default_factory=lambda: current_engine())
    code_hash: str = field(default_factory=lambda: source_hash())
    machine: str = field(default_factory=lambda: current_machine())
    created: str = ""
    format_version: int = FORMAT_VERSION
    closed: bool = False
    outcome: Outcome | None = None
    dropped_frames: Mapping[str, int] = field(default_factory=dict[str, int])

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description; equal manifests give equal JSON."""
        return cast(dict[str, object], json.loads(canonical_json(asdict(self))))

    @staticmethod
    def from_json(data: Mapping[str, object], where: str = "manifest") -> Manifest:
        """Rebuild a manifest from :meth:`to_json`.

        Raises:
            EpisodeError: A field is missing or unknown, or the version is not ours.
        """
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise EpisodeError(
                where,
                f"format version {FORMAT_VERSION}",
                f"version {version!r}",
                "use the release that wrote it, or record it again",
            )
        names = {item.name for item in fields(Manifest)}
        if names != set(data):
            missing, unknown = sorted(names - data.keys()), sorted(data.keys() - names)
            raise EpisodeError(
                where,
                "the fields of format version 1",
                f"missing {missing}, unknown {unknown}",
                _RESTORE,
            )
        values = cast(dict[str, Any], dict(data))
        try:
            outcome = values["outcome"]
            values["outcome"] = None if outcome is None else Outcome(**outcome)
            values["engine"] = EngineVersions(**values["engine"])
            values["policy"] = PolicyIdentity(**values["policy"])
        except TypeError as error:
            raise EpisodeError(where, "a manifest of format version 1", str(error), _RESTORE) from error
        return Manifest(**values)

    def opening(self) -> Manifest:
        """The manifest as it was when recording began: the root of the hash chain."""
        return replace(self, closed=False, outcome=None, dropped_frames={})


def canonical_json(data: object) -> str:
    """JSON with sorted keys and no spaces: equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


@cache
def current_engine() -> EngineVersions:
    """Versions installed here; read from package metadata, nothing is imported."""
    return EngineVersions(
        mujoco=_version("mujoco"),
        numpy=_version("numpy"),
        python=platform.python_version(),
        vla_stack=_version("vla-stack"),
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@cache
def current_machine() -> str:
    """Architecture and system of this machine."""
    return f"{platform.machine()} {platform.system()} {platform.release()}"


@cache
def source_hash() -> str:
    """SHA-256 over the sources that take part in a tick: controllers, safety and the tokenizers."""
    root = Path(controllers.__file__).parent.parent
    digest = hashlib.sha256()
    for folder in ("controllers", "safety", "vla/tokenizers"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def model_hash(model_xml: bytes) -> str:
    """SHA-256 of a compiled scene's XML, empty where there is none."""
    return hashlib.sha256(model_xml).hexdigest() if model_xml else ""
