"""The gripper closes no faster and no harder than allowed."""

from __future__ import annotations

from typing import NamedTuple

from controllers.robot import GripperDescription
from controllers.types import SafetyReason
from safety.profile import GripperSettings

_ROUNDING_M = 1e-6
# Share of the speed that is commanded: a drive that has fallen behind catches up faster than it is told.
_CAUGHT_UP = 0.92
# In a stop the fingers may be told to open this much farther than they are: a drive that sags under its load must not
# let them close bit by bit.
_SAG_M = 0.001
# Fingers that are faster than this are on their way, not holding or pressing, m/s.
_MOVING_M_S = 0.03
# Fingers that were seen this long ago, at most, are where they were seen.
_PRESENT_S = 0.001
# Fingers that were seen longer ago than this have been told more than one thing since, ticks.
_ONE_TICK = 1.5


class Fingers(NamedTuple):
    """What the newest state says of the fingers.

    Attributes:
        opening: m.
        moving: They have moved since the state before, so that they hold nothing.
        stopped: The last command stopped them, in a contact.
        felt_ns: When the tool felt last what may be a contact of theirs; long ago before the first.
    """

    opening: float
    moving: bool
    stopped: bool = False
    felt_ns: int = -(10**18)

    def seen(self, opening: float, elapsed_s: float) -> Fingers:
        """The same after the next state, ``elapsed_s`` later."""
        return Fingers(opening, abs(opening - self.opening) > _MOVING_M_S * elapsed_s, self.stopped, self.felt_ns)


class GripperLimit:
    """Bounds the commanded opening: its range, its rate, and how far it runs ahead of the fingers.

    A drive pulls with its stiffness times that lead, up to its own greatest force. A profile that allows as much speed
    or force as the drive has leaves the command alone.

    Fingers that were seen a tick ago have gone on since towards what they were told then, and are anywhere on that way.
    Of older ones even less is known, so that the command for them stays as it is.
    """

    def __init__(self, gripper: GripperDescription, settings: GripperSettings) -> None:
        """Set the bounds."""
        self._closed, self._open = gripper.closed, gripper.open
        self._speed = settings.speed_m_s * _CAUGHT_UP if settings.speed_m_s < gripper.max_speed else None
        self._lead = settings.force_n / gripper.stiffness if settings.force_n < gripper.max_force else None
        self._fastest = gripper.max_speed

    def within_range(self, opening: float) -> float:
        """The nearest opening in the gripper's range, m."""
        return min(max(opening, self._closed), self._open)

    def stopped(self, previous: float, sensed: float) -> float:
        """The opening in a stop: a grip stays as it is, but fingers that open are stopped where they are.

        Fingers that open against something push the arm as a motor of its own would.

        Args:
            previous: m, applied on the last tick.
            sensed: m, last.
        """
        return min(previous, self.within_range(sensed + _SAG_M))

    def arrested(self, opening: float, previous: float, fingers: Fingers) -> tuple[float, tuple[SafetyReason, ...]]:
        """Stop fingers that move where they are: they may be pushing the arm.

        A jaw that turns against the table drives a weak arm before it. A grip, whose fingers do not move, stays.

        Args:
            opening: m, commanded.
            previous: m, applied on the last tick.
            fingers: What is known of them.

        Returns:
            The opening to apply, m, and why it differs.
        """
        if not (fingers.moving or fingers.stopped):
            return opening, ()
        held = previous if fingers.stopped else self.within_range(fingers.opening)
        return held, (SafetyReason("gripper_contact", -abs(opening - held), "stopped in a contact; margin in m"),)

    def bounded(
        self, opening: float, previous: float, sensed: float | None, dt: float, age: float = 0.0
    ) -> tuple[float, tuple[SafetyReason, ...]]:
        """Bound a commanded opening.

        Args:
            opening: m, commanded.
            previous: m, applied on the last tick.
            sensed: m, None if it is not known.
            dt: Control period, s.
            age: Of what is sensed, s.

        Returns:
            The opening to apply, m, and why it differs.
        """
        bounded = self.within_range(opening)
        outside = -abs(opening - bounded)
        reasons: tuple[SafetyReason, ...] = ()
        if outside < -_ROUNDING_M:
            reasons = (SafetyReason("gripper_opening", outside, "clamped to the gripper's range; margin in m"),)
        if self._speed is not None:
            reach = self._speed * dt
            slower = min(max(bounded, previous - reach), previous + reach)
            if slower != bounded:
                margin = self._speed - abs(bounded - previous) / dt
                reasons += (SafetyReason("gripper_speed", margin, "slowed down; margin in m/s"),)
                bounded = slower
        if self._lead is not None and sensed is not None:
            weaker = self._led(bounded, previous, sensed, dt, age, self._lead)
            if weaker != bounded:
                margin = self._lead - abs(bounded - sensed)
                reasons += (SafetyReason("gripper_force", margin, "held back; margin in m of lead"),)
                bounded = weaker
        return bounded, reasons

    def _led(self, opening: float, previous: float, sensed: float, dt: float, age: float, lead: float) -> float:
        """The opening nearest to one that is wanted, within ``lead`` of wherever the fingers may be; all m."""
        low = high = sensed
        if age > _PRESENT_S:
            way = self._fastest * age
            low, high = max(min(sensed, previous), sensed - way), min(max(sensed, previous), sensed + way)
        if age > _ONE_TICK * dt or high - low > lead:
            return previous
        # A sensor may read a little beyond the range, or be wrong: the range holds all the same.
        return self.within_range(min(max(opening, high - lead), low + lead))
