"""Keep-out zones as a table, and the gaps of all watched pairs in one call.

A zone is a convex solid in the base frame. Each row of the table holds ``CENTRE`` (3 numbers, m), ``TURN`` (9: the
rotation from base frame to zone frame, row by row: its columns are the zone's axes in the base frame), ``SIZE`` (3, m)
and ``REACH`` (radius of the ball about the centre that holds the zone, m):

    kind        centre           SIZE                     the zone's z axis
    BOX         of the box       three half sizes
    SPHERE      of the sphere    radius, 0, 0
    CAPSULE     of its axis      radius, half length, 0   its axis (half length: to the centres of its caps)
    CYLINDER    of its axis      radius, half length, 0   its axis
    HALF_SPACE  on its surface   0, 0, 0                  out of the solid
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from controllers.types import FloatArray, IntArray
from safety.kernel.compiled import compiled
from safety.kernel.distance import segment_box, segment_cylinder, segment_segment
from safety.kernel.vector import Vector, along, dot, length, minus, scaled

BOX, SPHERE, CAPSULE, CYLINDER, HALF_SPACE = 0, 1, 2, 3, 4
CENTRE, TURN, SIZE, REACH, ZONE_COLUMNS = 0, 3, 12, 15, 16


class Zones(NamedTuple):
    """z keep-out zones.

    Attributes:
        kind: (z,) BOX, SPHERE, CAPSULE, CYLINDER or HALF_SPACE.
        table: (z, 16), see the module.
    """

    kind: IntArray
    table: FloatArray


def zone(kind: int, centre: npt.ArrayLike, rotation: npt.ArrayLike, size: npt.ArrayLike) -> tuple[int, FloatArray]:
    """One row for ``zones``.

    Args:
        kind: BOX, SPHERE, CAPSULE, CYLINDER or HALF_SPACE.
        centre: (3,) m, base frame.
        rotation: (3, 3); its columns are the zone's axes in the base frame.
        size: (3,) m, not negative; see the module.

    Returns:
        Kind and row (16,).

    Raises:
        ValueError: A shape does not fit, a number is not finite or negative, or the rotation is none.
    """
    row = np.zeros(ZONE_COLUMNS)
    turn, extent = np.asarray(rotation, dtype=np.float64), np.asarray(size, dtype=np.float64)
    if turn.shape != (3, 3) or extent.shape != (3,):
        raise ValueError(f"expected a rotation (3, 3) and a size (3,), found {turn.shape} and {extent.shape}")
    row[CENTRE : CENTRE + 3] = np.asarray(centre, dtype=np.float64)
    row[TURN : TURN + 9] = turn.ravel()
    row[SIZE : SIZE + 3] = extent
    if not np.isfinite(row).all() or (extent < 0).any():
        raise ValueError(f"expected finite numbers and sizes not below 0, found {row.tolist()}")
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-9 or np.linalg.det(turn) < 0:
        raise ValueError(f"expected a rotation matrix, found {turn.tolist()}")
    reaches = {
        BOX: float(np.linalg.norm(extent)),
        SPHERE: float(extent[0]),
        CAPSULE: float(extent[0] + extent[1]),
        CYLINDER: float(np.hypot(extent[0], extent[1])),
        HALF_SPACE: math.inf,
    }
    if kind not in reaches:
        raise ValueError(f"expected a kind from {sorted(reaches)}, found {kind}")
    row[REACH] = reaches[kind]
    return kind, row


def zones(rows: Sequence[tuple[int, FloatArray]]) -> Zones:
    """Stack rows of ``zone``."""
    table = np.zeros((len(rows), ZONE_COLUMNS))
    for i, (_, row) in enumerate(rows):
        table[i] = row
    return Zones(np.array([kind for kind, _ in rows], dtype=np.int64), table)


@compiled
def _point(table: FloatArray, i: int, column: int) -> Vector:
    return (table[i, column], table[i, column + 1], table[i, column + 2])


@compiled
def _inward(table: FloatArray, z: int, v: Vector) -> Vector:
    """A vector of the base frame, in the zone's frame."""
    return (
        table[z, TURN] * v[0] + table[z, TURN + 3] * v[1] + table[z, TURN + 6] * v[2],
        table[z, TURN + 1] * v[0] + table[z, TURN + 4] * v[1] + table[z, TURN + 7] * v[2],
        table[z, TURN + 2] * v[0] + table[z, TURN + 5] * v[1] + table[z, TURN + 8] * v[2],
    )


@compiled
def _outward(table: FloatArray, z: int, v: Vector) -> Vector:
    """A vector of the zone's frame, in the base frame."""
    return (
        table[z, TURN] * v[0] + table[z, TURN + 1] * v[1] + table[z, TURN + 2] * v[2],
        table[z, TURN + 3] * v[0] + table[z, TURN + 4] * v[1] + table[z, TURN + 5] * v[2],
        table[z, TURN + 6] * v[0] + table[z, TURN + 7] * v[1] + table[z, TURN + 8] * v[2],
    )


@compiled
def _axis(table: FloatArray, z: int) -> Vector:
    """The zone's z axis, base frame."""
    return (table[z, TURN + 2], table[z, TURN + 5], table[z, TURN + 8])


