"""One skill for each kind of goal: what to watch, and where to aim.

Each skill is stateless. ``watch`` reads the true state, ``aim`` decides, and ``follow`` guesses what the objects do
while the hand moves by one row, which is only used to fill the later rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import mujoco

from sim.experts.motion import (
    CRUISE_M_S,
    FINGER_HALF_X_M,
    FINGER_HALF_Y_M,
    FINGERTIP_M,
    Aim,
    Hand,
    Item,
    Spot,
    approach,
    carried,
    clamp01,
    holds,
    let_go,
    pick,
    place,
    rise,
    stay,
    wrap,
)
from sim.objects.blocks import Block
from sim.objects.fixtures import Plunger
from sim.tasks.goals import (
    DrawerGoal,
    Goal,
    LeverGoal,
    LiftGoal,
    PlaceGoal,
    PressGoal,
    PushGoal,
    SortGoal,
    StackGoal,
    ToppleGoal,
    TouchGoal,
)
from sim.tasks.physics import body_position, body_tilt, body_yaw, joint_value

Items = tuple[Item, ...]

_PUSHED_M = 0.012  # a block this near to the middle of its zone has been pushed enough


class Skill(Protocol):
    """How to reach one kind of goal."""

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The objects that matter, from the true state."""
        ...

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Where to go from here."""
        ...

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The objects after the hand has moved from ``before`` to ``after``."""
        ...


def _block_item(model: mujoco.MjModel, data: mujoco.MjData, block: Block) -> Item:
    x, y, z = body_position(model, data, block.thing.name).tolist()
    return Item(x, y, z, body_yaw(model, data, block.thing.name), 2.0 * block.half)


def _carry_held(before: Hand, after: Hand, items: Items) -> Items:
    return tuple(carried(item, before, after) if holds(before, item) else item for item in items)


# ------------------------------------------------------------------------------------- without a grasp


@dataclass(frozen=True, slots=True)
class PlungeSkill:
    """Come down on a ball or a button with closed fingers, until it has given way.

    Attributes:
        plunger: The ball or button.
        depth: How far it shall give, m; the hand aims at ``overshoot`` more.
        overshoot: m.
        hover: Height at which to arrive over it, m.
        clear: Height above which the hand may travel sideways, m.
    """

    plunger: Plunger
    depth: float
    overshoot: float
    hover: float
    clear: float

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The top of the ball or button; its angle is how far it has given, m."""
        given = -joint_value(model, data, self.plunger.joint)
        return (Item(*self.plunger.xy, self.plunger.top - given, angle=given),)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Over it, then down until it has given."""
        (item,) = items
        if item.angle > self.depth:
            return stay(hand, 0.0)
        point = (item.x, item.y, self.plunger.top + FINGERTIP_M - self.depth - self.overshoot)
        return approach(hand, point, 0.0, 0.0, hover=self.hover, clear=self.clear, tight=0.010)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """It gives way under the fingertips."""
        del before
        (item,) = items
        over = math.hypot(after.x - item.x, after.y - item.y) < 0.03
        given = self.plunger.top + FINGERTIP_M - after.z if over else 0.0
        return (replace(item, angle=min(max(item.angle, given), self.plunger.travel)),)


@dataclass(frozen=True, slots=True)
class ToppleSkill:
    """Push a pin near its top, away from the robot."""

    goal: ToppleGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The pin and its tilt."""
        name = self.goal.pin.thing.name
        x, y, z = body_position(model, data, name).tolist()
        return (Item(x, y, z, angle=body_tilt(model, data, name)),)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """In front of the pin, then forward; up when it falls."""
        (pin,) = items
        if pin.angle > 0.6:
            return rise(hand, 0.20, 0.0)
        height = 0.095
        behind = pin.x - hand.x
        if abs(hand.y - pin.y) < 0.014 and abs(hand.z - height) < 0.02 and -0.02 < behind < 0.10:
            return Aim(pin.x + 0.08, pin.y, height, 0.0, 0.0, 0.24)
        start = (pin.x - self.goal.pin.half_width - FINGER_HALF_X_M - 0.035, pin.y, height)
        return approach(hand, start, 0.0, 0.0, hover=0.18, clear=0.15, contact_speed=0.2, tight=0.008)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The pin leans with the hand that pushes it."""
        (pin,) = items
        reach = after.x + FINGER_HALF_X_M + self.goal.pin.half_width - pin.x
        if reach > 0.0 and after.z < 0.13 and abs(after.y - pin.y) < 0.04 and after.x > before.x:
            return (replace(pin, angle=max(pin.angle, math.atan2(reach, 0.09))),)
        return items


