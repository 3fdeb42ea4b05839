"""Joint-space limits in one call each."""

from __future__ import annotations

import math

from controllers.types import FloatArray
from safety.kernel.compiled import compiled


@compiled
def position_margin(
    position: FloatArray, velocity: FloatArray, lower: FloatArray, upper: FloatArray, reach_time: float
) -> tuple[float, float]:
    """Slack and margin of joint positions at the end of a stop, rad.

    Args:
        position: (n,) rad.
        velocity: (n,) rad/s.
        lower: (n,) rad.
        upper: (n,) rad.
        reach_time: s.

    Returns:
        Slack, measured against where a joint is that is outside already; smallest distance to the ends of the range.
    """
    slack, margin = math.inf, math.inf
    for i in range(position.shape[0]):
        way = velocity[i] * reach_time
        above, below = upper[i] - position[i], position[i] - lower[i]
        margin = min(margin, above - way, below + way)
        slack = min(slack, max(above, 0.0) - way, max(below, 0.0) + way)
    return (margin if margin >= 0.0 else slack), margin


@compiled
def torque_margin(
    inertia: FloatArray,
    bias: FloatArray,
    velocity: FloatArray,
    previous: FloatArray,
    maximum: FloatArray,
    dt: float,
) -> float:
    """Smallest margin of the torque that a change of velocity takes, N m.

    Args:
        inertia: (n, n) kg m^2.
        bias: (n,) N m.
        velocity: (n,) rad/s.
        previous: (n,) rad/s.
        maximum: (n,) N m.
        dt: s.
    """
    margin = math.inf
    n = bias.shape[0]
    for i in range(n):
        torque = bias[i]
        for j in range(n):
            torque += inertia[i, j] * (velocity[j] - previous[j]) / dt
        margin = min(margin, maximum[i] - abs(torque))
    return margin


@compiled
def change_margins(
    velocity: FloatArray,
    previous_velocity: FloatArray,
    previous_acceleration: FloatArray,
    fastest: FloatArray,
    acceleration: FloatArray,
    jerk: FloatArray,
    dt: float,
) -> tuple[float, float, float]:
    """Smallest margins of velocity, rad/s, acceleration, rad/s^2, and jerk, rad/s^3.

    Args:
        velocity: (n,) rad/s.
        previous_velocity: (n,) rad/s.
        previous_acceleration: (n,) rad/s^2.
        fastest: (n,) rad/s.
        acceleration: (n,) rad/s^2.
        jerk: (n,) rad/s^3.
        dt: s.
    """
    first, second, third = math.inf, math.inf, math.inf
    for i in range(velocity.shape[0]):
        change = (velocity[i] - previous_velocity[i]) / dt
        first = min(first, fastest[i] - abs(velocity[i]))
        second = min(second, acceleration[i] - abs(change))
        third = min(third, jerk[i] - abs(change - previous_acceleration[i]) / dt)
    return first, second, third


@compiled
def turning_growth(velocity: FloatArray, speed_sum: float) -> float:
    """Bound on the end effector's angular acceleration along a straight joint path, rad/s^2.

    Each joint turns the axis of every later one at most at its own rate: the sum of all products of two speeds.

    Args:
        velocity: (n,) rad/s.
        speed_sum: Sum of the joint speeds, rad/s.
    """
    square = 0.0
    for i in range(velocity.shape[0]):
        square += velocity[i] * velocity[i]
    return 0.5 * (speed_sum * speed_sum - square)


@compiled
def reach(
    previous_velocity: FloatArray,
    previous_acceleration: FloatArray,
    acceleration: FloatArray,
    jerk: FloatArray,
    dt: float,
    lower: FloatArray,
    upper: FloatArray,
) -> None:
    """The velocities that accelerations and, where there is a choice, jerks allow in this tick.

    Args:
        previous_velocity: (n,) rad/s.
        previous_acceleration: (n,) rad/s^2.
        acceleration: (n,) rad/s^2.
        jerk: (n,) rad/s^3.
        dt: s.
        lower: (n,) output, rad/s.
        upper: (n,) output, rad/s.
    """
    n = previous_velocity.shape[0]
    inert = True  # no change between accelerations within their limits can exceed the jerk in one tick
    for i in range(n):
        inert = inert and 2.0 * acceleration[i] <= jerk[i] * dt
    for i in range(n):
        change = acceleration[i] * dt
        low, high = previous_velocity[i] - change, previous_velocity[i] + change
        if not inert:
            centre, step = previous_velocity[i] + previous_acceleration[i] * dt, jerk[i] * (dt * dt)
            smooth = min(max(low, centre - step), high)
            low, high = smooth, max(min(high, centre + step), smooth)
        lower[i], upper[i] = low, high


