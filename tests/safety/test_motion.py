"""The straight-line stop: the one promise that everything else is built on."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.types import FloatArray
from safety.motion import braked
from tests.safety.helpers import ROBOTS, robot, safety

speeds = st.floats(-2.0, 2.0).map(lambda v: v if abs(v) > 1e-9 else 0.0)
periods = st.floats(5e-4, 0.05)


@pytest.mark.parametrize("name", ROBOTS)
@given(data=st.data())
def test_a_stop_in_steps_of_any_length_stays_on_the_checked_segment(name: str, data: st.DataObject) -> None:
    acceleration = robot(name).limits.acceleration
    n = len(acceleration)
    velocity = np.array(data.draw(st.lists(speeds, min_size=n, max_size=n)))
    stop_time = float((np.abs(velocity) / acceleration).max())
    reach = velocity * stop_time / 2
    way, current = np.zeros(n), velocity
    for dt in cycle(data.draw(st.lists(periods, min_size=1, max_size=8))):
        slower = braked(current, acceleration, dt)
        assert (np.abs(slower - current) <= acceleration * dt * (1 + 1e-12) + 1e-15).all()
        way, current = way + slower * dt, slower
        if not current.any():
            break
    assert (np.abs(way) <= np.abs(reach) + 1e-12).all()
    if reach.any():  # on the segment: all joints have made the same share of it
        lead = int(np.abs(reach).argmax())
        np.testing.assert_allclose(way, reach * (way[lead] / reach[lead]), atol=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
@given(data=st.data())
def test_points_leave_their_tangent_and_parabola_no_farther_than_bounded(name: str, data: st.DataObject) -> None:
    kinematics, limits = safety(name).kinematics, robot(name).limits
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    q = rng.uniform(limits.position_lower, limits.position_upper)
    step = rng.normal(size=len(q)) * data.draw(st.sampled_from([0.02, 0.1, 0.3]))
    points, jacobian = kinematics.geometry(q)
    k = len(points)

    def curve(x: float) -> FloatArray:
        return kinematics.points(q + x * step)

    tangent = (jacobian[: 3 * k] @ step).reshape(k, 3)
    square = float(np.abs(step) @ kinematics.curvature @ np.abs(step))
    second = (curve(1e-4) - 2 * curve(0.0) + curve(-1e-4)) / 1e-8
    assert (np.linalg.norm(curve(1.0) - points - tangent, axis=1) <= square / 2 + 1e-12).all()
    assert (np.linalg.norm(second, axis=1) <= square + 1e-6).all()
    rest = np.linalg.norm(curve(1.0) - points - tangent - second / 2, axis=1)
    assert (rest <= square * np.abs(step).sum() / 6 + 1e-6).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_the_jacobian_is_the_derivative_of_the_points(name: str) -> None:
    kinematics, q = safety(name).kinematics, np.array(robot(name).home)
    points, jacobian = kinematics.geometry(q)
    assert jacobian.shape == (3 * len(points) + 3, len(q))
    for joint in range(len(q)):
        ahead, behind = q.copy(), q.copy()
        ahead[joint] += 1e-6
        behind[joint] -= 1e-6
        slope = (kinematics.points(ahead) - kinematics.points(behind)) / 2e-6
        np.testing.assert_allclose(jacobian[:-3, joint].reshape(-1, 3), slope, atol=1e-8)
