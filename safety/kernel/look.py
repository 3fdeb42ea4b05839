"""All that a tick's start has to say, in two calls: where the arm stands, and what it feels there."""

from __future__ import annotations

from controllers.types import FloatArray, IntArray
from safety.kernel.chain import geometry
from safety.kernel.compiled import compiled
from safety.kernel.contact import along, arresting, effective_lead, line_of_push, observed, press_matrix, pressing
from safety.kernel.dynamics import bias, cholesky, inertia
from safety.kernel.rows import parting_rows
from safety.kernel.zones import pair_rows, zone_rows


@compiled
def look(
    links: FloatArray,
    gravity: FloatArray,
    link: IntArray,
    offset: FloatArray,
    frames: FloatArray,
    still: FloatArray,
    wrenches: FloatArray,
    q: FloatArray,
    qd: FloatArray,
    points: FloatArray,
    jacobian: FloatArray,
    mass: FloatArray,
    factor: FloatArray,
    held: FloatArray,
    weight: FloatArray,
) -> None:
    """Geometry and dynamics at one state: :func:`chain.geometry` and :func:`dynamics.state` with one forward pass.

    Args:
        links: (n, 34), ``Chain.links``.
        gravity: (3,) m/s^2, base frame.
        link: (k,), ``Points.link``.
        offset: (k, 3) m, ``Points.offset``.
        frames: (n, 18) output: the links at ``q``.
        still: (n,) zeros.
        wrenches: (n, 6) scratch.
        q: (n,) rad.
        qd: (n,) rad/s.
        points: (k, 3) output, m, base frame.
        jacobian: (3 k + 3, n) output, of :func:`chain.geometry`.
        mass: (n, n) output, kg m^2.
        factor: (n, n) output, Cholesky factor of ``mass``; zero above the diagonal if it was before.
        held: (n,) output, N m, of :func:`dynamics.bias`.
        weight: (n,) output, N m, gravity alone.
    """
    geometry(links, link, offset, q, frames, points, jacobian)
    inertia(links, frames, mass)
    cholesky(mass, factor)
    bias(links, gravity, frames, qd, wrenches, held)
    bias(links, gravity, frames, still, wrenches, weight)


@compiled
def part(
    points: FloatArray,
    start: int,
    end: int,
    kind: IntArray,
    table: FloatArray,
    zone_pairs: IntArray,
    zone_distance: FloatArray,
    pairs: IntArray,
    pair_distance: FloatArray,
    horizon: float,
    gap: FloatArray,
    normal: FloatArray,
    support: FloatArray,
    zone_normals: FloatArray,
    zone_offsets: FloatArray,
    pair_normals: FloatArray,
    pair_offsets: FloatArray,
) -> None:
    """The planes that part the hull from zones and from itself, as rows.

    Args:
        points: (k, 3) m, base frame, all that are watched.
        start: Index of the first capsule's start; those of the others follow it.
        end: Index of the first capsule's end.
        kind: (z,), ``Zones.kind``.
        table: (z, 16), ``Zones.table``.
        zone_pairs: (p, 2) capsule and zone.
        zone_distance: (p,) m, radii and clearance.
        pairs: (s, 2) first and second capsule.
        pair_distance: (s,) m.
        horizon: m, of :func:`zones.zone_rows`.
        gap: (max(p, s),) scratch.
        normal: (max(p, s), 3) scratch.
        support: (max(p, s),) scratch.
        zone_normals: (2 p, 3) output.
        zone_offsets: (2 p,) output, m.
        pair_normals: (4 s, 3) output.
        pair_offsets: (4 s,) output, m.
    """
    starts, ends = points[start:end], points[end : 2 * end - start]
    count = zone_pairs.shape[0]
    if count > 0:
        zone_rows(starts, ends, kind, table, zone_pairs, horizon, gap, normal, support)
        for i in range(count):
            support[i] += zone_distance[i]
        parting_rows(normal, support[:count], 2, zone_normals, zone_offsets)
    if pairs.shape[0] > 0:
        pair_rows(starts, ends, pairs, horizon, gap, normal)
        parting_rows(normal, pair_distance, 4, pair_normals, pair_offsets)


