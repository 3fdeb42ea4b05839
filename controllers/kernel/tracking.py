"""One step of the Cartesian reference, in one call: see :func:`controllers.reference.track`.

Vectors come and go as tuples of Python floats: at three or four values each they are cheaper to hand over than arrays.
The arithmetic is that of :mod:`controllers.reference` and :mod:`controllers.spatial`, operation by operation; a test
holds them together, bit for bit.
"""

from __future__ import annotations

import math

from controllers.compiled import compiled
from controllers.types import FloatArray

Floats = tuple[float, ...]  # of three values, where handed in
Triple = tuple[float, float, float]
Quadruple = tuple[float, float, float, float]

_SMALL_ANGLE = 1e-8


@compiled
def square(v: Floats) -> float:
    """Squared norm, with the compensation of rounding errors that Python's ``sum`` of floats has."""
    total, lost = v[0] * v[0], 0.0
    for i in range(1, 3):
        more = v[i] * v[i]
        after = total + more
        lost += (total - after) + more if total >= more else (more - after) + total
        total = after
    return total + lost if math.isfinite(lost) else total


@compiled
def bounded(
    velocity: Floats,
    acceleration: Floats,
    wanted: Floats,
    max_speed: float,
    max_acceleration: float,
    max_jerk: float,
    dt: float,
) -> tuple[Triple, Triple]:
    """As :func:`controllers.reference.bounded_step`, for three values."""
    u, v, w = velocity
    a, b, c = acceleration
    largest = math.sqrt(square(wanted))
    share = 1.0 if largest <= max_acceleration else max_acceleration / largest
    da, db, dc = share * wanted[0] - a, share * wanted[1] - b, share * wanted[2] - c
    largest, step = math.sqrt(square((da, db, dc))), max_jerk * dt
    if largest > step:
        da, db, dc = da * (step / largest), db * (step / largest), dc * (step / largest)
    after = (a + da, b + db, c + dc)
    size = math.sqrt(square(acceleration))
    left = 1.0 - step / size if size > step else 0.0
    back = (a * left, b * left, c * left)
    ceiling = max_speed * max_speed
    moved = tried = after
    for quarters in range(5, -1, -1):
        if quarters == 0:
            tried = back
        elif quarters < 5:
            part = 0.25 * quarters
            x, y, z = after[0] - back[0], after[1] - back[1], after[2] - back[2]
            tried = (back[0] + part * x, back[1] + part * y, back[2] + part * z)
        moved = (u + tried[0] * dt, v + tried[1] * dt, w + tried[2] * dt)
        size = math.sqrt(square(tried))
        if quarters == 0:
            break
        if quarters == 5:  # the triangle inequality settles nearly every step
            if math.sqrt(square(moved)) + size * size / (2.0 * max_jerk) <= max_speed:
                break
            continue
        time = size / (2.0 * max_jerk)
        end = (moved[0] + tried[0] * time, moved[1] + tried[1] * time, moved[2] + tried[2] * time)
        if square(end) <= ceiling and square(moved) <= ceiling:
            break
    return moved, tried


@compiled
def multiply(p: Quadruple, q: Quadruple) -> Quadruple:
    """As :func:`controllers.spatial.quaternion_multiply`."""
    a, b, c, d = p
    w, x, y, z = q
    return (
        a * w - b * x - c * y - d * z,
        a * x + b * w + c * z - d * y,
        a * y - b * z + c * w + d * x,
        a * z + b * y - c * x + d * w,
    )


@compiled
def turned(quaternion: Quadruple, turn: Triple) -> Quadruple:
    """As :func:`controllers.spatial.rotate_by_vector`; NaN where that raises.

    Args:
        quaternion: Orientation, wxyz.
        turn: Rotation vector, rad, base frame.
    """
    x, y, z = turn
    angle = math.sqrt(x * x + y * y + z * z)
    scale = 0.5 - angle * angle / 48.0 if angle < _SMALL_ANGLE else math.sin(0.5 * angle) / angle
    w, x, y, z = multiply((math.cos(0.5 * angle), x * scale, y * scale, z * scale), quaternion)
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if not (norm > 0.0 and math.isfinite(norm)):
        norm = math.nan
    if w < 0.0:
        norm = -norm
    return w / norm, x / norm, y / norm, z / norm


