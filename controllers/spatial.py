"""Rotations and rigid poses: unit quaternions (w, x, y, z), rotation vectors (axis times angle, rad), poses.

Arguments and results are small numpy arrays; the arithmetic runs on Python floats, which at these sizes is several
times faster than numpy calls and keeps a control tick short.

Formulas: J. Solà, J. Deray, D. Atchuthan, "A micro Lie theory for state estimation in robotics" (2018), app. B.
"""

from __future__ import annotations

import math

import numpy as np

from controllers.types import FloatArray, Pose

_SMALL_ANGLE = 1e-8

IDENTITY_QUATERNION: FloatArray = np.array([1.0, 0.0, 0.0, 0.0])
IDENTITY_QUATERNION.flags.writeable = False


def _readonly(*values: float) -> FloatArray:
    array = np.array(values)
    array.flags.writeable = False
    return array


def quaternion_multiply(a: FloatArray, b: FloatArray) -> FloatArray:
    """Hamilton product: the rotation ``b`` followed by ``a``. Shapes (4,), (4,) -> (4,)."""
    aw, ax, ay, az = a.tolist()
    bw, bx, by, bz = b.tolist()
    return _readonly(
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def quaternion_conjugate(q: FloatArray) -> FloatArray:
    """Inverse rotation of a unit quaternion (4,)."""
    w, x, y, z = q.tolist()
    return _readonly(w, -x, -y, -z)


def quaternion_normalize(q: FloatArray) -> FloatArray:
    """Unit quaternion with w >= 0 (4,).

    Raises:
        ValueError: The norm is zero or not finite.
    """
    w, x, y, z = q.tolist()
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not (norm > 0.0 and math.isfinite(norm)):
        raise ValueError(f"expected a quaternion of finite, non-zero norm, found {q}")
    if w < 0.0:
        norm = -norm
    return _readonly(w / norm, x / norm, y / norm, z / norm)


def rotate(q: FloatArray, v: FloatArray) -> FloatArray:
    """Rotate vector ``v`` (3,) by unit quaternion ``q`` (4,)."""
    w, x, y, z = q.tolist()
    vx, vy, vz = v.tolist()
    tx = 2.0 * (y * vz - z * vy)
    ty = 2.0 * (z * vx - x * vz)
    tz = 2.0 * (x * vy - y * vx)
    return _readonly(
        vx + w * tx + y * tz - z * ty,
        vy + w * ty + z * tx - x * tz,
        vz + w * tz + x * ty - y * tx,
    )


def quaternion_from_rotation_vector(r: FloatArray) -> FloatArray:
    """Exponential map so(3) -> SO(3): rotation vector (3,) rad to unit quaternion (4,)."""
    x, y, z = r.tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 - angle * angle / 48.0 if angle < _SMALL_ANGLE else math.sin(0.5 * angle) / angle
    return _readonly(math.cos(0.5 * angle), x * scale, y * scale, z * scale)


def rotation_vector_from_quaternion(q: FloatArray) -> FloatArray:
    """Logarithm SO(3) -> so(3), shortest way: unit quaternion (4,) to rotation vector (3,) of norm <= pi."""
    w, x, y, z = q.tolist()
    sine = math.sqrt(x * x + y * y + z * z)
    if sine < _SMALL_ANGLE:
        scale = 2.0 / w
    else:
        angle = 2.0 * math.atan2(sine, w) if w >= 0.0 else -2.0 * math.atan2(sine, -w)
        scale = angle / sine
    return _readonly(x * scale, y * scale, z * scale)


def rotation_difference(q_to: FloatArray, q_from: FloatArray) -> FloatArray:
    """Rotation vector (3,) in the base frame that takes ``q_from`` to ``q_to``: log(q_to * q_from^-1)."""
    return rotation_vector_from_quaternion(quaternion_multiply(q_to, quaternion_conjugate(q_from)))


def rotate_by_vector(q: FloatArray, r: FloatArray) -> FloatArray:
    """Turn orientation ``q`` by base-frame rotation vector ``r``: exp(r) * q, normalized."""
    return quaternion_normalize(quaternion_multiply(quaternion_from_rotation_vector(r), q))


def slerp(q0: FloatArray, q1: FloatArray, fraction: float) -> FloatArray:
    """Constant-rate interpolation from ``q0`` (0) to ``q1`` (1) along the shortest arc."""
    return rotate_by_vector(q0, rotation_difference(q1, q0) * fraction)


def compose(a: Pose, b: Pose) -> Pose:
    """Pose product a * b: a point in b's frame expressed in a's parent."""
    position = a.position + rotate(a.quaternion, b.position)
    position.flags.writeable = False
    return Pose(position, quaternion_multiply(a.quaternion, b.quaternion))


def inverse(pose: Pose) -> Pose:
    """Inverse pose: compose(pose, inverse(pose)) is the identity."""
    conjugate = quaternion_conjugate(pose.quaternion)
    return Pose(rotate(conjugate, -pose.position), conjugate)


def pose_error(target: Pose, current: Pose) -> FloatArray:
    """Base-frame error (6,): position difference m, then rotation vector rad that takes current to target."""
    error = np.empty(6)
    error[:3] = target.position - current.position
    error[3:] = rotation_difference(target.quaternion, current.quaternion)
    return error


def rotation_matrix(q: FloatArray) -> FloatArray:
    """Rotation matrix (3, 3) of a unit quaternion (4,)."""
    w, x, y, z = q.tolist()
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
