"""The monitor: every limit of a profile, judged on what the physics engine says really happened."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray, JointCommand
from safety.monitor.commanded import CommandedPath
from safety.monitor.contacts import Contacts
from safety.monitor.ledger import Ledger, LimitMargin, MonitoredLimit, Violation
from safety.monitor.motion import Speeds
from safety.monitor.places import PlaceLimits, Places
from safety.monitor.tolerance import MonitorTolerance
from safety.profile import SafetyProfile


class PlaceMonitor:
    """Judges places alone (points, hull, cone): quick to build, for choosing postures and zones."""

    def __init__(
        self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile, tolerance: MonitorTolerance
    ) -> None:
        """Bind to a world; see :class:`GroundTruthMonitor`."""
        self._ledger = Ledger()
        self._places = Places(model, description, profile)
        self._limits = measured_places(tolerance)

    def judge(self, data: Any, now_ns: int) -> tuple[Violation, ...]:
        """Judge the places in ``data``; its kinematics must be current."""
        self._places.judge(data, self._limits, self._ledger, now_ns)
        return self._ledger.take()


class GroundTruthMonitor:
    """Judges an arm in a MuJoCo world against a profile.

    It shares nothing with the safety filter but the profile and the robot's description. It reads positions,
    velocities, frames, inertia and contacts from MuJoCo, and measures distances with MuJoCo's own algorithms.
    The world may hold anything else besides the arm; the arm has the names of its description.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        description: RobotDescription,
        profile: SafetyProfile,
        tolerance: MonitorTolerance | None = None,
    ) -> None:
        """Bind to the world.

        Args:
            model: The world, with the arm in it, its base at the world's origin.
            description: The arm.
            profile: What to judge by.
            tolerance: What is forgiven; see :class:`MonitorTolerance`.
        """
        tolerance = MonitorTolerance() if tolerance is None else tolerance
        self.tolerance = tolerance
        self._ledger = Ledger()
        self._places = Places(model, description, profile)
        self._place_limits = measured_places(tolerance)
        self._speeds = Speeds(model, description, profile, tolerance)
        self._contacts = Contacts(model, description, profile, tolerance)
        self._path = CommandedPath(model, description, profile, tolerance)
        self._dofs = [int(model.jnt_dofadr[model.joint(name).id]) for name in description.joint_names]
        self._rest_speed = profile.monitoring.rest_speed_rad_s

    @property
    def relative_margins(self) -> tuple[float, ...]:
        """Relative margin of each limit since :meth:`open`, in the order of ``LIMITS``; infinite where unread."""
        return tuple(self._ledger.relative)

    @property
    def margins(self) -> tuple[LimitMargin, ...]:
        """The smallest margin of each limit since the monitor was built."""
        return self._ledger.margins()

    @property
    def path_memory(self) -> tuple[FloatArray | None, FloatArray | None]:
        """What is remembered of earlier commands: set it after the world was set back to an earlier state."""
        return self._path.memory

    @path_memory.setter
    def path_memory(self, memory: tuple[FloatArray | None, FloatArray | None]) -> None:
        self._path.memory = memory

    def open(self) -> None:
        """Begin a tick: :attr:`relative_margins` starts again."""
        self._ledger.open()

    def judge(self, data: Any, now_ns: int) -> tuple[Violation, ...]:
        """Judge positions, places, speeds, energy and gripper.

        Args:
            data: The world's ``MjData``, with current kinematics (after ``mj_forward``, ``mj_step1`` or ``mj_step``).
            now_ns: For the violations.
        """
        self._speeds.judge(data, self._ledger, now_ns)
        self._places.judge(data, self._place_limits, self._ledger, now_ns)
        return self._ledger.take()

    def judge_contacts(self, data: Any, now_ns: int) -> tuple[Violation, ...]:
        """Judge contact forces and penetration; call it after ``mj_step``, ``mj_step2`` or ``mj_forward``."""
        self._contacts.judge(data, self._ledger, now_ns)
        return self._ledger.take()

    def judge_command(self, command: JointCommand, dt: float, now_ns: int) -> tuple[Violation, ...]:
        """Judge the command that is applied for the next ``dt`` s, and the path that it continues."""
        self._path.judge(command, dt, self._ledger, now_ns)
        return self._ledger.take()

    def judge_rest(self, data: Any, now_ns: int) -> tuple[Violation, ...]:
        """Judge whether the arm rests, where a stop should have ended."""
        speed = float(np.abs(data.qvel[self._dofs]).max())
        limit, bound = MonitoredLimit.REST_AFTER_STOP, self._rest_speed
        self._ledger.note(limit, speed, bound, bound - speed, bound, "rad/s", "arm", now_ns)
        return self._ledger.take()

    def restart_path(self, position: FloatArray | None = None) -> None:
        """The commanded path begins again, at rest at ``position`` (n,) rad, or anywhere if that is None."""
        self._path.begin(position)


def measured_places(tolerance: MonitorTolerance) -> PlaceLimits:
    """The entries of the ledger that the measured arm fills."""
    return PlaceLimits(
        MonitoredLimit.WORKSPACE_BOX,
        MonitoredLimit.WORKSPACE_POLYTOPE,
        MonitoredLimit.KEEP_OUT,
        MonitoredLimit.SELF_COLLISION,
        MonitoredLimit.ORIENTATION_CONE,
        tolerance.point_m,
        tolerance.clearance_m,
        tolerance.cone_rad,
    )
