"""How far a segment (the axis of a capsule) is from a convex shape, and the plane that keeps them apart.

Each ``segment_*`` function returns ``(gap, normal)``: ``normal`` is a unit vector from the shape to the segment, and

    gap = (least normal . x on the segment) - (largest normal . x on the shape),

computed in just this way at the end. So the half-space with that normal through the shape's support *always* separates
by ``gap``, whatever rounding did to the normal, and ``gap`` is never more than the true distance (nor, if negative,
less deep than a way out along the normal). When the two are apart, the normal is the direction of the shortest
connection, and the gap is the distance. When they meet, it is the best of the directions at which such a pair can
come to touch: exactly the shallowest way out of a box; for cylinders and capsules perhaps a deeper one, but one that
tends to 0 as the pair comes apart.

How: the squared distance of the point ``a + t u`` to a convex shape is convex and once differentiable in t, so its
slope has one change of sign. The slope is piecewise linear (but for the rim of a cylinder), and its few kinks are known
in closed form: narrowing to the kinks on either side and interpolating is exact, also for parallel or short segments.

All functions take finite numbers and return finite numbers, for segments of no length and coincident points, too.
"""

from __future__ import annotations

import math

from safety.kernel.compiled import compiled
from safety.kernel.vector import Vector, along, cross, dot, length, minus, perpendicular, scaled

# Nearer than this, the direction between closest points may be mostly rounding; other directions are tried as well.
TOUCHING = 1e-6
_NOTHING = 1e-12


@compiled
def _narrowed(
    t: float, slope: float, low: float, slope_low: float, high: float, slope_high: float
) -> tuple[float, float, float, float]:
    """Move the bracket's end to ``t``, whose slope says on which side of the minimum it is."""
    if slope < 0.0:
        return t, slope, high, slope_high
    return low, slope_low, t, slope


# --- segments ---


@compiled
def _nearest_on(x: Vector, c: Vector, v: Vector) -> Vector:
    """The point of the segment from ``c`` to ``c + v`` that is nearest to ``x``."""
    square = dot(v, v)
    if square <= 0.0:
        return c
    return along(c, v, min(max(dot(minus(x, c), v) / square, 0.0), 1.0))


@compiled
def _slope_segment(t: float, a: Vector, u: Vector, c: Vector, v: Vector) -> float:
    x = along(a, u, t)
    return dot(minus(x, _nearest_on(x, c, v)), u)


@compiled
def segment_time(a: Vector, u: Vector, c: Vector, v: Vector) -> float:
    """The t in [0, 1] at which ``a + t u`` is nearest to the segment from ``c`` to ``c + v``."""
    low, slope_low = 0.0, _slope_segment(0.0, a, u, c, v)
    if slope_low >= 0.0:
        return 0.0
    high, slope_high = 1.0, _slope_segment(1.0, a, u, c, v)
    if slope_high <= 0.0:
        return 1.0
    rate = dot(u, v)
    if rate != 0.0:
        start = dot(minus(c, a), v)
        for side in range(2):  # kinks: where the nearest point reaches an end of the other segment
            t = (start + side * dot(v, v)) / rate
            if low < t < high:
                slope = _slope_segment(t, a, u, c, v)
                low, slope_low, high, slope_high = _narrowed(t, slope, low, slope_low, high, slope_high)
    return low + (high - low) * (slope_low / (slope_low - slope_high))


@compiled
def _segment_gap(n: Vector, a: Vector, b: Vector, c: Vector, d: Vector) -> float:
    return min(dot(n, a), dot(n, b)) - max(dot(n, c), dot(n, d))


@compiled
def segment_segment(a: Vector, b: Vector, c: Vector, d: Vector, radius: float) -> tuple[float, Vector]:
    """Gap and normal between the segment ab and a capsule with axis cd (a sphere if c is d; a segment if radius is 0).

    Args:
        a: m.
        b: m.
        c: m.
        d: m.
        radius: m.
    """
    u, v = minus(b, a), minus(d, c)
    x = along(a, u, segment_time(a, u, c, v))
    way = minus(x, _nearest_on(x, c, v))
    distance = length(way)
    if distance > TOUCHING:
        best = scaled(way, 1.0 / distance)
        return _segment_gap(best, a, b, c, d) - radius, best

    best = perpendicular(u)
    gap = _segment_gap(best, a, b, c, d)
    normal = perpendicular(v)
    other = _segment_gap(normal, a, b, c, d)
    if other > gap:
        gap, best = other, normal
    if distance > _NOTHING:
        normal = scaled(way, 1.0 / distance)
        other = _segment_gap(normal, a, b, c, d)
        if other > gap:
            gap, best = other, normal
    normal = cross(u, v)
    size = length(normal)
    if size > 1e-8 * length(u) * length(v) and size > _NOTHING:
        for side in range(2):
            candidate = scaled(normal, (1.0 - 2.0 * side) / size)
            other = _segment_gap(candidate, a, b, c, d)
            if other > gap:
                gap, best = other, candidate
    return gap - radius, best


