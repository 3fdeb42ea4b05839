"""Safety's own kinematics and dynamics: one pass a tick, apart from the controller's.

It reads the arm's MJCF once and computes everything itself after that, so that neither a fault in a controller's model
nor one in the physics engine can reach it. Every method is a pure function of its arguments (scratch memory is
overwritten before it is read, what is handed out is never overwritten); one instance serves one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import FloatArray, frozen_array
from safety.kernel import chain, dynamics
from safety.kernel.chain import Chain, Points
from safety.kernel.contact import M_CENTRE, M_ROTATION, M_SENSOR, M_TOOL, MOUNT_COLUMNS, external_wrench
from safety.kernel.look import look
from safety.kernel.mjcf import body_points, chain_of, site_points
from safety.kernel.motion import propose

GRAVITY_M_S2 = 9.81


class Geometry(NamedTuple):
    """Where the watched points are at one configuration, in the base frame.

    Attributes:
        points: (k, 3) m; point 0 is the end effector.
        jacobian: (3 k + 3, n) linear Jacobians of the points, stacked, then the end effector's angular Jacobian.
    """

    points: FloatArray
    jacobian: FloatArray


class Dynamics(NamedTuple):
    """The arm's dynamics in one state: ``torque = inertia qdd + bias``.

    Attributes:
        inertia: (n, n) kg m^2.
        factor: (n, n) lower Cholesky factor of the inertia.
        bias: (n,) N m: gravity, centrifugal, Coriolis and viscous friction.
        gravity: (n,) N m: gravity alone.
    """

    inertia: FloatArray
    factor: FloatArray
    bias: FloatArray
    gravity: FloatArray


class Proposal(NamedTuple):
    """A tick and the stop after it.

    Attributes:
        rates: (3 k + 3,) of the points at the start, m/s, then of the end effector, rad/s.
        middle: (k, 3) m, points half-way to where the stop ends.
        end: (k, 3) m, points where the stop ends.
        stop_time: Time from full velocity to rest, s.
        reach_time: Way made in tick and stop, divided by the velocity, s.
        speed_sum: Sum of the joint speeds, rad/s.
        bend: Bound on the points' acceleration, m/s^2.
        rest: How far a point may be off the curve that limits reckon with, m.
    """

    rates: FloatArray
    middle: FloatArray
    end: FloatArray
    stop_time: float
    reach_time: float
    speed_sum: float
    bend: float
    rest: float


class TrackedPoint(NamedTuple):
    """A point to watch, fixed to a body.

    Attributes:
        body: MJCF body.
        position: (3,) m, body frame.
    """

    body: str
    position: tuple[float, float, float]


def end_effector_point(description: RobotDescription, position: tuple[float, float, float]) -> TrackedPoint:
    """A point given in the end effector's frame, (3,) m."""
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    site = model.site(description.end_effector_site).id
    turned = np.empty(3)
    mujoco.mju_rotVecQuat(turned, np.array(position), model.site_quat[site])
    x, y, z = (np.array(model.site_pos[site]) + turned).tolist()
    return TrackedPoint(model.body(int(model.site_bodyid[site])).name, (x, y, z))


