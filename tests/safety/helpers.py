"""Simulated arms without dynamics, and an inspector that knows nothing of the filter's mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from controllers.robot import RobotDescription, load_robot
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    OperatorEvent,
    Pose,
    RobotState,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from safety.building import build_filter
from safety.contact import ContactSense
from safety.filter import PathConsistentFilter, SafetyMemory
from safety.lag import Servos
from safety.limits import LimitSet, build_limits
from safety.motion import MotionFactory
from safety.profile import SafetyProfile, load_profile
from safety.watched import Watched

ROBOTS = ("panda", "ur5e")
ARMS = (*ROBOTS, "so101")
DT = 0.005
TICK_NS = 5_000_000
_POSE = Pose(frozen_array([0.0, 0.0, 0.0]), frozen_array([1.0, 0.0, 0.0, 0.0]))


@cache
def robot(name: str) -> RobotDescription:
    return load_robot(name)


@cache
def safety(name: str) -> PathConsistentFilter:
    return build_filter(robot(name), load_profile(f"{name}_tabletop"))


def sensed(
    q: FloatArray,
    qd: FloatArray,
    now_ns: int,
    effort: FloatArray | None = None,
    force: FloatArray | None = None,
    opening: float = 0.04,
) -> RobotState:
    """What the sensors of an arm at (q, qd) say; ``force`` (3,) N is the wrist's reading, in the sensor's frame."""
    return RobotState(
        joint_position=frozen_array(q),
        joint_velocity=frozen_array(qd),
        joint_effort=frozen_array(np.zeros(len(q)) if effort is None else effort),
        ee_pose=_POSE,
        wrench=frozen_array([*(np.zeros(3) if force is None else force), 0.0, 0.0, 0.0]),
        gripper_opening=opening,
        stamp_ns=now_ns,
    )


def felt(built: PathConsistentFilter, q: FloatArray, force: FloatArray) -> FloatArray:
    """What the wrist reads, sensor frame, when ``force`` (3,) N acts on the tool beside its weight, base frame."""
    kinematics = built.kinematics
    return kinematics.sensor_rotation(q).T @ (force - [0.0, 0.0, kinematics.tool_mass * 9.81])


def command(
    mode: CommandMode, values: Sequence[float] | FloatArray, now_ns: int, opening: float = 0.04
) -> JointCommand:
    return JointCommand(mode, frozen_array(values), opening, now_ns)


@dataclass(frozen=True)
class Bench:
    """What limits are made of, put together as the filter does it, for a start and a velocity of the test's choice."""

    description: RobotDescription
    profile: SafetyProfile
    watched: Watched
    sense: ContactSense
    limits: LimitSet

    @staticmethod
    def of(description: RobotDescription, profile: SafetyProfile) -> Bench:
        watched = Watched(description, profile)
        sense = ContactSense(description, watched.kinematics, profile.force)
        return Bench(description, profile, watched, sense, build_limits(description, profile, watched))

    def factory(
        self,
        q: FloatArray,
        previous: FloatArray | None = None,
        dt: float = DT,
        *,
        acceleration: FloatArray | None = None,
        lead: FloatArray | None = None,
        rates: FloatArray | None = None,
        force: FloatArray | None = None,
        carrying: bool = False,
    ) -> MotionFactory:
        """Motions from ``q``, ``lead`` (n,) rad ahead of an arm that feels ``force`` (3,) N in the base frame.

        With a lead, the arm moves at ``rates`` (n,) rad/s, or not at all.
        """
        still = np.zeros_like(q)
        previous = still if previous is None else previous
        kinematics = self.watched.kinematics
        geometry = kinematics.geometry(q)
        dynamics = kinematics.dynamics(q, previous)
        servos = Servos(self.description, kinematics)
        contact, lag = self.sense.unknown(), servos.unknown
        if lead is not None or force is not None:
            state = sensed(q if lead is None else q - lead, still if rates is None else rates, 0)
            wrench = np.zeros(6)
            wrench[:3] = 0.0 if force is None else force
            contact = self.sense.contact(state, wrench, None if lead is None else q, geometry.jacobian, dt)
            mode = CommandMode.VELOCITY if lead is None else CommandMode.POSITION
            lag = servos.lag(mode, state, q, geometry, dynamics, dt)
        return MotionFactory(
            q.copy(),
            previous.copy(),
            still.copy() if acceleration is None else acceleration.copy(),
            kinematics,
            geometry,
            dynamics,
            self.watched.hull.rows(geometry.points),
            contact,
            lag,
            carrying,
            self.limits.acceleration.maximum.copy(),
            dt,
        )


@cache
def bench(name: str) -> Bench:
    return Bench.of(robot(name), load_profile(f"{name}_tabletop"))


