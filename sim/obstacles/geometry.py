"""Distances between balls and keep-out zones, and the balls that cover an arm or its hand.

Capsules are covered by balls along their axes: distances to any convex zone are then a few array operations. Between
two balls a capsule reaches farther toward a zone by at most a part of their spacing, which the callers' clearances
exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.profile.zones import BoxZone, CapsuleZone, HalfSpaceZone, KeepOut, SphereZone

_SPACING_M = 0.02


@dataclass(frozen=True, slots=True)
class Balls:
    """Balls that cover something.

    Attributes:
        centres: (n, 3) m.
        radii: (n,) m.
    """

    centres: FloatArray
    radii: FloatArray

    def clearance(self, zones: Sequence[KeepOut]) -> float:
        """Smallest distance from any zone, m; negative inside one, infinite without zones."""
        return min((float((distances(zone, self.centres) - self.radii).min()) for zone in zones), default=math.inf)


def distances(zone: KeepOut, points: FloatArray) -> FloatArray:
    """Signed distances (n,) of points (n, 3) in the base frame from a zone, m, negative inside."""
    if isinstance(zone, SphereZone):
        return np.linalg.norm(points - zone.centre_m, axis=1) - zone.radius_m
    if isinstance(zone, HalfSpaceZone):
        return points @ np.array(zone.normal) - zone.offset_m
    if isinstance(zone, BoxZone):
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.array(zone.quaternion))
        beyond = np.abs((points - zone.centre_m) @ matrix.reshape(3, 3)) - zone.half_size_m
        return _outside(beyond)
    start, axis = np.array(zone.start_m), np.subtract(zone.end_m, zone.start_m)
    length = float(np.linalg.norm(axis))
    along = (points - start) @ axis / length
    if isinstance(zone, CapsuleZone):
        nearest = start + np.clip(along / length, 0.0, 1.0)[:, None] * axis
        return np.linalg.norm(points - nearest, axis=1) - zone.radius_m
    radial = np.linalg.norm(points - start - (along / length)[:, None] * axis, axis=1) - zone.radius_m
    return _outside(np.column_stack([radial, np.maximum(-along, along - length)]))


def _outside(beyond: FloatArray) -> FloatArray:
    """Distances (n,) from a product of slabs, from how far each point is beyond each slab (n, k)."""
    return np.minimum(beyond.max(axis=1), 0.0) + np.linalg.norm(np.maximum(beyond, 0.0), axis=1)


def zone_top(zone: KeepOut) -> float:
    """Height of a zone's highest point, m, base frame; infinite for a half-space."""
    if isinstance(zone, HalfSpaceZone):
        return math.inf
    if isinstance(zone, SphereZone):
        return zone.centre_m[2] + zone.radius_m
    if isinstance(zone, BoxZone):
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.array(zone.quaternion))
        return zone.centre_m[2] + float(np.abs(matrix[6:]) @ np.array(zone.half_size_m))
    top = max(zone.start_m[2], zone.end_m[2])
    if isinstance(zone, CapsuleZone):
        return top + zone.radius_m
    axis = np.subtract(zone.end_m, zone.start_m)
    sine = math.hypot(axis[0], axis[1]) / float(np.linalg.norm(axis))
    return top + zone.radius_m * sine


