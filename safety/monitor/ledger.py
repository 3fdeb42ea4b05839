"""What the monitor writes down: violations, and the smallest margin of every limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class MonitoredLimit(Enum):
    """Everything that is judged. Names that begin with ``commanded`` are judged on the commanded path, exactly."""

    JOINT_POSITION = "joint_position"
    JOINT_VELOCITY = "joint_velocity"
    WORKSPACE_BOX = "workspace_box"
    WORKSPACE_POLYTOPE = "workspace_polytope"
    KEEP_OUT = "keep_out"
    SELF_COLLISION = "self_collision"
    ORIENTATION_CONE = "orientation_cone"
    END_EFFECTOR_LINEAR_SPEED = "end_effector_linear_speed"
    END_EFFECTOR_ANGULAR_SPEED = "end_effector_angular_speed"
    KINETIC_ENERGY = "kinetic_energy"
    GRIPPER_SPEED = "gripper_speed"
    GRIPPER_FORCE = "gripper_force"
    CONTACT_TRANSIENT = "contact_transient"
    CONTACT_QUASI_STATIC = "contact_quasi_static"
    PENETRATION = "penetration"
    REST_AFTER_STOP = "rest_after_stop"
    COMMANDED_FORM = "commanded_form"
    COMMANDED_POSITION = "commanded_position"
    COMMANDED_VELOCITY = "commanded_velocity"
    COMMANDED_ACCELERATION = "commanded_acceleration"
    COMMANDED_TORQUE = "commanded_torque"
    COMMANDED_BOX = "commanded_box"
    COMMANDED_POLYTOPE = "commanded_polytope"
    COMMANDED_KEEP_OUT = "commanded_keep_out"
    COMMANDED_SELF_COLLISION = "commanded_self_collision"
    COMMANDED_CONE = "commanded_cone"


LIMITS = tuple(MonitoredLimit)


@dataclass(frozen=True, slots=True)
class Violation:
    """One limit, found broken.

    Attributes:
        limit: Which.
        value: What was found.
        bound: What is allowed, without the tolerance.
        unit: Of value, bound and margin.
        margin: Distance to the tolerated bound, negative.
        where: Joint, point, capsule, zone or geom.
        time_ns: When.
    """

    limit: MonitoredLimit
    value: float
    bound: float
    unit: str
    margin: float
    where: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class LimitMargin:
    """The smallest margin that a limit was ever left with.

    Attributes:
        limit: Which.
        margin: Distance to the tolerated bound; negative once violated.
        relative: The margin, in units that make limits comparable: 0.1 m, 0.1 rad, or the bound itself.
        unit: Of the margin.
    """

    limit: MonitoredLimit
    margin: float
    relative: float
    unit: str


class Ledger:
    """Collects readings. One tick's worth is open at a time.

    Attributes:
        relative: Relative margin of each limit of the open tick, in the order of ``LIMITS``; infinite where unread.
    """

    def __init__(self) -> None:
        self._index = {limit: index for index, limit in enumerate(LIMITS)}
        self._lowest = [math.inf] * len(LIMITS)
        self._lowest_relative = [math.inf] * len(LIMITS)
        self._units = [""] * len(LIMITS)
        self._violations: list[Violation] = []
        self.relative: list[float] = [math.inf] * len(LIMITS)

    def note(
        self,
        limit: MonitoredLimit,
        value: float,
        bound: float,
        margin: float,
        scale: float,
        unit: str,
        where: str,
        time_ns: int,
    ) -> None:
        """Write a reading down; ``margin`` includes the tolerance, ``scale`` makes it comparable."""
        if not math.isfinite(margin):
            margin = -math.inf  # what is not a number is no measurement of anything good
        index = self._index[limit]
        relative = margin / scale
        self.relative[index] = min(self.relative[index], relative)
        self._units[index] = unit
        self._lowest[index] = min(self._lowest[index], margin)
        self._lowest_relative[index] = min(self._lowest_relative[index], relative)
        if margin < 0.0:
            self._violations.append(Violation(limit, value, bound, unit, margin, where, time_ns))

    def open(self) -> None:
        """Begin a tick."""
        self.relative = [math.inf] * len(LIMITS)

    def take(self) -> tuple[Violation, ...]:
        """The violations since the last call."""
        if not self._violations:
            return ()
        taken = tuple(self._violations)
        self._violations.clear()
        return taken

    def margins(self) -> tuple[LimitMargin, ...]:
        """Smallest margins so far, of the limits that were read at all."""
        columns = zip(LIMITS, self._lowest, self._lowest_relative, self._units, strict=True)
        return tuple(LimitMargin(*column) for column in columns if column[3])
