"""Physical actions to [-1, 1] and back, by the spec's quantiles; dimensions outside the mask pass through."""

from __future__ import annotations

import numpy as np

from controllers.types import ActionSpec, FloatArray


def normalize(action: FloatArray, spec: ActionSpec) -> FloatArray:
    """Map physical actions (..., dims) to [-1, 1], without a clip: ``2 (a - q01)/(q99 - q01) - 1`` where the mask is.

    A dimension whose quantiles coincide maps to 0.
    """
    q01, q99, mask = _statistics(spec)
    span = q99 - q01
    safe = np.where(span > 0.0, span, 1.0)
    scaled = np.where(span > 0.0, 2.0 * (action - q01) / safe - 1.0, 0.0)
    return np.where(mask, scaled, action)


def unnormalize(normalized: FloatArray, spec: ActionSpec) -> FloatArray:
    """Map [-1, 1] (..., dims) to physical actions, ``(a + 1)/2 (q99 - q01) + q01`` where the mask is."""
    q01, q99, mask = _statistics(spec)
    return np.where(mask, 0.5 * (normalized + 1.0) * (q99 - q01) + q01, normalized)


def scale_of(spec: ActionSpec) -> FloatArray:
    """(dims,) physical size of one normalized unit."""
    q01, q99, mask = _statistics(spec)
    return np.where(mask, 0.5 * (q99 - q01), 1.0)


def check_spec(spec: ActionSpec) -> None:
    """Refuse a spec that no tokenizer can decode under.

    Raises:
        ValueError: Its arrays disagree in length, or its statistics or bounds cannot be used.
    """
    statistics = spec.statistics
    shapes = {
        "units": len(spec.units),
        "lower": spec.lower.size,
        "upper": spec.upper.size,
        "q01": statistics.q01.size,
        "q99": statistics.q99.size,
        "mask": len(statistics.mask),
    }
    for name, size in shapes.items():
        if size != spec.dims:
            raise ValueError(f"the action spec has {spec.dims} names but {size} values in {name!r}")
    if spec.horizon < 1:
        raise ValueError(f"the action spec's horizon must be at least 1, found {spec.horizon}")
    for index, name in enumerate(spec.names):
        low, high = float(statistics.q01[index]), float(statistics.q99[index])
        if statistics.mask[index] and not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(f"statistics of {name!r} are unusable: q01 = {low}, q99 = {high}")
        if not spec.lower[index] <= spec.upper[index]:
            raise ValueError(
                f"bounds of {name!r} are unusable: lower = {spec.lower[index]}, upper = {spec.upper[index]}"
            )


def _statistics(spec: ActionSpec) -> tuple[FloatArray, FloatArray, np.ndarray]:
    return spec.statistics.q01, spec.statistics.q99, np.asarray(spec.statistics.mask, dtype=bool)
