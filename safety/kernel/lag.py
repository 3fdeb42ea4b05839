"""What the end effector does while its servos still follow a command, each in its own time."""

from __future__ import annotations

import math

from controllers.types import FloatArray, IntArray
from safety.kernel.chain import geometry
from safety.kernel.compiled import compiled
from safety.kernel.dynamics import LEAST_MOBILITY, cholesky, inertia

# Groups of three rates at each time: linear and angular, then one of energy for each point of the tool.
SPEEDS = 2


@compiled
def blow_rows(jacobian: FloatArray, first: int, lower: FloatArray, out: FloatArray, at: int) -> None:
    """Rows W with ``|W qd|^2`` twice the energy of a blow by a point of the tool: see :func:`dynamics.blow`.

    With the mobility ``J M^-1 J^T = C C^T`` they are ``C^-1 J``: rates in the metric of the mass that is felt there.

    Args:
        jacobian: (m, n), of points, three rows each; m/rad.
        first: First row of the point.
        lower: (n, n), ``cholesky`` of the joint-space inertia.
        out: (r, n) output, sqrt(kg) m/rad; three of its rows are written.
        at: The first of them.
    """
    n = lower.shape[0]
    for c in range(3):  # L^-1 J^T, for now
        for i in range(n):
            rest = jacobian[first + c, i]
            for k in range(i):
                rest -= lower[i, k] * out[at + c, k]
            out[at + c, i] = rest / lower[i, i]
    a = d = f = LEAST_MOBILITY
    b = c = e = 0.0
    for i in range(n):
        a += out[at, i] * out[at, i]
        b += out[at, i] * out[at + 1, i]
        c += out[at, i] * out[at + 2, i]
        d += out[at + 1, i] * out[at + 1, i]
        e += out[at + 1, i] * out[at + 2, i]
        f += out[at + 2, i] * out[at + 2, i]
    aa = math.sqrt(a)
    ba, ca = b / aa, c / aa
    bb = math.sqrt(max(d - ba * ba, LEAST_MOBILITY))
    cb = (e - ca * ba) / bb
    cc = math.sqrt(max(f - ca * ca - cb * cb, LEAST_MOBILITY))
    for i in range(n):
        x = jacobian[first, i] / aa
        y = (jacobian[first + 1, i] - ba * x) / bb
        out[at, i], out[at + 1, i] = x, y
        out[at + 2, i] = (jacobian[first + 2, i] - ca * x - cb * y) / cc


@compiled
def following(
    mass: FloatArray,
    lower: FloatArray,
    jacobian: FloatArray,
    struck: IntArray,
    stiffness: FloatArray,
    drive: FloatArray,
    damping: FloatArray,
    sensed: FloatArray,
    lead: FloatArray,
    ahead: float,
    step: float,
    times: int,
    system: FloatArray,
    state: FloatArray,
    rows: FloatArray,
    out: FloatArray,
) -> None:
    """Rates of the end effector at some moments after a change of the commanded velocity, linear in that velocity.

    Servos obey ``M dqd/dt = stiffness (lead) + drive (v - qd) - damping qd`` with ``dlead/dt = v - qd``. It is followed
    by implicit steps, which are stable for joints of any lightness, for each component of v and for what is there
    already at once: innermost loops run over these columns.

    Args:
        mass: (n, n) kg m^2, M.
        lower: (n, n), its ``cholesky``.
        jacobian: (m, n), three rows a point, the end effector's first and, last, its angular ones.
        struck: (t,) first rows of the points of the tool.
        stiffness: (n,) N m/rad; zero where velocities are commanded.
        drive: (n,) N m s/rad; zero where positions are commanded.
        damping: (n,) N m s/rad, of servo and joint.
        sensed: (n,) rad/s, qd now.
        lead: (n,) rad, of the commanded position over the joints now.
        ahead: s, that a commanded position moves ahead of a steady one: it takes the whole way of a tick at once.
        step: s.
        times: How many steps; each gives a moment.
        system: (n, n) scratch.
        state: (3, n, n + 1) scratch: qd, lead, right-hand side; by each component of v and by what is there already.
        rows: (6 + 3 t, n) scratch.
        out: (times (6 + 3 t), n + 1) output: linear, angular, and a blow's of each point (:func:`blow_rows`); m/rad,
            rad/rad, sqrt(kg) m/rad, each with its rate at rest in the last column, m/s, rad/s, sqrt(J).
    """
    n, last = mass.shape[0], jacobian.shape[0] - 3
    rates, leads, right = state[0], state[1], state[2]
    for c in range(3):
        for j in range(n):
            rows[c, j], rows[3 + c, j] = jacobian[c, j], jacobian[last + c, j]
    for point in range(struck.shape[0]):
        blow_rows(jacobian, struck[point], lower, rows, 6 + 3 * point)
    for i in range(n):
        for j in range(i + 1):
            system[i, j] = mass[i, j]
        system[i, i] += step * (drive[i] + damping[i] + step * stiffness[i])
        for j in range(n + 1):
            rates[i, j] = leads[i, j] = 0.0
        rates[i, n], leads[i, n], leads[i, i] = sensed[i], lead[i], ahead
    cholesky(system, system)
    count = rows.shape[0]
    for time in range(times):
        for i in range(n):
            leads[i, i] += step
            for column in range(n + 1):
                right[i, column] = step * stiffness[i] * leads[i, column]
            right[i, i] += step * drive[i]
            for j in range(n):
                for column in range(n + 1):
                    right[i, column] += mass[i, j] * rates[j, column]
        for i in range(n):
            for k in range(i):
                for column in range(n + 1):
                    right[i, column] -= system[i, k] * right[k, column]
            for column in range(n + 1):
                right[i, column] /= system[i, i]
        for i in range(n - 1, -1, -1):
            for k in range(i + 1, n):
                for column in range(n + 1):
                    right[i, column] -= system[k, i] * right[k, column]
            for column in range(n + 1):
                right[i, column] /= system[i, i]
        for i in range(n):
            for column in range(n + 1):
                rates[i, column] = right[i, column]
                leads[i, column] -= step * right[i, column]
        for row in range(count):
            at = time * count + row
            for column in range(n + 1):
                out[at, column] = 0.0
            for j in range(n):
                for column in range(n + 1):
                    out[at, column] += rows[row, j] * rates[j, column]


