"""Every limit's verdict on one proposed motion, in one call.

The limits of ``safety/limits`` say what is limited and explain themselves; this says the same of all of them at once,
with the same arithmetic in the same order. A test holds the two together, bit for bit.
"""

from __future__ import annotations

import math

from controllers.types import FloatArray, IntArray
from safety.kernel.compiled import compiled
from safety.kernel.contact import along, pressing
from safety.kernel.dynamics import blow
from safety.kernel.joints import change_margins, position_margin, torque_margin, turning_growth
from safety.kernel.lag import lag_margin
from safety.kernel.motion import propose
from safety.kernel.rows import judge_rows

# Slots of verdicts.
VELOCITY, ACCELERATION, JERK, POSITION, TORQUE, BOX, LINEAR, ANGULAR, ENERGY, LEAD, CONTACT, SELF, LAG = range(13)
KEEP_OUT, POLYTOPE, CONE, SLOTS = 13, 14, 15, 16

# Rows of ``joints``.
FASTEST, SUDDEN, JERKY, BRAKE, LOWER, UPPER, STRONGEST, JOINT_ROWS = range(8)

# Columns of ``settings``, one row for each slot.
USED = 0  # 1.0 where the profile has this limit, else 0.0
SCALE = 1  # the margin that counts as 1
MAXIMUM = 2  # of the limit, in its unit
MORE = 3  # standoff of rows, in m; the cone's lever, in m; the servo lag's angular speed, in rad/s
SETTINGS = 4


@compiled
def _peak(rates: FloatArray, first: int, growth: float, dt: float, stop_time: float) -> float:
    """The highest speed through tick and stop: see ``EndEffectorLinearSpeedLimit``."""
    x, y, z = rates[first], rates[first + 1], rates[first + 2]
    start = math.sqrt(x * x + y * y + z * z) + growth * dt
    gain = growth * stop_time
    return start if gain <= start else (start + gain) * (start + gain) / (4.0 * gain)


