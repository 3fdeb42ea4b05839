"""One step of differential inverse kinematics, in one call: see :class:`controllers.differential_ik.DifferentialIK`."""

from __future__ import annotations

import math

from controllers.compiled import compiled
from controllers.kernel.least_squares import resolve
from controllers.kernel.screws import place
from controllers.types import FloatArray

# Columns of ``joints``, one row for each joint.
HOME = 0  # rad
LOWER = 1  # position at which motion towards the limit has come to rest, rad
UPPER = 2
ZONE_LOWER = 3  # position from which on the null space pushes away from the limit, rad
ZONE_UPPER = 4
FASTEST = 5  # rad/s
JOINT_COLUMNS = 6

# Places in ``settings``: the options of the controller of the same names.
(
    GAIN,
    MAX_LINEAR_SPEED,
    MAX_ANGULAR_SPEED,
    POSTURE_GAIN,
    POSTURE_SPEED,
    LIMIT_GAIN,
    SINGULAR_VALUE,
    DAMPING,
    STEP_DAMPING,
    NULL_DAMPING,
    CHARACTERISTIC_LENGTH,
    SETTINGS,
) = range(12)

# Kinds of target.
POSE = 0
TWIST = 1  # given in the base frame
OWN_TWIST = 2  # given in the end effector's frame

# Places in ``asked``.
A_TWIST = 0  # 6: m/s, rad/s
A_POSE = 6  # 7: m, wxyz; of a pose target
ASKED_SIZE = 13

_SMALL_ANGLE = 1e-8


@compiled
def discrete_gain(gain: float, dt: float) -> float:
    """As :func:`controllers.targets.discrete_gain`."""
    return -math.expm1(-gain * dt) / dt


@compiled
def desired(kind: int, asked: FloatArray, pose: FloatArray, settings: FloatArray, dt: float, twist: FloatArray) -> None:
    """The twist that follows a target: as :func:`controllers.targets.desired_twist`.

    Args:
        kind: Of the target, one of those named above.
        asked: (13,), the places named above.
        pose: (7,) of the end effector, of :func:`screws.place`.
        settings: (11,), the places named above.
        dt: s.
        twist: (6,) output, base frame, m/s, rad/s.
    """
    w, x, y, z = pose[3], pose[4], pose[5], pose[6]
    if kind == POSE:
        gain = discrete_gain(settings[GAIN], dt)
        a, b, c, d = asked[A_POSE + 3], asked[A_POSE + 4], asked[A_POSE + 5], asked[A_POSE + 6]
        # target times inverse pose, and its logarithm, the shortest way
        real = a * w + b * x + c * y + d * z
        i = -a * x + b * w - c * z + d * y
        j = -a * y + b * z + c * w - d * x
        k = -a * z - b * y + c * x + d * w
        sine = math.sqrt(i * i + j * j + k * k)
        if sine < _SMALL_ANGLE:
            scale = 2.0 / real
        elif real >= 0.0:
            scale = 2.0 * math.atan2(sine, real) / sine
        else:
            scale = -2.0 * math.atan2(sine, -real) / sine
        twist[3], twist[4], twist[5] = i * scale, j * scale, k * scale
        for row in range(3):
            twist[row] = asked[A_POSE + row] - pose[row]
        for row in range(6):
            twist[row] = gain * twist[row] + (1.0 - gain * dt) * asked[A_TWIST + row]
    else:
        for row in range(6):
            twist[row] = asked[A_TWIST + row]
        if kind == OWN_TWIST:
            for row in range(0, 6, 3):
                u, v, t = twist[row], twist[row + 1], twist[row + 2]
                i, j, k = 2.0 * (y * t - z * v), 2.0 * (z * u - x * t), 2.0 * (x * v - y * u)
                twist[row] = u + w * i + y * k - z * j
                twist[row + 1] = v + w * j + z * i - x * k
                twist[row + 2] = t + w * k + x * j - y * i
    linear = math.sqrt(twist[0] * twist[0] + twist[1] * twist[1] + twist[2] * twist[2])
    angular = math.sqrt(twist[3] * twist[3] + twist[4] * twist[4] + twist[5] * twist[5])
    scale = max(1.0, max(linear / settings[MAX_LINEAR_SPEED], angular / settings[MAX_ANGULAR_SPEED]))
    for row in range(6):
        twist[row] /= scale