@dataclass(frozen=True, slots=True)
class LeverSkill:
    """Push a lever over from its other side."""

    goal: LeverGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The lever's hinge and angle."""
        lever = self.goal.lever
        return (Item(*lever.hinge, angle=joint_value(model, data, lever.joint)),)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Down beside the lever, then across; up when it lies over."""
        (lever,) = items
        side = 1.0 if self.goal.left else -1.0
        lean = side * lever.angle
        if lean > math.radians(40.0):
            return rise(hand, 0.17, 0.0)
        height = lever.z + 0.044
        along = side * (hand.y - lever.y)  # < 0 where the push begins
        extent = self.goal.lever.length * math.sin(max(-lean, 0.0))
        start = FINGER_HALF_Y_M + 0.032 + extent
        if abs(hand.x - lever.x) < 0.012 and abs(hand.z - height) < 0.02 and -start - 0.02 < along < 0.03:
            return Aim(lever.x, lever.y + side * 0.012, height, 0.0, 0.0, 0.16)
        point = (lever.x, lever.y - side * start, height)
        return approach(hand, point, 0.0, 0.0, hover=0.16, clear=0.12, contact_speed=0.16, tight=0.008)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The lever leans with the fingertips that push it."""
        del before
        (lever,) = items
        side = 1.0 if self.goal.left else -1.0
        arm = after.z - FINGERTIP_M - lever.z
        face = side * (after.y - lever.y) + FINGER_HALF_Y_M + 0.009
        if 0.0 < arm < 0.07 and abs(after.x - lever.x) < 0.03 and -0.05 < face < 0.08:
            return (replace(lever, angle=side * max(side * lever.angle, math.atan2(face, arm))),)
        return items


@dataclass(frozen=True, slots=True)
class PushSkill:
    """Push a block in a straight line with the flat of the closed fingers."""

    goal: PushGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The block."""
        return (_block_item(model, data, self.goal.block),)

    def _line(self, block: Item) -> tuple[float, float, float]:
        """Unit vector from the block to the zone, and the distance."""
        dx, dy = self.goal.zone.xy[0] - block.x, self.goal.zone.xy[1] - block.y
        length = math.hypot(dx, dy)
        return (dx / length, dy / length, length) if length > 1e-6 else (1.0, 0.0, 0.0)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Behind the block on the line to the zone, down, then along the line; up at the end."""
        (block,) = items
        ux, uy, length = self._line(block)
        if length < _PUSHED_M:
            return rise(hand, 0.12, 0.0)
        height = 0.024
        yaw = wrap(math.atan2(uy, ux), math.pi)
        rx, ry = hand.x - block.x, hand.y - block.y
        along, across = rx * ux + ry * uy, ry * ux - rx * uy
        touching = FINGER_HALF_X_M + self.goal.block.half
        turned = abs(wrap(yaw - hand.yaw, math.pi)) < 0.35
        if hand.z < height + 0.009 and turned and abs(across) < 0.014 and -0.085 < along < -0.5 * touching:
            zone = self.goal.zone.xy
            past = 0.006 - touching  # beyond the middle, so that the push does not fade before it
            goal_x, goal_y = zone[0] + past * ux, zone[1] + past * uy
            push = min(0.20, 0.10 + 3.0 * length)
            # Steer back onto the line before pushing on.
            return Aim(
                goal_x + 1.5 * across * uy,
                goal_y - 1.5 * across * ux,
                height,
                yaw,
                0.0,
                min(0.22, 0.12 + 2.0 * max(0.0, -along - touching)) if -along > touching + 0.004 else push,
            )
        back = touching + 0.030
        point = (block.x - back * ux, block.y - back * uy, height)
        return approach(hand, point, yaw, 0.0, hover=0.11, clear=0.065, contact_speed=0.12, tight=0.010)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The block moves ahead of the fingers."""
        del before
        (block,) = items
        ux, uy, _ = self._line(block)
        along = (after.x - block.x) * ux + (after.y - block.y) * uy
        across = (after.y - block.y) * ux - (after.x - block.x) * uy
        overlap = along + FINGER_HALF_X_M + self.goal.block.half
        if after.z < 0.05 and abs(across) < 0.03 and 0.0 < overlap < 0.04:
            return (replace(block, x=block.x + overlap * ux, y=block.y + overlap * uy),)
        return items


# ---------------------------------------------------------------------------------------- with a grasp


@dataclass(frozen=True, slots=True)
class LiftSkill:
    """Grasp a block and hold it up."""

    goal: LiftGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The block."""
        return (_block_item(model, data, self.goal.block),)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Grasp, then straight up."""
        (block,) = items
        if holds(hand, block):
            speed = min(CRUISE_M_S, 0.12 + 4.0 * max(block.z - self.goal.block.half, 0.0))
            return Aim(hand.x, hand.y, 0.17, hand.yaw, 0.0, speed)
        return pick(hand, block)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The block moves with the hand that holds it."""
        return _carry_held(before, after, items)


