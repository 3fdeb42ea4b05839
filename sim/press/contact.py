"""One contact, with the filter or without, and what the surface felt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controllers.protocols import SafetyFilter
from controllers.types import JointCommand, SafetyResult, SafetyStatus
from safety.profile import ForceSettings
from sim.press.attackers import Attacker
from sim.press.plan import Attack, PressCase
from sim.press.rig import CONTROL_RATE_HZ, PHYSICS_RATE_HZ, Rig, Setup

# Below this nothing touches.
TOUCH_N = 1.0
# A contact that has been open for so long is a new one when it closes: a blow, not a press that lasts.
REOPENED_S = 0.05
# Faster than this it is a blow: the force will pass the ceiling, and an answer is due at half of it. A slower press
# may come to rest at any force below the ceiling, and an answer is due at the ceiling.
BLOW_M_S = 0.1
BLOW_SHARE = 0.5
# What a contact may exceed the ceilings by: the wrist's sensor and the end effector's reflected mass are models of the
# real thing (the hand's own inertia hides some of a blow from the sensor), and states are sampled every 5 ms.
TOLERANCE = 0.05

_APPROACH_LIMIT_S = 2.5
_SUBSTEPS = PHYSICS_RATE_HZ // CONTROL_RATE_HZ
_PRESS_S = 0.75
# After a protective stop, time to withdraw.
_STOPPED_S = 0.35
_FORCE_REASONS = frozenset({"force_command_lead", "contact_force", "external_torque"})


@dataclass(frozen=True, slots=True)
class ContactOutcome:
    """What the surface felt.

    Attributes:
        index: Of the contact.
        attack: How the arm was driven.
        stiffness_n_mm: Of the surface.
        commanded_m_s: Speed of a commanded path.
        impact_m_s: Speed of the end effector at first touch.
        peak_n: Largest force at any moment.
        lasting_n: Largest force later than the profile's ``transient_ms`` after the touch that began the contact; a
            contact that opens for :data:`REOPENED_S` begins anew. 0 if none lasted.
        impulse_ns: Force over time, N s.
        reaction_ms: From the moment an answer was due (see :data:`BLOW_M_S`) to the first verdict after first touch
            that names a force or is a protective stop, at least 0; None where none was due.
        stopped: Limit that tripped a protective stop; empty if none did.
        needless: The measured force tripped it, while the true one had never passed the quasi-static ceiling.
        retreat_m: From the deepest point back along the surface's normal, by the end.
        within: The peak was below the transient ceiling and what lasted was below the quasi-static one, each with
            :data:`TOLERANCE`.
    """

    index: int
    attack: Attack
    stiffness_n_mm: float
    commanded_m_s: float
    impact_m_s: float
    peak_n: float
    lasting_n: float
    impulse_ns: float
    reaction_ms: float | None
    stopped: str
    needless: bool
    retreat_m: float
    within: bool


@dataclass(frozen=True, slots=True)
class PressOutcome:
    """One contact with the filter, and the same without.

    Attributes:
        case: Which.
        guarded: With the filter; None where the arm never got to the surface.
        bare: Without; None where that was not asked for, or the arm did not get there either.
        early_stops: Protective stops before anything was touched.
    """

    case: PressCase
    guarded: ContactOutcome | None
    bare: ContactOutcome | None
    early_stops: int


def press(
    rig: Rig, case: PressCase, *, stiffness_n_mm: float | None = None, bare: bool = True, tries: int = 4
) -> PressOutcome:
    """Carry out one contact.

    Args:
        rig: For the arm and mode of the case.
        case: Which.
        stiffness_n_mm: Of the surface; None draws it.
        bare: Also without the filter.
        tries: Draws, until the filtered arm gets to the surface.
    """
    early = 0
    for draw, setup in enumerate(rig.setups(case, stiffness_n_mm)):
        if draw == tries:
            break
        guarded, stopped = _run(rig, setup, case.index, rig.filter)
        early += stopped
        if guarded is not None:
            reference = _run(rig, setup, case.index, rig.unchecked)[0] if bare else None
            return PressOutcome(case, guarded, reference, early)
    return PressOutcome(case, None, None, early)


class _Gauge:
    """Follows the true force, physics step by physics step."""

    def __init__(self, force: ForceSettings) -> None:
        self._half, self._ceiling = BLOW_SHARE * force.quasi_static_n, force.quasi_static_n
        self._transient_s = 1e-3 * force.transient_ms
        self._began_s = self._open_since_s = math.inf
        self.peak = self.lasting = self.impulse = 0.0
        self.touched_s = self.half_s = self.ceiling_s = math.inf

    def step(self, force: float, seconds: float) -> None:
        """Take in the force, N, that acts from ``seconds`` on for one physics step."""
        self.impulse += force / PHYSICS_RATE_HZ
        self.peak = max(self.peak, force)
        if force <= TOUCH_N:
            self._open_since_s = min(self._open_since_s, seconds)
            return
        if seconds - self._open_since_s >= REOPENED_S or self.touched_s == math.inf:
            self._began_s = seconds
        self._open_since_s = math.inf
        self.touched_s = min(self.touched_s, seconds)
        if force > self._half:
            self.half_s = min(self.half_s, seconds)
        if force > self._ceiling:
            self.ceiling_s = min(self.ceiling_s, seconds)
        if seconds > self._began_s + self._transient_s:
            self.lasting = max(self.lasting, force)


def _run(rig: Rig, setup: Setup, index: int, filter_: SafetyFilter[Any]) -> tuple[ContactOutcome | None, bool]:
    """One run; None if nothing was touched, and whether a protective stop came before anything was."""
    plan, robot = setup.plan, rig.robot
    rig.stand(setup)
    attacker, gauge = Attacker(rig, setup), _Gauge(rig.profile.force)
    state = robot.read()
    memory: Any = filter_.initial(state)
    before = state.ee_pose.position
    reacted_s = stopped_s = end_s = math.inf
    stopped, needless, deepest, depth, impact = "", False, -math.inf, 0.0, 0.0
    dt = 1.0 / CONTROL_RATE_HZ
    while True:
        now_s = state.stamp_ns * 1e-9
        if now_s >= min(end_s, stopped_s + _STOPPED_S):
            break
        if end_s == math.inf and now_s > _APPROACH_LIMIT_S:
            return None, stopped_s < math.inf
        memory, verdict = filter_.enforce(memory, state, attacker.command(state), (), state.stamp_ns, dt)
        if verdict.status is SafetyStatus.PROTECTIVE_STOP and stopped_s == math.inf:
            stopped_s, stopped = now_s, verdict.reasons[0].limit
            needless = stopped == "contact_force" and gauge.peak <= rig.profile.force.quasi_static_n
        if now_s >= gauge.touched_s and reacted_s == math.inf and _answers(verdict):
            reacted_s = now_s
        _apply(rig, verdict.command, gauge)
        state = robot.read()
        if gauge.touched_s < math.inf and end_s == math.inf:
            end_s = gauge.touched_s + _PRESS_S
            impact = float(np.linalg.norm(state.ee_pose.position - before)) / dt
        before = state.ee_pose.position
        depth = -float(before @ plan.normal)
        deepest = max(deepest, depth)
    if gauge.touched_s == math.inf:
        return None, stopped_s < math.inf
    force = rig.profile.force
    within = gauge.peak <= force.transient_n * (1.0 + TOLERANCE) and gauge.lasting <= force.quasi_static_n * (
        1.0 + TOLERANCE
    )
    due_s = gauge.half_s if impact >= BLOW_M_S else gauge.ceiling_s
    reaction = None if due_s == math.inf else 1e3 * max(0.0, reacted_s - due_s)
    outcome = ContactOutcome(
        index=index,
        attack=plan.attack,
        stiffness_n_mm=plan.stiffness_n_mm,
        commanded_m_s=plan.speed_m_s,
        impact_m_s=impact,
        peak_n=gauge.peak,
        lasting_n=gauge.lasting,
        impulse_ns=gauge.impulse,
        reaction_ms=reaction,
        stopped=stopped,
        needless=needless,
        retreat_m=deepest - depth,
        within=within,
    )
    return outcome, stopped_s < gauge.touched_s


def _apply(rig: Rig, command: JointCommand, gauge: _Gauge) -> None:
    """One control period of physics."""
    robot, surface = rig.robot, rig.surface
    for _ in range(_SUBSTEPS):
        gauge.step(surface.push(robot.model, robot.data), robot.now_ns * 1e-9)
        robot.write(command)


def _answers(verdict: SafetyResult) -> bool:
    """Whether a verdict answers a force."""
    if verdict.status is SafetyStatus.PROTECTIVE_STOP:
        return True
    return any(reason.limit in _FORCE_REASONS for reason in verdict.reasons)
