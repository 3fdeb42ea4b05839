"""Every limit's verdict on a motion at once: the fast path beside the limits' own ``judge``.

The limits stay what decides and explains: this reads their numbers once and has one compiled call compute with them.
A limit of a class that the call does not know is asked itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from controllers.types import FloatArray
from safety.kernel import judge as kernel
from safety.kernel.rows import rows_of
from safety.limits import (
    CommandLeadLimit,
    ContactForceLimit,
    EndEffectorAngularSpeedLimit,
    EndEffectorLinearSpeedLimit,
    JointAccelerationLimit,
    JointJerkLimit,
    JointPositionLimit,
    JointTorqueLimit,
    JointVelocityLimit,
    KeepOutLimit,
    KineticEnergyLimit,
    Limit,
    LimitSet,
    OrientationConeLimit,
    SelfCollisionLimit,
    ServoLagLimit,
    WorkspaceBoxLimit,
    WorkspacePolytopeLimit,
)
from safety.motion import Motion, MotionFactory

# The classes that ``Judge`` reads.
_READ = (
    JointVelocityLimit,
    JointAccelerationLimit,
    JointJerkLimit,
    JointPositionLimit,
    JointTorqueLimit,
    WorkspaceBoxLimit,
    EndEffectorLinearSpeedLimit,
    EndEffectorAngularSpeedLimit,
    KineticEnergyLimit,
    CommandLeadLimit,
    ContactForceLimit,
    SelfCollisionLimit,
    ServoLagLimit,
    KeepOutLimit,
    WorkspacePolytopeLimit,
    OrientationConeLimit,
)
# Slots of the limits that say where the arm may be.
_PLACES = (kernel.POSITION, kernel.BOX, kernel.SELF, kernel.KEEP_OUT, kernel.POLYTOPE, kernel.CONE)
_NO_ROWS = rows_of([], [], [], [])
_UNSERVOED = -1.0
_JUDGE: Callable[..., tuple[int, float, float]] = kernel.judge


class Verdict(NamedTuple):
    """What the limits say of one motion.

    Attributes:
        objecting: The limits that do not admit it, with the margins it would have had; in the order of the limits.
        smallest: The smallest scaled margin of all limits that were asked.
    """

    objecting: tuple[tuple[Limit, float], ...]
    smallest: float


class Judge:
    """Asks every limit of a set. Holds no memory; one instance serves one thread."""

    def __init__(self, limits: LimitSet) -> None:
        """Read the limits' numbers."""
        n = limits.velocity.maximum.shape[0]
        self._n = n
        self._joints = np.zeros((kernel.JOINT_ROWS, n))
        self._settings = np.zeros((kernel.SLOTS, kernel.SETTINGS))
        self._struck = np.zeros(0, dtype=np.int64)
        self._box = self._box_carrying = self._facets = self._cone = _NO_ROWS
        self._known: dict[int, Limit] = {}
        self._unknown: list[Limit] = []
        self._mobility, self._nowhere = np.zeros((3, n)), np.zeros(n)
        self._lead, self._press = np.zeros(n), np.zeros((3, n))
        self._blow = math.nan
        self._layout, self._margins = np.zeros(5), np.zeros(kernel.SLOTS)
        self._rates, self._swept = np.zeros(0), np.zeros((2, 0, 3))
        # Of the start that was asked for last.
        self._asked: MotionFactory | None = None
        self._arguments: tuple[Any, ...] = ()
        for limit in limits.every:
            self._read(limit)

    def first(self, factory: MotionFactory, velocity: FloatArray, fraction: float, *, gentle: bool) -> Verdict:
        """Ask until one limit objects; the jerk only of a gentle motion.

        Args:
            factory: The tick's start.
            velocity: (n,) rad/s.
            fraction: Of the acceleration limits, used by the stop.
            gentle: The motion may only be what a command may do by itself.
        """
        bits, margin, smallest = self._ask(factory, velocity, fraction, gentle, gentle, False)
        if bits:
            slot = bits.bit_length() - 1
            return Verdict(((self._known[slot], margin),), smallest)
        if not self._unknown:
            return Verdict((), smallest)
        return self._ask_themselves(self.motion(factory, velocity, gentle=gentle), (), smallest, every=False)

    def every(self, factory: MotionFactory, velocity: FloatArray, fraction: float, *, gentle: bool) -> Verdict:
        """Ask every limit but the jerk; arguments as of :meth:`first`."""
        bits, _, smallest = self._ask(factory, velocity, fraction, gentle, False, True)
        objecting: tuple[tuple[Limit, float], ...] = ()
        while bits:
            slot = (bits & -bits).bit_length() - 1
            objecting = (*objecting, (self._known[slot], float(self._margins[slot])))
            bits &= bits - 1
        if not self._unknown:
            return Verdict(objecting, smallest)
        return self._ask_themselves(self.motion(factory, velocity, gentle=gentle), objecting, smallest, every=True)

    def clearance(self, factory: MotionFactory) -> float:
        """How far inside the limits of place the arm stands, in shares of their scales; negative outside."""
        self._ask(factory, np.zeros(self._n), 1.0, False, False, True)
        return self.clearance_judged()

    def clearance_judged(self) -> float:
        """The same of the motion that was judged last by :meth:`every`, its stop included."""
        return min(
            (
                float(self._margins[slot] / self._settings[slot, kernel.SCALE])
                for slot in _PLACES
                if self._settings[slot, kernel.USED]
            ),
            default=math.inf,
        )

    def _ask(
        self, factory: MotionFactory, velocity: FloatArray, fraction: float, gentle: bool, jerky: bool, every: bool
    ) -> tuple[int, float, float]:
        if not velocity.flags.writeable:
            velocity = velocity.copy()  # compiled code takes writable arrays only
        if factory is not self._asked:  # a tick that is slowed down is judged three times
            self._asked, self._arguments = factory, self._read_tick(factory)
        return _JUDGE(*self._arguments, velocity, fraction, gentle, jerky, every)

    def _read_tick(self, factory: MotionFactory) -> tuple[Any, ...]:
        """The kernel's arguments that all motions from one start share."""
        points, jacobian = factory.geometry
        mass, factor, bias, _ = factory.dynamics
        hull, contact = factory.hull, factory.contact
        zones, box = (hull.zones_carrying, self._box_carrying) if factory.carrying else (hull.zones, self._box)
        servo = contact.servo
        lead, press, lead_force = self._lead, self._press, _UNSERVOED
        if servo is not None:
            lead, press, lead_force = servo.lead, servo.press, servo.force
        into = contact.into if contact.into.flags.writeable else self._nowhere
        if len(self._rates) != len(jacobian):
            self._rates, self._swept = np.zeros(len(jacobian)), np.zeros((2, len(points), 3))
        return (
            *factory.kinematics.tables,
            self._joints,
            self._settings,
            contact.allowed,
            self._struck,
            self._mobility,
            *box,
            *hull.pairs,
            *zones,
            *self._facets,
            *self._cone,
            factory.position,
            factory.previous_velocity,
            factory.previous_acceleration,
            points,
            jacobian,
            mass,
            factor,
            bias,
            into,
            *factory.lag,
            self._blow,
            lead,
            press,
            self._rates,
            self._swept,
            self._layout,
            self._margins,
            contact.force_size,
            lead_force,
            factory.dt,
        )

    def motion(self, factory: MotionFactory, velocity: FloatArray, *, gentle: bool) -> Motion:
        """The motion that was judged last, as limits look at it; it serves until the next is judged."""
        stop_time, reach_time, speed_sum, bend, rest = self._layout.tolist()
        return Motion(
            factory.position,
            velocity,
            factory.previous_velocity,
            factory.previous_acceleration,
            speed_sum,
            bend,
            rest,
            self._rates,
            factory.geometry.points,
            self._swept[0],
            self._swept[1],
            factory.geometry.jacobian,
            factory.hull,
            factory.dynamics,
            factory.contact,
            factory.lag,
            factory.carrying,
            factory.dt,
            stop_time,
            reach_time,
            gentle,
        )

    def _ask_themselves(
        self, motion: Motion, objecting: tuple[tuple[Limit, float], ...], smallest: float, *, every: bool
    ) -> Verdict:
        for limit in self._unknown:
            slack, margin = limit.judge(motion)
            if not slack >= 0.0:
                objecting = (*objecting, (limit, margin))
                if not every:
                    break
            smallest = min(smallest, margin / limit.margin_scale)
        return Verdict(objecting, smallest)

    def _read(self, limit: Limit) -> None:
        if type(limit) not in _READ:  # a subclass may judge otherwise
            self._unknown.append(limit)
            return
        joints, maximum, more = self._joints, math.nan, 0.0
        match limit:
            case JointVelocityLimit():
                slot, joints[kernel.FASTEST] = kernel.VELOCITY, limit.maximum
            case JointAccelerationLimit():
                slot, joints[kernel.SUDDEN], joints[kernel.BRAKE] = kernel.ACCELERATION, limit.rounded, limit.maximum
            case JointJerkLimit():
                slot, joints[kernel.JERKY] = kernel.JERK, limit.rounded
            case JointPositionLimit():
                slot, joints[kernel.LOWER], joints[kernel.UPPER] = kernel.POSITION, limit.lower, limit.upper
            case JointTorqueLimit():
                slot, joints[kernel.STRONGEST] = kernel.TORQUE, limit.maximum
            case WorkspaceBoxLimit():
                slot, more = kernel.BOX, limit.standoff
                self._box, self._box_carrying = limit.rows, limit.rows_carrying
            case EndEffectorLinearSpeedLimit():
                slot, maximum = kernel.LINEAR, limit.maximum
            case EndEffectorAngularSpeedLimit():
                slot, maximum = kernel.ANGULAR, limit.maximum
            case KineticEnergyLimit():
                slot, maximum = kernel.ENERGY, limit.maximum
                self._struck = np.array(limit.first_rows, dtype=np.int64)
            case CommandLeadLimit():
                slot, maximum = kernel.LEAD, limit.maximum
            case ContactForceLimit():
                slot, maximum = kernel.CONTACT, limit.maximum
            case SelfCollisionLimit():
                slot, more = kernel.SELF, limit.standoff
            case ServoLagLimit():
                slot, maximum, more, self._blow = kernel.LAG, limit.linear, limit.angular, limit.blow
            case KeepOutLimit():
                slot, more = kernel.KEEP_OUT, limit.standoff
            case WorkspacePolytopeLimit():
                slot, more, self._facets = kernel.POLYTOPE, limit.standoff, limit.rows
            case OrientationConeLimit():
                slot, more, self._cone = kernel.CONE, limit.lever, limit.rows
            case _:
                raise AssertionError(f"no slot for {limit.name}")
        self._known[slot] = limit
        self._settings[slot] = 1.0, limit.margin_scale, maximum, more
