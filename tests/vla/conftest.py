"""Shared action spec of the vla tests."""

from __future__ import annotations

import pytest

from controllers.types import ActionSpace, ActionSpec, NormalizationStatistics, frozen_array


def make_spec(horizon: int = 8) -> ActionSpec:
    lower, upper = [-0.02] * 3 + [-0.1] * 3 + [0.0], [0.02] * 3 + [0.1] * 3 + [1.0]
    return ActionSpec(
        space=ActionSpace.EE_DELTA,
        frame="base",
        names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "fraction"),
        lower=frozen_array(lower),
        upper=frozen_array(upper),
        rate_hz=20,
        horizon=horizon,
        statistics=NormalizationStatistics(
            q01=frozen_array(lower), q99=frozen_array(upper), mask=(True,) * 6 + (False,)
        ),
    )


@pytest.fixture
def spec() -> ActionSpec:
    return make_spec()