@compiled
def judge(
    links: FloatArray,
    link: IntArray,
    offset: FloatArray,
    curvature: FloatArray,
    frames: FloatArray,
    joints: FloatArray,
    settings: FloatArray,
    allowed: float,
    struck: IntArray,
    mobility: FloatArray,
    box_normals: FloatArray,
    box_first: IntArray,
    box_second: IntArray,
    box_offsets: FloatArray,
    pair_normals: FloatArray,
    pair_first: IntArray,
    pair_second: IntArray,
    pair_offsets: FloatArray,
    zone_normals: FloatArray,
    zone_first: IntArray,
    zone_second: IntArray,
    zone_offsets: FloatArray,
    facet_normals: FloatArray,
    facet_first: IntArray,
    facet_second: IntArray,
    facet_offsets: FloatArray,
    cone_normals: FloatArray,
    cone_first: IntArray,
    cone_second: IntArray,
    cone_offsets: FloatArray,
    position: FloatArray,
    previous_velocity: FloatArray,
    previous_acceleration: FloatArray,
    points: FloatArray,
    jacobian: FloatArray,
    mass: FloatArray,
    factor: FloatArray,
    bias: FloatArray,
    into: FloatArray,
    lag: FloatArray,
    groups: int,
    strongest: float,
    lead: FloatArray,
    press: FloatArray,
    rates: FloatArray,
    swept: FloatArray,
    layout: FloatArray,
    margins: FloatArray,
    force_size: float,
    lead_force: float,
    dt: float,
    velocity: FloatArray,
    deceleration_fraction: float,
    gentle: bool,
    jerky: bool,
    every: bool,
) -> tuple[int, float, float]:
    """Judge a tick at ``velocity`` and the stop after it.

    Args:
        links: (n, 34), ``Chain.links``.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        curvature: (n, n) m/rad^2, bound on second derivatives of the points.
        frames: (n, 18) scratch.
        joints: (7, n), the rows named above: rad/s, rad/s^2, rad/s^3, rad/s^2 of the stop, rad, rad, N m.
        settings: (16, 4), the columns named above.
        allowed: m/s, into a contact; infinite where none is felt.
        struck: (t,) first rows of the points whose blows count.
        mobility: (3, n) scratch.
        box_normals: (b, 3) and the three next: rows of the workspace, of :class:`rows.Rows`.
        box_first: (b,).
        box_second: (b,).
        box_offsets: (b,) m.
        pair_normals: (s, 3) and the three next: rows that part the hull from itself.
        pair_first: (s,).
        pair_second: (s,).
        pair_offsets: (s,) m.
        zone_normals: (z, 3) and the three next: rows that part the hull from zones.
        zone_first: (z,).
        zone_second: (z,).
        zone_offsets: (z,) m.
        facet_normals: (f, 3) and the three next: rows of the polytopes.
        facet_first: (f,).
        facet_second: (f,).
        facet_offsets: (f,) m.
        cone_normals: (c, 3) and the three next: rows of the cone.
        cone_first: (c,).
        cone_second: (c,).
        cone_offsets: (c,) m.
        position: (n,) rad.
        previous_velocity: (n,) rad/s.
        previous_acceleration: (n,) rad/s^2.
        points: (k, 3) m at ``position``.
        jacobian: (3 k + 3, n) at ``position``.
        mass: (n, n) kg m^2.
        factor: (n, n), its Cholesky factor.
        bias: (n,) N m.
        into: (n,) m/rad, of :func:`contact.line_of_push`.
        lag: (r, n + 1), of :func:`lag.lag_margin`; no rows where nothing lags.
        groups: Of its rates at each moment.
        strongest: sqrt(J), largest rate of a blow.
        lead: (n,) rad, of the servos.
        press: (3, n) N/rad.
        rates: (3 k + 3,) output, of :func:`motion.propose`.
        swept: (2, k, 3) output, m, of :func:`motion.propose`.
        layout: (5,) output: what :func:`motion.propose` returns.
        margins: (16,) output: margin of each limit, in its unit.
        force_size: N, measured on the tool.
        lead_force: N, of the present lead; negative where positions are not commanded.
        dt: s.
        velocity: (n,) rad/s, proposed.
        deceleration_fraction: Of the acceleration, used by the stop.
        gentle: Limits keep their standoff.
        jerky: Judge the jerk, too.
        every: Judge every limit; otherwise only until the first that objects.

    Returns:
        The limits that object, as bits; the margin of the first of them, infinite if there is none; the smallest
        margin of those that were judged and do not object, or with ``every`` of all, in shares of their scales.
    """
    objecting, worst, smallest = 0, math.inf, math.inf
    fast, sudden, rough = change_margins(
        velocity, previous_velocity, previous_acceleration, joints[FASTEST], joints[SUDDEN], joints[JERKY], dt
    )
    stop_time, reach_time, speed_sum, bend, rest = 0.0, 0.0, 0.0, 0.0, 0.0
    middle, end = swept[0], swept[1]
    for slot in range(SLOTS):
        if slot == POSITION:  # what the joints cannot do at all came first: nothing else need be looked at
            stop_time, reach_time, speed_sum, bend, rest = propose(
                links,
                link,
                offset,
                position,
                velocity,
                joints[BRAKE],
                curvature,
                jacobian,
                deceleration_fraction,
                dt,
                frames,
                rates,
                swept,
            )
            layout[0], layout[1], layout[2], layout[3], layout[4] = stop_time, reach_time, speed_sum, bend, rest
        if settings[slot, USED] == 0.0 or (slot == JERK and not jerky):
            continue
        most = settings[slot, MAXIMUM]
        standoff = settings[slot, MORE] if gentle else 0.0
        slack = margin = 0.0
        if slot == VELOCITY:
            slack = margin = fast
        elif slot == ACCELERATION:
            slack = margin = sudden
        elif slot == JERK:
            slack = margin = rough
        elif slot == POSITION:
            slack, margin = position_margin(position, velocity, joints[LOWER], joints[UPPER], reach_time)
        elif slot == TORQUE:
            slack = margin = torque_margin(mass, bias, velocity, previous_velocity, joints[STRONGEST], dt)
        elif slot == LINEAR:
            slack = margin = most - _peak(rates, 0, bend, dt, stop_time)
        elif slot == ANGULAR:
            growth = turning_growth(velocity, speed_sum)
            slack = margin = most - _peak(rates, rates.shape[0] - 3, growth, dt, stop_time)
        elif slot == ENERGY:
            energy = 0.0
            for point in range(struck.shape[0]):
                energy = max(energy, 0.5 * blow(jacobian, struck[point], factor, velocity, mobility))
            slack = margin = most - energy
        elif slot == LEAD:
            slack = margin = most
            if lead_force >= 0.0:
                pressed = pressing(press, lead, velocity, dt)
                margin = most - pressed
                slack = margin if margin >= 0.0 else lead_force - pressed
        elif slot == CONTACT:
            slack = margin = most - force_size
            if allowed < math.inf:
                slack = allowed - along(into, velocity)
        elif slot == LAG:
            slack = margin = 1.0
            if lag.shape[0] > 0:
                slack, margin = lag_margin(lag, groups, velocity, most, settings[slot, MORE], strongest)
        else:  # one call for all that is made of rows: each copy of its code costs seconds at the first start
            normals, first, second, offsets = box_normals, box_first, box_second, box_offsets
            if slot == SELF:
                normals, first, second, offsets = pair_normals, pair_first, pair_second, pair_offsets
            elif slot == KEEP_OUT:
                normals, first, second, offsets = zone_normals, zone_first, zone_second, zone_offsets
            elif slot == POLYTOPE:
                normals, first, second, offsets = facet_normals, facet_first, facet_second, facet_offsets
            elif slot == CONE:
                normals, first, second, offsets = cone_normals, cone_first, cone_second, cone_offsets
                standoff = 0.0
            slack, margin = judge_rows(
                normals, first, second, offsets, points, middle, end, rates, reach_time, rest, standoff
            )
            if slot == CONE:
                margin /= settings[slot, MORE]
        margins[slot] = margin
        if not slack >= 0.0:  # true for NaN, too
            if objecting == 0:
                worst = margin
            objecting |= 1 << slot
            if not every:
                break
        scaled = margin / settings[slot, SCALE]
        if scaled < smallest:
            smallest = scaled
    return objecting, worst, smallest
