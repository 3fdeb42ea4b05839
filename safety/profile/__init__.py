"""Safety profiles: every number that the filter enforces, typed, checked and hashed.

A profile is a YAML file whose keys carry their units. Loading refuses unknown, missing and implausible entries and says
what was expected and what was found. The episode log stores :meth:`SafetyProfile.to_json`.
"""

from safety.profile.errors import SafetyProfileError
from safety.profile.loading import BUILT_IN_PROFILES, load_profile, parse_profile
from safety.profile.profile import SafetyProfile
from safety.profile.settings import (
    STIFFEST_SURFACE_N_M,
    CarriedObject,
    EndEffectorSettings,
    Enforcement,
    ForceSettings,
    GripperSettings,
    HoldSettings,
    JointSettings,
    MonitoringSettings,
    OrientationCone,
    PointBox,
    SelfCollisionSettings,
    StoppingSettings,
    TimingSettings,
)
from safety.profile.tightening import check_tighter, loosened
from safety.profile.zones import (
    BoxZone,
    CapsuleZone,
    CylinderZone,
    HalfSpaceZone,
    KeepOut,
    Plane,
    Polytope,
    SphereZone,
)

__all__ = [
    "BUILT_IN_PROFILES",
    "STIFFEST_SURFACE_N_M",
    "BoxZone",
    "CapsuleZone",
    "CarriedObject",
    "CylinderZone",
    "EndEffectorSettings",
    "Enforcement",
    "ForceSettings",
    "GripperSettings",
    "HalfSpaceZone",
    "HoldSettings",
    "JointSettings",
    "KeepOut",
    "MonitoringSettings",
    "OrientationCone",
    "Plane",
    "PointBox",
    "Polytope",
    "SafetyProfile",
    "SafetyProfileError",
    "SelfCollisionSettings",
    "SphereZone",
    "StoppingSettings",
    "TimingSettings",
    "check_tighter",
    "load_profile",
    "loosened",
    "parse_profile",
]
