"""Joint-space dynamics of a serial arm: inertia, bias, small linear algebra, and the mass felt at the end effector.

``torque = M qdd + bias``, with M the joint-space inertia. All vectors of the recursions are in the base frame.
"""

from __future__ import annotations

import math

from controllers.types import FloatArray
from safety.kernel.chain import (
    ARMATURE,
    CENTRE,
    DAMPING,
    F_ANCHOR,
    F_AXIS,
    F_POSITION,
    INERTIA,
    MASS,
    forward,
)
from safety.kernel.compiled import compiled
from safety.kernel.vector import Vector, along, cross, dot, minus, scaled

# Added to the mobility of a point, 1/kg: a point that cannot move weighs no more than this allows.
LEAST_MOBILITY = 1e-4


@compiled
def _turned(frames: FloatArray, i: int, v: Vector) -> Vector:
    """A vector of link i's frame, in the base frame."""
    return (
        frames[i, 0] * v[0] + frames[i, 1] * v[1] + frames[i, 2] * v[2],
        frames[i, 3] * v[0] + frames[i, 4] * v[1] + frames[i, 5] * v[2],
        frames[i, 6] * v[0] + frames[i, 7] * v[1] + frames[i, 8] * v[2],
    )


@compiled
def _turned_back(frames: FloatArray, i: int, v: Vector) -> Vector:
    """A vector of the base frame, in link i's frame."""
    return (
        frames[i, 0] * v[0] + frames[i, 3] * v[1] + frames[i, 6] * v[2],
        frames[i, 1] * v[0] + frames[i, 4] * v[1] + frames[i, 7] * v[2],
        frames[i, 2] * v[0] + frames[i, 5] * v[1] + frames[i, 8] * v[2],
    )


@compiled
def _spin(links: FloatArray, frames: FloatArray, i: int, v: Vector) -> Vector:
    """Inertia of link i about its centre of mass, times a vector of the base frame; in the base frame."""
    a = _turned_back(frames, i, v)
    k = INERTIA
    b = (
        links[i, k] * a[0] + links[i, k + 1] * a[1] + links[i, k + 2] * a[2],
        links[i, k + 3] * a[0] + links[i, k + 4] * a[1] + links[i, k + 5] * a[2],
        links[i, k + 6] * a[0] + links[i, k + 7] * a[1] + links[i, k + 8] * a[2],
    )
    return _turned(frames, i, b)


@compiled
def _vector(frames: FloatArray, i: int, column: int) -> Vector:
    return (frames[i, column], frames[i, column + 1], frames[i, column + 2])


@compiled
def _centre(links: FloatArray, frames: FloatArray, i: int) -> Vector:
    """Centre of mass of link i, base frame, m."""
    return along(_vector(frames, i, F_POSITION), _turned(frames, i, _vector(links, i, CENTRE)), 1.0)


@compiled
def inertia(links: FloatArray, frames: FloatArray, out: FloatArray) -> None:
    """Joint-space inertia, the drives' armature included.

    Column j is the torque that accelerates joint j alone by 1 rad/s^2 from rest, without gravity.

    Args:
        links: (n, 34), ``Chain.links``.
        frames: (n, 18), of ``chain.forward``.
        out: (n, n) output, kg m^2.
    """
    n = links.shape[0]
    for j in range(n):
        axis, anchor = _vector(frames, j, F_AXIS), _vector(frames, j, F_ANCHOR)
        fx = fy = fz = mx = my = mz = 0.0  # force on all beyond joint j, and its moment about joint j's anchor
        for k in range(j, n):
            lever = minus(_centre(links, frames, k), anchor)
            force = scaled(cross(axis, lever), links[k, MASS])
            moment = along(_spin(links, frames, k, axis), cross(lever, force), 1.0)
            fx, fy, fz = fx + force[0], fy + force[1], fz + force[2]
            mx, my, mz = mx + moment[0], my + moment[1], mz + moment[2]
        for i in range(j + 1):
            arm = minus(anchor, _vector(frames, i, F_ANCHOR))
            torque = dot(_vector(frames, i, F_AXIS), along((mx, my, mz), cross(arm, (fx, fy, fz)), 1.0))
            out[i, j] = out[j, i] = torque
        out[j, j] += links[j, ARMATURE]


