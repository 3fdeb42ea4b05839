"""Damped least squares on six rows: plain far from singularities, direction by direction near them."""

from __future__ import annotations

import math

from controllers.compiled import compiled
from controllers.types import FloatArray

_ROWS = 6
_SWEEPS = 16  # of Jacobi's method, at most; it converges quadratically, so six do
_CONVERGED = 1e-32  # what is left beside the diagonal, squared, as a share of the squared trace


@compiled
def factorize(matrix: FloatArray, shift: float, factor: FloatArray) -> bool:
    """Cholesky's factor of ``matrix - shift I``.

    Args:
        matrix: (6, 6) symmetric.
        shift: To take off the diagonal.
        factor: (6, 6) output, its lower triangle.

    Returns:
        Whether all eigenvalues of ``matrix`` are above ``shift``; if not, the factor is of no use.
    """
    for i in range(_ROWS):
        for j in range(i + 1):
            rest = matrix[i, j]
            if i == j:
                rest -= shift
            for k in range(j):
                rest -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = rest / factor[j, j]
            elif rest > 0.0:
                factor[i, i] = math.sqrt(rest)
            else:  # also for NaN
                return False
    return True


@compiled
def substitute(factor: FloatArray, vector: FloatArray) -> None:
    """Solve ``factor factor^T x = vector`` in place of ``vector`` (6,); of ``factor`` (6, 6) the lower triangle."""
    for i in range(_ROWS):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
        vector[i] /= factor[i, i]
    for i in range(_ROWS - 1, -1, -1):
        for k in range(i + 1, _ROWS):
            vector[i] -= factor[k, i] * vector[k]
        vector[i] /= factor[i, i]


@compiled
def diagonalize(matrix: FloatArray, vectors: FloatArray) -> None:
    """Eigenvectors of a symmetric matrix, by Jacobi's cyclic method: accurate, and its order of sums is fixed.

    G. H. Golub, C. F. Van Loan, "Matrix Computations" (4th ed.), 8.5.

    Args:
        matrix: (6, 6), overwritten: its diagonal is left with the eigenvalues.
        vectors: (6, 6) output, one eigenvector in each column.
    """
    for i in range(_ROWS):
        for j in range(_ROWS):
            vectors[i, j] = 1.0 if i == j else 0.0
    for _ in range(_SWEEPS):
        beside = trace = 0.0
        for i in range(_ROWS):
            trace += matrix[i, i]
            for j in range(i):
                beside += matrix[i, j] * matrix[i, j]
        if beside <= _CONVERGED * trace * trace:
            break
        for p in range(_ROWS - 1):
            for q in range(p + 1, _ROWS):
                if matrix[p, q] == 0.0:
                    continue
                half = 0.5 * (matrix[q, q] - matrix[p, p]) / matrix[p, q]
                t = 1.0 / (abs(half) + math.sqrt(half * half + 1.0))
                if half < 0.0:
                    t = -t
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                for k in range(_ROWS):
                    x, y = matrix[k, p], matrix[k, q]
                    matrix[k, p], matrix[k, q] = c * x - s * y, s * x + c * y
                for k in range(_ROWS):
                    x, y = matrix[p, k], matrix[q, k]
                    matrix[p, k], matrix[q, k] = c * x - s * y, s * x + c * y
                    x, y = vectors[k, p], vectors[k, q]
                    vectors[k, p], vectors[k, q] = c * x - s * y, s * x + c * y


@compiled
def _damped(
    values: FloatArray,
    vectors: FloatArray,
    task: FloatArray,
    threshold: float,
    damping: float,
    null_damping: float,
    right: FloatArray,
) -> None:
    """The damped inverse times ``task``, less the one damped for the null space times ``right``, in its place."""
    for e in range(_ROWS):
        wanted = moved = 0.0
        for i in range(_ROWS):
            wanted += vectors[i, e] * task[i]
            moved += vectors[i, e] * right[i]
        value = max(values[e, e], 0.0)
        deficit = max(1.0 - value / threshold, 0.0)
        # Row e has served: beside its diagonal, ``values`` holds nothing any more.
        values[e, 0 if e > 0 else 1] = wanted / (value + damping * deficit) - moved / (value + null_damping * deficit)
    for i in range(_ROWS):
        right[i] = 0.0
        for e in range(_ROWS):
            right[i] += vectors[i, e] * values[e, 0 if e > 0 else 1]


@compiled
def resolve(
    jacobian: FloatArray,
    task: FloatArray,
    posture: FloatArray,
    threshold: float,
    damping: float,
    null_damping: float,
    gram: FloatArray,
    factor: FloatArray,
    right: FloatArray,
    out: FloatArray,
) -> None:
    """Joint velocity that does a task as well as it can, and ``posture`` as far as the task leaves room for it.

    Only directions near singular are damped, each by itself, by how singular it is; see
    :func:`controllers.redundancy.spectrum`. Where there are none, that is the plain pseudo-inverse, which is cheaper.

    Args:
        jacobian: (6, n), its rows in one unit.
        task: (6,), in that unit for each s.
        posture: (n,) rad/s.
        threshold: Eigenvalue of J J^T below which a direction is near singular.
        damping: Added to a zero eigenvalue, for the task.
        null_damping: The same for what the posture may not do to the task.
        gram: (6, 6) scratch.
        factor: (6, 6) scratch.
        right: (6,) scratch.
        out: (n,) output, rad/s.
    """
    n = posture.shape[0]
    for i in range(_ROWS):
        for j in range(i + 1):
            total = 0.0
            for k in range(n):
                total += jacobian[i, k] * jacobian[j, k]
            gram[i, j] = gram[j, i] = total
    for i in range(_ROWS):  # what the posture would do to the task
        right[i] = 0.0
        for k in range(n):
            right[i] += jacobian[i, k] * posture[k]
    if factorize(gram, threshold, factor) and factorize(gram, 0.0, factor):
        for i in range(_ROWS):
            right[i] = task[i] - right[i]
        substitute(factor, right)
    else:
        diagonalize(gram, factor)
        _damped(gram, factor, task, threshold, damping, null_damping, right)
    for k in range(n):
        total = posture[k]
        for i in range(_ROWS):
            total += jacobian[i, k] * right[i]
        out[k] = total