@dataclass(frozen=True, slots=True)
class PlaceSkill:
    """Carry one or several blocks to where they belong; the leftmost (largest y) first."""

    goals: tuple[PlaceGoal, ...]
    drop: bool

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The blocks."""
        return tuple(_block_item(model, data, goal.block) for goal in self.goals)

    def _spot(self, goal: PlaceGoal) -> Spot:
        x, y = goal.target.xy
        tolerance = 0.4 * goal.target.radius
        if self.drop:
            return Spot(x, y, goal.target.rim + 0.028, goal.target.radius, math.inf, tolerance=tolerance)
        level = goal.target.floor + goal.block.half
        return Spot(x, y, level + 0.005, 0.8 * goal.target.radius, level + 0.014, tolerance=tolerance)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Whatever is in the hand goes to its place; else the leftmost block that is not yet in its place."""
        pairs = [(item, self._spot(goal)) for item, goal in zip(items, self.goals, strict=True)]
        return _sort(hand, pairs)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """A held block moves with the hand."""
        return _carry_held(before, after, items)


@dataclass(frozen=True, slots=True)
class StackSkill:
    """Put one block on another."""

    goal: StackGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The block to move and the one below."""
        return (_block_item(model, data, self.goal.block), _block_item(model, data, self.goal.base))

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Grasp, carry over the base, let down, let go."""
        block, base = items
        level = base.z + self.goal.base.half + self.goal.block.half
        yaw = wrap(base.yaw, 0.5 * math.pi)
        spot = Spot(base.x, base.y, level + 0.004, 0.9 * self.goal.base.half, level + 0.014, yaw)
        low = Spot(base.x, base.y, level, spot.radius, level - 0.012)
        if low.has(block) or not spot.has(block) or holds(hand, block):
            if holds(hand, block):
                return place(hand, block, spot, hover=0.15, clear=0.095)
            return pick(hand, block, hover=0.13, clear=0.075)
        return let_go(hand, block) or rise(hand, 0.16, 1.0, hand.yaw)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The held block moves with the hand."""
        block, base = items
        return (carried(block, before, after) if holds(before, block) else block, base)


def _sort(hand: Hand, pairs: list[tuple[Item, Spot]]) -> Aim:
    for item, spot in pairs:
        if holds(hand, item) and not (spot.has(item) and hand.opening > item.width + 0.001):
            return place(hand, item, spot)
    for item, spot in pairs:
        if spot.has(item):
            opening = let_go(hand, item)
            if opening is not None:
                return opening
    waiting = [item for item, spot in pairs if not spot.has(item)]
    if waiting:
        return pick(hand, max(waiting, key=lambda item: item.y))
    return rise(hand, 0.14, 1.0)


# --------------------------------------------------------------------------------------------- drawers


@dataclass(frozen=True, slots=True)
class DrawerSkill:
    """Pull a drawer open by its knob, or push it closed."""

    goal: DrawerGoal

    def watch(self, model: mujoco.MjModel, data: mujoco.MjData) -> Items:
        """The knob; its angle is the drawer's opening in m."""
        drawer = self.goal.drawer
        opening = joint_value(model, data, drawer.joint)
        x, y, z = drawer.knob
        return (Item(x - opening, y, z, 0.0, 2.0 * drawer.knob_half[1], opening),)

    def aim(self, hand: Hand, items: Items) -> Aim:
        """Grasp the knob and pull, or come down before it and push."""
        (knob,) = items
        return self._open(hand, knob) if self.goal.opened else self._close(hand, knob)

    def _open(self, hand: Hand, knob: Item) -> Aim:
        x, y, z = self.goal.drawer.knob
        if knob.angle > 0.105:
            return let_go(hand, knob) or rise(hand, 0.14, 1.0)
        if holds(hand, knob):
            return Aim(x - 0.115, y, z, 0.0, 0.0, min(0.25, 0.10 + 4.0 * max(knob.angle, 0.0)))
        return pick(hand, knob, hover=0.13, clear=0.09, turn=False)

    def _close(self, hand: Hand, knob: Item) -> Aim:
        x, y, z = self.goal.drawer.knob
        if knob.angle < 0.007:
            return rise(hand, 0.14, 0.0)
        touching = self.goal.drawer.knob_half[0] + FINGER_HALF_X_M
        gap = knob.x - touching - hand.x
        if abs(hand.y - y) < 0.016 and abs(hand.z - z) < 0.009 and -0.012 < gap < 0.06:
            return Aim(x - touching - 0.001, y, z, 0.0, 0.0, 0.22)
        point = (knob.x - touching - 0.028, y, z)
        return approach(hand, point, 0.0, 0.0, hover=0.13, clear=0.09, contact_speed=0.16, tight=0.008)

    def follow(self, before: Hand, after: Hand, items: Items) -> Items:
        """The drawer moves with the hand that holds or pushes its knob."""
        (knob,) = items
        x, y, _ = self.goal.drawer.knob
        moved = 0.0
        if self.goal.opened:
            moved = after.x - before.x if holds(before, knob) else 0.0
        elif after.z < 0.07 and abs(after.y - y) < 0.03:
            moved = clamp01((after.x + self.goal.drawer.knob_half[0] + FINGER_HALF_X_M - knob.x) / 0.03) * 0.03
        new_x = min(max(knob.x + moved, x - self.goal.drawer.travel), x)
        return (replace(knob, x=new_x, angle=x - new_x),)


# --------------------------------------------------------------------------------------------- catalog


def _touch(goal: TouchGoal) -> Skill:
    return PlungeSkill(goal.ball, 0.009, 0.004, max(goal.ball.top + 0.07, 0.165), 0.13)


def _press(goal: PressGoal) -> Skill:
    button = goal.button
    return PlungeSkill(button, 0.85 * button.travel, 0.005, button.top + 0.07, 0.06)


_SKILLS: dict[type, Callable[..., Skill]] = {
    TouchGoal: _touch,
    PressGoal: _press,
    ToppleGoal: ToppleSkill,
    LeverGoal: LeverSkill,
    PushGoal: PushSkill,
    LiftGoal: LiftSkill,
    PlaceGoal: lambda goal: PlaceSkill((goal,), drop=goal.target.thing.kind == "bowl"),
    StackGoal: StackSkill,
    SortGoal: lambda goal: PlaceSkill(goal.places, drop=False),
    DrawerGoal: DrawerSkill,
}


def skill_for(goal: Goal) -> Skill:
    """The skill that reaches ``goal``."""
    return _SKILLS[type(goal)](goal)