@compiled
def bias(
    links: FloatArray, gravity: FloatArray, frames: FloatArray, qd: FloatArray, wrenches: FloatArray, out: FloatArray
) -> None:
    """The torque that keeps the joint velocity as it is: gravity, centrifugal, Coriolis, and viscous friction.

    Recursive Newton-Euler: accelerations from base to tip, forces back.

    Args:
        links: (n, 34), ``Chain.links``.
        gravity: (3,) m/s^2, base frame, ``Chain.gravity``.
        frames: (n, 18), of ``chain.forward``.
        qd: (n,) rad/s.
        wrenches: (n, 6) scratch.
        out: (n,) output, N m.
    """
    n = links.shape[0]
    # A base that accelerates upwards feels like gravity.
    acceleration = (-gravity[0], -gravity[1], -gravity[2])
    spin = rate = origin = (0.0, 0.0, 0.0)  # angular velocity and acceleration; the point that accelerates so
    for i in range(n):
        axis, anchor = _vector(frames, i, F_AXIS), _vector(frames, i, F_ANCHOR)
        lever = minus(anchor, origin)
        acceleration = along(acceleration, cross(rate, lever), 1.0)
        acceleration = along(acceleration, cross(spin, cross(spin, lever)), 1.0)
        rate = along(rate, cross(spin, axis), qd[i])
        spin = along(spin, axis, qd[i])
        origin = anchor
        centre = _centre(links, frames, i)
        lever = minus(centre, anchor)
        at_centre = along(along(acceleration, cross(rate, lever), 1.0), cross(spin, cross(spin, lever)), 1.0)
        force = scaled(at_centre, links[i, MASS])
        moment = along(_spin(links, frames, i, rate), cross(spin, _spin(links, frames, i, spin)), 1.0)
        moment = along(moment, cross(centre, force), 1.0)  # about the base frame's origin
        for c in range(3):
            wrenches[i, c], wrenches[i, c + 3] = force[c], moment[c]
    fx = fy = fz = mx = my = mz = 0.0
    for i in range(n - 1, -1, -1):
        fx, fy, fz = fx + wrenches[i, 0], fy + wrenches[i, 1], fz + wrenches[i, 2]
        mx, my, mz = mx + wrenches[i, 3], my + wrenches[i, 4], mz + wrenches[i, 5]
        about_anchor = minus((mx, my, mz), cross(_vector(frames, i, F_ANCHOR), (fx, fy, fz)))
        out[i] = dot(_vector(frames, i, F_AXIS), about_anchor) + links[i, DAMPING] * qd[i]


@compiled
def cholesky(matrix: FloatArray, lower: FloatArray) -> bool:
    """Factor a symmetric positive definite matrix: ``matrix = lower lower^T``.

    Args:
        matrix: (n, n); its lower triangle is read.
        lower: (n, n) output; only its lower triangle is written. It may be ``matrix``.

    Returns:
        False if the matrix is not positive definite; ``lower`` is then unfinished.
    """
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j]
            for k in range(j):
                rest -= lower[i, k] * lower[j, k]
            if i > j:
                lower[i, j] = rest / lower[j, j]
            elif rest > 0.0:  # false for NaN, too
                lower[i, i] = math.sqrt(rest)
            else:
                return False
    return True


@compiled
def solve(lower: FloatArray, right: FloatArray, out: FloatArray) -> None:
    """Solve ``lower lower^T out = right``.

    Args:
        lower: (n, n), of ``cholesky``.
        right: (n,).
        out: (n,) output; it may be ``right``.
    """
    n = lower.shape[0]
    for i in range(n):
        rest = right[i]
        for k in range(i):
            rest -= lower[i, k] * out[k]
        out[i] = rest / lower[i, i]
    for i in range(n - 1, -1, -1):
        rest = out[i]
        for k in range(i + 1, n):
            rest -= lower[k, i] * out[k]
        out[i] = rest / lower[i, i]


