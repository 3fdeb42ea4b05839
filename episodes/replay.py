"""Re-executes an episode and compares it bit for bit with what was recorded.

Everything that was not deterministic is in the log: the clock, the arrivals and the operator's events. Everything
else is computed again: the physics (where there is a robot to simulate), the decoding of the tokens, targets,
commands, verdicts. The first difference is named by tick and field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, Protocol, TypeVar

import numpy as np

from controllers.protocols import Robot
from controllers.types import RobotState, TickInputs, TickOutputs
from episodes.comparison import BlockComparison, Divergence
from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.manifest import EngineVersions, current_engine, model_hash, source_hash
from episodes.packing import TickPacker
from episodes.verification import verify

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
    """

    loop: TickLoop[LoopStateT]
    robot: Robot | None
    identity: StackIdentity


class Refusal(Enum):
    """Why an episode was not re-executed at all."""

    DAMAGED = "damaged"  # the store is not what was recorded
    ENGINE = "engine"  # another version of the physics engine
    CODE = "code"  # other sources
    MODEL = "model"  # another scene
    SPEC = "spec"  # another action spec
    TOKENIZER = "tokenizer"  # another tokenizer
    PROFILE = "profile"  # another safety profile
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
    """

    identical: bool
    ticks: int
    first_divergence: Divergence | None
    refusal: Refusal | None
    waived: tuple[Divergence, ...]
    notes: tuple[str, ...]
    realtime_factor: float


def replay(
    episode: Episode,
    rebuild: Callable[[Episode], ReplayParts[LoopStateT]],
    *,
    waive: Collection[str] = (),
) -> ReplayResult:
    """Re-execute ``episode`` on what ``rebuild`` makes of its manifest.

    Args:
        episode: The recording.
        rebuild: Builds loop and robot from the manifest; called only for an undamaged episode.
        waive: Fields whose difference is accepted and listed instead of refused, e.g. ``{"code_hash"}`` to check
            that a refactoring changed nothing, or ``{"integrity"}`` to see what damage does.

    Returns:
        The verdict, with the first difference named.

    Raises:
        EpisodeError: The episode has no ticks or does not begin at tick 0.
    """
    episode = episode.unchecked()  # everything is checked at once, next
    if "integrity" not in waive:
        for refusal, divergence in _damage(episode):
            return _refused(refusal, divergence)
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
    run = _Run(episode, parts)
    started = time.perf_counter()
    divergence = run.execute()
    elapsed = time.perf_counter() - started
    recorded_s = run.ticks / episode.manifest.control_rate_hz
    return ReplayResult(
        identical=divergence is None,
        ticks=run.ticks,
        first_divergence=divergence,
        refusal=None,
        waived=waived,
        notes=_notes(episode.manifest.engine, current_engine()),
        realtime_factor=recorded_s / max(elapsed, 1e-9),
    )


def _refused(refusal: Refusal, divergence: Divergence) -> ReplayResult:
    return ReplayResult(False, 0, divergence, refusal, (), (), 0.0)


def _damage(episode: Episode) -> Iterator[tuple[Refusal, Divergence]]:
    for damage in verify(episode, frames=False):
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


def _notes(recorded: EngineVersions, here: EngineVersions) -> tuple[str, ...]:
    pairs = [
        ("numpy", recorded.numpy, here.numpy),
        ("python", recorded.python, here.python),
        ("vla_stack", recorded.vla_stack, here.vla_stack),
    ]
    return tuple(f"{name}: recorded with {then}, replayed with {now}" for name, then, now in pairs if then != now)


class _Run(Generic[LoopStateT]):
    """One re-execution."""

    def __init__(self, episode: Episode, parts: ReplayParts[LoopStateT]) -> None:
        self._episode = episode
        self._parts = parts
        self._packer = TickPacker(episode.manifest.joints, _BLOCK_TICKS)
        self._comparison = BlockComparison(episode)
        self.ticks = 0

    def execute(self) -> Divergence | None:
        """Run every tick; stop at the first block that differs."""
        decoder, packer = self._episode.decoder, self._packer
        loop, robot = self._parts.loop, self._parts.robot
        # A wall clock's stamps cannot be simulated, so they are inputs like the clock itself.
        stamps_are_inputs = self._episode.manifest.realtime
        index = 0
        try:
            loop_state = None
            for index in range(len(decoder)):
                if robot is None:
                    state, digest = decoder.state(index), decoder.physics_digest(index)
                else:
                    state, digest = robot.read(), robot.physics_digest()
                    if stamps_are_inputs:
                        state = replace(state, stamp_ns=decoder.stamp_ns(index))
                if loop_state is None:
                    loop_state = loop.initial(state)
                inputs = TickInputs(
                    decoder.tick(index), decoder.now_ns(index), state, decoder.arrivals(index), decoder.events(index)
                )
                loop_state, outputs = loop.tick(loop_state, inputs)
                packer.pack(inputs, outputs, digest)
                if packer.full:
                    divergence = self._compare()
                    if divergence is not None:
                        return divergence
                if robot is not None:
                    robot.write(outputs.safety.command)
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
