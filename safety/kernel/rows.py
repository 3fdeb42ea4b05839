"""Compiled bounds on distances between points that move along a tick and the stop after it.

A row is one linear measure of the arm: ``n . (p_a - p_b) - offset``, with a fixed unit normal n in the base frame, p_a
a point fixed to a link and p_b another one, or the origin where there is none. It must not become negative. Walls,
facets, separating planes between capsules and zones, and cones are all rows.

Along the straight joint path of a motion, with progress x in [0, 1] of tick and stop, a row's value is ``c + w x + u(x)
x^2``, where w is the tangent's way. Forward kinematics gives u(1/2) and u(1) exactly, hence u(x) on the line through
them, up to a rest of a 48th of the fourth derivative. With the worst u on that line the value is bounded below by a
concave or by a linear function of x: where it is not negative at both ends, it is not negative on the way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray, IntArray
from safety.kernel.compiled import compiled

NO_POINT = -1


class Rows(NamedTuple):
    """Rows ``normals . (p_first - p_second) >= offsets``.

    Attributes:
        normals: (m, 3) unit vectors, base frame.
        first: (m,) index of a point.
        second: (m,) index of another point, ``NO_POINT`` for the base's origin.
        offsets: (m,) m.
    """

    normals: FloatArray
    first: IntArray
    second: IntArray
    offsets: FloatArray

    def joined(self, other: Rows) -> Rows:
        """These rows, then the others."""
        return Rows(
            np.concatenate((self.normals, other.normals)),
            np.concatenate((self.first, other.first)),
            np.concatenate((self.second, other.second)),
            np.concatenate((self.offsets, other.offsets)),
        )


def rows_of(normals: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, offsets: npt.ArrayLike) -> Rows:
    """Rows in the memory layout that compiled code expects: own, contiguous, writable arrays."""
    return Rows(
        np.array(normals, dtype=np.float64).reshape(-1, 3),
        np.array(first, dtype=np.int64).ravel(),
        np.array(second, dtype=np.int64).ravel(),
        np.array(offsets, dtype=np.float64).ravel(),
    )


@compiled
def parting_rows(
    normals: FloatArray, supports: FloatArray, ends: int, normals_out: FloatArray, offsets_out: FloatArray
) -> None:
    """Write each parting plane as ``ends`` rows, one for each point that it must keep on its side.

    Args:
        normals: (p, 3).
        supports: (p,) m.
        ends: Rows for each plane.
        normals_out: (ends p, 3) output.
        offsets_out: (ends p,) output, m.
    """
    for plane in range(supports.shape[0]):
        for end in range(ends):
            row = ends * plane + end
            offsets_out[row] = supports[plane]
            for axis in range(3):
                normals_out[row, axis] = normals[plane, axis]


@compiled
def judge_rows(
    normals: FloatArray,
    first: IntArray,
    second: IntArray,
    offsets: FloatArray,
    start: FloatArray,
    middle: FloatArray,
    end: FloatArray,
    rates: FloatArray,
    reach_time: float,
    rest: float,
    standoff: float,
) -> tuple[float, float]:
    """Judge m rows.

    Args:
        normals: (m, 3).
        first: (m,) index of p_a.
        second: (m,) index of p_b, ``NO_POINT`` for none.
        offsets: (m,) m.
        start: (k, 3) m, points at the start.
        middle: (k, 3) m, points half-way.
        end: (k, 3) m, points where the stop ends.
        rates: (3 k + ...) m/s, velocities of the points at the start.
        reach_time: s, way made in tick and stop divided by the velocity.
        rest: m, how far off one point may be on the way.
        standoff: m, kept from the bound as long as the motion runs straight.

    Returns:
        Slack m: not negative where every row is admissible; a row that is violated already, or within the standoff,
        must not get worse. And the smallest value that any row can have at the end, m.
    """
    slack, margin = np.inf, np.inf
    for row in range(offsets.shape[0]):
        a, b = first[row], second[row]
        value, way, half, last = -offsets[row], 0.0, 0.0, 0.0
        for axis in range(3):
            n = normals[row, axis]
            s, m, e, r = start[a, axis], middle[a, axis], end[a, axis], rates[3 * a + axis]
            if b >= 0:
                s -= start[b, axis]
                m -= middle[b, axis]
                e -= end[b, axis]
                r -= rates[3 * b + axis]
            value += n * s
            way += n * r
            half += n * (m - s)
            last += n * (e - s)
        way *= reach_time
        off = rest if b < 0 else 2.0 * rest
        # u(0) = 2 u(1/2) - u(1), with u(1) = last - way and u(1/2) = 4 (half - way / 2)
        early, late = 8.0 * half - 3.0 * way - last, last - way
        bend = max(-early, -late, 0.0) + off
        ended = value + way - bend
        if ended < margin:
            margin = ended
        room = min(ended, value + way - standoff)
        if room < 0.0:
            free = value if value > 0.0 else 0.0
            used = min(free, standoff)
            room = max(free - standoff, 0.0) + way - max(bend - used, 0.0)
        if room < slack:
            slack = room
    return slack, margin


@compiled
def bound_rows(
    normals: FloatArray,
    first: IntArray,
    second: IntArray,
    offsets: FloatArray,
    start: FloatArray,
    middle: FloatArray,
    end: FloatArray,
    rates: FloatArray,
    jacobian: FloatArray,
    dt: float,
    stop_time: float,
    reach_time: float,
    rest: float,
    standoff: float,
    horizon: float,
    velocity: FloatArray,
    matrix: FloatArray,
    bounds: FloatArray,
) -> int:
    """Write inequalities ``matrix @ qd <= bounds`` on the joint velocity for m rows.

    One for each row nearer than ``horizon``, towards the bound positive. Where the motion leaves a bound on so sharp a
    curve that it could swing back into it, one more bounds the speed along the motion. Arguments as in
    :func:`judge_rows`, and besides:

    Args:
        velocity: (n,) rad/s, the motion's.
        matrix: (m + 1, n) output.
        bounds: (m + 1,) output.

    Returns:
        How many were written.
    """
    n = velocity.shape[0]
    used, swing = 0, 1.0
    for row in range(offsets.shape[0]):
        p, q = first[row], second[row]
        value, rate, half, last = -offsets[row], 0.0, 0.0, 0.0
        for axis in range(3):
            nrm = normals[row, axis]
            s, m, e, r = start[p, axis], middle[p, axis], end[p, axis], rates[3 * p + axis]
            if q >= 0:
                s -= start[q, axis]
                m -= middle[q, axis]
                e -= end[q, axis]
                r -= rates[3 * q + axis]
            value += nrm * s
            rate += nrm * r
            half += nrm * (m - s)
            last += nrm * (e - s)
        way = rate * reach_time
        off = rest if q < 0 else 2.0 * rest
        early, late = 8.0 * half - 3.0 * way - last, last - way
        bend = max(-early, -late, 0.0) + off
        if value > horizon and way - bend > -0.5 * horizon:
            continue
        free = value if value > 0.0 else 0.0
        bend = max(bend - min(free, standoff), 0.0)
        free = max(free - standoff, 0.0)
        toward = -rate
        bound = free / reach_time
        if toward * reach_time + bend > free:
            # Slowed together by s, the way before braking shrinks by s and the way of braking by s^2.
            one, two = toward * dt, max(0.5 * toward * stop_time + bend, 0.0)
            root = np.sqrt(one * one + 4.0 * two * free)
            if one < 0.0:
                share = (root - one) / (2.0 * two) if two > 0.0 else np.inf
            else:
                share = 2.0 * free / (one + root) if one + root > 0.0 else (0.0 if two > 0.0 else np.inf)
            if toward > 0.0:
                bound = toward * share
            elif share < swing:
                swing = share
        for joint in range(n):
            total = 0.0
            for axis in range(3):
                j = jacobian[3 * p + axis, joint]
                if q >= 0:
                    j -= jacobian[3 * q + axis, joint]
                total -= normals[row, axis] * j
            matrix[used, joint] = total
        bounds[used] = bound
        used += 1
    if swing < 1.0:
        square = 0.0
        for joint in range(n):
            square += velocity[joint] * velocity[joint]
        for joint in range(n):
            matrix[used, joint] = velocity[joint] / square
        bounds[used] = swing
        used += 1
    return used
