"""Rotations and poses obey the axioms of their groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers.spatial import (
    IDENTITY_QUATERNION,
    compose,
    inverse,
    pose_error,
    quaternion_conjugate,
    quaternion_from_rotation_vector,
    quaternion_multiply,
    quaternion_normalize,
    rotate,
    rotate_by_vector,
    rotation_difference,
    rotation_matrix,
    rotation_vector_from_quaternion,
    slerp,
)
from controllers.types import FloatArray, Pose, frozen_array

TOLERANCE = 1e-12
IDENTITY = Pose(frozen_array([0, 0, 0]), IDENTITY_QUATERNION)

coordinate = st.floats(-10.0, 10.0)
vectors = st.tuples(coordinate, coordinate, coordinate).map(frozen_array)
directions = vectors.filter(lambda v: bool(np.linalg.norm(v) > 1e-3)).map(lambda v: v / np.linalg.norm(v))


@st.composite
def rotation_vectors(draw: st.DrawFn, largest: float = math.pi - 1e-6) -> FloatArray:
    angle = draw(st.one_of(st.floats(0.0, largest), st.floats(0.0, 1e-7), st.just(0.0)))
    return angle * draw(directions)


quaternions = rotation_vectors().map(quaternion_from_rotation_vector)
poses = st.builds(Pose, vectors, quaternions)


def same_rotation(a: FloatArray, b: FloatArray) -> bool:
    return min(np.abs(a - b).max(), np.abs(a + b).max()) < TOLERANCE


def same_pose(a: Pose, b: Pose) -> bool:
    return np.abs(a.position - b.position).max() < 1e-10 and same_rotation(a.quaternion, b.quaternion)


@given(quaternions, quaternions, quaternions)
def test_rotations_are_associative(a: FloatArray, b: FloatArray, c: FloatArray):
    assert same_rotation(
        quaternion_multiply(quaternion_multiply(a, b), c), quaternion_multiply(a, quaternion_multiply(b, c))
    )


@given(quaternions)
def test_rotations_have_an_identity_and_inverses(q: FloatArray):
    assert same_rotation(quaternion_multiply(q, IDENTITY_QUATERNION), q)
    assert same_rotation(quaternion_multiply(IDENTITY_QUATERNION, q), q)
    assert same_rotation(quaternion_multiply(q, quaternion_conjugate(q)), IDENTITY_QUATERNION)


@given(quaternions, quaternions, vectors)
def test_a_product_rotates_by_its_right_factor_first(a: FloatArray, b: FloatArray, v: FloatArray):
    np.testing.assert_allclose(rotate(quaternion_multiply(a, b), v), rotate(a, rotate(b, v)), atol=1e-10)


@given(quaternions, vectors, vectors)
def test_rotating_keeps_lengths_and_angles(q: FloatArray, v: FloatArray, w: FloatArray):
    assert rotate(q, v) @ rotate(q, w) == pytest.approx(v @ w, abs=1e-9)


@given(quaternions, vectors)
def test_the_rotation_matrix_rotates_like_its_quaternion(q: FloatArray, v: FloatArray):
    matrix = rotation_matrix(q)
    np.testing.assert_allclose(matrix @ v, rotate(q, v), atol=1e-10)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=TOLERANCE)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


@given(rotation_vectors())
def test_the_logarithm_undoes_the_exponential(r: FloatArray):
    np.testing.assert_allclose(rotation_vector_from_quaternion(quaternion_from_rotation_vector(r)), r, atol=1e-9)


@given(rotation_vectors(largest=20.0))
def test_the_exponential_gives_unit_quaternions(r: FloatArray):
    assert np.linalg.norm(quaternion_from_rotation_vector(r)) == pytest.approx(1.0, abs=TOLERANCE)


@given(quaternions)
def test_the_logarithm_takes_the_shortest_way_for_either_sign(q: FloatArray):
    r = rotation_vector_from_quaternion(q)
    assert np.linalg.norm(r) <= math.pi + 1e-9
    np.testing.assert_allclose(rotation_vector_from_quaternion(-q), r, atol=1e-9)


def test_the_exponential_turns_right_handed_about_its_axis():
    quarter_turn = quaternion_from_rotation_vector(np.array([0.0, 0.0, math.pi / 2]))
    np.testing.assert_allclose(rotate(quarter_turn, np.array([1.0, 0.0, 0.0])), [0.0, 1.0, 0.0], atol=TOLERANCE)


@given(quaternions, quaternions)
def test_the_difference_turns_one_orientation_into_the_other(a: FloatArray, b: FloatArray):
    assert (
        min(
            np.abs(rotate_by_vector(a, rotation_difference(b, a)) - b).max(),
            np.abs(rotate_by_vector(a, rotation_difference(b, a)) + b).max(),
        )
        < 1e-9
    )


@given(quaternions, quaternions, st.floats(0.0, 1.0))
def test_slerp_goes_at_constant_rate_from_one_end_to_the_other(a: FloatArray, b: FloatArray, fraction: float):
    whole = np.linalg.norm(rotation_difference(b, a))
    part = np.linalg.norm(rotation_difference(slerp(a, b, fraction), a))
    assert part == pytest.approx(fraction * whole, abs=1e-7)


@given(poses, poses, poses)
def test_poses_are_associative(a: Pose, b: Pose, c: Pose):
    assert same_pose(compose(compose(a, b), c), compose(a, compose(b, c)))


@given(poses)
def test_poses_have_an_identity_and_inverses(pose: Pose):
    assert same_pose(compose(pose, IDENTITY), pose)
    assert same_pose(compose(IDENTITY, pose), pose)
    assert same_pose(compose(pose, inverse(pose)), IDENTITY)
    assert same_pose(compose(inverse(pose), pose), IDENTITY)


@given(poses, poses)
def test_the_pose_error_leads_from_current_to_target(target: Pose, current: Pose):
    error = pose_error(target, current)
    np.testing.assert_allclose(current.position + error[:3], target.position, atol=1e-10)
    turned = rotate_by_vector(current.quaternion, error[3:])
    assert min(np.abs(turned - target.quaternion).max(), np.abs(turned + target.quaternion).max()) < 1e-9


@given(poses)
def test_a_pose_has_no_error_to_itself(pose: Pose):
    np.testing.assert_allclose(pose_error(pose, pose), 0.0, atol=TOLERANCE)


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [math.nan, 0, 0, 1], [math.inf, 0, 0, 0]])
def test_a_quaternion_without_direction_is_refused(bad: list[float]):
    with pytest.raises(ValueError, match="finite, non-zero norm"):
        quaternion_normalize(np.array(bad, dtype=np.float64))


@given(quaternions, vectors)
def test_results_are_read_only_and_arguments_untouched(q: FloatArray, v: FloatArray):
    q_before, v_before = q.copy(), v.copy()
    results = [rotate(q, v), quaternion_multiply(q, q), quaternion_conjugate(q), quaternion_normalize(q)]
    assert not any(result.flags.writeable for result in results)
    assert np.array_equal(q, q_before)
    assert np.array_equal(v, v_before)
