"""Random starts and velocities for the conformance of limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from controllers.types import FloatArray
from safety.limits import Inequalities, Limit, VelocityBox, scale_interval
from safety.motion import Motion, MotionFactory
from tests.safety.helpers import robot
from tests.safety.world import full_bench

LIMITS = (
    "joint_velocity",
    "joint_acceleration",
    "joint_jerk",
    "joint_position",
    "joint_torque",
    "workspace_box",
    "end_effector_linear_speed",
    "end_effector_angular_speed",
    "kinetic_energy",
    "force_command_lead",
    "contact_force",
    "self_collision",
    "servo_lag",
    "keep_out",
    "workspace_polytope",
    "orientation_cone",
)
# They bound a change of velocity, so they lie around the last velocity instead of around rest.
AROUND_THE_LAST = ("joint_acceleration", "joint_jerk", "joint_torque")
GENTLE = 0.5

SIZES = (0.01, 0.1, 0.5, 1.0, 2.0)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=10)


def limit_of(name: str, kind: str) -> Limit:
    return next(limit for limit in full_bench(name).limits.every if limit.name == kind)


@dataclass
class Case:
    """A random start and velocity."""

    factory: MotionFactory
    velocity: FloatArray

    def gentle(self, share: float = 1.0) -> Motion:
        return self.factory.gentle_motion(self.velocity * share, GENTLE)

    def hard(self, share: float = 1.0) -> Motion:
        return self.factory.motion(self.velocity * share)


def case(name: str, seed: int, size: float, spread: float = 0.4, rest: bool = True) -> Case:
    """A start within ``spread`` of home, with a lead, a contact force and perhaps a load; ``rest``: from rest."""
    description, rng = robot(name), np.random.default_rng(seed)
    n, limits = description.n, description.limits
    reach = spread * (limits.position_upper - limits.position_lower) / 4
    q = np.clip(description.home + rng.uniform(-1, 1, n) * reach, limits.position_lower, limits.position_upper)
    fastest = full_bench(name).limits.velocity.maximum  # what is faster never reaches the other limits
    velocity = np.clip(rng.normal(size=n) * size, -fastest, fastest)
    previous = np.zeros(n) if rest else np.clip(velocity + rng.normal(size=n) * 0.05, -fastest, fastest)
    direction = rng.normal(size=3)
    factory = full_bench(name).factory(
        q,
        previous,
        float(rng.choice([0.002, 0.005, 0.02])),
        acceleration=np.zeros(n) if rest else rng.normal(size=n) * 3,
        lead=rng.normal(size=n) * float(rng.choice([0.001, 0.01, 0.05])),
        rates=rng.normal(size=n) * size,
        force=direction
        / np.linalg.norm(direction)
        * full_bench(name).profile.force.quasi_static_n
        * rng.uniform(0, 1.2),
        carrying=bool(rng.random() < 0.5),
    )
    return Case(factory, velocity)


def cases(name: str, seed: int, spread: float = 0.4, rest: bool = True) -> Iterator[Case]:
    """Two cases of every size: drawing an example costs more than judging ten motions."""
    for index in range(10):
        yield case(name, seed + index, SIZES[index % 5], spread, rest)


def share_of(limit: Limit, motion: Motion) -> float:
    return scale_interval(limit.inequalities(motion), motion.velocity)[1]


def dense(constraint: Inequalities | VelocityBox) -> Inequalities:
    return constraint.as_inequalities() if isinstance(constraint, VelocityBox) else constraint