@compiled
def press(
    command: FloatArray,
    q: FloatArray,
    qd: FloatArray,
    lag: FloatArray,
    compliance: FloatArray,
    jacobian: FloatArray,
    wrench: FloatArray,
    felt: float,
    least: float,
    static: float,
    arrest: float,
    given_up: float,
    lead: FloatArray,
    matrix: FloatArray,
    yielding: FloatArray,
    into: FloatArray,
) -> tuple[float, float, float]:
    """How hard position servos press, and how far they must yield.

    Args:
        command: (n,) rad.
        q: (n,) rad, measured.
        qd: (n,) rad/s, measured.
        lag: (n,) s, damping over stiffness.
        compliance: (n,) rad/(N m).
        jacobian: (m, n), of :func:`contact.line_of_push`.
        wrench: (6,), of :func:`contact.line_of_push`.
        felt: N, from which on a force is a contact.
        least: m/N, of :func:`contact.press_matrix`.
        static: N, of :func:`contact.arresting`.
        arrest: m/s, of :func:`contact.arresting`.
        given_up: Share of a measured force above ``static`` that is given up in a tick once the arm rests: stuck by
            friction, servos press as hard as is measured, whatever they would press along one line.
        lead: (n,) output, rad, of :func:`contact.effective_lead`.
        matrix: (3, n) output, N/rad, of :func:`contact.press_matrix`.
        yielding: (n,) output, rad, of :func:`contact.arresting`; zero without a contact.
        into: (n,) output, m/rad, of :func:`contact.line_of_push`.

    Returns:
        Size of the force, N; how much too hard the servos press against it, N, 0 without a contact; the force that
        the present lead would press with, N.
    """
    size = line_of_push(jacobian, wrench, into)
    effective_lead(command, q, qd, lag, lead)
    press_matrix(jacobian, compliance, least, matrix)
    excess = 0.0
    if size > felt:
        excess = arresting(command, q, qd, compliance, into, least, static, arrest, yielding)
        lasting = given_up * (size - static) * max(1.0 - abs(along(into, qd)) / arrest, 0.0)
        if lasting > excess:
            excess = lasting
            for j in range(yielding.shape[0]):
                yielding[j] = compliance[j] * into[j] * lasting
    else:
        for j in range(yielding.shape[0]):
            yielding[j] = 0.0
    return size, excess, pressing(matrix, lead, lead, 0.0)


@compiled
def observe(
    mass: FloatArray,
    held: FloatArray,
    weight: FloatArray,
    damping: FloatArray,
    effort: FloatArray,
    carries: bool,
    velocity: FloatArray,
    last_velocity: FloatArray,
    last: FloatArray,
    share: float,
    dt: float,
    bias_scratch: FloatArray,
    driven_scratch: FloatArray,
    out: FloatArray,
) -> None:
    """One step of the momentum observer: :func:`contact.observed` with friction taken of the tick on average.

    Args:
        mass: (n, n) kg m^2.
        held: (n,) N m, bias at the end of the tick.
        weight: (n,) N m, gravity alone.
        damping: (n,) N m s/rad.
        effort: (n,) N m, of the drives since the last tick.
        carries: The effort carries the arm's weight.
        velocity: (n,) rad/s.
        last_velocity: (n,) rad/s, of the last tick.
        last: (n,) N m, the last estimate.
        share: How far the estimate goes to the new reading.
        dt: s since the last tick.
        bias_scratch: (n,).
        driven_scratch: (n,).
        out: (n,) output, N m from outside.
    """
    for i in range(held.shape[0]):
        bias_scratch[i] = held[i] - damping[i] * (0.5 * (velocity[i] - last_velocity[i]))
        driven_scratch[i] = effort[i] if carries else effort[i] + weight[i]
    observed(mass, bias_scratch, driven_scratch, velocity, last_velocity, last, share, dt, out)