class SafetyKinematics:
    """Watched points, their Jacobians, bounds on their curvature, and the arm's joint-space dynamics.

    Attributes:
        point_names: MJCF sites; the first is the end effector. Further points follow them.
        curvature: (n, n) bound on the second derivatives of every point, m/rad^2. Along a joint step ``d`` from any
            configuration a point's second derivative is at most ``c = |d|^T curvature |d|``, its third at most
            ``c sum(|d|)``, its fourth at most ``c sum(|d|)^2``.
        tool_mass: Mass beyond the wrist's force sensor, kg.
        tool_points: Indices of the named points on the last link, the end effector among them.
        damping: (n,) N m s/rad, viscous friction at the joints.
        tables: What :func:`safety.kernel.judge.judge` reads of the arm: its first five arguments.
    """

    def __init__(
        self, description: RobotDescription, point_names: tuple[str, ...], more: Sequence[TrackedPoint] = ()
    ) -> None:
        """Read the arm.

        Args:
            description: The robot; its fingers are held at mid-opening.
            point_names: MJCF sites to watch, the end effector first.
            more: Further points.
        """
        self.point_names = point_names
        self._chain = chain_of(description)
        sites = site_points(description, point_names)
        others = body_points(description, [p.body for p in more], np.array([p.position for p in more]).reshape(-1, 3))
        self._points = Points(
            np.ascontiguousarray(np.concatenate((sites.link, others.link))),
            np.ascontiguousarray(np.concatenate((sites.offset, others.offset))),
        )
        self._n, self._k = description.n, len(self._points.link)
        self._q, self._qd, self._still, self._acceleration = (np.zeros(self._n) for _ in range(4))
        self._wrenches = np.zeros((self._n, 6))
        self._frames = np.zeros((self._n, chain.FRAME_COLUMNS))
        self._swept = np.zeros((self._n, chain.FRAME_COLUMNS))
        self._bounds = _curvature_bounds(self._chain, self._points)
        self.curvature = frozen_array(self._bounds)
        self.tables = (self._chain.links, self._points.link, self._points.offset, self._bounds, self._swept)
        self.damping = frozen_array(self._chain.links[:, chain.DAMPING])
        self.tool_mass, self._sensor_link, self._sensor = _wrench_sensor(description, self._chain)
        # What the wrist carries: the sensor's link, the end effector's, the weight beyond the sensor, N.
        self._tool = (self._sensor_link, int(sites.link[0]), self.tool_mass * GRAVITY_M_S2)
        self._mount, self._reading = _mount(description, self._sensor), np.zeros(6)
        self.tool_points = tuple(
            point for point, link in enumerate(sites.link.tolist()) if link == self._sensor_link or point == 0
        )

    def geometry(self, q: FloatArray) -> Geometry:
        """Points and Jacobians at joint position ``q`` (n,) rad."""
        self._q[:] = q
        points, jacobian = np.empty((self._k, 3)), np.empty((3 * self._k + 3, self._n))
        chain.geometry(
            self._chain.links, self._points.link, self._points.offset, self._q, self._frames, points, jacobian
        )
        return Geometry(points, jacobian)

    def look(self, q: FloatArray, qd: FloatArray) -> tuple[Geometry, Dynamics]:
        """Both :meth:`geometry` and :meth:`dynamics` at ``q`` (n,) rad and ``qd`` (n,) rad/s, in one call."""
        n, k = self._n, self._k
        self._q[:] = q
        self._qd[:] = qd
        links, gravity = self._chain
        points, jacobian = np.empty((k, 3)), np.empty((3 * k + 3, n))
        inertia, factor, bias, weight = np.empty((n, n)), np.zeros((n, n)), np.empty(n), np.empty(n)
        look(
            links,
            gravity,
            self._points.link,
            self._points.offset,
            self._frames,
            self._still,
            self._wrenches,
            self._q,
            self._qd,
            points,
            jacobian,
            inertia,
            factor,
            bias,
            weight,
        )
        return Geometry(points, jacobian), Dynamics(inertia, factor, bias, weight)

    def points(self, q: FloatArray) -> FloatArray:
        """Points (k, 3) m alone, at joint position ``q`` (n,) rad."""
        self._q[:] = q
        points = np.empty((self._k, 3))
        chain.forward(self._chain.links, self._q, self._swept)
        chain.point_positions(self._swept, self._points.link, self._points.offset, points)
        return points

    def propose(
        self,
        q: FloatArray,
        velocity: FloatArray,
        acceleration: FloatArray,
        jacobian: FloatArray,
        deceleration_fraction: float,
        dt: float,
    ) -> Proposal:
        """Lay out a tick at ``velocity`` and the straight-line stop after it.

        Args:
            q: (n,) rad, start.
            velocity: (n,) rad/s.
            acceleration: (n,) rad/s^2, limits.
            jacobian: (3 k + 3, n) at the start.
            deceleration_fraction: Of the acceleration, used by the stop.
            dt: s.
        """
        self._q[:] = q
        self._qd[:] = velocity
        self._acceleration[:] = acceleration
        points, rates = np.empty((2, self._k, 3)), np.empty(3 * self._k + 3)
        scalars = propose(
            self._chain.links,
            self._points.link,
            self._points.offset,
            self._q,
            self._qd,
            self._acceleration,
            self._bounds,
            jacobian,
            deceleration_fraction,
            dt,
            self._swept,
            rates,
            points,
        )
        return Proposal(rates, points[0], points[1], *scalars)

    def dynamics(self, q: FloatArray, qd: FloatArray) -> Dynamics:
        """Inertia and bias at ``q`` (n,) rad and ``qd`` (n,) rad/s."""
        n = self._n
        self._q[:] = q
        self._qd[:] = qd
        links, gravity = self._chain
        inertia, factor, bias, weight = np.empty((n, n)), np.zeros((n, n)), np.empty(n), np.empty(n)
        dynamics.state(
            links,
            gravity,
            self._q,
            self._qd,
            self._still,
            self._swept,
            self._wrenches,
            inertia,
            factor,
            bias,
            weight,
        )
        return Dynamics(inertia, factor, bias, weight)

    def external_wrench(self, q: FloatArray, reading: FloatArray) -> FloatArray:
        """What the environment exerts on the tool: the wrist's reading without the tool's own weight.

        Args:
            q: (n,) rad.
            reading: (6,) force, N, and torque about the sensor's origin, N m, sensor frame.

        Returns:
            (6,) force, N, and moment about the end effector, N m, base frame.
        """
        self._q[:] = q
        self._reading[:] = reading
        out = np.empty(6)
        external_wrench(self._chain.links, self._q, self._swept, self._mount, *self._tool, self._reading, out)
        return out

    def sensor_rotation(self, q: FloatArray) -> FloatArray:
        """Rotation (3, 3) of the wrist's force sensor in the base frame, at ``q`` (n,) rad."""
        self._q[:] = q
        chain.forward(self._chain.links, self._q, self._swept)
        return self._swept[self._sensor_link, :9].reshape(3, 3).dot(self._sensor)