@compiled
def blow(jacobian: FloatArray, first: int, lower: FloatArray, qd: FloatArray, rows: FloatArray) -> float:
    """Twice the energy that a point of the arm delivers to whatever stops it, whichever way that faces.

    A surface with normal u feels ``(u^T v)^2 / (u^T J M^-1 J^T u)``. The largest over all u is
    ``v^T (J M^-1 J^T)^-1 v``; the direction of motion alone gives less where the arm is heavier across it.

    Args:
        jacobian: (m, n), of points, three rows each; m/rad.
        first: First row of the point.
        lower: (n, n), ``cholesky`` of the joint-space inertia.
        qd: (n,) rad/s.
        rows: (3, n) scratch.

    Returns:
        kg m^2/s^2.
    """
    n = lower.shape[0]
    for c in range(3):
        for i in range(n):
            rest = jacobian[first + c, i]
            for k in range(i):
                rest -= lower[i, k] * rows[c, k]
            rows[c, i] = rest / lower[i, i]
    x = y = z = a = b = c = d = e = f = 0.0
    for i in range(n):
        x += jacobian[first, i] * qd[i]
        y += jacobian[first + 1, i] * qd[i]
        z += jacobian[first + 2, i] * qd[i]
        a += rows[0, i] * rows[0, i]
        b += rows[0, i] * rows[1, i]
        c += rows[0, i] * rows[2, i]
        d += rows[1, i] * rows[1, i]
        e += rows[1, i] * rows[2, i]
        f += rows[2, i] * rows[2, i]
    a, d, f = a + LEAST_MOBILITY, d + LEAST_MOBILITY, f + LEAST_MOBILITY
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    u, v, w = a * f - c * c, b * c - a * e, a * d - b * b
    felt = x * (p * x + q * y + r * z) + y * (q * x + u * y + v * z) + z * (r * x + v * y + w * z)
    return felt / (a * p + b * q + c * r)


@compiled
def reflected_mass(jacobian: FloatArray, lower: FloatArray, direction: FloatArray, scratch: FloatArray) -> float:
    """The mass that a push at a point of the arm feels: ``1 / (u^T J M^-1 J^T u)``.

    Args:
        jacobian: (3, n) or with more rows, of which the first three are used; m/rad, of the point.
        lower: (n, n), ``cholesky`` of the joint-space inertia.
        direction: (3,) unit vector u, frame of the Jacobian.
        scratch: (n,).

    Returns:
        kg; infinite if the point cannot move that way.
    """
    mobility = 0.0
    for i in range(lower.shape[0]):
        rest = 0.0
        for c in range(3):
            rest += jacobian[c, i] * direction[c]
        for k in range(i):
            rest -= lower[i, k] * scratch[k]
        scratch[i] = rest / lower[i, i]
        mobility += scratch[i] * scratch[i]
    return 1.0 / mobility if mobility > 1e-300 else math.inf


@compiled
def state(
    links: FloatArray,
    gravity: FloatArray,
    q: FloatArray,
    qd: FloatArray,
    still: FloatArray,
    frames: FloatArray,
    wrenches: FloatArray,
    mass: FloatArray,
    factor: FloatArray,
    held: FloatArray,
    weight: FloatArray,
) -> None:
    """Everything above in one call, at one state.

    Args:
        links: (n, 34), ``Chain.links``.
        gravity: (3,) m/s^2, base frame.
        q: (n,) rad.
        qd: (n,) rad/s.
        still: (n,) zeros.
        frames: (n, 18) output: the links at ``q``.
        wrenches: (n, 6) scratch.
        mass: (n, n) output of ``inertia``.
        factor: (n, n) output of ``cholesky``; zero above the diagonal if it was before.
        held: (n,) output of ``bias``.
        weight: (n,) output of ``bias`` at rest.
    """
    forward(links, q, frames)
    inertia(links, frames, mass)
    cholesky(mass, factor)
    bias(links, gravity, frames, qd, wrenches, held)
    bias(links, gravity, frames, still, wrenches, weight)
