"""One arm behind one filter, tick by tick, with the monitor looking on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from controllers.protocols import SafetyFilter
from controllers.types import (
    CommandMode,
    FloatArray,
    JointCommand,
    OperatorEvent,
    RobotState,
    SafetyResult,
    SafetyStatus,
    frozen_array,
)
from safety.monitor import GroundTruthMonitor, LimitMargin, MonitoredLimit, Violation
from sim.fuzz.plant import Plant

# A verdict that says this has set the commanded path back to where the servos press less: it begins again there.
_SET_BACK = ("pulled back", "gives way")
_LATCHED = (SafetyStatus.PROTECTIVE_STOP, SafetyStatus.EMERGENCY_STOP)
# What trips a protective stop. Under a latched emergency stop only the reasons tell.
_TRIPS = frozenset({"tracking", "overspeed", "contact_force", "external_torque"})


@dataclass(frozen=True, slots=True)
class Moment:
    """A state to come back to."""

    plant: FloatArray
    memory: object
    applied: JointCommand
    status: SafetyStatus
    trips: frozenset[str]
    path: tuple[FloatArray | None, FloatArray | None]


@dataclass(frozen=True, slots=True)
class LimitCount:
    """How often one limit was found violated."""

    limit: MonitoredLimit
    readings: int


class Session:
    """Applies verdicts to the plant and counts what the monitor finds.

    Attributes:
        ticks: Ticks so far, those of abandoned branches included.
        violations: Ticks on which the monitor found anything.
        first: The first violation, and the tick it was on.
    """

    def __init__(
        self, plant: Plant, monitor: GroundTruthMonitor, filter_: SafetyFilter[Any], start: FloatArray
    ) -> None:
        """Stand at rest at a joint position (n,) rad."""
        self.plant, self.monitor, self.filter = plant, monitor, filter_
        plant.start(start)
        self.dt = plant.period_ns * 1e-9
        self.applied = JointCommand(plant.mode, frozen_array(plant.data.ctrl[plant.actuators]), 0.0, -1)
        self.status = SafetyStatus.RUN
        self.trips: frozenset[str] = frozenset()
        self.memory: Any = None
        self.ticks = self.violations = 0
        self.first: Violation | None = None
        self._counts: Counter[MonitoredLimit] = Counter()

    def begin(self, sensed: RobotState) -> None:
        """Give the filter its first look."""
        self.memory = self.filter.initial(sensed)
        self.monitor.restart_path(sensed.joint_position)
        self.applied = JointCommand(self.applied.mode, self.applied.values, sensed.gripper_opening, -1)

    def filtered(self, sensed: RobotState, asked: JointCommand, events: tuple[OperatorEvent, ...]) -> None:
        """One tick: filter, then plant."""
        self.memory, result = self.filter.enforce(self.memory, sensed, asked, events, self.plant.now_ns, self.dt)
        self.carry_out(result)

    def carry_out(self, result: SafetyResult) -> None:
        """Apply a verdict for one control period and judge what happens."""
        plant, monitor, now_ns = self.plant, self.monitor, self.plant.now_ns
        pulled_back = any(reason.message.startswith(_SET_BACK) for reason in result.reasons)
        again = pulled_back and plant.mode is CommandMode.VELOCITY
        if again or ((self._begins_again(result) or pulled_back) and plant.mode is CommandMode.POSITION):
            monitor.restart_path()
        self.status, self.trips = result.status, _trips_of(result)
        monitor.open()
        found = monitor.judge_command(result.command, self.dt, now_ns)
        plant.apply(result.command)
        self.applied = result.command
        self.ticks += 1
        try:
            found += plant.advance(monitor)
            found += monitor.judge(plant.data, plant.now_ns)
        finally:
            self._count(found)

    def judge_rest(self) -> None:
        """The arm should be at rest now."""
        self._count(self.monitor.judge_rest(self.plant.data, self.plant.now_ns))

    def moment(self) -> Moment:
        """Where everything stands."""
        state, path = self.plant.get_state(), self.monitor.path_memory
        return Moment(state, self.memory, self.applied, self.status, self.trips, path)

    def return_to(self, moment: Moment) -> None:
        """Go back."""
        self.plant.set_state(moment.plant)
        self.memory, self.applied = moment.memory, moment.applied
        self.status, self.trips = moment.status, moment.trips
        self.monitor.path_memory = moment.path

    @property
    def counts(self) -> tuple[LimitCount, ...]:
        """Readings that were violations, by limit."""
        return tuple(
            LimitCount(limit, count) for limit, count in sorted(self._counts.items(), key=lambda i: i[0].value)
        )

    @property
    def min_margin(self) -> float:
        """Smallest relative margin of any limit."""
        margins: tuple[LimitMargin, ...] = self.monitor.margins
        return min((margin.relative for margin in margins), default=math.inf)

    def _begins_again(self, result: SafetyResult) -> bool:
        """Whether the filter starts its path afresh: a protective stop trips, or a latch is released."""
        reset = self.status is SafetyStatus.EMERGENCY_STOP and result.status is not self.status
        return reset or _trips_of(result) != self.trips

    def _count(self, found: tuple[Violation, ...]) -> None:
        if not found:
            return
        self.violations += 1
        self._counts.update(violation.limit for violation in found)
        if self.first is None:
            self.first = found[0]


def _trips_of(result: SafetyResult) -> frozenset[str]:
    """What has tripped a protective stop that is latched."""
    if result.status not in _LATCHED:
        return frozenset()
    return _TRIPS.intersection(reason.limit for reason in result.reasons)
