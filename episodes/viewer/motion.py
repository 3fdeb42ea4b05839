"""Where every body was on every tick: handed to the viewer by whoever can compute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controllers.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyMotion:
    """The bodies of a MuJoCo model over the ticks of an episode.

    Attributes:
        model: The ``MjModel``, for its geometry.
        position: (T, bodies, 3) m, world frame.
        quaternion: (T, bodies, 4) wxyz.
        wrist: (T, 7) pose of the wrench sensor, xyz wxyz, world frame; NaN where the model has none.
        margins: Relative margin (T,) to each limit by name: 1 is comfortable, 0 is the limit; infinite where unread.
        source: How the motion was found, in words.
    """

    model: Any
    position: FloatArray
    quaternion: FloatArray
    wrist: FloatArray
    margins: Mapping[str, FloatArray] = field(default_factory=dict[str, FloatArray])
    source: str = ""
