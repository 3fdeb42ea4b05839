"""What the arm feels, and how hard its servos would press, in one call each."""

from __future__ import annotations

import math

from controllers.types import FloatArray
from safety.kernel.chain import F_POSITION, forward
from safety.kernel.compiled import compiled

# Columns of a wrist's ``mount``.
M_ROTATION = 0  # 9: rotation of the sensor in its link's frame, row by row
M_SENSOR = 9  # 3: origin of the sensor, frame of its link, m
M_CENTRE = 12  # 3: centre of mass of all beyond the sensor, frame of its link, m
M_TOOL = 15  # 3: end effector, frame of its own link, m
MOUNT_COLUMNS = 18


@compiled
def effective_lead(command: FloatArray, q: FloatArray, qd: FloatArray, lag: FloatArray, out: FloatArray) -> None:
    """Lead of a position command over the joints, less what damping takes off it.

    Damping takes off at most the whole lead of a joint that moves where it is led.

    Args:
        command: (n,) rad.
        q: (n,) rad, measured.
        qd: (n,) rad/s, measured.
        lag: (n,) s, damping over stiffness.
        out: (n,) output, rad.
    """
    for i in range(q.shape[0]):
        lead = command[i] - q[i]
        out[i] = lead - min(max(lag[i] * qd[i], min(lead, 0.0)), max(lead, 0.0))


@compiled
def external_wrench(
    links: FloatArray,
    q: FloatArray,
    frames: FloatArray,
    mount: FloatArray,
    sensor_link: int,
    tool_link: int,
    weight: float,
    reading: FloatArray,
    out: FloatArray,
) -> None:
    """What the environment exerts on the tool: the wrist's reading without the tool's own weight.

    Args:
        links: (n, 34), ``Chain.links``.
        q: (n,) rad.
        frames: (n, 18) scratch.
        mount: (18,), see the column constants above.
        sensor_link: Link that the sensor sits on.
        tool_link: Link of the end effector.
        weight: N, of all beyond the sensor.
        reading: (6,) force, N, and torque about the sensor's origin, N m, sensor frame.
        out: (6,) output: force, N, and moment about the end effector, N m, base frame.
    """
    forward(links, q, frames)
    for i in range(3):
        force = moment = 0.0
        for j in range(3):
            turn = 0.0
            for k in range(3):
                turn += frames[sensor_link, 3 * i + k] * mount[M_ROTATION + 3 * k + j]
            force += turn * reading[j]
            moment += turn * reading[3 + j]
        out[i], out[3 + i] = force, moment
    out[2] += weight
    # From the sensor's origin to the centre of mass, and from the end effector to the sensor's origin.
    x = y = a = b = c = 0.0
    for k in range(3):
        own = mount[M_CENTRE + k] - mount[M_SENSOR + k]
        x += frames[sensor_link, k] * own
        y += frames[sensor_link, 3 + k] * own
        sensor, tool = mount[M_SENSOR + k], mount[M_TOOL + k]
        a += frames[sensor_link, k] * sensor - frames[tool_link, k] * tool
        b += frames[sensor_link, 3 + k] * sensor - frames[tool_link, 3 + k] * tool
        c += frames[sensor_link, 6 + k] * sensor - frames[tool_link, 6 + k] * tool
    a += frames[sensor_link, F_POSITION] - frames[tool_link, F_POSITION]
    b += frames[sensor_link, F_POSITION + 1] - frames[tool_link, F_POSITION + 1]
    c += frames[sensor_link, F_POSITION + 2] - frames[tool_link, F_POSITION + 2]
    out[3] += y * weight + b * out[2] - c * out[1]
    out[4] += c * out[0] - a * out[2] - x * weight
    out[5] += a * out[1] - b * out[0]


@compiled
def line_of_push(jacobian: FloatArray, wrench: FloatArray, out: FloatArray) -> float:
    """How fast each joint drives the arm into a contact, seen along the contact's line of action.

    A force has a line of action, and every point of the tool on that line feels the same: with the moment the contact
    is seen where it is, at a fingertip or at the edge of the hand, and not at the end effector's point.

    Args:
        jacobian: (m, n), its first three rows linear, the end effector's, m/rad, its last three angular, rad/rad.
        wrench: (6,) on the tool: force, N, and moment about the end effector, N m, frame of the Jacobian.
        out: (n,) output, m/rad; zero without a force.

    Returns:
        The size of the force, N.
    """
    x, y, z = wrench[0], wrench[1], wrench[2]
    size = math.sqrt(x * x + y * y + z * z)
    per = -1.0 / size if size > 0.0 else 0.0
    last = jacobian.shape[0] - 3
    for j in range(out.shape[0]):
        push = x * jacobian[0, j] + y * jacobian[1, j] + z * jacobian[2, j]
        push += wrench[3] * jacobian[last, j] + wrench[4] * jacobian[last + 1, j] + wrench[5] * jacobian[last + 2, j]
        out[j] = push * per
    return size


