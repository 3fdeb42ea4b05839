"""Counts the forward passes of one chunk of the compact model. Imports torch: run it in a process of its own."""

from __future__ import annotations

import numpy as np
from torch import nn

from controllers.types import Observation, Pose, RobotState, TokenPrefix, frozen_array
from vla.catalog import DEFAULT_COMPACT_WEIGHTS
from vla.compact.policy import CompactPolicy


def passes(prefix_rows: int) -> int:
    """Forward passes of the shipped model for one chunk whose first ``prefix_rows`` rows are forced."""
    policy = CompactPolicy.load(DEFAULT_COMPACT_WEIGHTS, threads=1)
    counted = 0

    def count(module: nn.Module, *_: object) -> None:
        nonlocal counted
        counted += isinstance(module, nn.Module)

    handle = policy.model.register_forward_hook(count)
    chunk = policy.infer(_observation(policy, prefix_rows))
    handle.remove()
    assert chunk.forced_rows == prefix_rows
    return counted


def _observation(policy: CompactPolicy, prefix_rows: int) -> Observation:
    size, dims = policy.config.image_size, policy.spec.dims
    image = np.zeros((size, size, 3), np.uint8)
    pose = Pose(frozen_array([0.5, 0.0, 0.3]), frozen_array([0.0, 1.0, 0.0, 0.0]))
    still = frozen_array(np.zeros(7))
    state = RobotState(still, still, still, pose, frozen_array(np.zeros(6)), 0.08, 0)
    prefix = TokenPrefix(np.full((prefix_rows, dims), 127, np.int64)) if prefix_rows else None
    words = "reach the red block"
    return Observation(dict.fromkeys(policy.config.cameras, image), state, pose, words, 0, prefix)
