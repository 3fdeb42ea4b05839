"""Counting collisions with obstacles, from raw contacts and from what the obstacles did."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from sim.obstacles.kinds import Obstacle
from sim.tasks.physics import ROBOT_CONTYPE

MOVED_M = 0.001
TILTED_RAD = math.radians(1.0)


@dataclass(frozen=True, slots=True)
class CollisionCount:
    """What happened to the obstacles of an episode.

    Attributes:
        robot_contacts: Times that a part of the robot began to touch an obstacle.
        object_contacts: Times that a loose object, carried or not, began to touch an obstacle.
        shift_m: Farthest that an obstacle's foot was from where it stood, m.
        tilt_rad: Largest tilt of an obstacle from how it stood, rad.
    """

    robot_contacts: int
    object_contacts: int
    shift_m: float
    tilt_rad: float

    @property
    def collisions(self) -> int:
        """Contacts; 1 for an obstacle that moved without a contact that was seen."""
        moved = self.shift_m > MOVED_M or self.tilt_rad > TILTED_RAD
        return max(self.robot_contacts + self.object_contacts, int(moved))


class CollisionMonitor:
    """Watches the obstacles of one episode; reads the simulation, never writes it.

    Contacts are those of the physics' own collision detection at the end of each tick. One that begins and ends within
    a tick is missed, unless it moved the obstacle.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, obstacles: tuple[Obstacle, ...]) -> None:
        """Remember where the obstacles stand."""
        self._model, self._data = model, data
        bodies = np.array([model.body(obstacle.name).id for obstacle in obstacles], dtype=np.int64)
        self._bodies = bodies
        owner = model.geom_bodyid
        self._obstacle = np.isin(owner, bodies)
        self._robot = (model.geom_contype & ROBOT_CONTYPE) != 0
        movable = model.body_dofnum[model.body_weldid[owner]] > 0
        self._object = movable & ~self._obstacle & ~self._robot
        self._feet = data.xpos[bodies].copy()
        self._uprights = data.xmat[bodies, 6:].copy()
        self._touching = (False, False)
        self._contacts = [0, 0]
        self._shift = self._tilt = 0.0

    def observe(self) -> None:
        """Look at the simulation after a tick."""
        if not len(self._bodies):
            return
        touching = self._now()
        for index, (before, now) in enumerate(zip(self._touching, touching, strict=True)):
            self._contacts[index] += now and not before
        self._touching = touching
        data = self._data
        self._shift = max(self._shift, float(np.linalg.norm(data.xpos[self._bodies] - self._feet, axis=1).max()))
        cosine = np.einsum("ij,ij->i", data.xmat[self._bodies, 6:], self._uprights)
        self._tilt = max(self._tilt, float(np.arccos(np.clip(cosine, -1.0, 1.0)).max()))

    def _now(self) -> tuple[bool, bool]:
        """Whether the robot, and whether a loose object, touches an obstacle now."""
        pairs = np.asarray(self._data.contact.geom)
        if not len(pairs):
            return (False, False)
        obstacle = self._obstacle[pairs][:, ::-1]
        return (bool(np.any(obstacle & self._robot[pairs])), bool(np.any(obstacle & self._object[pairs])))

    def count(self) -> CollisionCount:
        """What was seen so far."""
        robot, objects = self._contacts
        return CollisionCount(robot, objects, self._shift, self._tilt)
