"""Constants of the tabletop suite: what an action means, how fast everything runs, what the cameras give."""

from __future__ import annotations

from controllers.types import ActionSpace, ActionSpec, NormalizationStatistics, frozen_array

ACTION_RATE_HZ = 20
CONTROL_RATE_HZ = 200
EXECUTION_HORIZON = 2  # rows: a new chunk every 100 ms
MAX_TRANSLATION_M = 0.025  # in one row of 50 ms: 0.5 m/s
MAX_ROTATION_RAD = 0.15  # in one row of 50 ms: 3 rad/s
IMAGE_SIZE = 128
SETTLE_S = 0.25  # physics before tick 0, for objects to come to rest
CAMERAS: dict[str, tuple[int, int]] = {
    "workspace": (IMAGE_SIZE, IMAGE_SIZE),
    "wrist": (IMAGE_SIZE, IMAGE_SIZE),
}

_LOWER = (-MAX_TRANSLATION_M,) * 3 + (-MAX_ROTATION_RAD,) * 3 + (0.0,)
_UPPER = (MAX_TRANSLATION_M,) * 3 + (MAX_ROTATION_RAD,) * 3 + (1.0,)

# Deltas are bounded by what the arm can follow, so the bounds themselves serve as the normalization statistics; the
# gripper passes through unnormalized: 0 is closed, 1 is open.
TABLETOP_ACTION_SPEC = ActionSpec(
    space=ActionSpace.EE_DELTA,
    frame="base",
    names=("dx", "dy", "dz", "drx", "dry", "drz", "gripper"),
    units=("m", "m", "m", "rad", "rad", "rad", "fraction_open"),
    lower=frozen_array(_LOWER),
    upper=frozen_array(_UPPER),
    rate_hz=ACTION_RATE_HZ,
    horizon=8,
    statistics=NormalizationStatistics(
        q01=frozen_array(_LOWER),
        q99=frozen_array(_UPPER),
        mask=(True,) * 6 + (False,),
    ),
)