@compiled
def box_share(velocity: FloatArray, lower: FloatArray, upper: FloatArray) -> tuple[float, float]:
    """The shares of a velocity that lie in a box: ``limits.scale_interval`` for a ``VelocityBox``.

    Args:
        velocity: (n,) rad/s.
        lower: (n,) rad/s.
        upper: (n,) rad/s.

    Returns:
        (lowest, highest) in [0, 1], lowest > highest where there is none.
    """
    lowest, highest = 0.0, 1.0
    for i in range(velocity.shape[0]):
        rate, low, high = velocity[i], lower[i], upper[i]
        if low <= 0.0 <= high and low <= rate <= high:
            continue
        if rate > 0.0:
            lowest, highest = max(lowest, low / rate), min(highest, high / rate)
        elif rate < 0.0:
            lowest, highest = max(lowest, high / rate), min(highest, low / rate)
        else:
            return 1.0, 0.0
    return lowest, highest


@compiled
def into_box(target: FloatArray, lower: FloatArray, upper: FloatArray, rounding: float, out: FloatArray) -> bool:
    """The velocity nearest to a target on the way to it from the middle of a box.

    Args:
        target: (n,) rad/s.
        lower: (n,) rad/s.
        upper: (n,) rad/s.
        rounding: Share of the way that is surely inside in spite of rounding.
        out: (n,) output, rad/s.

    Returns:
        Whether the target itself is inside; ``out`` is then a copy of it.
    """
    steepness = 0.0
    for i in range(target.shape[0]):
        way = abs(target[i] - 0.5 * (lower[i] + upper[i]))
        room = 0.5 * (upper[i] - lower[i])
        if way > room:
            steepness = max(steepness, way / room) if room > 0.0 else math.inf
    for i in range(target.shape[0]):
        out[i] = target[i]
        if steepness > 1.0:
            middle = 0.5 * (lower[i] + upper[i])
            out[i] = middle if steepness == math.inf else middle + (target[i] - middle) * (rounding / steepness)
    return steepness <= 1.0


@compiled
def catch_up(
    values: FloatArray,
    start: FloatArray,
    last_asked: FloatArray,
    acceleration: FloatArray,
    dt: float,
    asked: FloatArray,
    path: FloatArray,
) -> float:
    """The velocities that a position command asks for, and that which follows it from behind.

    The second follows the moving command and closes the lag behind it without overshooting: along a straight line, at
    a speed from which half the acceleration still stops in time; the other half is left for what the command does.

    Args:
        values: (n,) rad, commanded.
        start: (n,) rad, where the arm's path stands.
        last_asked: (n,) rad, commanded on the last tick.
        acceleration: (n,) rad/s^2, limits.
        dt: s.
        asked: (n,) output, rad/s.
        path: (n,) output, rad/s.

    Returns:
        Smallest margin of the acceleration that closing the lag in one tick would take, rad/s^2.
    """
    share, margin = 1.0 / dt, math.inf
    for i in range(values.shape[0]):
        distance = abs(last_asked[i] - start[i])
        margin = min(margin, acceleration[i] - distance / (dt * dt))
        if distance > 0.0:
            # v dt + v^2 / (2 a) = distance, over distance, with a = limit / 2
            share = min(share, 2.0 / (dt + math.sqrt(dt * dt + 4.0 * distance / acceleration[i])))
    for i in range(values.shape[0]):
        asked[i] = (values[i] - start[i]) / dt
        path[i] = (values[i] - last_asked[i]) / dt + (last_asked[i] - start[i]) * share
    return margin