@compiled
def turned_along(quaternion: Quadruple, turns: FloatArray, out: FloatArray) -> None:
    """An orientation that is turned by one rotation vector after the other, each as by :func:`turned`.

    Args:
        quaternion: Orientation at the start, wxyz.
        turns: (k, 3) rad, base frame; no turn where all three are zero.
        out: (k, 4) output, the orientation after each turn.
    """
    for i in range(turns.shape[0]):
        x, y, z = turns[i, 0], turns[i, 1], turns[i, 2]
        if x != 0.0 or y != 0.0 or z != 0.0:
            quaternion = turned(quaternion, (x, y, z))
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = quaternion


@compiled
def shifted(
    position: Floats,
    velocity: Floats,
    acceleration: Floats,
    goal: Floats,
    goal_velocity: Floats,
    bandwidth: float,
    max_speed: float,
    max_acceleration: float,
    max_jerk: float,
    dt: float,
) -> tuple[Triple, Triple, Triple]:
    """A position that is led to a goal for one step.

    Args:
        position: m.
        velocity: m/s.
        acceleration: m/s^2, of the last step.
        goal: m, at the end of the step.
        goal_velocity: m/s.
        bandwidth: rad/s, and the next three: see :class:`controllers.reference.TrackerOptions`.
        max_speed: m/s.
        max_acceleration: m/s^2.
        max_jerk: m/s^3.
        dt: s.

    Returns:
        Position, velocity and acceleration after the step.
    """
    stiffness, damping = bandwidth * bandwidth, 2.0 * bandwidth
    x, y, z = position
    u, v, w = velocity
    gx, gy, gz = goal
    gu, gv, gw = goal_velocity
    push = (
        stiffness * (gx - gu * dt - x) + damping * (gu - u),
        stiffness * (gy - gv * dt - y) + damping * (gv - v),
        stiffness * (gz - gw * dt - z) + damping * (gw - w),
    )
    after, change = bounded(velocity, acceleration, push, max_speed, max_acceleration, max_jerk, dt)
    u, v, w = after
    return (x + u * dt, y + v * dt, z + w * dt), after, change


@compiled
def swung(
    quaternion: Quadruple,
    rate: Floats,
    acceleration: Floats,
    goal: Quadruple,
    goal_rate: Floats,
    bandwidth: float,
    max_speed: float,
    max_acceleration: float,
    max_jerk: float,
    dt: float,
) -> tuple[Quadruple, Triple, Triple]:
    """An orientation that is led to a goal for one step, in the tangent space of SO(3).

    Args:
        quaternion: wxyz.
        rate: rad/s, base frame.
        acceleration: rad/s^2, of the last step.
        goal: wxyz, at the end of the step.
        goal_rate: rad/s.
        bandwidth: rad/s, and the next three: see :class:`controllers.reference.TrackerOptions`.
        max_speed: rad/s.
        max_acceleration: rad/s^2.
        max_jerk: rad/s^3.
        dt: s.

    Returns:
        Orientation (NaN if it is lost), rate and acceleration after the step.
    """
    stiffness, damping = bandwidth * bandwidth, 2.0 * bandwidth
    w, x, y, z = multiply(goal, (quaternion[0], -quaternion[1], -quaternion[2], -quaternion[3]))
    sine = math.sqrt(x * x + y * y + z * z)  # the logarithm, the shortest way
    if sine < _SMALL_ANGLE:
        scale = 2.0 / w
    else:
        angle = 2.0 * math.atan2(sine, w) if w >= 0.0 else -2.0 * math.atan2(sine, -w)
        scale = angle / sine
    u, v, t = goal_rate
    push = (
        stiffness * (x * scale - u * dt) + damping * (u - rate[0]),
        stiffness * (y * scale - v * dt) + damping * (v - rate[1]),
        stiffness * (z * scale - t * dt) + damping * (t - rate[2]),
    )
    after, change = bounded(rate, acceleration, push, max_speed, max_acceleration, max_jerk, dt)
    return turned(quaternion, (after[0] * dt, after[1] * dt, after[2] * dt)), after, change
