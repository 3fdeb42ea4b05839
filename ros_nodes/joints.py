"""Joints by name: which entry of a message is which of our joints, and how its numbers become ours.

Messages of robots list joints in an order of their own and often hold more of them. What is ours is found by name,
never by place. This module knows no message type, so that it can be tested and used without ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, frozen_array
from ros_nodes.errors import MessageError


@dataclass(frozen=True, slots=True)
class JointNames:
    """Names on the wire of ``n`` arm joints and the gripper, and the gripper's scale.

    Attributes:
        arm: (n,) names of the arm joints, in our order.
        gripper: Name of the joint that stands for the gripper.
        gripper_scale: Opening in m for each unit of that joint's position.
        gripper_offset: Opening in m at position 0.
    """

    arm: tuple[str, ...]
    gripper: str
    gripper_scale: float = 1.0
    gripper_offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse names that are not all different, and a scale that cannot be undone."""
        names = (*self.arm, self.gripper)
        if len(set(names)) != len(names):
            raise ValueError(f"expected joint names that are all different, found {', '.join(names)}")
        if not np.isfinite(self.gripper_scale) or self.gripper_scale == 0.0 or not np.isfinite(self.gripper_offset):
            raise ValueError(
                f"expected a finite gripper scale other than 0 and a finite offset, found {self.gripper_scale} "
                f"and {self.gripper_offset}"
            )

    @staticmethod
    def of(description: RobotDescription, gripper: str = "gripper") -> JointNames:
        """The names of a robot description; the gripper's position is its opening in m."""
        return JointNames(description.joint_names, gripper)

    @property
    def all(self) -> tuple[str, ...]:
        """Arm joints, then the gripper: the order in which we write."""
        return (*self.arm, self.gripper)

    def opening(self, position: float) -> float:
        """Gripper opening in m from the joint's position."""
        return self.gripper_offset + self.gripper_scale * position

    def gripper_position(self, opening: float) -> float:
        """The joint's position from an opening in m."""
        return (opening - self.gripper_offset) / self.gripper_scale


@dataclass(frozen=True, slots=True)
class JointValues:
    """The numbers of one message in our order; None for an array that the message left empty.

    Attributes:
        position: (n,) rad.
        velocity: (n,) rad/s.
        effort: (n,) N m.
        gripper_opening: m.
    """

    position: FloatArray | None
    velocity: FloatArray | None
    effort: FloatArray | None
    gripper_opening: float


class JointIndex:
    """Finds our joints in messages; remembers the last order, since it hardly ever changes."""

    def __init__(self, names: JointNames) -> None:
        """Look for ``names``."""
        self.names = names
        self._order: list[str] | None = None
        self._arm: list[int] = []
        self._gripper = -1

    def read(
        self, names: Sequence[str], position: Sequence[float], velocity: Sequence[float], effort: Sequence[float]
    ) -> JointValues:
        """Pick our joints' numbers.

        Raises:
            MessageError: A joint is missing or there twice, an array has another length than the names, or the
                gripper has no position.
        """
        if list(names) != self._order:
            self._learn(names)
        count = len(names)
        for what, values in (("position", position), ("velocity", velocity), ("effort", effort)):
            if len(values) not in (0, count):
                raise MessageError(f"{what}: expected {count} values, one for each name, or none; found {len(values)}")
        if not len(position):
            raise MessageError(f"position: expected that of {self.names.gripper!r} at least, found no positions")
        return JointValues(
            self._pick(position),
            self._pick(velocity),
            self._pick(effort),
            self.names.opening(float(position[self._gripper])),
        )

    def _pick(self, values: Sequence[float]) -> FloatArray | None:
        return frozen_array(np.asarray(values, dtype=np.float64)[self._arm]) if len(values) else None

    def _learn(self, names: Sequence[str]) -> None:
        found = list(names)
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise MessageError(f"expected every joint once, found {', '.join(twice)} more than once")
        missing = [name for name in self.names.all if name not in found]
        if missing:
            hints = "".join(nearest_name_hint(name, found) for name in missing[:1])
            raise MessageError(
                f"expected the joints {', '.join(self.names.all)}; missing {', '.join(missing)}{hints}; "
                f"found {', '.join(found) or 'no names'}"
            )
        self._arm = [found.index(name) for name in self.names.arm]
        self._gripper = found.index(self.names.gripper)
        self._order = found


def command_mode(values: JointValues, expected: CommandMode) -> FloatArray:
    """The values of a command of the mode ``expected``: that array must be there and no other of the arm's.

    A position command carries positions of arm and gripper. In the other modes the positions of the arm are NaN,
    since the gripper needs a place for its own.

    Raises:
        MessageError: The wanted array is missing, or the message also commands in another mode.
    """
    arrays = {
        CommandMode.POSITION: values.position,
        CommandMode.VELOCITY: values.velocity,
        CommandMode.TORQUE: values.effort,
    }
    if expected is not CommandMode.POSITION and values.position is not None and not np.isnan(values.position).all():
        raise MessageError(f"expected a {expected.value} command with NaN positions of the arm, found positions")
    others = [
        mode.value
        for mode, array in arrays.items()
        if mode is not expected and mode is not CommandMode.POSITION and array is not None
    ]
    wanted = arrays[expected]
    if wanted is None or others:
        found = ", ".join([*([] if wanted is None else [expected.value]), *others]) or "none"
        raise MessageError(f"expected {expected.value} values only, found {found}; both sides must agree on the mode")
    return wanted