@compiled
def support(kind: IntArray, table: FloatArray, z: int, direction: Vector) -> float:
    """The largest ``direction . x`` of a zone.

    Args:
        kind: (z,), ``Zones.kind``.
        table: (z, 16), ``Zones.table``.
        z: Which zone.
        direction: Base frame. For a half-space this must be its outward normal (any other direction has no largest).

    Returns:
        m, for a unit direction.
    """
    at_centre = dot(direction, _point(table, z, CENTRE))
    size = _point(table, z, SIZE)
    if kind[z] == HALF_SPACE:
        return at_centre
    n = _inward(table, z, direction)
    if kind[z] == BOX:
        return at_centre + (abs(n[0]) * size[0] + abs(n[1]) * size[1] + abs(n[2]) * size[2])
    if kind[z] == CYLINDER:
        return at_centre + (size[0] * math.hypot(n[0], n[1]) + size[1] * abs(n[2]))
    return at_centre + (size[0] * length(n) + size[1] * abs(n[2]))  # capsule; a sphere's half length is 0


@compiled
def zone_normal(kind: IntArray, table: FloatArray, z: int, a: Vector, b: Vector) -> Vector:
    """The unit vector, base frame, along which the segment ab (m, base frame) is apart from a zone, or leaves it."""
    centre = _point(table, z, CENTRE)
    if kind[z] == HALF_SPACE:
        return _axis(table, z)
    size = _point(table, z, SIZE)
    if kind[z] == BOX or kind[z] == CYLINDER:
        p, q = _inward(table, z, minus(a, centre)), _inward(table, z, minus(b, centre))
        _, n = segment_box(p, q, size) if kind[z] == BOX else segment_cylinder(p, q, size[0], size[1])
        return _outward(table, z, n)
    axis = _axis(table, z)
    _, n = segment_segment(a, b, along(centre, axis, -size[1]), along(centre, axis, size[1]), size[0])
    return n


@compiled
def zone_rows(
    a: FloatArray,
    b: FloatArray,
    kind: IntArray,
    table: FloatArray,
    pairs: IntArray,
    horizon: float,
    gap: FloatArray,
    normal: FloatArray,
    supports: FloatArray,
) -> None:
    """Gap and separating plane of each (capsule, zone) pair. The capsules' radii are not subtracted.

    In every row ``normal . x >= supports + gap`` on the capsule's axis and ``normal . x <= supports`` in the zone, to
    rounding (1e-15). Within the horizon the plane is the closest one; beyond it, that of the ball around the zone,
    with the normal from the zone's centre to the middle of the axis, and a gap that is less than the distance.

    Args:
        a: (c, 3) m, base frame, starts of the capsules' axes.
        b: (c, 3) m, base frame, ends.
        kind: (z,), ``Zones.kind``.
        table: (z, 16), ``Zones.table``.
        pairs: (p, 2), capsule and zone.
        horizon: m, not below 0.
        gap: (p,) output, m.
        normal: (p, 3) output, unit vectors, base frame, from zone to capsule.
        supports: (p,) output, m: the plane is ``normal . x = supports``.
    """
    for i in range(pairs.shape[0]):
        c, z = pairs[i, 0], pairs[i, 1]
        start, end = _point(a, c, 0), _point(b, c, 0)
        if kind[z] != HALF_SPACE:
            half = scaled(minus(end, start), 0.5)
            middle = along(start, half, 1.0)
            centre = _point(table, z, CENTRE)
            way = minus(middle, centre)
            distance = length(way)
            free = distance - length(half) - table[z, REACH]
            if free > horizon and distance > 0.0:
                n = scaled(way, 1.0 / distance)
                normal[i, 0], normal[i, 1], normal[i, 2] = n
                gap[i], supports[i] = free, dot(n, centre) + table[z, REACH]
                continue
        n = zone_normal(kind, table, z, start, end)
        normal[i, 0], normal[i, 1], normal[i, 2] = n
        supports[i] = support(kind, table, z, n)
        gap[i] = min(dot(n, start), dot(n, end)) - supports[i]


@compiled
def pair_rows(
    a: FloatArray,
    b: FloatArray,
    pairs: IntArray,
    horizon: float,
    gap: FloatArray,
    normal: FloatArray,
) -> None:
    """Gap and separating direction between the axes of each pair of capsules. The radii are not subtracted.

    In every row the least ``normal . x`` of the first axis is larger by ``gap`` (or more, beyond the horizon) than the
    largest of the second.

    Args:
        a: (c, 3) m, base frame, starts of the capsules' axes.
        b: (c, 3) m, base frame, ends.
        pairs: (p, 2), first and second capsule.
        horizon: m, not below 0.
        gap: (p,) output, m.
        normal: (p, 3) output, unit vectors, base frame, from second to first.
    """
    for i in range(pairs.shape[0]):
        j, k = pairs[i, 0], pairs[i, 1]
        a0, b0, a1, b1 = _point(a, j, 0), _point(b, j, 0), _point(a, k, 0), _point(b, k, 0)
        half0, half1 = scaled(minus(b0, a0), 0.5), scaled(minus(b1, a1), 0.5)
        way = minus(along(a0, half0, 1.0), along(a1, half1, 1.0))
        distance = length(way)
        free = distance - length(half0) - length(half1)
        if free > horizon and distance > 0.0:
            gap[i], n = free, scaled(way, 1.0 / distance)
        else:
            gap[i], n = segment_segment(a0, b0, a1, b1, 0.0)
        normal[i, 0], normal[i, 1], normal[i, 2] = n