# --- box ---


@compiled
def _excess(x: float, half: float) -> float:
    """How far ``x`` is beyond [-half, half], with sign."""
    return x - half if x > half else (x + half if x < -half else 0.0)


@compiled
def _outside_box(x: Vector, half: Vector) -> Vector:
    return (_excess(x[0], half[0]), _excess(x[1], half[1]), _excess(x[2], half[2]))


@compiled
def box_time(a: Vector, u: Vector, half: Vector) -> float:
    """The t in [0, 1] at which ``a + t u`` is nearest to the box; the first such t if they meet."""
    low, slope_low = 0.0, dot(_outside_box(a, half), u)
    if slope_low >= 0.0:
        return 0.0
    high, slope_high = 1.0, dot(_outside_box(along(a, u, 1.0), half), u)
    if slope_high <= 0.0:
        return 1.0
    for i in range(3):
        if u[i] != 0.0:
            for side in range(2):  # kinks: where the segment crosses the planes of the faces
                t = ((2.0 * side - 1.0) * half[i] - a[i]) / u[i]
                if low < t < high:
                    slope = dot(_outside_box(along(a, u, t), half), u)
                    low, slope_low, high, slope_high = _narrowed(t, slope, low, slope_low, high, slope_high)
    return low + (high - low) * (slope_low / (slope_low - slope_high))


@compiled
def _box_gap(n: Vector, a: Vector, b: Vector, half: Vector) -> float:
    return min(dot(n, a), dot(n, b)) - (abs(n[0]) * half[0] + abs(n[1]) * half[1] + abs(n[2]) * half[2])


@compiled
def segment_box(a: Vector, b: Vector, half: Vector) -> tuple[float, Vector]:
    """Gap and normal between the segment ab and a box, in the box's frame.

    Args:
        a: m.
        b: m.
        half: Half sizes, m.
    """
    u = minus(b, a)
    way = _outside_box(along(a, u, box_time(a, u, half)), half)
    distance = length(way)
    best = (0.0, 0.0, 1.0)
    if distance > TOUCHING:
        best = scaled(way, 1.0 / distance)
        return _box_gap(best, a, b, half), best

    gap = -math.inf
    if distance > _NOTHING:
        best = scaled(way, 1.0 / distance)
        gap = _box_gap(best, a, b, half)
    size = length(u)
    for i in range(3):
        axis = (1.0 if i == 0 else 0.0, 1.0 if i == 1 else 0.0, 1.0 if i == 2 else 0.0)
        edge = cross(axis, u)
        edge_size = length(edge)
        for side in range(2):  # faces of the box, and planes along an edge and the segment
            sign = 1.0 - 2.0 * side
            normal = scaled(axis, sign)
            other = _box_gap(normal, a, b, half)
            if other > gap:
                gap, best = other, normal
            if edge_size > 1e-8 * size and edge_size > _NOTHING:
                normal = scaled(edge, sign / edge_size)
                other = _box_gap(normal, a, b, half)
                if other > gap:
                    gap, best = other, normal
    return gap, best


# --- cylinder: solid, its axis is z ---


@compiled
def _outside_cylinder(x: Vector, radius: float, half: float) -> Vector:
    distance = math.hypot(x[0], x[1])
    share = 1.0 - radius / distance if distance > radius else 0.0
    return (share * x[0], share * x[1], _excess(x[2], half))


