"""Motions ask for no more torque than the joints have."""

from __future__ import annotations

import numpy as np

from controllers.types import FloatArray
from safety.kernel.joints import torque_margin
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion


class JointTorqueLimit:
    """The torque that a change of velocity takes, ``M (qd - qd') / dt + bias``, is at most ``maximum`` (n,) N m.

    The model knows the arm alone: what it carries or leans on comes on top. It bounds what commands may ask for; a stop
    brakes with the joints' declared acceleration.
    """

    name = "joint_torque"
    unit = "N m"

    def __init__(self, maximum: FloatArray) -> None:
        """Set the limits: (n,) N m, positive."""
        self.maximum = maximum
        self._maximum = maximum.copy()
        self.margin_scale = min(maximum.tolist())

    def judge(self, motion: Motion) -> Judgement:
        """The tick alone decides."""
        inertia, _, bias, _ = motion.dynamics
        margin = torque_margin(inertia, bias, motion.velocity, motion.previous_velocity, self._maximum, motion.dt)
        return Judgement(margin, margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """Two rows for each joint, in N m."""
        dynamics = motion.dynamics
        matrix = dynamics.inertia / motion.dt
        rest = dynamics.bias - matrix.dot(motion.previous_velocity)
        return Inequalities(
            np.concatenate((matrix, -matrix)), np.concatenate((self.maximum - rest, self.maximum + rest))
        )
