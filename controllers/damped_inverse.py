"""A damped solution of ``A x = v`` that is exact away from singularities and calm at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controllers.types import FloatArray


@dataclass(frozen=True, slots=True)
class GramSpectrum:
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
    manipulators", IEEE Trans. Robotics and Automation 13(3), 1997, eq. 22. The other directions stay exact.

    """
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    return GramSpectrum(vectors, values, np.maximum(1.0 - values / threshold, 0.0))
