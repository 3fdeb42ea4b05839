"""Forward kinematics and Jacobian of a serial arm by the product of exponentials.

K. M. Lynch, F. C. Park, "Modern Robotics" (2017), 4.1 and 5.1: with all joints at zero each hinge is a line in the base
frame; turning the hinges one after the other, the base's first, carries the later lines and the end effector along. No
link frames are needed, and nothing of this is shared with the safety filter's kinematics, which walks through them.
"""

from __future__ import annotations

import math

from controllers.compiled import compiled
from controllers.types import FloatArray

# Columns of ``screws``, one row for each joint; with all joints at zero, base frame.
AXIS = 0  # 3: unit vector of the axis
ANCHOR = 3  # 3: a point on the axis, m
SCREW_COLUMNS = 6

# Places in ``tool``; with all joints at zero, base frame.
T_POSITION = 0  # 3: end effector, m
T_QUATERNION = 3  # 4: its orientation, wxyz
TOOL_SIZE = 7


@compiled
def place(screws: FloatArray, tool: FloatArray, q: FloatArray, pose: FloatArray, jacobian: FloatArray) -> None:
    """Where the end effector is, and how each joint moves it.

    Args:
        screws: (n, 6), the columns named above.
        tool: (7,), the places named above.
        q: (n,) rad.
        pose: (7,) output, base frame: position, m, then unit quaternion wxyz, w >= 0.
        jacobian: (6, n) output, base frame, linear rows first.
    """
    # What the joints so far have done: p -> R p + (tx, ty, tz), with R given by the quaternion (a, b, c, d).
    a, b, c, d = 1.0, 0.0, 0.0, 0.0
    tx = ty = tz = 0.0
    n = q.shape[0]
    for i in range(n + 1):
        r00, r01, r02 = 1.0 - 2.0 * (c * c + d * d), 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)
        r10, r11, r12 = 2.0 * (b * c + a * d), 1.0 - 2.0 * (b * b + d * d), 2.0 * (c * d - a * b)
        r20, r21, r22 = 2.0 * (b * d - a * c), 2.0 * (c * d + a * b), 1.0 - 2.0 * (b * b + c * c)
        if i > 0:  # joint i - 1 has just turned: the points of its axis are where they were
            u, v, w = screws[i - 1, ANCHOR], screws[i - 1, ANCHOR + 1], screws[i - 1, ANCHOR + 2]
            tx = jacobian[0, i - 1] - (r00 * u + r01 * v + r02 * w)
            ty = jacobian[1, i - 1] - (r10 * u + r11 * v + r12 * w)
            tz = jacobian[2, i - 1] - (r20 * u + r21 * v + r22 * w)
        if i == n:
            u, v, w = tool[T_POSITION], tool[T_POSITION + 1], tool[T_POSITION + 2]
            pose[0] = r00 * u + r01 * v + r02 * w + tx
            pose[1] = r10 * u + r11 * v + r12 * w + ty
            pose[2] = r20 * u + r21 * v + r22 * w + tz
            break
        x, y, z = screws[i, AXIS], screws[i, AXIS + 1], screws[i, AXIS + 2]
        u, v, w = screws[i, ANCHOR], screws[i, ANCHOR + 1], screws[i, ANCHOR + 2]
        jacobian[3, i] = r00 * x + r01 * y + r02 * z
        jacobian[4, i] = r10 * x + r11 * y + r12 * z
        jacobian[5, i] = r20 * x + r21 * y + r22 * z
        jacobian[0, i] = r00 * u + r01 * v + r02 * w + tx  # for now where the axis is; the lever is not known yet
        jacobian[1, i] = r10 * u + r11 * v + r12 * w + ty
        jacobian[2, i] = r20 * u + r21 * v + r22 * w + tz
        s, k = math.sin(0.5 * q[i]), math.cos(0.5 * q[i])
        x, y, z = s * x, s * y, s * z
        a, b, c, d = (
            a * k - b * x - c * y - d * z,
            a * x + b * k + c * z - d * y,
            a * y - b * z + c * k + d * x,
            a * z + b * y - c * x + d * k,
        )
    for i in range(n):
        u, v, w = pose[0] - jacobian[0, i], pose[1] - jacobian[1, i], pose[2] - jacobian[2, i]
        x, y, z = jacobian[3, i], jacobian[4, i], jacobian[5, i]
        jacobian[0, i], jacobian[1, i], jacobian[2, i] = y * w - z * v, z * u - x * w, x * v - y * u
    k, x, y, z = tool[T_QUATERNION], tool[T_QUATERNION + 1], tool[T_QUATERNION + 2], tool[T_QUATERNION + 3]
    a, b, c, d = (
        a * k - b * x - c * y - d * z,
        a * x + b * k + c * z - d * y,
        a * y - b * z + c * k + d * x,
        a * z + b * y - c * x + d * k,
    )
    norm = math.sqrt(a * a + b * b + c * c + d * d)
    if a < 0.0:
        norm = -norm
    pose[3], pose[4], pose[5], pose[6] = a / norm, b / norm, c / norm, d / norm
