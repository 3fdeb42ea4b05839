"""What the arm will do while its servos still follow the command: each joint lags by its own time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, RobotState
from safety.kernel.chain import FRAME_COLUMNS
from safety.kernel.lag import SPEEDS, following, following_behind
from safety.kinematics import Dynamics, Geometry, SafetyKinematics

# The moments that are looked at. Position servos lag by 10 to 150 ms, velocity servos by 1 to 15 ms.
_TIMES = 4
_STEP_S = {CommandMode.POSITION: 0.010, CommandMode.VELOCITY: 0.005}


class Lag(NamedTuple):
    """Rates of the end effector at some moments from now on, linear in the velocity that is commanded until then.

    Attributes:
        rates: (r, n + 1); at each moment three rows linear, m/rad, three angular, rad/rad, and for each point of the
            tool three of a blow by it, sqrt(kg) m/rad, whose squares sum up to twice its energy. The last column is
            what the rates are for a command to stand still: m/s, rad/s, sqrt(J).
        groups: Of three rows at each moment.
    """

    rates: FloatArray
    groups: int


class Servos:
    """Predicts what servos do. Holds no memory.

    Attributes:
        unknown: Where nothing is known of them, or nothing lags.
    """

    def __init__(self, description: RobotDescription, kinematics: SafetyKinematics) -> None:
        """Read the gains.

        Args:
            description: The robot.
            kinematics: Its model.
        """
        n, tool = description.n, list(kinematics.tool_points)
        self._struck = np.array([3 * point for point in tool], dtype=np.int64)
        self._groups = SPEEDS + len(tool)
        self.unknown = Lag(np.zeros((0, n + 1)), self._groups)
        self._servo, self._kinematics = description.servo, kinematics
        if self._servo is None:
            return
        self._stiffness, self._drive = self._servo.stiffness.copy(), self._servo.drive.copy()
        self._damping = kinematics.damping.copy()
        self._held = self._servo.damping + self._damping
        self._strongest = description.limits.torque.copy()
        links, link, offset, *_ = kinematics.tables
        # The tool's points alone, where the arm is, and scratch for them.
        self._chain = links, np.ascontiguousarray(link[tool]), np.ascontiguousarray(offset[tool])
        self._there = (
            np.zeros((n, FRAME_COLUMNS)),
            np.zeros((len(tool), 3)),
            np.zeros((3 * len(tool) + 3, n)),
            np.zeros((n, n)),
            np.zeros((n, n)),
            3 * np.arange(len(tool), dtype=np.int64),
        )
        self._none, self._q, self._qd, self._lead = (np.zeros(n) for _ in range(4))
        self._scratch = np.zeros((n, n)), np.zeros((3, n, n + 1)), np.zeros((3 * self._groups, n))

    def way_left(self, position: FloatArray, velocity: FloatArray) -> FloatArray:
        """What velocity servos add to the way of any command that ends at rest, (n,) rad.

        They pull with ``k (u - qd)``, and the integral of that over the whole way is the momentum that is lost on it:
        the way of the arm is the way of its command and ``M qd / k``, whatever the command does.

        Args:
            position: (n,) rad.
            velocity: (n,) rad/s.
        """
        if self._servo is None:
            return np.zeros_like(velocity)
        _, dynamics = self._kinematics.look(position, velocity)
        return dynamics.inertia.dot(velocity) / self._drive

    def lag(
        self,
        mode: CommandMode,
        state: RobotState,
        command: FloatArray,
        geometry: Geometry,
        dynamics: Dynamics,
        dt: float,
    ) -> Lag:
        """What the end effector does from now on.

        Args:
            mode: What is commanded; torques act at once.
            state: Sensed state.
            command: (n,) rad, where the commanded path stands; of no matter unless positions are commanded.
            geometry: Of the checked path's place, which is the sensed one unless positions are commanded. The arm
                itself may then be some hundredths of a rad behind, where it reflects another mass.
            dynamics: Of the same place.
            dt: Control period, s.
        """
        if self._servo is None or mode is CommandMode.TORQUE:
            return self.unknown
        self._qd[:] = state.joint_velocity
        rates = np.empty((3 * self._groups * _TIMES, len(self._none) + 1))
        step = _STEP_S[mode]
        if mode is CommandMode.POSITION:
            self._q[:] = state.joint_position
            np.subtract(command, self._q, out=self._lead)
            gains = self._strongest, self._stiffness, self._none, self._held
            ahead = 0.5 * dt  # on average
            following_behind(
                *self._chain,
                self._q,
                *self._there,
                *gains,
                self._qd,
                self._lead,
                ahead,
                step,
                _TIMES,
                *self._scratch,
                rates,
            )
        else:
            gains = self._none, self._drive, self._damping
            following(
                dynamics.inertia,
                dynamics.factor,
                geometry.jacobian,
                self._struck,
                *gains,
                self._qd,
                self._none,
                0.0,
                step,
                _TIMES,
                *self._scratch,
                rates,
            )
        return Lag(rates, self._groups)
