"""Small dense linear algebra of arms: an inverse that is calm at singularities, and joints that saturate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from scipy.linalg.lapack import dposv, dsyev

from controllers.types import FloatArray

_Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]


class GramSpectrum(NamedTuple):
    """Eigenvectors of a symmetric positive semi-definite (6, 6) matrix, and how far each is from singular.

    Attributes:
        vectors: (6, 6), one eigenvector in each column.
        values: (6,) eigenvalues, >= 0.
        deficit: (6,) 0 for an eigenvalue above the threshold, rising to 1 for a zero one.
    """

    vectors: FloatArray
    values: FloatArray
    deficit: FloatArray

    def damped_reciprocal(self, damping: float) -> FloatArray:
        """(6,) ``1 / (value + damping * deficit)``: damps only directions that are near singular."""
        return 1.0 / (self.values + damping * self.deficit)


def spectrum(gram: FloatArray, threshold: float) -> GramSpectrum:
    """Eigendecomposition of a Gram matrix (6, 6), with eigenvalues below ``threshold`` marked as near singular.

    Damping each singular direction by itself, in proportion to how singular it is, is the numerical filtering of
    A. A. Maciejewski and C. A. Klein, "Numerical filtering for the operation of robotic manipulators through
    kinematically singular configurations", J. Robotic Systems 5(6), 1988, with the variable damping factor of
    S. Chiaverini, "Singularity-robust task-priority redundancy resolution for real-time kinematic control of robot
    manipulators", IEEE Trans. Robotics and Automation 13(3), 1997. The other directions stay exact.

    A matrix that is not finite gives a spectrum that is not finite.
    """
    values, vectors, info = dsyev(cast("_Matrix", gram))  # numpy's eigh spends twice the time around the same routine
    if info != 0:
        values = np.full(6, np.nan)
    values = np.maximum(values, 0.0)
    return GramSpectrum(vectors, values, np.maximum(1.0 - values / threshold, 0.0))


def solve_positive_definite(matrix: FloatArray, right: FloatArray) -> FloatArray:
    """Solve ``matrix @ x = right`` for a symmetric positive definite ``matrix`` (n, n) and ``right`` (n, m).

    A matrix that is not positive definite gives a solution that is not finite.
    """
    _, solution, info = dposv(cast("_Matrix", matrix), cast("_Matrix", right))
    return np.full_like(right, np.nan) if info != 0 else solution


def saturate(
    resolve: Callable[[FloatArray, FloatArray], FloatArray],
    solution: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
) -> FloatArray:
    """Fix the joint that is furthest out of its bounds at the bound and resolve the others, until none is out.

    F. Flacco, A. De Luca, O. Khatib, "Motion control of redundant robots under joint constraints: saturation in the
    null space", ICRA 2012. The others take over the share of a fixed joint, without a jump as it is fixed.

    Args:
        resolve: From ``free`` (n,), 1 for a free joint and 0 for a fixed one, and ``fixed`` (n,), the values of the
            fixed joints and 0 for the others, to the solution (n,).
        solution: (n,) solution with all joints free.
        lower: (n,) bounds.
        upper: (n,) bounds.
    """
    if max(np.maximum(solution - upper, lower - solution).tolist()) <= 0.0:
        return solution
    n = len(solution)
    free, fixed = np.ones(n), np.zeros(n)
    for _ in range(n):
        excess = np.maximum(solution - upper, lower - solution) * free
        worst = int(excess.argmax())
        if excess[worst] <= 0.0:
            break
        fixed[worst] = upper[worst] if solution[worst] > upper[worst] else lower[worst]
        free[worst] = 0.0
        solution = resolve(free, fixed)
    return solution


def largest(values: FloatArray) -> float:
    """Largest magnitude; on a few values the built-ins are faster than numpy."""
    return max(map(abs, values.tolist()))
