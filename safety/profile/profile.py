"""The profile itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from functools import cached_property

from controllers.names import nearest_name_hint
from safety.profile.errors import SafetyProfileError
from safety.profile.fields import json_of
from safety.profile.settings import (
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
from safety.profile.zones import SHAPES, KeepOut, Polytope

_SHAPE_NAMES = {kind: name for name, kind in SHAPES.items()}


@dataclass(frozen=True)
class SafetyProfile:
    """All that the safety filter enforces on one robot in one cell.

    Attributes:
        name: Name of the profile.
        robot: Name of the robot description that it is meant for.
        enforcement: What happens to a command that may not pass as it is.
        joints: Joint limits.
        end_effector: End-effector speed limits.
        gripper: Gripper limits.
        force: Force ceilings.
        stopping: How limits are approached.
        timing: Ages of commands and states.
        monitoring: What trips a protective stop.
        hold: Torque-mode hold.
        self_collision: Distances within the arm.
        workspace: A box for each watched point.
        polytopes: Further convex regions that watched points must stay in.
        keep_outs: Where no part of the arm may go.
        orientation: Cone that the tool stays in, if any.
        carried_object: What the gripper may hold, if that is to be watched.
    """

    name: str
    robot: str
    enforcement: Enforcement
    joints: JointSettings
    end_effector: EndEffectorSettings
    gripper: GripperSettings
    force: ForceSettings
    stopping: StoppingSettings
    timing: TimingSettings
    monitoring: MonitoringSettings
    hold: HoldSettings
    self_collision: SelfCollisionSettings
    workspace: tuple[PointBox, ...]
    polytopes: tuple[Polytope, ...] = ()
    keep_outs: tuple[KeepOut, ...] = ()
    orientation: OrientationCone | None = None
    carried_object: CarriedObject | None = None

    def box(self, point: str) -> PointBox:
        """The box of a watched point.

        Raises:
            SafetyProfileError: The profile has no box for it.
        """
        for box in self.workspace:
            if box.point == point:
                return box
        found = tuple(box.point for box in self.workspace)
        hint = nearest_name_hint(point, found)
        raise SafetyProfileError(
            f"profile {self.name!r}: workspace: expected a box for point {point!r}{hint}; found {', '.join(found)}"
        )

    def with_keep_outs(self, name: str, zones: tuple[KeepOut, ...]) -> SafetyProfile:
        """This profile under another name, with further keep-outs."""
        return replace(self, name=name, keep_outs=self.keep_outs + zones)

    def to_json(self) -> dict[str, object]:
        """A JSON-ready description, of the same shape as the YAML; equal profiles give equal JSON."""
        data: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                data[entry.name] = json_of(value)
        data["workspace"] = {
            box.point: {"lower_m": list(box.lower_m), "upper_m": list(box.upper_m)} for box in self.workspace
        }
        data["polytopes"] = {polytope.name: _without_name(polytope) for polytope in self.polytopes}
        data["keep_outs"] = {
            zone.name: {"shape": _SHAPE_NAMES[type(zone)], **_without_name(zone)} for zone in self.keep_outs
        }
        return data

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, first 16 hex digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_name(value: KeepOut | Polytope) -> dict[str, object]:
    return {entry.name: json_of(getattr(value, entry.name)) for entry in fields(value) if entry.name != "name"}