@compiled
def cylinder_time(a: Vector, u: Vector, radius: float, half: float) -> float:
    """The t in [0, 1] at which ``a + t u`` is nearest to the cylinder; one such t if they meet."""
    low = 0.0
    if dot(_outside_cylinder(a, radius, half), u) >= 0.0:
        return 0.0
    high = 1.0
    if dot(_outside_cylinder(along(a, u, 1.0), radius, half), u) <= 0.0:
        return 1.0
    # Kinks: where the segment crosses the planes of the ends, and the curved surface.
    square = u[0] * u[0] + u[1] * u[1]
    middle = a[0] * u[0] + a[1] * u[1]
    root = math.sqrt(max(middle * middle - square * (a[0] * a[0] + a[1] * a[1] - radius * radius), 0.0))
    for i in range(4):
        if i < 2:
            t = ((2.0 * i - 1.0) * half - a[2]) / u[2] if u[2] != 0.0 else -1.0
        else:
            t = ((2.0 * i - 5.0) * root - middle) / square if square > 0.0 else -1.0
        if low < t < high:
            if dot(_outside_cylinder(along(a, u, t), radius, half), u) < 0.0:
                low = t
            else:
                high = t
    # Between kinks the slope is smooth: Newton's method, and bisection where that would leave the bracket.
    t = 0.5 * (low + high)
    for step in range(80):
        x = along(a, u, t)
        slope = dot(_outside_cylinder(x, radius, half), u)
        if slope < 0.0:
            low = t
        else:
            high = t
        bend = u[2] * u[2] if abs(x[2]) > half else 0.0
        distance = math.hypot(x[0], x[1])
        if distance > radius:
            radial = (x[0] * u[0] + x[1] * u[1]) / distance
            bend += square * (1.0 - radius / distance) + radial * radial * (radius / distance)
        following = t - slope / bend if bend > 0.0 else 2.0
        if not low < following < high or step > 20:
            following = 0.5 * (low + high)
            if slope == 0.0 or high - low < 1e-16:
                break
        if abs(following - t) <= 1e-17 + 2e-16 * t:
            break
        t = following
    return t


@compiled
def _cylinder_gap(n: Vector, a: Vector, b: Vector, radius: float, half: float) -> float:
    return min(dot(n, a), dot(n, b)) - (radius * math.hypot(n[0], n[1]) + half * abs(n[2]))


@compiled
def _deepest_in_cylinder(a: Vector, u: Vector, radius: float, half: float) -> Vector:
    """The point of the segment that is deepest below the surface, by ``max(radial excess, axial excess)``."""
    low, high = 0.0, 1.0
    for _ in range(52):
        t = 0.5 * (low + high)
        x = along(a, u, t)
        distance = math.hypot(x[0], x[1])
        slope = u[2] if x[2] > 0.0 else -u[2]
        if distance - radius >= abs(x[2]) - half:
            slope = x[0] * u[0] + x[1] * u[1]
        if slope < 0.0:
            low = t
        else:
            high = t
    return along(a, u, 0.5 * (low + high))


@compiled
def segment_cylinder(a: Vector, b: Vector, radius: float, half: float) -> tuple[float, Vector]:
    """Gap and normal between the segment ab and a solid cylinder with flat ends, in the frame with its axis along z.

    Args:
        a: m.
        b: m.
        radius: m.
        half: Half length, m.
    """
    u = minus(b, a)
    way = _outside_cylinder(along(a, u, cylinder_time(a, u, radius, half)), radius, half)
    distance = length(way)
    best = (0.0, 0.0, 1.0)
    if distance > TOUCHING:
        best = scaled(way, 1.0 / distance)
        return _cylinder_gap(best, a, b, radius, half), best

    # The ways in which the two can come to touch: an end of the cylinder; its side with the segment's ends or with
    # its middle; its rim, where the normal is at right angles to the segment, between the end's and the side's.
    gap = -math.inf
    deepest = _deepest_in_cylinder(a, u, radius, half)
    end = (0.0, 0.0, 1.0 if deepest[2] > 0.0 else -1.0)
    side = (deepest[0], deepest[1], 0.0)
    from_axis = length(side)
    rim = end
    if from_axis > _NOTHING:
        side = scaled(side, 1.0 / from_axis)
        x, y = dot(side, u), dot(end, u)
        if x * y < 0.0:
            rim = along(scaled(side, y / (y - x)), end, x / (x - y))
    for i in range(9):
        if i == 0:
            normal = way
        elif i == 1:
            normal = (0.0, 0.0, 1.0)
        elif i == 2:
            normal = (0.0, 0.0, -1.0)
        elif i == 3:
            normal = side
        elif i == 4:
            normal = rim
        elif i == 5:
            normal = (-u[1], u[0], 0.0)
        elif i == 6:
            normal = (u[1], -u[0], 0.0)
        elif i == 7:
            normal = (a[0], a[1], 0.0)
        else:
            normal = (b[0], b[1], 0.0)
        size = length(normal)
        if size > _NOTHING:
            normal = scaled(normal, 1.0 / size)
            other = _cylinder_gap(normal, a, b, radius, half)
            if other > gap:
                gap, best = other, normal
    return gap, best