class ArmHull:
    """The hull capsules of an arm as balls, for any posture of it."""

    def __init__(self, description: RobotDescription) -> None:
        """Compile a model of the arm alone; it stands at home."""
        self.model = mujoco.MjModel.from_xml_path(str(description.model_path))
        self.data = mujoco.MjData(self.model)
        self.site = self.model.site(description.end_effector_site).id
        joints = [self.model.joint(name).id for name in description.joint_names]
        self._qpos = [int(self.model.jnt_qposadr[joint]) for joint in joints]
        self._dofs = [int(self.model.jnt_dofadr[joint]) for joint in joints]
        self._home = np.array(description.home)
        self._lower, self._upper = description.limits.position_lower, description.limits.position_upper
        bodies, local, radii = [], [], []
        for capsule in description.capsules:
            length = float(np.linalg.norm(capsule.end - capsule.start))
            for share in np.linspace(0.0, 1.0, max(2, math.ceil(length / _SPACING_M) + 1)):
                bodies.append(self.model.body(capsule.body).id)
                local.append(capsule.start + share * (capsule.end - capsule.start))
                radii.append(capsule.radius)
        self._bodies, self._local, self._radii = np.array(bodies), np.array(local), np.array(radii)
        weld = self.model.body_weldid
        self.rigid = weld[self._bodies] == weld[self.model.site_bodyid[self.site]]
        self.go_home()

    @property
    def tool(self) -> FloatArray:
        """Position (3,) of the end effector, m, base frame."""
        return self.data.site_xpos[self.site].copy()

    def go_home(self) -> None:
        """Stand at home."""
        self.data.qpos[self._qpos] = self._home
        mujoco.mj_kinematics(self.model, self.data)

    def balls(self) -> Balls:
        """The whole arm as it stands, base frame."""
        matrices = self.data.xmat[self._bodies].reshape(-1, 3, 3)
        centres = self.data.xpos[self._bodies] + np.einsum("nij,nj->ni", matrices, self._local)
        return Balls(centres, self._radii)

    def reach(self, x: float, y: float, z: float, yaw: float, iterations: int = 60) -> bool:
        """Bring the tool to (x, y, z) m, pointing down and turned by ``yaw`` rad, from the posture it is in.

        Returns:
            Whether it got there, to 1 mm.
        """
        goal = np.array([x, y, z])
        turn = np.array([math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)])
        wanted, found, back, error = np.empty(4), np.empty(4), np.empty(4), np.zeros(6)
        mujoco.mju_mulQuat(wanted, turn, np.array([0.0, 1.0, 0.0, 0.0]))
        jacobian = np.zeros((6, self.model.nv))
        model, data = self.model, self.data
        for _ in range(iterations):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mju_mat2Quat(found, data.site_xmat[self.site])
            mujoco.mju_negQuat(back, found)
            mujoco.mju_mulQuat(found, wanted, back)
            mujoco.mju_quat2Vel(error[3:], found, 1.0)
            error[:3] = goal - data.site_xpos[self.site]
            if np.linalg.norm(error[:3]) < 1e-3 and np.linalg.norm(error[3:]) < 5e-3:
                return True
            mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self.site)
            arm = jacobian[:, self._dofs]
            inverse = arm.T @ np.linalg.inv(arm @ arm.T + 1e-4 * np.eye(6))
            joints = data.qpos[self._qpos]
            posture = 0.1 * (self._home - joints)
            step = inverse @ error + posture - inverse @ (arm @ posture)
            data.qpos[self._qpos] = np.clip(joints + np.clip(step, -0.2, 0.2), self._lower, self._upper)
        return False


@dataclass(frozen=True, slots=True)
class HandHull:
    """The part of the arm near the tool while it points down, as balls relative to the tool centre.

    The hand turns with the tool. What lies behind the wrist's joints keeps away from the tool in the direction of the
    base, so it turns with the direction in which the tool is seen from there; it is taken as it is at home.

    Attributes:
        hand: Balls rigid with the tool, at yaw 0.
        behind: Further balls, with the tool straight ahead (y = 0).
    """

    hand: Balls
    behind: Balls

    @staticmethod
    def of(arm: ArmHull, height: float = 0.45) -> HandHull:
        """Measure it at home, up to ``height`` m above the tool centre."""
        arm.go_home()
        whole, tool = arm.balls(), arm.tool
        centres = whole.centres - tool
        # At home the tool is straight ahead and at yaw 0 for every built-in robot; others are turned back.
        angle = -math.atan2(tool[1], tool[0])
        far = ~arm.rigid & (centres[:, 2] < height) & (centres[:, 2] > 0.0)
        return HandHull(
            Balls(centres[arm.rigid], whole.radii[arm.rigid]),
            Balls(turned(centres[far], np.array([angle]))[0], whole.radii[far]),
        )

    @property
    def below(self) -> float:
        """How far the hand reaches below the tool centre, m."""
        return float((self.hand.radii - self.hand.centres[:, 2]).max())

    def at(self, places: FloatArray, yaws: FloatArray, carried: float) -> Balls:
        """The hull at several places.

        Args:
            places: (k, 3) tool centres, m, base frame.
            yaws: (k,) turns of the tool, rad.
            carried: Radius of what is held at the tool centre, m; 0 for nothing.
        """
        hand = turned(self.hand.centres, yaws) + places[:, None]
        behind = turned(self.behind.centres, np.arctan2(places[:, 1], places[:, 0])) + places[:, None]
        centres: list[FloatArray] = [hand.reshape(-1, 3), behind.reshape(-1, 3)]
        radii = [np.tile(self.hand.radii, len(places)), np.tile(self.behind.radii, len(places))]
        if carried > 0.0:
            centres.append(places)
            radii.append(np.full(len(places), carried))
        return Balls(np.concatenate(centres), np.concatenate(radii))


def turned(points: FloatArray, yaws: FloatArray) -> FloatArray:
    """Points (n, 3), turned about z by each of the yaws (k,): (k, n, 3)."""
    cosine, sine = np.cos(yaws)[:, None], np.sin(yaws)[:, None]
    x, y, z = points.T
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, np.broadcast_to(z, (len(yaws), len(z)))], axis=-1)


_HULLS: dict[str, tuple[ArmHull, HandHull]] = {}


def hulls_of(description: RobotDescription) -> tuple[ArmHull, HandHull]:
    """The hulls of an arm and of its hand, built once for each robot; whoever takes the arm's brings it home first."""
    key = description.content_hash
    if key not in _HULLS:
        arm = ArmHull(description)
        _HULLS[key] = (arm, HandHull.of(arm))
    return _HULLS[key]
