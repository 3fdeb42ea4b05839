"""The decorator of the safety filter's kernels; what compiles, why and by which rules: :mod:`controllers.compiled`."""

from __future__ import annotations

from controllers.compiled import compiled

__all__ = ["compiled"]