@compiled
def following_behind(
    links: FloatArray,
    link: IntArray,
    offset: FloatArray,
    q: FloatArray,
    frames: FloatArray,
    points: FloatArray,
    jacobian: FloatArray,
    mass: FloatArray,
    lower: FloatArray,
    struck: IntArray,
    strongest: FloatArray,
    stiffness: FloatArray,
    drive: FloatArray,
    damping: FloatArray,
    sensed: FloatArray,
    lead: FloatArray,
    ahead: float,
    step: float,
    times: int,
    system: FloatArray,
    state: FloatArray,
    rows: FloatArray,
    out: FloatArray,
) -> None:
    """:func:`following` from where the arm is, in one call.

    Args:
        links: (n, 34), ``Chain.links``.
        link: (t,), ``Points.link`` of the points of the tool, the end effector first.
        offset: (t, 3) m, ``Points.offset``.
        q: (n,) rad.
        frames: (n, 18) scratch.
        points: (t, 3) scratch.
        jacobian: (3 t + 3, n) scratch.
        mass: (n, n) scratch.
        lower: (n, n) scratch, zero above its diagonal.
        struck: (t,) first rows of the points in ``jacobian``.
        strongest: (n,) N m: drives pull no harder. Where joints lag by more than their gains say, the whole lead would
            foretell a speed that no drive gives.
        stiffness: As in :func:`following`, like all that follow.
        drive: (n,).
        damping: (n,).
        sensed: (n,).
        lead: (n,); what the drives cannot pull with is taken off it.
        ahead: s.
        step: s.
        times: How many.
        system: (n, n) scratch.
        state: (3, n, n + 1) scratch.
        rows: (6 + 3 t, n) scratch.
        out: (times (6 + 3 t), n + 1) output.
    """
    geometry(links, link, offset, q, frames, points, jacobian)
    inertia(links, frames, mass)
    cholesky(mass, lower)
    for i in range(q.shape[0]):
        settled = damping[i] * sensed[i]
        pull = min(max(stiffness[i] * lead[i], settled - strongest[i]), settled + strongest[i])
        lead[i] = pull / stiffness[i]
    following(
        mass,
        lower,
        jacobian,
        struck,
        stiffness,
        drive,
        damping,
        sensed,
        lead,
        ahead,
        step,
        times,
        system,
        state,
        rows,
        out,
    )


@compiled
def lag_margin(
    lag: FloatArray, groups: int, velocity: FloatArray, linear: float, angular: float, blow: float
) -> tuple[float, float]:
    """Smallest slack and margin of the end effector's rates on the way to a commanded velocity, as shares.

    Args:
        lag: (times 3 groups, n + 1), of :func:`following`.
        groups: Of rates at each moment.
        velocity: (n,) rad/s.
        linear: m/s, largest speed.
        angular: rad/s, largest speed.
        blow: sqrt(J), largest rate of a blow.

    Returns:
        Slack, measured against what the arm does even if it is told to stand still, where that is too much; margin.
    """
    slack = margin = math.inf
    n = velocity.shape[0]
    for group in range(lag.shape[0] // 3):
        kind = group % groups
        most = linear if kind == 0 else angular if kind == 1 else blow
        whole = still = 0.0
        for row in range(3 * group, 3 * group + 3):
            rest, change = lag[row, n], 0.0
            for j in range(n):
                change += lag[row, j] * velocity[j]
            whole += (rest + change) * (rest + change)
            still += rest * rest
        rate, still = math.sqrt(whole), math.sqrt(still)
        margin = min(margin, 1.0 - rate / most)
        slack = min(slack, (max(most, still) - rate) / most)
    return slack, margin


@compiled
def beyond(
    lag: FloatArray,
    change: FloatArray,
    groups: int,
    linear: float,
    angular: float,
    blow: float,
    which: IntArray,
    most: FloatArray,
) -> int:
    """The groups whose rate is larger on the way to a commanded velocity than it may be.

    Args:
        lag: (3 k, n + 1), of :func:`following`.
        change: (3 k,) its first n columns times the velocity.
        groups: Of rates at each moment.
        linear: m/s, largest speed.
        angular: rad/s, largest speed.
        blow: sqrt(J), largest rate of a blow.
        which: (k,) output, the first of them: numbers of these groups.
        most: (k,) output, the first of them: how large each may be; what it is at rest, where that is more.

    Returns:
        How many there are.
    """
    n, count = lag.shape[1] - 1, 0
    for group in range(change.shape[0] // 3):
        kind = group % groups
        bound = linear if kind == 0 else angular if kind == 1 else blow
        x, y, z = lag[3 * group, n], lag[3 * group + 1, n], lag[3 * group + 2, n]
        u, v, w = x + change[3 * group], y + change[3 * group + 1], z + change[3 * group + 2]
        # The order of each sum is that of numpy's ``einsum``, by which episodes were recorded before.
        bound = max(bound, math.sqrt(x * x + y * y + z * z))
        if math.sqrt(u * u + w * w + v * v) > bound:
            which[count], most[count] = group, bound
            count += 1
    return count