@compiled
def posture_velocity(joints: FloatArray, settings: FloatArray, q: FloatArray, out: FloatArray) -> None:
    """Secondary joint velocity: towards home, and away from joint limits that are near.

    Args:
        joints: (n, 6), the columns named above.
        settings: (11,), the places named above.
        q: (n,) rad.
        out: (n,) output, rad/s.
    """
    largest = 0.0
    for i in range(q.shape[0]):
        inward = min(max(q[i], joints[i, ZONE_LOWER]), joints[i, ZONE_UPPER]) - q[i]
        out[i] = settings[POSTURE_GAIN] * (joints[i, HOME] - q[i]) + settings[LIMIT_GAIN] * inward
        largest = max(largest, abs(out[i]))
    scale = max(1.0, largest / settings[POSTURE_SPEED])
    for i in range(q.shape[0]):
        out[i] /= scale


@compiled
def _most_beyond(
    joints: FloatArray, q: FloatArray, solution: FloatArray, gain: float, free: FloatArray
) -> tuple[int, float]:
    """The free joint that passes its bound by most, -1 if none does, and that bound, rad/s."""
    worst, bound, most = -1, 0.0, 0.0
    for i in range(q.shape[0]):
        lower, upper = (joints[i, LOWER] - q[i]) * gain, (joints[i, UPPER] - q[i]) * gain
        excess = max(solution[i] - upper, lower - solution[i])
        if free[i] != 0.0 and excess > most:
            worst, most = i, excess
            bound = upper if solution[i] > upper else lower
    return worst, bound


@compiled
def follow(
    screws: FloatArray,
    tool: FloatArray,
    joints: FloatArray,
    settings: FloatArray,
    kind: int,
    asked: FloatArray,
    q: FloatArray,
    dt: float,
    sevens: FloatArray,
    squares: FloatArray,
    jacobians: FloatArray,
    rows: FloatArray,
    velocity: FloatArray,
    values: FloatArray,
) -> None:
    """Joint velocity that follows a Cartesian target, and where it leads.

    Args:
        screws: (n, 6), of :func:`screws.place`.
        tool: (7,), of :func:`screws.place`.
        joints: (n, 6), the columns named above.
        settings: (11,), the places named above.
        kind: Of the target, one of those named above.
        asked: (13,), the places named above.
        q: (n,) rad.
        dt: s.
        sevens: (4, 7) scratch; like the three next it is overwritten before it is read.
        squares: (2, 6, 6) scratch.
        jacobians: (2, 6, n) scratch.
        rows: (4, n) scratch.
        velocity: (n,) output, rad/s.
        values: (n,) output, rad, after ``dt``.
    """
    n = q.shape[0]
    pose, task, rest, right = sevens[0], sevens[1], sevens[2], sevens[3]
    gram, factor = squares[0], squares[1]
    jacobian, reduced = jacobians[0], jacobians[1]
    posture, leaning, free, fixed = rows[0], rows[1], rows[2], rows[3]

    place(screws, tool, q, pose, jacobian)
    desired(kind, asked, pose, settings, dt, task)
    step = 0.0
    for i in range(6):
        if i >= 3:  # an angle counts as the way that it makes on a lever
            task[i] *= settings[CHARACTERISTIC_LENGTH]
            for j in range(n):
                jacobian[i, j] *= settings[CHARACTERISTIC_LENGTH]
        step += task[i] * task[i]
    threshold = settings[SINGULAR_VALUE] * settings[SINGULAR_VALUE]
    damping = settings[DAMPING] * settings[DAMPING] + settings[STEP_DAMPING] * dt * math.sqrt(step)
    null_damping = settings[NULL_DAMPING] * settings[NULL_DAMPING]
    posture_velocity(joints, settings, q, posture)
    for j in range(n):
        free[j], fixed[j] = 1.0, 0.0

    # Joints that would pass their bounds are fixed there, one by one: see :func:`controllers.redundancy.saturate`.
    limit_gain = discrete_gain(settings[LIMIT_GAIN], dt)
    for _ in range(n + 1):
        for i in range(6):
            rest[i] = task[i]
            for j in range(n):
                rest[i] -= jacobian[i, j] * fixed[j]
                reduced[i, j] = jacobian[i, j] * free[j]
        for j in range(n):
            leaning[j] = posture[j] * free[j]
        resolve(reduced, rest, leaning, threshold, damping, null_damping, gram, factor, right, velocity)
        for j in range(n):
            velocity[j] += fixed[j]
        worst, bound = _most_beyond(joints, q, velocity, limit_gain, free)
        if worst < 0:
            break
        free[worst], fixed[worst] = 0.0, bound

    scale = 1.0
    for j in range(n):
        scale = max(scale, abs(velocity[j]) / joints[j, FASTEST])
    for j in range(n):
        velocity[j] /= scale
        values[j] = q[j] + velocity[j] * dt
