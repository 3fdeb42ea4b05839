"""What stands between the true state and the filter, and what an operator does: noise, delay, losses, events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controllers.types import CommandMode, OperatorEvent, RobotState, frozen_array
from sim.fuzz.plan import Attack, EpisodePlan

_LONGEST_TORQUE_LOSS_S = 0.1


class Senses:
    """Makes sensed states out of true ones; the monitor never sees what it does."""

    def __init__(self, plan: EpisodePlan, joints: int) -> None:
        """Draw biases; noise and bias share the declared error."""
        self._rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 4]))
        self._noise = plan.noise
        self._bias = 0.5 * plan.noise.position_rad * self._rng.uniform(-1.0, 1.0, joints)
        self._late, self._drops = plan.late_ticks, plan.drops
        # Under torque commands an arm that nobody senses drifts: its drives must brake by themselves when the bus falls
        # silent for longer than this. docs/safety.md says so; here the bus comes back before.
        torque = plan.mode is CommandMode.TORQUE
        self._longest_loss = max(1, round(_LONGEST_TORQUE_LOSS_S * plan.rate_hz)) if torque else 40
        self._breaks = plan.name.attack is Attack.NAN and plan.late_ticks == 0
        self._joints = joints
        self._queue: list[RobotState] = []
        self._lost = 0
        self._seen: RobotState | None = None

    def sense(self, true: RobotState) -> RobotState:
        """The state as it arrives at this tick."""
        rng = self._rng
        self._queue.append(self._disturbed(true))
        if len(self._queue) > self._late + 1:
            del self._queue[0]
        if self._drops and self._lost == 0 and rng.random() < 0.03:
            self._lost = int(rng.choice([1, 2, 4, self._longest_loss]))
        if self._lost > 0 and self._seen is not None:
            self._lost -= 1
            return self._seen
        self._seen = self._queue[0]
        if self._breaks and rng.random() < 0.01:
            return _broken(self._seen, rng)
        return self._seen

    def _disturbed(self, true: RobotState) -> RobotState:
        noise, rng = self._noise, self._rng
        if noise.position_rad == 0.0 and noise.velocity_rad_s == 0.0:
            return true
        position = true.joint_position + self._bias + 0.5 * noise.position_rad * rng.uniform(-1.0, 1.0, self._joints)
        velocity = true.joint_velocity + noise.velocity_rad_s * rng.uniform(-1.0, 1.0, self._joints)
        return replace(true, joint_position=frozen_array(position), joint_velocity=frozen_array(velocity))


def _broken(state: RobotState, rng: np.random.Generator) -> RobotState:
    position = np.array(state.joint_position)
    kind = int(rng.integers(4))
    if kind == 0:
        position[int(rng.integers(len(position)))] = rng.choice([np.nan, np.inf, 1e30])
        return replace(state, joint_position=frozen_array(position))
    if kind == 1:
        return replace(state, joint_velocity=frozen_array(np.full(len(position), np.nan)))
    if kind == 2:
        return replace(state, joint_position=frozen_array(position[:-1]))
    return replace(state, stamp_ns=state.stamp_ns + int(rng.choice([-(10**10), 10**10])))


class Operator:
    """Presses buttons at random."""

    def __init__(self, plan: EpisodePlan) -> None:
        """Draw from the episode's seed; an episode without events has an operator who does nothing."""
        self._rng = np.random.default_rng(np.random.SeedSequence([*plan.seed, 5]))
        self._active = plan.events

    def events(self) -> tuple[OperatorEvent, ...]:
        """The buttons pressed before this tick."""
        if not self._active:
            return ()
        draw = self._rng.random()
        for event, share in (
            (OperatorEvent.EMERGENCY_STOP, 0.004),
            (OperatorEvent.HOLD, 0.004),
            (OperatorEvent.RESUME, 0.02),
            (OperatorEvent.RESET, 0.02),
            (OperatorEvent.ACKNOWLEDGE, 0.02),
        ):
            draw -= share
            if draw < 0.0:
                return (event,)
        return ()
