"""What one fuzzing episode consists of: drawn from its name and the campaign's seed, and from nothing else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import Enum

import numpy as np

from controllers.types import CommandMode
from safety.monitor import SenseError

# Encoders of real arms are better than this; it is what sensed states may be off by in an episode with noise.
SENSE_ERROR = SenseError(position_rad=2e-4, velocity_rad_s=5e-3)
_PROFILES = 12  # random profiles for each arm: building one costs as much as a hundred ticks


class Attack(Enum):
    """How an attacker behaves."""

    RANDOM = "random"  # white noise, and smooth noise of several bandwidths
    BANG_BANG = "bang-bang"  # limit to limit, at several periods
    MAX = "max"  # constant extremes
    NAN = "nan"  # not finite, malformed, huge
    REPLAY = "replay"  # old stamps, repeated and reordered commands
    NEAR_LIMIT = "near-limit"  # to just at a limit at full speed, then jitter there
    ADVERSARIAL = "adversarial"  # searches for the command sequence that leaves the smallest margin


class Level(Enum):
    """Where an attacker gets in."""

    TOKENS = "tokens"  # chunks for the executor
    TARGETS = "targets"  # targets for the controller
    JOINTS = "joints"  # commands for the filter


@dataclass(frozen=True, slots=True)
class EpisodeName:
    """Which episode: with the campaign's seed it says everything.

    Attributes:
        arm: Robot.
        attack: Attack.
        index: Number among the episodes of that arm and attack.
    """

    arm: str
    attack: Attack
    index: int

    def __str__(self) -> str:
        """``ARM:ATTACK:INDEX``, as ``--only`` takes it."""
        return f"{self.arm}:{self.attack.value}:{self.index}"

    @staticmethod
    def parse(text: str) -> EpisodeName:
        """Read ``ARM:ATTACK:INDEX``.

        Raises:
            ValueError: Not of that form.
        """
        parts = text.split(":")
        valid = [attack.value for attack in Attack]
        if len(parts) != 3 or parts[1] not in valid or not parts[2].isdigit():
            raise ValueError(f"expected ARM:ATTACK:INDEX with ATTACK one of {', '.join(valid)}, found {text!r}")
        return EpisodeName(parts[0], Attack(parts[1]), int(parts[2]))


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """What happens in one episode.

    Attributes:
        name: Its name.
        seed: Entropy of all its draws.
        level: Where the attacker gets in.
        mode: What the actuators take.
        rate_hz: Ticks per second.
        profile_seed: Of the random profile; None for the arm's built-in one.
        noise: Error of the sensed states.
        late_ticks: How many ticks sensed states are late.
        drops: Whether sensed states get lost now and then.
        events: Whether an operator interferes.
        surprise: Whether an obstacle stands in the way that the profile does not know.
        ticks: Ticks before the final emergency stop.
    """

    name: EpisodeName
    seed: tuple[int, ...]
    level: Level
    mode: CommandMode
    rate_hz: int
    profile_seed: int | None
    noise: SenseError
    late_ticks: int
    drops: bool
    events: bool
    surprise: bool
    ticks: int


def plan_episode(campaign_seed: int, name: EpisodeName, ticks: int) -> EpisodePlan:
    """Draw an episode."""
    attack = name.attack
    seed = (campaign_seed, zlib.crc32(name.arm.encode()), zlib.crc32(attack.value.encode()), name.index)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    mode = _choice(rng, ((CommandMode.POSITION, 0.5), (CommandMode.VELOCITY, 0.3), (CommandMode.TORQUE, 0.2)))
    rate = _choice(rng, ((200, 0.8), (100, 0.1), (50, 0.1)))
    if attack is Attack.ADVERSARIAL:
        level = Level.JOINTS
    else:
        level = _choice(rng, ((Level.JOINTS, 0.5), (Level.TARGETS, 0.25), (Level.TOKENS, 0.25)))
    if level is Level.TOKENS and (mode is CommandMode.VELOCITY or rate == 50):
        level = Level.JOINTS  # no controller gives velocities, and 50 Hz is no multiple of the action rate
    profile = int(rng.integers(_PROFILES)) if rng.random() < 0.6 else None
    noise = SENSE_ERROR if rng.random() < 0.3 else SenseError()
    late = int(rng.random() < 0.1)
    drops, events, surprise = (bool(rng.random() < share) for share in (0.2, 0.4, 0.1))
    search = attack is Attack.ADVERSARIAL
    return EpisodePlan(
        name=name,
        seed=seed,
        level=level,
        mode=mode,
        rate_hz=rate,
        profile_seed=profile,
        noise=SenseError() if search else noise,
        late_ticks=0 if search else late,
        drops=drops and not search,
        events=events and not search,
        surprise=surprise and not search,
        ticks=ticks,
    )


def _choice[T](rng: np.random.Generator, options: tuple[tuple[T, float], ...]) -> T:
    draw = rng.random()
    for value, share in options:
        draw -= share
        if draw < 0.0:
            return value
    return options[-1][0]
