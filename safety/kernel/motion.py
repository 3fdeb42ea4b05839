"""What limits need to know about a proposed motion, in one call."""

from __future__ import annotations

from controllers.types import FloatArray, IntArray
from safety.kernel.chain import forward_along, point_positions
from safety.kernel.compiled import compiled


@compiled
def propose(
    links: FloatArray,
    link: IntArray,
    offset: FloatArray,
    q: FloatArray,
    velocity: FloatArray,
    acceleration: FloatArray,
    curvature: FloatArray,
    jacobian: FloatArray,
    deceleration_fraction: float,
    dt: float,
    frames: FloatArray,
    rates: FloatArray,
    points: FloatArray,
) -> tuple[float, float, float, float, float]:
    """Lay out a tick at ``velocity`` and the straight-line stop after it.

    Args:
        links: (n, 34), ``Chain.links``.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        q: (n,) rad, start.
        velocity: (n,) rad/s.
        acceleration: (n,) rad/s^2, limits.
        curvature: (n, n) m/rad^2, bound on second derivatives of the points.
        jacobian: (m, n) at the start.
        deceleration_fraction: Of the acceleration, used by the stop.
        dt: s.
        frames: (n, 18) scratch.
        rates: (m,) output, jacobian times velocity.
        points: (2, k, 3) output, m: half-way and at the end.

    Returns:
        Time from full velocity to rest, s; way made in tick and stop divided by the velocity, s; sum of the joint
        speeds, rad/s; bound on the points' acceleration, m/s^2; how far a point may be off its curve, m.
    """
    n = q.shape[0]
    stop_time, speed_sum, bend = 0.0, 0.0, 0.0
    for i in range(n):
        speed = abs(velocity[i])
        speed_sum += speed
        stop_time = max(stop_time, speed / acceleration[i])
        for j in range(n):
            bend += speed * curvature[i, j] * abs(velocity[j])
    stop_time /= deceleration_fraction
    reach_time = dt + 0.5 * stop_time
    for row in range(jacobian.shape[0]):
        rate = 0.0
        for j in range(n):
            rate += jacobian[row, j] * velocity[j]
        rates[row] = rate
    for i in range(2):
        forward_along(links, q, velocity, 0.5 * (i + 1) * reach_time, frames)
        point_positions(frames, link, offset, points[i])
    square = reach_time * reach_time
    return stop_time, reach_time, speed_sum, bend, bend * speed_sum * speed_sum * square * square / 48.0
