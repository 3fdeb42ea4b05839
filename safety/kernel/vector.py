"""Vectors of three numbers as tuples: in compiled code they live in registers and cost no allocation."""

from __future__ import annotations

import math

from safety.kernel.compiled import compiled

type Vector = tuple[float, float, float]


@compiled
def dot(a: Vector, b: Vector) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@compiled
def cross(a: Vector, b: Vector) -> Vector:
    """Vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@compiled
def minus(a: Vector, b: Vector) -> Vector:
    """Difference ``a - b``."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


@compiled
def along(a: Vector, u: Vector, t: float) -> Vector:
    """``a + t u``."""
    return (a[0] + t * u[0], a[1] + t * u[1], a[2] + t * u[2])


@compiled
def scaled(a: Vector, factor: float) -> Vector:
    """``factor a``."""
    return (a[0] * factor, a[1] * factor, a[2] * factor)


@compiled
def length(a: Vector) -> float:
    """Euclidean norm."""
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


@compiled
def perpendicular(u: Vector) -> Vector:
    """A unit vector at right angles to ``u``; to any direction's unit vector if ``u`` is (almost) zero."""
    x, y, z = abs(u[0]), abs(u[1]), abs(u[2])
    if x <= y and x <= z:  # crossed with the axis that u has least of: never ill-conditioned
        v = (0.0, -u[2], u[1])
    elif y <= z:
        v = (u[2], 0.0, -u[0])
    else:
        v = (-u[1], u[0], 0.0)
    size = length(v)
    if size < 1e-12:
        return (0.0, 0.0, 1.0)
    return scaled(v, 1.0 / size)