@dataclass
class Arm:
    """An arm that obeys exactly, behind a filter; one ``step`` a tick."""

    filter: PathConsistentFilter
    mode: CommandMode
    q: FloatArray
    qd: FloatArray
    memory: SafetyMemory
    now_ns: int = 0

    @staticmethod
    def at(name: str, mode: CommandMode, q: FloatArray | None = None, built: PathConsistentFilter | None = None) -> Arm:
        built = safety(name) if built is None else built
        start = np.array(robot(name).home if q is None else q)
        rest = np.zeros_like(start)
        return Arm(built, mode, start, rest, built.initial(sensed(start, rest, 0)))

    def state(
        self,
        dt: float = DT,
        *,
        age_ns: int = 0,
        effort: FloatArray | None = None,
        force: FloatArray | None = None,
        opening: float = 0.04,
    ) -> RobotState:
        """What its sensors say; unless ``effort`` (n,) N m is given, of drives that move it without help."""
        if effort is None:
            effort = self.effort(dt)
        return sensed(self.q, self.qd, self.now_ns - age_ns, effort, force, opening)

    def effort(self, dt: float = DT) -> FloatArray:
        """Torque (n,) N m of drives that carry the arm's weight besides, since the state before."""
        before, kinematics = self.memory.observer.velocity, self.filter.kinematics
        gained = np.zeros_like(self.qd) if before is None else self.qd - before
        dynamics = kinematics.dynamics(self.q, self.qd)
        bias = dynamics.bias - dynamics.gravity - kinematics.damping * (0.5 * gained)
        return dynamics.inertia.dot(gained) / dt + bias

    def step(
        self,
        values: Sequence[float] | FloatArray,
        dt: float = DT,
        events: tuple[OperatorEvent, ...] = (),
        state: RobotState | None = None,
        stamp_ns: int | None = None,
        opening: float = 0.04,
    ) -> SafetyResult:
        asked = command(self.mode, values, self.now_ns if stamp_ns is None else stamp_ns, opening)
        state = self.state(dt) if state is None else state
        self.memory, result = self.filter.enforce(self.memory, state, asked, events, self.now_ns, dt)
        applied = result.command.values
        if self.mode is CommandMode.POSITION:
            self.q, self.qd = applied.copy(), (applied - self.q) / dt
        else:
            self.q, self.qd = self.q + applied * dt, applied.copy()
        self.now_ns += round(dt * 1e9)
        return result


class Inspector:
    """Checks the motion of an arm against its profile with a MuJoCo model of its own."""

    def __init__(self, name: str) -> None:
        description, profile = robot(name), load_profile(f"{name}_tabletop")
        limits, joints = description.limits, profile.joints
        self.lower = limits.position_lower + joints.position_margin_rad
        self.upper = limits.position_upper - joints.position_margin_rad
        self.fastest = limits.velocity * joints.velocity_fraction
        self.acceleration = limits.acceleration * joints.acceleration_fraction
        self.linear = profile.end_effector.linear_speed_m_s
        self.angular = profile.end_effector.angular_speed_rad_s
        self.model = mujoco.MjModel.from_xml_path(str(description.model_path))
        self.data = mujoco.MjData(self.model)
        self.boxes = [
            (self.model.site(box.point).id, np.array(box.lower_m), np.array(box.upper_m)) for box in profile.workspace
        ]
        self.tcp = self.model.site(description.end_effector_site).id
        self.n = description.n

    def place(self, q: FloatArray) -> tuple[FloatArray, FloatArray]:
        self.data.qpos[: self.n] = q
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self.tcp].copy(), self.data.site_xmat[self.tcp].reshape(3, 3).copy()

    def outside(self, q: FloatArray) -> float:
        """How far outside any joint range or box, in rad or m; negative inside."""
        self.place(q)
        worst = max(float((q - self.upper).max()), float((self.lower - q).max()))
        for site, lower, upper in self.boxes:
            point = self.data.site_xpos[site]
            worst = max(worst, float((point - upper).max()), float((lower - point).max()))
        return worst

    def check_step(self, q0: FloatArray, q1: FloatArray, qd0: FloatArray, dt: float, inside: bool = True) -> None:
        """One tick from q0 to q1 by an arm whose last velocity was qd0."""
        qd1 = (q1 - q0) / dt
        assert (np.abs(qd1) <= self.fastest * (1 + 1e-7)).all()
        assert (np.abs(qd1 - qd0) <= self.acceleration * dt * (1 + 1e-7) + 1e-10).all()
        if inside:
            for share in (0.5, 1.0):
                assert self.outside(q0 + share * (q1 - q0)) <= 1e-9
        p0, r0 = self.place(q0)
        p1, r1 = self.place(q1)
        assert np.linalg.norm(p1 - p0) <= self.linear * dt * (1 + 1e-7)
        turn = np.arccos(np.clip((np.trace(r0.T @ r1) - 1) / 2, -1, 1))
        assert turn <= self.angular * dt + 1e-7


@cache
def inspector(name: str) -> Inspector:
    return Inspector(name)


def solved(jacobian: FloatArray, rate: Sequence[float] | FloatArray) -> FloatArray:
    """The least joint velocity that gives ``rate``."""
    return np.asarray(np.linalg.lstsq(jacobian, np.asarray(rate, dtype=np.float64))[0], dtype=np.float64)


Commander = Callable[[int, Arm], FloatArray]
STOPPED = (SafetyStatus.HOLD, SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP)


def coast_to_rest(arm: Arm, ticks: int = 400) -> int:
    """Feed rubbish until the arm rests; check every tick; return how many it took."""
    check = inspector(arm.filter.description.name)
    for tick in range(ticks):
        if not arm.qd.any():
            return tick
        q, qd = arm.q, arm.qd
        result = arm.step(np.full_like(q, np.nan))
        assert result.status in STOPPED
        check.check_step(q, arm.q, qd, DT)
    raise AssertionError(f"still moving after {ticks} ticks")
