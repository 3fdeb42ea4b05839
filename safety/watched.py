"""The points of the arm that limits look at, and their order."""

from __future__ import annotations

from typing import ClassVar

from controllers.names import nearest_name_hint
from controllers.robot import RobotDescription
from safety.hull import Hull
from safety.kinematics import SafetyKinematics, end_effector_point
from safety.profile import SafetyProfile, SafetyProfileError

# Name under which a profile's workspace may hold a box for what the gripper carries.
CARRIED_OBJECT = "carried_object"


class Watched:
    """Lays out all watched points: named sites (the end effector first), the hull's ends, the tip of the tool axis.

    Attributes:
        names: The named sites, index by index.
        hull: The hull.
        kinematics: Knows all the points.
        carried: Index of the carried object's centre, None if the profile declares none.
        tip: Index of a point on the tool axis, None if the profile declares no cone.
        LEVER_M: Distance of that point from the end effector.
    """

    LEVER_M: ClassVar[float] = 0.1

    def __init__(self, description: RobotDescription, profile: SafetyProfile) -> None:
        """Lay out the points of a robot under a profile."""
        self.names = tuple(dict.fromkeys((description.end_effector_site, *description.safety_points)))
        self.hull = Hull(description, profile, len(self.names))
        tracked = [*self.hull.tracked]
        self.carried = None if profile.carried_object is None else len(self.names) + len(self.hull.names) - 1
        self.tip = None
        if profile.orientation is not None:
            self.tip = len(self.names) + len(tracked)
            x, y, z = (self.LEVER_M * part for part in profile.orientation.tool_axis)
            tracked.append(end_effector_point(description, (x, y, z)))
        self.kinematics = SafetyKinematics(description, self.names, tracked)

    def index(self, name: str, profile: SafetyProfile) -> int:
        """Index of a named point.

        Raises:
            SafetyProfileError: There is none of that name.
        """
        if name not in self.names:
            hint = nearest_name_hint(name, self.names)
            raise SafetyProfileError(
                f"profile {profile.name!r}: polytopes: expected a watched point of {profile.robot!r}, found "
                f"{name!r}{hint}; it has {', '.join(self.names)}"
            )
        return self.names.index(name)
