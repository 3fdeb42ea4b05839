"""Statistics of the training actions in the published form, and the contract that follows from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from controllers.types import ActionSpec, FloatArray, frozen_array
from vla.openvla.published import ActionStatistics, action_spec

# The gripper's opening is a fraction and passes through, as in the published data sets.
MASK = (True,) * 6 + (False,)


def action_statistics(actions: FloatArray) -> ActionStatistics:
    """Statistics of (n, 7) actions: m, rad, and the gripper's opening from 0 to 1.

    Raises:
        ValueError: None, or other than seven dimensions.
    """
    if actions.ndim != 2 or not len(actions) or actions.shape[1] != len(MASK):
        raise ValueError(f"expected actions of {len(MASK)} values, found shape {actions.shape}")
    q01, q99 = np.quantile(actions, [0.01, 0.99], axis=0)
    return ActionStatistics(
        frozen_array(q01), frozen_array(q99), MASK, frozen_array(actions.min(0)), frozen_array(actions.max(0))
    )


def statistics_file(key: str, actions: FloatArray, trajectories: int) -> dict[str, Any]:
    """What ``dataset_statistics.json`` holds."""
    found = action_statistics(actions)
    entry = {
        "mean": actions.mean(0).tolist(),
        "std": actions.std(0).tolist(),
        "max": actions.max(0).tolist(),
        "min": actions.min(0).tolist(),
        "q01": found.q01.tolist(),
        "q99": found.q99.tolist(),
        "mask": list(found.mask),
    }
    return {key: {"action": entry, "num_transitions": len(actions), "num_trajectories": trajectories}}


def tuned_spec(actions: FloatArray, rate_hz: int) -> ActionSpec:
    """The contract that a model tuned on (n, 7) actions has."""
    return action_spec(action_statistics(actions), rate_hz)
