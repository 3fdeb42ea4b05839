"""Nothing pushes on against a measured force that nears its ceiling: the bound that holds after contact."""

from __future__ import annotations

import math

import numpy as np

from safety.kernel.contact import along
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion

# A bound that no motion reaches, m/s.
_FREE_M_S = 10.0


class ContactForceLimit:
    """The arm moves into a contact the slower, the nearer the measured force is to ``maximum`` N.

    It takes part in the choice of velocities only; a force beyond the ceiling is answered by a protective stop.
    """

    name = "contact_force"
    unit = "N"

    def __init__(self, maximum: float) -> None:
        """Set the quasi-static ceiling, N."""
        self.maximum = maximum
        self.margin_scale = maximum

    def judge(self, motion: Motion) -> Judgement:
        """The speed into the contact decides; the margin is that of the force itself."""
        contact = motion.contact
        margin = self.maximum - contact.force_size
        if contact.allowed == math.inf:
            return Judgement(margin, margin)
        return Judgement(contact.allowed - along(contact.into, motion.velocity), margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """One row: the speed into the contact, m/s."""
        contact = motion.contact
        if contact.allowed == math.inf:
            return Inequalities(np.zeros((1, motion.velocity.shape[0])), np.array([_FREE_M_S]))
        return Inequalities(contact.into[None], np.array([contact.allowed]))
