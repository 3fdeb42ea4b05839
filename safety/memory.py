"""All that the filter remembers from one tick to the next."""

from __future__ import annotations

from typing import NamedTuple

from controllers.types import CommandMode, FloatArray
from safety.contact import ObserverMemory
from safety.limits import Fingers
from safety.supervisor import Supervision


class SafetyMemory(NamedTuple):
    """The filter's memory; it never changes, each tick makes a new one.

    Attributes:
        mode: Mode of the commands, None before the first valid one; it never changes after.
        position: (n,) rad, where the checked path stands: the applied position command, or the measured position.
        velocity: (n,) rad/s, applied on the last tick; the stored stop starts from here.
        acceleration: (n,) rad/s^2, applied on the last tick.
        asked: (n,) rad, the last position that was asked for; the same object as ``position`` where that was applied.
        held: (n,) rad, what a hold in torque mode holds; None while moving.
        torque: (n,) N m, applied on the last tick in torque mode, otherwise None.
        observer: What is pushing the arm from outside.
        gripper_opening: Applied opening, m.
        fingers: What the newest state said of the fingers.
        supervision: What is latched.
        now_ns: Clock of the last tick.
        state_stamp_ns: Stamp of the newest state seen.
        command_stamp_ns: Stamp of the newest command seen.
        fresh_ns: Clock when that command came, -1 before the first tick.
    """

    mode: CommandMode | None
    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray
    asked: FloatArray
    held: FloatArray | None
    torque: FloatArray | None
    observer: ObserverMemory
    gripper_opening: float
    fingers: Fingers
    supervision: Supervision
    now_ns: int
    state_stamp_ns: int
    command_stamp_ns: int
    fresh_ns: int
