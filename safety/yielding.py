"""How the checked path gives way: where it begins again when the arm is not where it was led, or must not press on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controllers.robot import RobotDescription
from controllers.types import CommandMode, FloatArray, RobotState, SafetyReason, frozen_array
from safety.actuation import Actuation
from safety.contact import LinkTouch
from safety.intake import Fault
from safety.kernel.dynamics import cholesky, solve
from safety.memory import SafetyMemory
from safety.path import PathChooser
from safety.profile import SafetyProfile
from safety.supervisor import Supervision
from safety.view import View, Viewer

__all__ = ["SETS_BACK", "Yielding"]

# What ``force_command_lead`` says where it sets the commanded path back, whatever that asks of acceleration and jerk: a
# force too much outranks them.
GIVES_WAY = "gives way to a contact; margin in N"
PULLED_BACK = "pulled back; margin in N"
_LINK_GIVES_WAY = "gives way to a contact of a link; margin in N m"
_DRIVE_GIVES_WAY = "gives way to a contact; margin in m/s"
SETS_BACK = (GIVES_WAY, PULLED_BACK, _LINK_GIVES_WAY, _DRIVE_GIVES_WAY)
"""Messages of reasons for which the command goes back to where the arm stands, whatever that asks of the joints."""

# An older state says too little about how far the arm is behind its command, ticks.
_FRESH_TICKS = 2.5
# Of the way to where a path shall begin again: as much of it as stays inside the limits.
_SHARES_FOLLOWED = (1.0, 0.75, 0.5, 0.25)
# Keeps the retreat finite where the arm is singular, m^2/rad^2.
_RETREAT_DAMPING = 1e-3


class Yielding:
    """Sets the checked path back. Holds no memory."""

    def __init__(
        self,
        description: RobotDescription,
        profile: SafetyProfile,
        viewer: Viewer,
        chooser: PathChooser,
        actuation: Actuation,
    ) -> None:
        """Bind what it decides with; the chooser is that of the limits at full speed."""
        self._force = profile.force
        self._viewer, self._chooser, self._actuation = viewer, chooser, actuation
        self._links = LinkTouch(description)

    def given_way(self, memory: SafetyMemory, view: View, sensed: RobotState) -> View:
        """The view from a path that does not press on, in position and velocity mode."""
        tick, contact = view.tick, view.contact
        pushed = self._links.pushed(view.observer.torque, contact, view.geometry.jacobian)
        if tick.mode is CommandMode.VELOCITY:
            if pushed > 0.0:
                blocked = self._links.against(contact, view.observer.torque)
                why = SafetyReason("contact_force", -pushed, _LINK_GIVES_WAY)
                return _standing(view)._replace(contact=blocked, reasons=(why,))
            return self._slowed_into(memory, view) if contact.felt else view
        if tick.now_ns - sensed.stamp_ns > _FRESH_TICKS * tick.dt * 1e9:
            return view
        servo, ceiling = contact.servo, self._force.command_lead_n
        if pushed > 0.0:
            why = SafetyReason("contact_force", -pushed, _LINK_GIVES_WAY)
            return self._set_back(memory, view, self._links.led(tick.start, sensed), sensed, why)
        if servo is None:
            return view
        if servo.excess > 0.0:
            why = SafetyReason("force_command_lead", -servo.excess, GIVES_WAY)
            return self._set_back(memory, view, tick.start - servo.yielding, sensed, why)
        if servo.force > ceiling:
            why = SafetyReason("force_command_lead", ceiling - servo.force, PULLED_BACK)
            return self._set_back(memory, view, tick.start - (1.0 - ceiling / servo.force) * servo.lead, sensed, why)
        return view

    def begun_again(self, memory: SafetyMemory, view: View, position: FloatArray, sensed: RobotState) -> View:
        """The view from a path that begins again at ``position`` (n,) rad.

        Something may have pushed the arm to where it must not be: the path follows it only as far as it stays inside.
        It goes on with the arm's own velocity if it can be stopped from that, and otherwise stands still.
        """
        viewer, chooser, start = self._viewer, self._chooser, view.tick.start
        moved = viewer.moved(view, position, sensed)
        stoppable, clearance = chooser.stoppable(viewer.factory(memory, moved))
        if stoppable and clearance >= 0.0:
            return moved
        room = min(chooser.clearance(viewer.factory(memory, view)), 0.0)
        for share in _SHARES_FOLLOWED:
            moved = viewer.moved(view, start + share * (position - start), sensed)
            if chooser.clearance(viewer.factory(memory, moved)) >= room:
                break
        else:
            moved = viewer.moved(view, start, sensed)
        return moved if chooser.stoppable(viewer.factory(memory, moved))[0] else _standing(moved)

    def retreating(self, supervision: Supervision, view: View) -> Supervision:
        """Begin to withdraw where it is a contact force that has tripped a protective stop."""
        force, size = self._force, view.contact.force_size
        tripped = supervision.protective
        if tripped is None or tripped.limit != Fault.CONTACT_FORCE.value or size <= 0.0 or force.retreat_m <= 0.0:
            return supervision
        jacobian = view.geometry.jacobian[:3]
        away = view.contact.wrench[:3] * (force.retreat_speed_m_s / size)
        factor, push = np.zeros((3, 3)), np.zeros(3)
        cholesky(jacobian.dot(jacobian.T) + _RETREAT_DAMPING * np.eye(3), factor)
        solve(factor, away, push)
        velocity = jacobian.T.dot(push)
        until = view.tick.now_ns + round(force.retreat_m / force.retreat_speed_m_s * 1e9)
        return replace(supervision, retreat=frozen_array(velocity), retreat_until_ns=until)

    def _set_back(
        self, memory: SafetyMemory, view: View, position: FloatArray, sensed: RobotState, why: SafetyReason
    ) -> View:
        """The view from a path that is set back to ``position`` (n,) rad."""
        return self.begun_again(memory, view, position, sensed)._replace(reasons=(why,))

    def _slowed_into(self, memory: SafetyMemory, view: View) -> View:
        """The view of a velocity-mode arm whose way into a contact ends at once, however fast it was commanded."""
        excess, kept = self._actuation.dropped(view.tick.previous, view.contact)
        if excess <= 0.0:
            return view
        why = SafetyReason("contact_force", -excess, _DRIVE_GIVES_WAY)
        view = view._replace(tick=view.tick._replace(previous=kept), reasons=(why,))
        return view if self._chooser.stoppable(self._viewer.factory(memory, view))[0] else _standing(view)


def _standing(view: View) -> View:
    """The view from a path that stands still where it is."""
    return view._replace(tick=view.tick._replace(previous=np.zeros_like(view.tick.previous)))