@compiled
def unexplained(torque: FloatArray, most: FloatArray, jacobian: FloatArray, wrench: FloatArray) -> float:
    """Torque from outside that the wrench on the tool does not explain.

    The observer's estimate lags behind the wrench. What counts is the smaller of the estimate and of what is left of it
    without the wrench, where both have the same sign: a blow at the tool leaves the opposite sign at first.

    Args:
        torque: (n,) N m, estimated from outside.
        most: (n,) N m, that is no contact.
        jacobian: (m, n), its first three rows linear, the end effector's, m/rad, its last three angular, rad/rad.
        wrench: (6,) on the tool: force, N, and moment about the end effector, N m, frame of the Jacobian.

    Returns:
        The largest excess over ``most`` of any joint, N m; not positive if there is none.
    """
    last = jacobian.shape[0] - 3
    excess = -math.inf
    for j in range(torque.shape[0]):
        whole = abs(torque[j])
        if whole - most[j] <= excess:
            continue
        left = torque[j]
        for k in range(3):
            left -= jacobian[k, j] * wrench[k] + jacobian[last + k, j] * wrench[3 + k]
        if left * torque[j] < 0.0:
            left = 0.0
        excess = max(excess, min(whole, abs(left)) - most[j])
    return excess


@compiled
def along(into: FloatArray, velocity: FloatArray) -> float:
    """Speed into a contact, m/s, of joint velocities (n,) rad/s; ``into`` (n,) m/rad of :func:`line_of_push`."""
    speed = 0.0
    for j in range(into.shape[0]):
        speed += into[j] * velocity[j]
    return speed


@compiled
def dropped(
    velocity: FloatArray, compliance: FloatArray, into: FloatArray, least: float, most: float, out: FloatArray
) -> float:
    """Take a velocity command's way into a contact away.

    Args:
        velocity: (n,) rad/s.
        compliance: (n,) of the servos, in any unit: the change alters nothing but the push along the contact.
        into: (n,) m/rad, of :func:`line_of_push`.
        least: Keeps the change finite where ``into`` vanishes.
        most: m/s, largest speed into the contact.
        out: (n,) output, rad/s, to take off the command.

    Returns:
        How much too fast it was, m/s; not positive if it was not.
    """
    speed = give = 0.0
    for j in range(velocity.shape[0]):
        speed += into[j] * velocity[j]
        give += into[j] * compliance[j] * into[j]
    excess = speed - most
    share = max(excess, 0.0) / (give + least)
    for j in range(velocity.shape[0]):
        out[j] = compliance[j] * into[j] * share
    return excess


