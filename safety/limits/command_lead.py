"""The command runs no farther ahead of the arm than the force ceiling allows: the bound that holds before contact."""

from __future__ import annotations

import math

import numpy as np

from safety.kernel.contact import pressing
from safety.limits.base import Inequalities, Judgement
from safety.motion import Motion


class CommandLeadLimit:
    """If the arm were blocked where it is, its servos would press with at most ``maximum`` N at the end effector.

    A position servo pulls with its stiffness times the lead of the command over the joint, less its damping times the
    joint's speed. Seen from an end effector that cannot move, that is ``|(J K^-1 J^T)^-1 J lead|`` newtons.
    """

    name = "force_command_lead"
    unit = "N"

    def __init__(self, maximum: float) -> None:
        """Set the largest force, N."""
        self.maximum = maximum
        self.margin_scale = maximum

    def judge(self, motion: Motion) -> Judgement:
        """The lead after the tick decides; one that is too long already must not grow."""
        servo = motion.contact.servo
        if servo is None:
            return Judgement(self.maximum, self.maximum)
        force = pressing(servo.press, servo.lead, motion.velocity, motion.dt)
        margin = self.maximum - force
        return Judgement(margin if margin >= 0.0 else servo.force - force, margin)

    def inequalities(self, motion: Motion) -> Inequalities:
        """The half-space that touches the ball of allowed forces where the motion leaves it."""
        servo = motion.contact.servo
        n = motion.velocity.shape[0]
        if servo is None:
            return Inequalities(np.zeros((1, n)), np.array([self.maximum]))
        now = servo.press.dot(servo.lead)
        way = servo.press.dot(motion.velocity) * motion.dt
        now_square, way_square, mixed = float(now.dot(now)), float(way.dot(way)), float(now.dot(way))
        free = self.maximum * self.maximum - now_square
        if way_square == 0.0 or (free < 0.0 and mixed >= 0.0):
            # Nothing changes the force, or the motion adds to one that is too large already.
            row = motion.velocity[None] if free < 0.0 and mixed > 0.0 else np.zeros((1, n))
            return Inequalities(row, np.zeros(1) if free < 0.0 and mixed > 0.0 else np.array([self.maximum]))
        root = math.sqrt(max(mixed * mixed + way_square * free, 0.0))
        share = (root - mixed) / way_square if free >= 0.0 else -2.0 * mixed / way_square
        touch = now + way * max(share, 0.0)
        outward = touch / max(math.sqrt(float(touch.dot(touch))), 1e-9)
        row = outward.dot(servo.press) * motion.dt
        return Inequalities(row[None], np.array([float(row.dot(motion.velocity)) * max(share, 0.0)]))
