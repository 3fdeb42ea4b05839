"""Compiled dynamics against MuJoCo and numpy."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safety.kernel import chain, dynamics
from tests.safety.kernel.test_chain import ROBOTS, arm, geometry, posture, reference

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds)
def test_inertia_and_bias_are_mujocos(name: str, seed: int) -> None:
    model, data = reference(name)
    q, qd = posture(name, seed)
    n = len(q)
    data.qpos[:n], data.qvel[:n] = q, qd
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_crb(model, data)
    mujoco.mj_comVel(model, data)
    full, force = np.zeros((model.nv, model.nv)), np.zeros(model.nv)
    mujoco.mj_fullM(model, full, data.qM)
    mujoco.mj_rne(model, data, 0, force)

    links = arm(name)[0]
    frames, mass, bias = np.zeros((n, 18)), np.full((n, n), 9.0), np.full(n, 9.0)
    chain.forward(links.links, q, frames)
    dynamics.inertia(links.links, frames, mass)
    dynamics.bias(links.links, links.gravity, frames, qd, np.full((n, 6), 9.0), bias)
    np.testing.assert_allclose(mass, full[:n, :n], rtol=0, atol=1e-9)
    np.testing.assert_allclose(bias, force[:n] + model.dof_damping[:n] * qd, rtol=0, atol=1e-9)
    assert np.abs(links.gravity).max() > 9.0  # gravity is on: else the bias would hide a wrong mass


@given(seed=seeds, n=st.integers(1, 9))
def test_a_factored_matrix_solves(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    matrix, right = root @ root.T + 0.1 * np.eye(n), rng.normal(size=n)
    lower, out = np.zeros((n, n)), np.zeros(n)
    assert dynamics.cholesky(matrix, lower)
    np.testing.assert_allclose(lower @ lower.T, matrix, atol=1e-12)
    dynamics.solve(lower, right, out)
    np.testing.assert_allclose(matrix @ out, right, atol=1e-10)
    dynamics.solve(lower, right, right)  # in place
    assert (right == out).all()


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.diag([1.0, -1.0]), np.full((2, 2), math.nan)])
def test_a_matrix_that_is_not_positive_definite_is_refused(bad: np.ndarray) -> None:
    assert not dynamics.cholesky(bad, np.zeros((2, 2)))


@pytest.mark.parametrize("name", ROBOTS)
@given(seed=seeds)
def test_reflected_mass_is_that_of_the_textbook(name: str, seed: int) -> None:
    q, _ = posture(name, seed)
    direction = np.random.default_rng(seed).normal(size=3)
    direction /= np.linalg.norm(direction)
    frames, _, jacobian = geometry(name, q)
    n = len(q)
    mass, lower = np.zeros((n, n)), np.zeros((n, n))
    dynamics.inertia(arm(name)[0].links, frames, mass)
    assert dynamics.cholesky(mass, lower)
    felt = dynamics.reflected_mass(jacobian, lower, direction, np.full(n, 9.0))
    way = direction @ jacobian[:3]
    assert felt == pytest.approx(1.0 / (way @ np.linalg.inv(mass) @ way), rel=1e-9)
    assert dynamics.reflected_mass(np.zeros((3, n)), lower, direction, np.zeros(n)) == math.inf