@compiled
def eased(
    factor: FloatArray, bias: FloatArray, torque: FloatArray, into: FloatArray, most: float, out: FloatArray
) -> float:
    """A joint torque that pushes into a contact with no more than it may.

    What pushes is the force that would keep a point on the contact's line of action from accelerating.

    Args:
        factor: (n, n) lower Cholesky factor of the inertia, kg m^2.
        bias: (n,) N m.
        torque: (n,) N m.
        into: (n,) m/rad, of :func:`line_of_push`.
        most: N.
        out: (n,) output, N m: the torque without the excess.

    Returns:
        The excess, N; not positive if there is none.
    """
    n = torque.shape[0]
    # out = L^-1 into; then into M^-1 x = out . L^-1 x
    push = give = 0.0
    for i in range(n):
        total = into[i]
        for k in range(i):
            total -= factor[i, k] * out[k]
        out[i] = total / factor[i, i]
        give += out[i] * out[i]
    for i in range(n - 1, -1, -1):  # out = M^-1 into
        total = out[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * out[k]
        out[i] = total / factor[i, i]
    for i in range(n):
        push += out[i] * (torque[i] - bias[i])
    excess = push / give - most if give > 0.0 else 0.0
    for i in range(n):
        out[i] = torque[i] - into[i] * max(excess, 0.0)
    return excess


@compiled
def arresting(
    command: FloatArray,
    q: FloatArray,
    qd: FloatArray,
    compliance: FloatArray,
    into: FloatArray,
    least: float,
    static: float,
    arrest: float,
    out: FloatArray,
) -> float:
    """How far a position command must be taken back so that its servos do not add to a contact that is felt.

    Once the arm stands against what it touches, the servos may press with ``static``; while it still moves with or
    against it they may press with less, from ``arrest`` on not at all. What damping takes off the lead does not count:
    it ends with the motion, within milliseconds.

    Args:
        command: (n,) rad.
        q: (n,) rad, measured.
        qd: (n,) rad/s, measured.
        compliance: (n,) rad/(N m), of the servos.
        into: (n,) m/rad, of :func:`line_of_push`.
        least: m/N, added to the compliance at the contact.
        static: N.
        arrest: m/s.
        out: (n,) output, rad, to take off the command: the change that alters nothing but the force along this one.

    Returns:
        How much too hard the servos would press along the force, N; not positive if they would not.
    """
    lead = give = speed = 0.0
    for j in range(q.shape[0]):
        way = into[j]
        lead += way * (command[j] - q[j])
        give += way * compliance[j] * way
        speed += way * qd[j]
        out[j] = compliance[j] * way
    excess = lead / (give + least) - static * max(1.0 - abs(speed) / arrest, 0.0)
    for j in range(q.shape[0]):
        out[j] *= max(excess, 0.0)
    return excess


@compiled
def press_matrix(jacobian: FloatArray, compliance: FloatArray, least: float, out: FloatArray) -> None:
    """Force on an end effector that is held still for each rad of lead: ``(J K^-1 J^T)^-1 J``.

    Args:
        jacobian: (3, n) or with more rows, of which the first three are used; m/rad.
        compliance: (n,) rad/(N m), of the servos.
        least: m/N, added to the compliance at the end effector.
        out: (3, n) output, N/rad.
    """
    n = compliance.shape[0]
    a = b = c = d = e = f = 0.0
    for j in range(n):
        x, y, z, k = jacobian[0, j], jacobian[1, j], jacobian[2, j], compliance[j]
        a += x * k * x
        b += x * k * y
        c += x * k * z
        d += y * k * y
        e += y * k * z
        f += z * k * z
    a, d, f = a + least, d + least, f + least
    # The inverse of a symmetric 3 x 3 matrix, by cofactors.
    p, q, r = d * f - e * e, c * e - b * f, b * e - c * d
    u, v, w = a * f - c * c, b * c - a * e, a * d - b * b
    scale = 1.0 / (a * p + b * q + c * r)
    for j in range(n):
        x, y, z = jacobian[0, j] * scale, jacobian[1, j] * scale, jacobian[2, j] * scale
        out[0, j] = p * x + q * y + r * z
        out[1, j] = q * x + u * y + v * z
        out[2, j] = r * x + v * y + w * z


@compiled
def pressing(press: FloatArray, lead: FloatArray, velocity: FloatArray, dt: float) -> float:
    """Force, N, of the lead (n,) rad after a tick at ``velocity`` (n,) rad/s."""
    x = y = z = 0.0
    for j in range(lead.shape[0]):
        ahead = lead[j] + velocity[j] * dt
        x += press[0, j] * ahead
        y += press[1, j] * ahead
        z += press[2, j] * ahead
    return math.sqrt(x * x + y * y + z * z)


@compiled
def observed(
    inertia: FloatArray,
    bias: FloatArray,
    driven: FloatArray,
    velocity: FloatArray,
    last_velocity: FloatArray,
    last: FloatArray,
    share: float,
    dt: float,
    out: FloatArray,
) -> None:
    """One step of the momentum observer.

    Args:
        inertia: (n, n) kg m^2.
        bias: (n,) N m.
        driven: (n,) N m, torque of the drives.
        velocity: (n,) rad/s.
        last_velocity: (n,) rad/s, of the last tick.
        last: (n,) N m, the last estimate.
        share: How far the estimate goes to the new reading.
        dt: s since the last tick.
        out: (n,) output, N m from outside.
    """
    n = bias.shape[0]
    for i in range(n):
        gained = 0.0
        for j in range(n):
            gained += inertia[i, j] * (velocity[j] - last_velocity[j])
        out[i] = last[i] + share * (gained / dt + bias[i] - driven[i] - last[i])
