"""Geometry that all expert skills share: the hand, tracked objects, and aims.

An aim says where the hand should go from here. It is a function of the current state alone, so an expert can label
any state that another policy has brought about.

Tolerances are as wide as the tasks allow, and aims lie beyond where success begins. A learner sees distances to a few
millimetres: where the expert insists on less, the learner hovers for ever between going down and going up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

CRUISE_M_S = 0.34
FINGERTIP_M = 0.009  # the fingertips reach this far below the tool centre
FINGER_HALF_X_M = 0.009  # closed fingers: half extents along and across the hand's x axis
FINGER_HALF_Y_M = 0.0225
OPEN_M = 0.08
_OPEN_ENOUGH_M = 0.072
_CLOSED_ENOUGH_M = 0.012
_TURN_WEIGHT_M = 0.03  # an error of 1 rad in yaw keeps the hand as high as this distance does


@dataclass(frozen=True, slots=True)
class Hand:
    """The hand, pointing down: tool centre in m, yaw in rad, opening in m."""

    x: float
    y: float
    z: float
    yaw: float
    opening: float


@dataclass(frozen=True, slots=True)
class Item:
    """An object that a skill watches.

    Attributes:
        x: Centre, m, base frame.
        y: Centre, m.
        z: Centre, m.
        yaw: Turn about the vertical, rad.
        width: Size between the fingers, m.
        angle: What else matters of its pose: tilt or joint angle, rad, or joint position, m.
    """

    x: float
    y: float
    z: float
    yaw: float = 0.0
    width: float = 0.0
    angle: float = 0.0


@dataclass(frozen=True, slots=True)
class Aim:
    """Where to go.

    Attributes:
        x: Goal of the tool centre, m, base frame.
        y: Goal, m.
        z: Goal, m.
        yaw: Goal of the hand's yaw, rad.
        opening: Gripper action: 0 closed, 1 open.
        speed: Largest speed, m/s.
    """

    x: float
    y: float
    z: float
    yaw: float
    opening: float
    speed: float = CRUISE_M_S


def clamp01(value: float) -> float:
    """``value`` limited to [0, 1]."""
    return min(max(value, 0.0), 1.0)


def wrap(angle: float, period: float) -> float:
    """``angle`` modulo ``period``, within plus or minus half a period."""
    return (angle + 0.5 * period) % period - 0.5 * period


def distance(hand: Hand, x: float, y: float) -> float:
    """Horizontal distance of the hand from a point, m."""
    return math.hypot(hand.x - x, hand.y - y)


def stay(hand: Hand, opening: float) -> Aim:
    """Stand still."""
    return Aim(hand.x, hand.y, hand.z, hand.yaw, opening, 0.0)


def rise(hand: Hand, height: float, opening: float, yaw: float = 0.0) -> Aim:
    """Go straight up to ``height`` m."""
    speed = min(CRUISE_M_S, 0.15 + 4.0 * max(hand.z - 0.02, 0.0))
    return Aim(hand.x, hand.y, max(height, hand.z), yaw, opening, speed)


def approach(
    hand: Hand,
    point: tuple[float, float, float],
    yaw: float,
    opening: float,
    *,
    hover: float,
    clear: float,
    contact_speed: float = 0.10,
    tight: float = 0.007,
) -> Aim:
    """Come down on ``point`` through a funnel: over it first, then down; up first when low and far away.

    Args:
        hand: Where the hand is.
        point: Goal of the tool centre, m.
        yaw: Goal of the yaw, rad.
        opening: Gripper action to travel with; the hand only goes down once the gripper has obeyed.
        hover: Height at which to arrive over the point, m.
        clear: Height above which the hand may travel sideways, m.
        contact_speed: Speed at the point, m/s.
        tight: Horizontal error at which the way down is free, m.
    """
    x, y, z = point
    lateral = distance(hand, x, y)
    error = lateral + _TURN_WEIGHT_M * abs(wrap(yaw - hand.yaw, math.pi))
    obeyed = hand.opening > _OPEN_ENOUGH_M if opening > 0.5 else hand.opening < _CLOSED_ENOUGH_M
    lift = clamp01((error - tight) / 0.024) if obeyed else 1.0
    free = max(clamp01((hand.z - clear) / 0.03), clamp01((0.020 - lateral) / 0.008))
    speed = min(CRUISE_M_S, contact_speed + 4.0 * max(hand.z - z, 0.0)) if lateral < 0.03 else CRUISE_M_S
    return Aim(
        hand.x + free * (x - hand.x),
        hand.y + free * (y - hand.y),
        z + lift * max(hover - z, 0.0),
        yaw,
        opening,
        speed,
    )


# ------------------------------------------------------------------------------------------- grasping


def between_fingers(hand: Hand, item: Item) -> bool:
    """Whether ``item`` is in the reach of the closing fingers."""
    return distance(hand, item.x, item.y) < 0.018 and abs(hand.z - item.z) < 0.018


def holds(hand: Hand, item: Item) -> bool:
    """Whether the fingers have closed on ``item``."""
    return between_fingers(hand, item) and hand.opening < item.width + 0.003


def pick(hand: Hand, item: Item, *, hover: float = 0.12, clear: float = 0.065, turn: bool = True) -> Aim:
    """Go and close the fingers on ``item``, which the hand does not hold.

    Args:
        hand: Where the hand is.
        item: What to grasp.
        hover: Height at which to arrive over it, m.
        clear: Height above which the hand may travel sideways, m.
        turn: Align with the item's faces (by the smallest turn from yaw 0); otherwise keep yaw 0.
    """
    yaw = wrap(item.yaw, 0.5 * math.pi) if turn else 0.0
    wide = hand.opening > _OPEN_ENOUGH_M
    reach = 0.011 if wide else 0.017
    turned = abs(wrap(yaw - hand.yaw, math.pi)) < (0.16 if wide else 0.3)
    if turned and distance(hand, item.x, item.y) < reach and abs(hand.z - item.z) < (0.009 if wide else 0.014):
        return Aim(item.x, item.y, item.z, yaw, 0.0, 0.05) if wide else stay(hand, 0.0)
    return approach(hand, (item.x, item.y, item.z), yaw, 1.0, hover=hover, clear=clear)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where to put an item.

    Attributes:
        x: Centre, m.
        y: Centre, m.
        z: Height of the item's centre at the release, m.
        radius: An item whose centre is this near and that is not held counts as put, m.
        top: Greatest height of the centre of an item that counts as put, m.
        yaw: Yaw of the hand at the release, rad.
        tolerance: A held item whose centre is this near is let go, m.
    """

    x: float
    y: float
    z: float
    radius: float
    top: float
    yaw: float = 0.0
    tolerance: float = 0.010

    def has(self, item: Item) -> bool:
        """Whether ``item``, when it is not held, counts as put here."""
        return math.hypot(item.x - self.x, item.y - self.y) < self.radius and item.z < self.top


