"""What a task asks for, as typed data: the success predicate reads it, and so does the expert.

A goal is a predicate on the true state alone, so it can be judged at any moment of any rollout.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, radians

import mujoco

from sim.objects.blocks import Block, Pin
from sim.objects.fixtures import Drawer, Lever, Plunger
from sim.objects.receptacles import Receptacle
from sim.tasks.physics import (
    body_position,
    body_speed,
    body_tilt,
    joint_value,
    robot_clearance,
    robot_touches,
)

RETREAT_M = 0.012  # a released object is this far from every part of the robot
STILL_M_S = 0.05


@dataclass(frozen=True, slots=True)
class TouchGoal:
    """Touch a ball with the hand."""

    ball: Plunger

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the robot is in contact with the ball."""
        return robot_touches(model, data, self.ball.thing.name)


@dataclass(frozen=True, slots=True)
class PressGoal:
    """Press a button to two thirds of its travel."""

    button: Plunger

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the cap is down now."""
        return joint_value(model, data, self.button.joint) < -0.66 * self.button.travel


@dataclass(frozen=True, slots=True)
class PushGoal:
    """Push a block along the table until its centre is well inside a zone."""

    block: Block
    zone: Receptacle

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block lies flat in the zone, at rest."""
        x, y, z = body_position(model, data, self.block.thing.name)
        inside = hypot(x - self.zone.xy[0], y - self.zone.xy[1]) < self.zone.radius
        return inside and z < self.block.half + 0.006 and body_speed(model, data, self.block.thing.name) < STILL_M_S


@dataclass(frozen=True, slots=True)
class LiftGoal:
    """Hold a block at least ``height`` m above the table."""

    block: Block
    height: float = 0.10

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block is up and in the hand."""
        name = self.block.thing.name
        lowest = body_position(model, data, name)[2] - self.block.half
        return bool(lowest > self.height) and robot_touches(model, data, name)


@dataclass(frozen=True, slots=True)
class PlaceGoal:
    """Put a block into or onto a receptacle and let go."""

    block: Block
    target: Receptacle

    def placed(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block is in its place, held or not."""
        x, y, z = body_position(model, data, self.block.thing.name)
        inside = hypot(x - self.target.xy[0], y - self.target.xy[1]) < self.target.radius
        # Anywhere between lying flat and leaning on an edge.
        return inside and self.target.floor < z < self.target.floor + 1.75 * self.block.half

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block is in its place, at rest, and the hand has let go and moved away."""
        return self.placed(model, data) and _released(model, data, self.block)


@dataclass(frozen=True, slots=True)
class StackGoal:
    """Put a block on top of another one and let go."""

    block: Block
    base: Block

    def placed(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block is on the other one, held or not."""
        x, y, z = body_position(model, data, self.block.thing.name)
        bx, by, bz = body_position(model, data, self.base.thing.name)
        level = self.block.half + self.base.half
        return hypot(x - bx, y - by) < 0.9 * self.base.half and abs(z - bz - level) < 0.006

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the block stands on the other one, at rest, and the hand has let go and moved away."""
        return self.placed(model, data) and _released(model, data, self.block)


@dataclass(frozen=True, slots=True)
class SortGoal:
    """Put several blocks where each belongs."""

    places: tuple[PlaceGoal, ...]

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether every block is in its place and released."""
        return all(place.achieved(model, data) for place in self.places)


@dataclass(frozen=True, slots=True)
class DrawerGoal:
    """Open a drawer by more than 9 cm, or close it to less than 1 cm."""

    drawer: Drawer
    opened: bool

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the drawer is where it should be."""
        opening = joint_value(model, data, self.drawer.joint)
        return opening > 0.09 if self.opened else opening < 0.01


@dataclass(frozen=True, slots=True)
class LeverGoal:
    """Tip a lever by more than 35 degrees, to the robot's left (base frame +y) or right."""

    lever: Lever
    left: bool

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the lever leans far enough to the named side."""
        angle = joint_value(model, data, self.lever.joint)
        return (angle if self.left else -angle) > radians(35.0)


@dataclass(frozen=True, slots=True)
class ToppleGoal:
    """Knock over a pin."""

    pin: Pin

    def achieved(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the pin lies on its side."""
        return body_tilt(model, data, self.pin.thing.name) > radians(70.0)


Goal = (
    TouchGoal | PressGoal | PushGoal | LiftGoal | PlaceGoal | StackGoal | SortGoal | DrawerGoal | LeverGoal | ToppleGoal
)


def _released(model: mujoco.MjModel, data: mujoco.MjData, block: Block) -> bool:
    name = block.thing.name
    if robot_touches(model, data, name) or body_speed(model, data, name) > STILL_M_S:
        return False
    return robot_clearance(model, data, name, RETREAT_M)
