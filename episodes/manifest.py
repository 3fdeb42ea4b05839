"""The manifest: what an episode is, and all that must be equal for it to re-execute bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import controllers
from controllers.lateness import DeadlineRecord
from controllers.types import NormalizationStatistics
from episodes.errors import EpisodeError
from episodes.jsontypes import JsonDict
from episodes.migration import ADDED, downgraded, upgraded
from episodes.profile import LOSSLESS
from episodes.schema import FORMAT_VERSION, READABLE_VERSIONS

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
        deadlines: How the deadlines were kept; None in lock-step.
    """

    success: bool | None
    reason: str
    ticks: int = 0
    deadlines: DeadlineRecord | None = None

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Rebuild from ``dataclasses.asdict`` that went through JSON.

        Raises:
            TypeError: Other fields than these.
        """
        values: dict[str, Any] = dict(data)
        if values.get("deadlines") is not None:
            values["deadlines"] = DeadlineRecord.from_json(values["deadlines"])
        return Outcome(**values)


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The machine an episode was recorded on. Nothing depends on it.

    Attributes:
        architecture: Instruction set.
        system: Kernel and its release.
        processor: Model name of the processor.
        logical_processors: As many as the process may use.
        memory_gib: Physical memory.
    """

    architecture: str
    system: str
    processor: str = ""
    logical_processors: int = 0
    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True)
class LogFault:
    """A time in which the recorder could not write.

    Attributes:
        cause: The system's words.
        first_tick: First tick that had to wait for the disk, -1 if none had.
        seconds: How long it lasted.
        lost_frames: Frames that were dropped meanwhile.
        lost_ticks: Ticks that waited in vain: the fault outlasted the episode.
    """

    cause: str
    first_tick: int
    seconds: float
    lost_frames: int
    lost_ticks: int = 0

    def __str__(self) -> str:
        """One line for people."""
        since = f"from tick {self.first_tick} on " if self.first_tick >= 0 else ""
        return (
            f"{since}for {self.seconds:.1f} s: {self.cause}; {self.lost_ticks} ticks and {self.lost_frames} frames lost"
        )


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
        statistics_hash: Hash of the normalization statistics alone, empty if unknown.
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
        keyframe_ticks: A key frame is kept every so many ticks, 0 for none.
        camera_profile: How pictures are kept: ``"lossless"``, or ``"jpeg:QUALITY"``, which is not what the policy saw.
        log_failure: What the arm was to do if the log could not be written, ``"continue"`` or ``"hold"``.
        faults: Faults that were injected on purpose.
        created: ISO wall-clock time; informational, nothing depends on it.
        format_version: Version of the store's layout.
        closed: Whether the recording was closed properly.
        outcome: How it ended, None while recording or after a crash.
        dropped_frames: Frames by camera that were dropped on overload.
        log_faults: When the recorder could not write.
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
    machine: MachineInfo = field(default_factory=lambda: current_machine())
    created: str = ""
    statistics_hash: str = ""
    keyframe_ticks: int = 0
    camera_profile: str = LOSSLESS
    log_failure: str = "continue"
    faults: JsonDict = field(default_factory=dict[str, object])
    format_version: int = FORMAT_VERSION
    closed: bool = False
    outcome: Outcome | None = None
    dropped_frames: Mapping[str, int] = field(default_factory=dict[str, int])
    log_faults: tuple[LogFault, ...] = ()

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description in the form of ``format_version``; equal manifests give equal JSON."""
        data = cast(dict[str, Any], json.loads(canonical_json(asdict(self))))
        if self.outcome is not None and self.outcome.deadlines is None:
            del data["outcome"]["deadlines"]  # episodes from before it existed are sealed without it
        return downgraded(data, self.format_version)

    @staticmethod
    def from_json(data: Mapping[str, object], where: str = "manifest") -> Manifest:
        """Rebuild a manifest from :meth:`to_json`, of any format version that this release reads.

        Raises:
            EpisodeError: A field is missing or unknown, or the version is not one of ours.
        """
        version = data.get("format_version")
        if version not in READABLE_VERSIONS:
            raise EpisodeError(
                where,
                f"format version {', '.join(map(str, READABLE_VERSIONS[:-1]))} or {READABLE_VERSIONS[-1]}",
                f"version {version!r}",
                "use the release that wrote it, or record it again",
            )
        names = {item.name for item in fields(Manifest)} - (set(ADDED) if version == 1 else set())
        if names != set(data):
            missing, unknown = sorted(names - data.keys()), sorted(data.keys() - names)
            raise EpisodeError(
                where,
                f"the fields of format version {version}",
                f"missing {missing}, unknown {unknown}",
                _RESTORE,
            )
        values = cast(dict[str, Any], upgraded(data, cast(int, version)))
        try:
            outcome = values["outcome"]
            values["outcome"] = None if outcome is None else Outcome.from_json(outcome)
            values["engine"] = EngineVersions(**values["engine"])
            values["policy"] = PolicyIdentity(**values["policy"])
            values["machine"] = MachineInfo(**values["machine"])
            values["log_faults"] = tuple(LogFault(**fault) for fault in values["log_faults"])
        except TypeError as error:
            raise EpisodeError(where, f"a manifest of format version {version}", str(error), _RESTORE) from error
        return Manifest(**values)

    def opening(self) -> Manifest:
        """The manifest as it was when recording began: the root of the hash chain."""
        return replace(self, closed=False, outcome=None, dropped_frames={}, log_faults=())


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
def current_machine() -> MachineInfo:
    """This machine."""
    processor = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = 0.0
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0
    system = f"{platform.system()} {platform.release()}"
    return MachineInfo(platform.machine(), system, processor, usable, round(memory, 1))


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


def statistics_hash(statistics: NormalizationStatistics) -> str:
    """SHA-256 of normalization statistics alone, first 16 hex digits: which data actions are scaled by."""
    data = {"q01": statistics.q01.tolist(), "q99": statistics.q99.tolist(), "mask": list(statistics.mask)}
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:16]