def place(hand: Hand, item: Item, spot: Spot, *, hover: float = 0.14, clear: float = 0.075) -> Aim:
    """Carry the held ``item`` to ``spot`` and let it go."""
    lateral = math.hypot(item.x - spot.x, item.y - spot.y)
    error = lateral + _TURN_WEIGHT_M * abs(wrap(spot.yaw - hand.yaw, math.pi))
    height = hand.z - item.z + spot.z
    if lateral < spot.tolerance and abs(hand.z - height) < 0.007:
        return stay(hand, 1.0)
    lift = clamp01((error - 0.6 * spot.tolerance) / 0.025)
    free = max(clamp01((hand.z - clear) / 0.03), clamp01((0.020 - lateral) / 0.008))
    down = min(CRUISE_M_S, 0.09 + 4.0 * max(hand.z - height, 0.0))
    up = min(CRUISE_M_S, 0.12 + 4.0 * max(item.z - 0.5 * item.width, 0.0))
    return Aim(
        hand.x + free * (spot.x - item.x),
        hand.y + free * (spot.y - item.y),
        height + lift * max(hover - height, 0.0),
        spot.yaw if free > 0.5 else hand.yaw,
        0.0,
        down if lateral < 0.03 else up,
    )


def let_go(hand: Hand, item: Item) -> Aim | None:
    """Open the fingers around an item that has been put; None once they are open or away."""
    if between_fingers(hand, item) and hand.opening < _OPEN_ENOUGH_M:
        return stay(hand, 1.0)
    return None


def carried(item: Item, before: Hand, after: Hand) -> Item:
    """The item after the hand that holds it has moved."""
    return replace(
        item,
        x=item.x + after.x - before.x,
        y=item.y + after.y - before.y,
        z=item.z + after.z - before.z,
        yaw=item.yaw + after.yaw - before.yaw,
    )
