"""Joint velocities that lead straight to a limit, into its corners and along it: the near-limit attack."""

from __future__ import annotations

from enum import Enum

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.profile import BoxZone, HalfSpaceZone, SafetyProfile, SphereZone
from sim.fuzz.plan import Attack
from sim.fuzz.plant import Plant

_DAMPING = 1e-3


class _Goal(Enum):
    JOINT = "joint"
    WALL = "wall"
    CORNER = "corner"
    ZONE = "zone"
    SELF = "self"
    TURN = "turn"
    SWING = "swing"


class LimitSeeker:
    """Picks a limit, drives at it at full speed, jitters and slides there, then picks another. Sees the true state."""

    def __init__(
        self, description: RobotDescription, profile: SafetyProfile, plant: Plant, rng: np.random.Generator, dt: float
    ) -> None:
        """Attack a cell."""
        self._plant, self._rng, self._dt = plant, rng, dt
        self._fastest = description.limits.velocity
        self._n = description.n
        self._profile = profile
        self._bodies = [plant.model.body(capsule.body).id for capsule in description.capsules]
        self._sites = [plant.model.site(box.point).id for box in profile.workspace]
        self._left = 0
        self._goal = _Goal.JOINT
        self._jacobian = np.zeros((3, plant.model.nv))
        self._other = np.zeros((3, plant.model.nv))
        self._begin()

    def velocity(self) -> FloatArray:
        """(n,) the next joint velocity asked for, relative to the robot's limits; may exceed 1."""
        if self._left <= 0:
            self._begin()
        self._left -= 1
        jitter = self._jitter * self._rng.normal(size=self._n)
        if self._left < self._pause:  # once there: to and fro
            return self._sign_at(self._left) * self._speed * self._towards() + jitter
        return self._speed * self._towards() + jitter

    def _sign_at(self, left: int) -> float:
        return 1.0 if (left // self._beat) % 2 == 0 else -1.0

    def _begin(self) -> None:
        rng = self._rng
        goals = [goal for goal in _Goal if goal is not _Goal.ZONE or self._profile.keep_outs]
        self._goal = goals[int(rng.integers(len(goals)))]
        self._left = int(rng.uniform(0.3, 1.2) / self._dt)
        self._pause = int(self._left * rng.uniform(0.0, 0.6))
        self._beat = int(rng.choice([1, 2, 5, 20]))
        self._speed = float(rng.choice([0.3, 1.0, 3.0]))
        self._jitter = float(rng.choice([0.0, 0.02, 0.3]))
        self._joint = int(rng.integers(self._n))
        self._side = float(rng.choice([-1.0, 1.0]))
        self._site = self._sites[int(rng.integers(len(self._sites)))]
        pair = rng.choice(len(self._bodies), size=2, replace=False)
        self._first, self._second = self._bodies[int(pair[0])], self._bodies[int(pair[1])]
        direction = np.zeros(3)
        direction[int(rng.integers(3))] = self._side
        if self._goal is _Goal.CORNER:
            direction = rng.choice([-1.0, 1.0], size=3)
        elif rng.random() < 0.5:  # at a slant: slides along the wall once there
            direction = direction + rng.normal(0.0, 0.5, 3)
        self._direction = direction / np.linalg.norm(direction)
        if self._profile.keep_outs:
            zone = self._profile.keep_outs[int(rng.integers(len(self._profile.keep_outs)))]
            self._zone = zone
        swing = rng.choice([-1.0, 1.0], size=self._n) * (rng.random(self._n) < 0.6)
        swing[0] = self._side
        self._swing = swing

    def _towards(self) -> FloatArray:
        """(n,) relative to the limits, the largest component 1."""
        goal = self._goal
        if goal is _Goal.JOINT:
            wanted = np.zeros(self._n)
            wanted[self._joint] = self._side
            return wanted
        if goal is _Goal.SWING:
            return self._swing
        model, data = self._plant.model, self._plant.data
        if goal in (_Goal.WALL, _Goal.CORNER):
            mujoco.mj_jacSite(model, data, self._jacobian, None, self._site)
            return self._solve(self._jacobian, self._direction)
        if goal is _Goal.TURN:
            mujoco.mj_jacSite(model, data, None, self._jacobian, self._plant.site)
            return self._solve(self._jacobian, self._direction)
        place = data.xpos[self._first]
        mujoco.mj_jacBody(model, data, self._jacobian, None, self._first)
        if goal is _Goal.SELF:
            mujoco.mj_jacBody(model, data, self._other, None, self._second)
            return self._solve(self._jacobian - self._other, data.xpos[self._second] - place)
        return self._solve(self._jacobian, self._into_zone(place))

    def _into_zone(self, place: np.ndarray) -> np.ndarray:
        zone = self._zone
        if isinstance(zone, HalfSpaceZone):
            return -np.array(zone.normal)
        if isinstance(zone, (BoxZone, SphereZone)):
            return np.array(zone.centre_m) - place
        return 0.5 * (np.array(zone.start_m) + np.array(zone.end_m)) - place

    def _solve(self, jacobian: np.ndarray, direction: np.ndarray) -> FloatArray:
        """Damped least squares, scaled to the fastest joint."""
        part = jacobian[:, self._plant.dofs]
        wanted = part.T @ np.linalg.solve(part @ part.T + _DAMPING * np.eye(3), direction)
        wanted = wanted / self._fastest
        largest = float(np.abs(wanted).max())
        return wanted / largest if largest > 1e-9 else wanted


def seeks(attack: Attack) -> bool:
    """Whether an attack looks where the limits are."""
    return attack is Attack.NEAR_LIMIT
