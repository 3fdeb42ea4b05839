"""Re-executes an episode and compares it bit for bit with what was recorded.

Everything that was not deterministic is in the log: the clock, the arrivals and the operator's events. Everything
else is computed again: the physics (where there is a robot to simulate), the decoding of the tokens, targets,
commands, verdicts. The first difference is named by tick and field.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, Protocol, TypeVar

import numpy as np

from controllers.protocols import Robot
from controllers.types import FloatArray, RobotState, TickInputs, TickOutputs
from episodes.comparison import BlockComparison, Divergence
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.loop_memory import decode_memory
from episodes.manifest import EngineVersions, current_engine, model_hash, source_hash
from episodes.packing import TickPacker
from episodes.provenance import provenance
from episodes.verification import verify
from episodes.window import window

LoopStateT = TypeVar("LoopStateT")
_BLOCK_TICKS = 256


class TickLoop(Protocol[LoopStateT]):
    """The pure fold that is replayed; ``controllers.loop.ControlLoop`` is one."""

    def initial(self, state: RobotState) -> LoopStateT:
        """The loop state before tick 0."""
        ...

    def tick(self, loop_state: LoopStateT, inputs: TickInputs) -> tuple[LoopStateT, TickOutputs]:
        """One control step."""
        ...


class SettablePhysics(Protocol):
    """A simulated robot whose whole state can be set and read."""

    def get_state(self) -> FloatArray:
        """All that determines its future."""
        ...

    def set_state(self, state: FloatArray) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StackIdentity:
    """Identity of what was rebuilt; replay refuses when it is not that of the recording.

    Attributes:
        action_spec_hash: Of the decoder's spec.
        tokenizer_id: Of the decoder's tokenizer.
        safety_profile_hash: Of the rebuilt profile.
        model_xml_sha256: Of the model that the robot was built from, empty without a simulated robot.
    """

    action_spec_hash: str
    tokenizer_id: str
    safety_profile_hash: str
    model_xml_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ReplayParts(Generic[LoopStateT]):
    """What the composition root rebuilt from an episode.

    Attributes:
        loop: The tick.
        robot: Set to the initial physics state; None to feed the logged sensor readings (a real robot's episode).
        identity: What it was built from.
        physics: Sets the robot's physics to a key frame; None where a replay can only begin at tick 0.
    """

    loop: TickLoop[LoopStateT]
    robot: Robot | None
    identity: StackIdentity
    physics: SettablePhysics | None = None


class Refusal(Enum):
    """Why an episode was not re-executed at all."""

    DAMAGED = "damaged"  # the store is not what was recorded
    ENGINE = "engine"  # another version of the physics engine
    CODE = "code"  # other sources
    MODEL = "model"  # another scene
    SPEC = "spec"  # another action spec
    TOKENIZER = "tokenizer"  # another tokenizer
    PROFILE = "profile"  # another safety profile
    IMPORTED = "imported"  # a recording of other origin: nothing here can be computed again
    STACK = "stack"  # a configuration that cannot be rebuilt here


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found.

    Attributes:
        identical: Every compared bit of every tick is equal, and nothing was refused.
        ticks: Ticks that were re-executed and compared.
        first_divergence: The first difference, None when identical. Its tick is -1 for the whole episode.
        refusal: Why nothing was re-executed, None when it was.
        waived: Differences of identity that the caller chose to accept.
        notes: Differences that need not matter, such as another numpy version.
        realtime_factor: Recorded time over the time that re-execution took.
        first_tick: Tick where re-execution began: 0, or that of a key frame.
        seek_s: Time from opening to standing at the first tick that was asked for, 0 without a seek.
    """

    identical: bool
    ticks: int
    first_divergence: Divergence | None
    refusal: Refusal | None
    waived: tuple[Divergence, ...]
    notes: tuple[str, ...]
    realtime_factor: float
    first_tick: int = 0
    seek_s: float = 0.0


def replay(
    episode: Episode,
    rebuild: Callable[[Episode], ReplayParts[LoopStateT]],
    *,
    waive: Collection[str] = (),
    span: tuple[int, int] | None = None,
) -> ReplayResult:
    """Re-execute ``episode`` on what ``rebuild`` makes of its manifest.

    Args:
        episode: The recording.
        rebuild: Builds loop and robot from the manifest; called only for an undamaged episode.
        waive: Fields whose difference is accepted and listed instead of refused, e.g. ``{"code_hash"}`` to check
            that a refactoring changed nothing, or ``{"integrity"}`` to see what damage does.
        span: First and last tick, the latter excluded; None for all. Re-execution begins at the last key frame before,
            and only these ticks are loaded: the hash chain over them is checked in place of the checksums.

    Returns:
        The verdict, with the first difference named.

    Raises:
        EpisodeError: The episode has no ticks or does not begin at tick 0.
    """
    began = time.perf_counter()
    episode = episode.unchecked()  # everything is checked at once, next
    start = None
    if span is not None:
        start = _key_frame(episode, span)
        episode = window(episode, 0 if start is None else start.tick, span[1])
    elif "integrity" not in waive:
        for refusal, divergence in _damage(episode):
            return _refused(refusal, divergence)
    origin = provenance(episode.manifest)
    if origin is not None:
        expected = "a recording of this stack, with its configuration"
        return _refused(Refusal.IMPORTED, Divergence(-1, "stack.imported", expected, origin.explanation()))
    if start is None:
        _check_start(episode)
    refused = list(_environment_differences(episode))
    for refusal, divergence in refused:
        if divergence.field not in waive:
            return _refused(refusal, divergence)
    try:
        parts = rebuild(episode)
    except (EpisodeError, ValueError) as error:
        logged = "a configuration that this release can rebuild"
        return _refused(Refusal.STACK, Divergence(-1, "stack", logged, f"{type(error).__name__}: {error}"))
    differences = list(_identity_differences(episode, parts.identity))
    for refusal, divergence in differences:
        if divergence.field not in waive:
            return _refused(refusal, divergence)
    waived = tuple(divergence for _, divergence in (*refused, *differences))
    run = _Run(episode, parts, start)
    seek_s = 0.0
    with _uncollected():
        divergence = None
        if span is not None:
            divergence = run.execute(span[0])
            seek_s = time.perf_counter() - began
        started, before = time.perf_counter(), run.ticks
        divergence = divergence or run.execute()
        elapsed = time.perf_counter() - started
    recorded_s = (run.ticks - before) / episode.manifest.control_rate_hz
    return ReplayResult(
        identical=divergence is None,
        ticks=run.ticks,
        first_divergence=divergence,
        refusal=None,
        waived=waived,
        notes=(*(_consequence(item) for item in waived), *_notes(episode.manifest.engine, current_engine())),
        realtime_factor=recorded_s / max(elapsed, 1e-9),
        first_tick=0 if start is None else start.tick,
        seek_s=seek_s,
    )


@contextmanager
def _uncollected() -> Generator[None]:
    """Keep the garbage collector out, as the real-time driver does: a tick leaves no cycles behind."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True, slots=True)
class _KeyFrame:
    """Where a replay begins: the loop's memory as JSON, the physics where there is one."""

    tick: int
    memory: str
    physics: FloatArray | None


def _key_frame(episode: Episode, span: tuple[int, int]) -> _KeyFrame | None:
    """The last key frame at or before the span, None if it is the beginning.

    Raises:
        EpisodeError: The span holds no tick of the episode.
    """
    first, last = span
    count = episode.source.rows("ticks/tick", max(first, 0), last)
    if not 0 <= first < last or not len(count):
        raise EpisodeError(
            str(episode.path),
            "a span of ticks that the episode has",
            f"{first} to {last}",
            "ticks begin at 0; --from and --to take ticks, or seconds as 12.5s",
        )
    states = episode.physics
    physics = {int(tick): state for tick, state in zip(states.keyframe_tick, states.keyframe_state, strict=True)}
    simulated = len(states.initial_state) > 0
    remembered: list[int] = episode.array("loop/keyframe_tick").tolist()
    usable = [tick for tick in remembered if 0 < tick <= first and (not simulated or tick in physics)]
    if not usable:
        return None
    tick = max(usable)
    return _KeyFrame(tick, episode.memory(tick), physics[tick] if simulated else None)


def _refused(refusal: Refusal, divergence: Divergence) -> ReplayResult:
    return ReplayResult(False, 0, divergence, refusal, (), (), 0.0)


def _damage(episode: Episode) -> Iterator[tuple[Refusal, Divergence]]:
    for damage in verify(episode):
        yield Refusal.DAMAGED, Divergence(damage.tick, damage.field, damage.recorded, damage.found)


def _check_start(episode: Episode) -> None:
    ticks = episode.ticks.tick
    found = f"{len(ticks)} ticks" + (f" from tick {ticks[0]}" if len(ticks) else "")
    if not len(ticks) or ticks[0] != 0:
        raise EpisodeError(
            str(episode.path),
            "an episode that begins at tick 0",
            found,
            "a replay needs the loop's first state; record from the start",
        )


def _environment_differences(episode: Episode) -> Iterator[tuple[Refusal, Divergence]]:
    """What can be told before anything is rebuilt."""
    manifest = episode.manifest
    mujoco, code = current_engine().mujoco, source_hash()
    if mujoco != manifest.engine.mujoco:
        yield Refusal.ENGINE, Divergence(-1, "engine.mujoco", manifest.engine.mujoco, mujoco)
    if code != manifest.code_hash:
        yield Refusal.CODE, Divergence(-1, "code_hash", manifest.code_hash, code)
    found = model_hash(episode.model_xml)
    if found != manifest.model_xml_sha256:
        yield Refusal.DAMAGED, Divergence(-1, "model_xml", manifest.model_xml_sha256, found)


def _identity_differences(episode: Episode, identity: StackIdentity) -> Iterator[tuple[Refusal, Divergence]]:
    manifest = episode.manifest
    pairs = [
        (Refusal.SPEC, "action_spec_hash", manifest.action_spec_hash, identity.action_spec_hash),
        (Refusal.TOKENIZER, "tokenizer_id", manifest.tokenizer_id, identity.tokenizer_id),
        (Refusal.PROFILE, "safety_profile_hash", manifest.safety_profile_hash, identity.safety_profile_hash),
        (Refusal.MODEL, "model_xml_sha256", manifest.model_xml_sha256, identity.model_xml_sha256),
    ]
    for refusal, name, recorded, found in pairs:
        if recorded != found:
            yield refusal, Divergence(-1, name, recorded, found)


_CONSEQUENCES = {
    "engine.mujoco": "contact forces may differ, and with them everything sensed from the first contact on",
    "code_hash": "any output of a tick may differ: the sources of the loop are not those of the recording",
    "model_xml_sha256": "the scene is not that of the recording: any sensed value may differ from tick 1 on",
    "action_spec_hash": "the same tokens may mean other actions: targets, and all that follows from them",
    "tokenizer_id": "chunks of the recording may be refused: targets, and all that follows from them",
    "safety_profile_hash": "verdicts and applied commands may differ, and what is sensed after the first that does",
}


def _consequence(waived: Divergence) -> str:
    """What can differ because of a difference of identity that was waived."""
    known = _CONSEQUENCES.get(waived.field, "what depends on it may differ")
    return f"{waived.field} was waived: {known}"


def _notes(recorded: EngineVersions, here: EngineVersions) -> tuple[str, ...]:
    pairs = [
        ("numpy", recorded.numpy, here.numpy),
        ("python", recorded.python, here.python),
        ("vla_stack", recorded.vla_stack, here.vla_stack),
    ]
    return tuple(f"{name}: recorded with {then}, replayed with {now}" for name, then, now in pairs if then != now)


class _Run(Generic[LoopStateT]):
    """One re-execution, from tick 0 or from a key frame."""

    def __init__(self, episode: Episode, parts: ReplayParts[LoopStateT], start: _KeyFrame | None) -> None:
        self._episode = episode
        self._parts = parts
        self._packer = TickPacker(episode.manifest.joints, _BLOCK_TICKS, known_frames=episode.frames_before)
        self._comparison = BlockComparison(episode)
        self._index = 0
        self._state: LoopStateT | None = None
        self.ticks = 0
        robot = parts.robot
        if start is None:
            return
        if robot is not None and start.physics is not None:
            if parts.physics is None:
                raise EpisodeError(
                    str(episode.path), "a robot whose state can be set", "none", "replay it from tick 0 on"
                )
            parts.physics.set_state(np.array(start.physics))
        template = parts.loop.initial(episode.decoder.state(0))
        self._state = decode_memory(start.memory, template, f"{episode.path}: loop, key frame {start.tick}")

    def execute(self, until: int = sys.maxsize) -> Divergence | None:
        """Run the ticks up to ``until``; stop at the first block that differs."""
        decoder, packer = self._episode.decoder, self._packer
        loop, robot = self._parts.loop, self._parts.robot
        # A wall clock's stamps cannot be simulated, so they are inputs like the clock itself.
        stamps_are_inputs = self._episode.manifest.realtime
        index = self._index
        try:
            for index in range(self._index, len(decoder)):
                tick = decoder.tick(index)
                if tick >= until:
                    break
                if robot is None:
                    state, digest = decoder.state(index), decoder.physics_digest(index)
                else:
                    state, digest = robot.read(), robot.physics_digest()
                    if stamps_are_inputs:
                        state = replace(state, stamp_ns=decoder.stamp_ns(index))
                if self._state is None:
                    self._state = loop.initial(state)
                inputs = TickInputs(tick, decoder.now_ns(index), state, decoder.arrivals(index), decoder.events(index))
                self._state, outputs = loop.tick(self._state, inputs)
                packer.pack(inputs, outputs, digest, *decoder.write_stamps(index))
                if packer.full:
                    divergence = self._compare()
                    if divergence is not None:
                        return divergence
                if robot is not None:
                    robot.write(outputs.safety.command)
                self._index = index + 1
        except (ArithmeticError, EpisodeError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
            # What could not be computed again has diverged; a difference before it explains more.
            return self._compare() or Divergence(
                decoder.tick(index), "exception", "a completed tick", f"{type(error).__name__}: {error}"
            )
        return self._compare()

    def _compare(self) -> Divergence | None:
        packer = self._packer
        divergence = self._comparison.compare(packer, self.ticks)
        self.ticks += packer.count
        packer.clear()
        return divergence
