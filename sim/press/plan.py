"""What one contact consists of: arm, posture, surface, direction, speed and the way it is attacked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from controllers.types import CommandMode, FloatArray, frozen_array

STIFFNESS_N_MM = (10.0, 150.0)
SPEED_M_S = (0.02, 0.8)
_DEPTH_M = (0.05, 0.10)
_APPROACH_S = 0.35
_GAP_M = (0.004, 0.12)
_MOST_TILT_RAD = 0.35
_SPREAD_RAD = 0.6
_AXES = np.concatenate([np.eye(3), -np.eye(3)])


class Attack(Enum):
    """How the arm is driven into the surface."""

    PATH = "path"  # a straight path at constant speed that ends behind the surface
    STEP = "step"  # the end of that path at once, again and again
    PUSH = "push"  # from wherever the arm is, as far on as the joints will take
    HAMMER = "hammer"  # to and fro across the surface


@dataclass(frozen=True, slots=True)
class PressCase:
    """Names one contact; everything else is drawn from it.

    Attributes:
        arm: Robot description.
        mode: What is commanded.
        seed: Of the experiment.
        index: Of the contact.
    """

    arm: str
    mode: CommandMode
    seed: int
    index: int

    def rng(self) -> np.random.Generator:
        """The contact's own source of chance, whatever ran before it."""
        arm = int.from_bytes(self.arm.encode(), "little")
        mode = list(CommandMode).index(self.mode)
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.index, mode, arm]))


@dataclass(frozen=True, slots=True)
class PressPlan:
    """One contact, before anything moves.

    Attributes:
        posture: (n,) rad, a guess of where the arm starts.
        direction: (3,) unit, along which the tool is driven, base frame.
        normal: (3,) unit, out of the surface, base frame.
        stiffness_n_mm: Of the surface.
        speed_m_s: Commanded on a path.
        gap_m: Between tool and surface at the start.
        depth_m: How far behind the surface is commanded.
        attack: How.
        beat_s: Half a period of hammering.
    """

    posture: FloatArray
    direction: FloatArray
    normal: FloatArray
    stiffness_n_mm: float
    speed_m_s: float
    gap_m: float
    depth_m: float
    attack: Attack
    beat_s: float


def draw_plan(rng: np.random.Generator, home: FloatArray, stiffness_n_mm: float | None) -> PressPlan:
    """Draw a contact.

    Args:
        rng: Source of chance.
        home: (n,) rad, about which postures are drawn.
        stiffness_n_mm: Of every surface; None draws it.
    """
    posture = home + _SPREAD_RAD * rng.normal(size=home.shape)
    direction = _AXES[rng.integers(6)] if rng.random() < 0.5 else _unit(rng)
    across = np.cross(direction, _unit(rng))
    tilt = float(rng.uniform(0.0, _MOST_TILT_RAD))
    normal = -direction * np.cos(tilt) + np.sin(tilt) * across / max(float(np.linalg.norm(across)), 1e-9)
    drawn = float(rng.uniform(*STIFFNESS_N_MM))
    speed = float(np.exp(rng.uniform(*np.log(SPEED_M_S))))
    if rng.random() < 0.5:  # as many fast ones as the logarithm has slow ones
        speed = float(rng.uniform(*SPEED_M_S))
    gap = float(np.clip(speed * _APPROACH_S * rng.uniform(0.3, 1.0), *_GAP_M))
    return PressPlan(
        posture=frozen_array(posture),
        direction=frozen_array(direction),
        normal=frozen_array(normal / np.linalg.norm(normal)),
        stiffness_n_mm=drawn if stiffness_n_mm is None else stiffness_n_mm,
        speed_m_s=speed,
        gap_m=gap,
        depth_m=float(rng.uniform(*_DEPTH_M)),
        attack=Attack(rng.choice([attack.value for attack in Attack])),
        beat_s=float(rng.uniform(0.05, 0.25)),
    )


def _unit(rng: np.random.Generator) -> FloatArray:
    vector = rng.normal(size=3)
    return frozen_array(vector / np.linalg.norm(vector))
