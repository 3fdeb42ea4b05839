"""From a profile's keep-outs to the table that the kernel computes with."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.kernel.zones import BOX, CAPSULE, CYLINDER, HALF_SPACE, SPHERE, Zones, zone, zones
from safety.profile import BoxZone, CapsuleZone, CylinderZone, HalfSpaceZone, KeepOut, SphereZone


def zone_table(keep_outs: tuple[KeepOut, ...]) -> Zones:
    """The zones in the order of the profile."""
    return zones([_row(keep_out) for keep_out in keep_outs])


def _row(keep_out: KeepOut) -> tuple[int, FloatArray]:
    match keep_out:
        case BoxZone():
            return zone(BOX, keep_out.centre_m, _rotation(*keep_out.quaternion), keep_out.half_size_m)
        case SphereZone():
            return zone(SPHERE, keep_out.centre_m, np.eye(3), (keep_out.radius_m, 0.0, 0.0))
        case HalfSpaceZone():
            normal = np.array(keep_out.normal)
            return zone(HALF_SPACE, normal * keep_out.offset_m, _frame(normal), (0.0, 0.0, 0.0))
        case CapsuleZone() | CylinderZone():
            start, end = np.array(keep_out.start_m), np.array(keep_out.end_m)
            length = float(np.linalg.norm(end - start))
            kind = CAPSULE if isinstance(keep_out, CapsuleZone) else CYLINDER
            size = (keep_out.radius_m, 0.5 * length, 0.0)
            return zone(kind, 0.5 * (start + end), _frame((end - start) / length), size)


def _rotation(w: float, x: float, y: float, z: float) -> FloatArray:
    """Rotation (3, 3) of a unit quaternion."""
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )


def _frame(axis: FloatArray) -> FloatArray:
    """Some rotation (3, 3) whose z axis is the unit vector ``axis``."""
    other = np.eye(3)[int(np.abs(axis).argmin())]
    across = _cross(other, axis)
    x: FloatArray = across / float(np.linalg.norm(across))
    return np.stack((x, _cross(axis, x), axis), axis=1)


def _cross(a: FloatArray, b: FloatArray) -> FloatArray:
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
