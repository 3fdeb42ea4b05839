"""A serial arm as one table of numbers, and its kinematics.

Frames: the *base* frame is the world frame of the arm's MJCF. A *link* is all that moves with one joint, in the frame
of the MJCF body that carries the joint; link -1 is the base. The MJCF is read once, by MuJoCo; after that nothing here
needs MuJoCo.

A table, because each array that enters compiled code from Python costs about as much as the sines of two joints.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from controllers.types import FloatArray, IntArray
from safety.kernel.compiled import compiled

# Columns of ``Chain.links``, one row for each joint.
ROTATION = 0  # 9: rotation from the previous link's frame to this link's, at the reference angle, row by row
OFFSET = 9  # 3: origin of this link's frame in the previous link's, at the reference angle, m
AXIS = 12  # 3: unit vector of the joint's axis, link frame
ANCHOR = 15  # 3: a point on the axis, link frame, m
REFERENCE = 18  # 1: joint position at which the joint's rotation is none, rad
ARMATURE = 19  # 1: inertia of the drive at the joint, kg m^2
DAMPING = 20  # 1: viscous friction at the joint, N m s/rad
MASS = 21  # 1: kg
CENTRE = 22  # 3: centre of mass, link frame, m
INERTIA = 25  # 9: about the centre of mass, link frame, row by row, kg m^2
LINK_COLUMNS = 34

# Columns of ``frames``, one row for each link, all in the base frame.
F_ROTATION = 0  # 9: rotation from the base frame to the link's: its columns are the link's axes; row by row
F_POSITION = 9  # 3: origin of the link's frame, m
F_AXIS = 12  # 3: unit vector of the joint's axis
F_ANCHOR = 15  # 3: a point on the joint's axis, m
FRAME_COLUMNS = 18


class Chain(NamedTuple):
    """A serial arm of n hinges; ``mjcf.chain_of`` builds it.

    Attributes:
        links: (n, 34), see the column constants above.
        gravity: (3,) m/s^2, base frame.
    """

    links: FloatArray
    gravity: FloatArray

    @property
    def n(self) -> int:
        """Number of joints."""
        return len(self.links)


class Points(NamedTuple):
    """Points fixed to links; ``mjcf.site_points`` and ``mjcf.body_points`` build them.

    Attributes:
        link: (k,) index of the link, -1 for the base.
        offset: (k, 3) m, in the link's frame.
    """

    link: IntArray
    offset: FloatArray


@compiled
def forward(links: FloatArray, q: FloatArray, frames: FloatArray) -> None:
    """Where the links are.

    Args:
        links: (n, 34), ``Chain.links``.
        q: (n,) rad.
        frames: (n, 18) output, base frame.
    """
    forward_along(links, q, q, 0.0, frames)


@compiled
def forward_along(links: FloatArray, q: FloatArray, velocity: FloatArray, time: float, frames: FloatArray) -> None:
    """Where the links are at joint position ``q + velocity time``.

    Args:
        links: (n, 34), ``Chain.links``.
        q: (n,) rad.
        velocity: (n,) rad/s.
        time: s.
        frames: (n, 18) output, base frame.
    """
    for i in range(links.shape[0]):
        angle = q[i] + velocity[i] * time - links[i, REFERENCE]
        x, y, z = links[i, AXIS], links[i, AXIS + 1], links[i, AXIS + 2]
        u, v, w = links[i, ANCHOR], links[i, ANCHOR + 1], links[i, ANCHOR + 2]
        s, c = math.sin(angle), math.cos(angle)
        r = 1.0 - c
        # The joint's own rotation (Rodrigues).
        k00, k01, k02 = c + r * x * x, r * x * y - s * z, r * x * z + s * y
        k10, k11, k12 = r * x * y + s * z, c + r * y * y, r * y * z - s * x
        k20, k21, k22 = r * x * z - s * y, r * y * z + s * x, c + r * z * z
        for row in range(3):
            if i == 0:
                f0, f1, f2 = links[0, 3 * row], links[0, 3 * row + 1], links[0, 3 * row + 2]
                origin = links[0, OFFSET + row]
            else:
                p0, p1, p2 = frames[i - 1, 3 * row], frames[i - 1, 3 * row + 1], frames[i - 1, 3 * row + 2]
                f0 = p0 * links[i, 0] + p1 * links[i, 3] + p2 * links[i, 6]
                f1 = p0 * links[i, 1] + p1 * links[i, 4] + p2 * links[i, 7]
                f2 = p0 * links[i, 2] + p1 * links[i, 5] + p2 * links[i, 8]
                origin = frames[i - 1, F_POSITION + row] + (
                    p0 * links[i, OFFSET] + p1 * links[i, OFFSET + 1] + p2 * links[i, OFFSET + 2]
                )
            g0 = f0 * k00 + f1 * k10 + f2 * k20
            g1 = f0 * k01 + f1 * k11 + f2 * k21
            g2 = f0 * k02 + f1 * k12 + f2 * k22
            anchor = origin + (f0 * u + f1 * v + f2 * w)
            frames[i, 3 * row], frames[i, 3 * row + 1], frames[i, 3 * row + 2] = g0, g1, g2
            frames[i, F_POSITION + row] = anchor - (g0 * u + g1 * v + g2 * w)
            frames[i, F_AXIS + row] = f0 * x + f1 * y + f2 * z
            frames[i, F_ANCHOR + row] = anchor


@compiled
def point_positions(frames: FloatArray, link: IntArray, offset: FloatArray, out: FloatArray) -> None:
    """Where points on links are.

    Args:
        frames: (n, 18), of ``forward``.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        out: (k, 3) output, m, base frame.
    """
    for k in range(link.shape[0]):
        i = link[k]
        u, v, w = offset[k, 0], offset[k, 1], offset[k, 2]
        if i < 0:
            out[k, 0], out[k, 1], out[k, 2] = u, v, w
            continue
        for row in range(3):
            turned = frames[i, 3 * row] * u + frames[i, 3 * row + 1] * v + frames[i, 3 * row + 2] * w
            out[k, row] = frames[i, F_POSITION + row] + turned


@compiled
def point_jacobians(frames: FloatArray, link: IntArray, points: FloatArray, out: FloatArray) -> None:
    """Linear Jacobians of points on links.

    Args:
        frames: (n, 18), of ``forward``.
        link: (k,), ``Points.link``.
        points: (k, 3) m, base frame, of ``point_positions``.
        out: (3 k, n) output, or with more rows, which stay as they are; m/rad, base frame.
    """
    n = frames.shape[0]
    for k in range(link.shape[0]):
        last = link[k] + 1
        for j in range(last):
            x = points[k, 0] - frames[j, F_ANCHOR]
            y = points[k, 1] - frames[j, F_ANCHOR + 1]
            z = points[k, 2] - frames[j, F_ANCHOR + 2]
            u, v, w = frames[j, F_AXIS], frames[j, F_AXIS + 1], frames[j, F_AXIS + 2]
            out[3 * k, j] = v * z - w * y
            out[3 * k + 1, j] = w * x - u * z
            out[3 * k + 2, j] = u * y - v * x
        for j in range(last, n):
            out[3 * k, j] = out[3 * k + 1, j] = out[3 * k + 2, j] = 0.0


@compiled
def angular_jacobian(frames: FloatArray, link: int, row: int, out: FloatArray) -> None:
    """Angular Jacobian of one link.

    Args:
        frames: (n, 18), of ``forward``.
        link: Index of the link, -1 for the base.
        row: The first row of ``out`` to write.
        out: (row + 3 or more, n) output, of which three rows are written; rad/rad, base frame.
    """
    for j in range(frames.shape[0]):
        for i in range(3):
            out[row + i, j] = frames[j, F_AXIS + i] if j <= link else 0.0


@compiled
def geometry(
    links: FloatArray,
    link: IntArray,
    offset: FloatArray,
    q: FloatArray,
    frames: FloatArray,
    points: FloatArray,
    jacobian: FloatArray,
) -> None:
    """Points, their Jacobians, and the angular Jacobian of the link of point 0 (the end effector), in one call.

    Args:
        links: (n, 34), ``Chain.links``.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        q: (n,) rad.
        frames: (n, 18) output, base frame.
        points: (k, 3) output, m, base frame.
        jacobian: (3 k + 3, n) output, base frame: linear rows in m/rad, then angular rows in rad/rad.
    """
    forward_along(links, q, q, 0.0, frames)
    point_positions(frames, link, offset, points)
    point_jacobians(frames, link, points, jacobian)
    angular_jacobian(frames, link[0], 3 * link.shape[0], jacobian)


@compiled
def sweep(
    links: FloatArray,
    link: IntArray,
    offset: FloatArray,
    q: FloatArray,
    velocity: FloatArray,
    reach_time: float,
    frames: FloatArray,
    points: FloatArray,
) -> None:
    """Points at the start, half-way and at the end of a straight joint-space way.

    Args:
        links: (n, 34), ``Chain.links``.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        q: (n,) rad, start.
        velocity: (n,) rad/s.
        reach_time: s, the way's length divided by the velocity.
        frames: (n, 18) output: the links at ``q``, base frame.
        points: (3, k, 3) output, m, base frame: at ``q``, ``q + velocity T / 2`` and ``q + velocity T``.
    """
    for i in range(2, -1, -1):  # the start last: its frames stay
        forward_along(links, q, velocity, 0.5 * i * reach_time, frames)
        point_positions(frames, link, offset, points[i])
