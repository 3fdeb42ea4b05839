"""Convex regions of a profile, in the base frame: where watched points must stay, and where the arm must not go.

A keep-out holds for the whole hull but the capsules that it ``spares``: fingers may touch a table that the rest of the
arm must not.
"""

from __future__ import annotations

from dataclasses import dataclass

from safety.profile.fields import Quaternion, Vector, direction, number, position, quaternion


@dataclass(frozen=True, slots=True)
class Plane:
    """The half-space ``normal . x <= offset_m``; the normal points out of it."""

    normal: Vector = direction()
    offset_m: float = number(-5.0, 5.0)


@dataclass(frozen=True, slots=True)
class Polytope:
    """A convex region that some watched points must stay in.

    Attributes:
        name: Unique name.
        points: Watched points that it holds for.
        planes: It is where every one of these admits a point.
    """

    name: str
    points: tuple[str, ...]
    planes: tuple[Plane, ...]


@dataclass(frozen=True, slots=True)
class BoxZone:
    """A solid box, turned by ``quaternion`` (w, x, y, z)."""

    name: str
    centre_m: Vector = position()
    half_size_m: Vector = position()
    quaternion: Quaternion = quaternion()
    spares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SphereZone:
    """A ball."""

    name: str
    centre_m: Vector = position()
    radius_m: float = number(0.001, 5.0)
    spares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CapsuleZone:
    """All points within ``radius_m`` of a segment."""

    name: str
    start_m: Vector = position()
    end_m: Vector = position()
    radius_m: float = number(0.001, 5.0)
    spares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CylinderZone:
    """A solid cylinder with flat ends at ``start_m`` and ``end_m``."""

    name: str
    start_m: Vector = position()
    end_m: Vector = position()
    radius_m: float = number(0.001, 5.0)
    spares: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HalfSpaceZone:
    """Everything beyond a plane: where ``normal . x <= offset_m``; the normal points to the free side."""

    name: str
    normal: Vector = direction()
    offset_m: float = number(-5.0, 5.0)
    spares: tuple[str, ...] = ()


KeepOut = BoxZone | SphereZone | CapsuleZone | CylinderZone | HalfSpaceZone

SHAPES: dict[str, type[BoxZone] | type[SphereZone] | type[CapsuleZone] | type[CylinderZone] | type[HalfSpaceZone]] = {
    "box": BoxZone,
    "sphere": SphereZone,
    "capsule": CapsuleZone,
    "cylinder": CylinderZone,
    "half_space": HalfSpaceZone,
}
