"""The test rig: one arm, one surface, one filter, built once and used for many contacts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import mujoco
import numpy as np

from controllers.kinematics import ArmModel
from controllers.protocols import SafetyFilter
from controllers.robot import RobotDescription, load_robot
from controllers.types import CommandMode, FloatArray, frozen_array
from safety.building import build_filter
from safety.filter import PathConsistentFilter, UncheckedFilter
from safety.profile import PointBox, SafetyProfile, load_profile
from sim.press.plan import PressCase, PressPlan, draw_plan
from sim.press.surface import Surface
from sim.robot import SimRobot, apply_actuator_mode

CONTROL_RATE_HZ = 200
# Ten physics steps a tick: a surface of 150 N/mm stops 2 kg within 6 ms.
PHYSICS_RATE_HZ = 2000
_DRAWS = 400
_WAYPOINT_M = 0.005
_OFF_PATH_M = 0.003
_DAMPING = 1e-4
_REACH_LOWER, _REACH_UPPER = np.array([0.20, -0.50, 0.03]), np.array([0.80, 0.50, 0.75])
_WIDE_M = 3.0
_TOOL = "hand"


@dataclass(frozen=True, slots=True)
class Setup:
    """A contact that can be carried out.

    Attributes:
        plan: What was drawn.
        point: (3,) m, middle of the surface, base frame.
        path: (w, n) rad, joint waypoints along a straight line of the tool, evenly spaced.
        length_m: Of that line.
    """

    plan: PressPlan
    point: FloatArray
    path: FloatArray
    length_m: float

    @property
    def start(self) -> FloatArray:
        """(n,) rad."""
        return self.path[0]

    def along(self, way_m: float) -> FloatArray:
        """(n,) rad, at a distance along the line."""
        last = len(self.path) - 1
        place = min(max(way_m / self.length_m, 0.0), 1.0) * last
        index = min(int(place), last - 1)
        return self.path[index] + (place - index) * (self.path[index + 1] - self.path[index])


def press_profile(profile: SafetyProfile) -> SafetyProfile:
    """A profile without walls: what is left is the arm itself, its speed, energy and force."""
    wide = (_WIDE_M, _WIDE_M, _WIDE_M)
    low = (-_WIDE_M, -_WIDE_M, -_WIDE_M)
    return replace(
        profile,
        name=f"{profile.name}_press",
        workspace=tuple(PointBox(box.point, low, wide) for box in profile.workspace),
        polytopes=(),
        keep_outs=(),
        orientation=None,
    )


class Rig:
    """One arm with its surface.

    Attributes:
        robot: The simulated arm; a ``write`` is one physics step.
        arm: Its kinematics.
        surface: The surface.
        filter: The safety filter.
        profile: What that enforces.
    """

    def __init__(self, arm: str, mode: CommandMode, profile: SafetyProfile) -> None:
        """Compile the world.

        Args:
            arm: Robot description.
            mode: What is commanded.
            profile: Its walls are left out.
        """
        self.description: RobotDescription = load_robot(arm)
        self.mode = mode
        self.profile = press_profile(profile)
        self.arm = ArmModel(self.description)
        spec = mujoco.MjSpec.from_file(str(self.description.model_path))
        spec.option.timestep = 1.0 / PHYSICS_RATE_HZ
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
        apply_actuator_mode(spec, self.description, mode)
        self.robot = SimRobot(spec.compile(), self.description, PHYSICS_RATE_HZ)
        self.surface = Surface(self.robot.model, _TOOL)
        self.filter: PathConsistentFilter = build_filter(self.description, self.profile)
        self._unchecked: SafetyFilter[Any] | None = None
        self._fingers = [int(self.robot.model.joint(j).qposadr[0]) for j in self.description.gripper.joints]
        self._joints = [int(self.robot.model.joint(j).qposadr[0]) for j in self.description.joint_names]

    @property
    def unchecked(self) -> SafetyFilter[Any]:
        """No filter, for the reference."""
        if self._unchecked is None:
            self._unchecked = UncheckedFilter("the reference of a press test")
        return self._unchecked

    def setups(self, case: PressCase, stiffness_n_mm: float | None = None) -> Iterator[Setup]:
        """Contacts that can be carried out, in the order of the draws."""
        rng = case.rng()
        for _ in range(_DRAWS):
            setup = self._setup(draw_plan(rng, self.description.home, stiffness_n_mm))
            if setup is not None:
                yield setup

    def stand(self, setup: Setup) -> None:
        """Put the surface and the arm in place, the gripper closed."""
        plan = setup.plan
        self.surface.place(setup.point, plan.normal, 1e3 * plan.stiffness_n_mm)
        self.robot.reset(self._posture(setup.start))
        self.surface.push(self.robot.model, self.robot.data)

    def _posture(self, position: FloatArray) -> Any:
        def initialize(model: mujoco.MjModel, data: mujoco.MjData) -> None:
            data.qpos[self._joints] = position
            data.qpos[self._fingers] = [model.joint(j).range[0] for j in self.description.gripper.joints]

        return initialize

    def _setup(self, plan: PressPlan) -> Setup | None:
        """Lay out a plan; None where the arm cannot do it."""
        limits, margin = self.description.limits, self.profile.joints.position_margin_rad + 0.01
        lower, upper = limits.position_lower + margin, limits.position_upper - margin
        start = np.clip(plan.posture, lower, upper)
        tool = self.arm.end_effector_pose(start).position
        if bool((tool < _REACH_LOWER).any()) or bool((tool > _REACH_UPPER).any()):
            return None
        length = plan.gap_m + plan.depth_m
        path = self._line(start, plan.direction, length)
        inside = bool((path >= lower).all()) and bool((path <= upper).all())
        if not inside or not self._admitted(path[0]) or not self._admitted(path[-1]):
            return None
        reached = self.arm.end_effector_pose(path[-1]).position
        if float(np.linalg.norm(reached - tool - length * plan.direction)) > _OFF_PATH_M:
            return None
        self.robot.reset(self._posture(start))
        corners = self.surface.corners(self.robot.data)
        # The corner that meets the surface first, and the surface so far ahead of it along the way.
        first = corners[int(np.argmin(corners @ plan.normal))]
        return Setup(plan, frozen_array(first + plan.gap_m * plan.direction), path, length)

    def _line(self, start: FloatArray, direction: FloatArray, length: float) -> FloatArray:
        """(w, n) rad: the tool moves straight, without turning."""
        count = max(2, round(length / _WAYPOINT_M))
        step = np.concatenate([direction * (length / count), np.zeros(3)])
        path = [start]
        for _ in range(count):
            middle = self._moved(path[-1], 0.5 * step)
            jacobian = self.arm.jacobian(middle)
            path.append(path[-1] + _solve(jacobian, step))
        return frozen_array(np.array(path))

    def _moved(self, position: FloatArray, step: FloatArray) -> FloatArray:
        return position + _solve(self.arm.jacobian(position), step)

    def _admitted(self, position: FloatArray) -> bool:
        """Whether the filter has nothing against a posture at rest."""
        motion = self.filter.rest(position)
        return all(limit.judge(motion).margin >= 0.0 for limit in self.filter.limits)


def _solve(jacobian: FloatArray, step: FloatArray) -> FloatArray:
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING * np.eye(6), step)


@lru_cache(maxsize=8)
def rig_of(arm: str, mode: CommandMode, profile_name: str) -> Rig:
    """The rig of one arm, kept between contacts.

    Args:
        arm: Robot description.
        mode: What is commanded.
        profile_name: Safety profile; empty for the arm's tabletop.
    """
    return Rig(arm, mode, load_profile(profile_name or f"{arm}_tabletop"))
