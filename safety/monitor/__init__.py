"""An independent judge of what the arm really does: it shares the profile with the filter, and no code."""

from safety.monitor.ledger import LIMITS, LimitMargin, MonitoredLimit, Violation
from safety.monitor.monitor import GroundTruthMonitor, PlaceMonitor
from safety.monitor.places import add_zone
from safety.monitor.tolerance import MonitorTolerance, SenseError

__all__ = [
    "LIMITS",
    "GroundTruthMonitor",
    "LimitMargin",
    "MonitorTolerance",
    "MonitoredLimit",
    "PlaceMonitor",
    "SenseError",
    "Violation",
    "add_zone",
]