def _wrench_sensor(description: RobotDescription, links: Chain) -> tuple[float, int, FloatArray]:
    """Mass beyond the wrist's force sensor, kg; the link it sits on; its rotation (3, 3) in that link's frame."""
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    site = model.site(description.wrench_site)
    mass = float(model.body_subtreemass[int(model.site_bodyid[site.id])])
    link = int(site_points(description, (description.wrench_site,)).link[0])
    joints = {name: model.joint(name) for name in description.joint_names}
    carrier = int(model.jnt_bodyid[joints[description.joint_names[link]].id])
    # The pose is the MJCF's own; only the rotation between two parts of one link is read, and that is fixed.
    return mass, link, np.array(data.xmat[carrier].reshape(3, 3).T @ data.site_xmat[site.id].reshape(3, 3))


def _mount(description: RobotDescription, rotation: FloatArray) -> FloatArray:
    """Where the wrist's sensor, the mass beyond it and the end effector sit: the kernel's ``mount``."""
    model = mujoco.MjModel.from_xml_path(str(description.model_path))
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    site = model.site(description.wrench_site)
    body = int(site.bodyid[0])
    # The centre of mass moves a little with the fingers; they count as they are in the model's reference posture.
    centre = data.xmat[body].reshape(3, 3).T @ (data.subtree_com[body] - data.xpos[body])
    points = [site.pos, centre]
    offsets = body_points(description, [model.body(body).name] * 2, np.array(points)).offset
    mount = np.zeros(MOUNT_COLUMNS)
    mount[M_ROTATION : M_ROTATION + 9] = rotation.ravel()
    mount[M_SENSOR : M_SENSOR + 3], mount[M_CENTRE : M_CENTRE + 3] = offsets
    mount[M_TOOL : M_TOOL + 3] = site_points(description, (description.end_effector_site,)).offset[0]
    return mount


def _curvature_bounds(arm: Chain, points: Points) -> FloatArray:
    """Bound the second derivatives of points on a serial chain of hinges: (n, n).

    For hinges i, j with axes z and m the farther of the two from the base, ``d2p / dqi dqj = z_i x (z_j x r)`` (or
    with i and j exchanged), where r leads from hinge m to the point. Its norm is at most the longest that r can be:
    the sum of the distances between the hinges on the way. One more derivative is one more cross product with a unit
    axis.
    """
    n, links = arm.n, arm.links
    anchor = links[:, chain.ANCHOR : chain.ANCHOR + 3]
    steps = np.zeros(n)  # from the previous hinge to this one, m
    for i in range(1, n):
        rotation = links[i, :9].reshape(3, 3)
        here = links[i, chain.OFFSET : chain.OFFSET + 3] + rotation @ anchor[i]
        steps[i] = float(np.linalg.norm(here - anchor[i - 1]))
    bounds = np.zeros((n, n))
    for link, offset in zip(points.link.tolist(), points.offset, strict=True):
        if link < 0:
            continue
        reach = np.zeros(n)
        length = float(np.linalg.norm(offset - anchor[link]))
        for joint in range(link, -1, -1):
            reach[joint] = length
            length += float(steps[joint])
        for i in range(n):
            for j in range(n):
                bounds[i, j] = max(float(bounds[i, j]), float(reach[max(i, j)]))
    return bounds
