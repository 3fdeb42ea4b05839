"""What all object builders share: the palette, the contact convention, and non-overlapping placement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

RGBA = tuple[float, float, float, float]

# Saturated, far apart in hue, so that they can be told apart in a 128 px picture.
PALETTE: dict[str, RGBA] = {
    "red": (0.85, 0.06, 0.06, 1.0),
    "green": (0.05, 0.62, 0.14, 1.0),
    "blue": (0.06, 0.20, 0.90, 1.0),
    "yellow": (0.97, 0.87, 0.04, 1.0),
    "purple": (0.55, 0.08, 0.72, 1.0),
    "orange": (1.00, 0.45, 0.00, 1.0),
}
WHITE: RGBA = (0.93, 0.93, 0.93, 1.0)
GREY: RGBA = (0.45, 0.45, 0.48, 1.0)
DARK: RGBA = (0.12, 0.12, 0.13, 1.0)

BOX = mujoco.mjtGeom.mjGEOM_BOX
CYLINDER = mujoco.mjtGeom.mjGEOM_CYLINDER
SPHERE = mujoco.mjtGeom.mjGEOM_SPHERE
CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE
SLIDE = mujoco.mjtJoint.mjJNT_SLIDE
HINGE = mujoco.mjtJoint.mjJNT_HINGE


@dataclass(frozen=True, slots=True)
class Thing:
    """One object in a scene.

    Attributes:
        name: Name of its body in the model.
        kind: What a person would call it: ``"block"``, ``"bowl"``, ``"drawer"``...
        color: Name in :data:`PALETTE`, or ``""`` for an object without one.
    """

    name: str
    kind: str
    color: str = ""


def sample_colors(rng: np.random.Generator, count: int, exclude: Sequence[str] = ()) -> list[str]:
    """``count`` different palette colours, none of them in ``exclude``."""
    names = [name for name in PALETTE if name not in exclude]
    return [names[index] for index in rng.permutation(len(names))[:count]]


def add_solid(
    body: mujoco.MjsBody,
    shape: mujoco.mjtGeom,
    size: Sequence[float],
    rgba: RGBA,
    *,
    name: str = "",
    pos: Sequence[float] = (0.0, 0.0, 0.0),
    quat: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    mass: float = 0.0,
    friction: float = 1.0,
) -> mujoco.MjsGeom:
    """Add a colliding geom under the world contact convention (``contype=1 conaffinity=3``).

    Args:
        body: Parent.
        shape: Primitive type.
        size: Half sizes, m, as MuJoCo wants them for ``shape``.
        rgba: Colour.
        name: Geom name; empty for none.
        pos: Centre in the body frame, m.
        quat: Orientation in the body frame, wxyz.
        mass: kg; leave 0 for static bodies, whose mass does not matter.
        friction: Sliding friction coefficient.
    """
    geom = body.add_geom(
        type=shape,
        size=_padded(size),
        rgba=list(rgba),
        pos=list(pos),
        quat=list(quat),
        contype=1,
        conaffinity=3,
        condim=3,
        friction=[friction, 0.01, 0.0002],
    )
    if mass > 0.0:
        geom.mass = mass
    if name:
        geom.name = name
    return geom


def add_mark(
    body: mujoco.MjsBody,
    shape: mujoco.mjtGeom,
    size: Sequence[float],
    rgba: RGBA,
    *,
    pos: Sequence[float] = (0.0, 0.0, 0.0),
) -> mujoco.MjsGeom:
    """Add a geom that is seen but never touched."""
    geom = body.add_geom(type=shape, size=_padded(size), rgba=list(rgba), pos=list(pos), contype=0, conaffinity=0)
    geom.mass = 1e-4
    return geom


def yaw_quaternion(yaw: float) -> list[float]:
    """Quaternion wxyz of a turn by ``yaw`` rad about z."""
    return [math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)]


def scatter(
    rng: np.random.Generator,
    radii: Sequence[float],
    x_range: tuple[float, float] = (0.35, 0.59),
    y_range: tuple[float, float] = (-0.22, 0.22),
) -> list[tuple[float, float]]:
    """Sample positions such that discs of the given ``radii`` (m) around them do not overlap.

    The disc is the room that an object needs, the open gripper around it included; only centres are kept inside
    the ranges.

    Raises:
        RuntimeError: No arrangement was found; the ranges are too small for the radii.
    """
    for _ in range(200):
        points: list[tuple[float, float]] = []
        for radius in radii:
            for _ in range(40):
                x, y = float(rng.uniform(*x_range)), float(rng.uniform(*y_range))
                if all(
                    math.hypot(x - px, y - py) >= radius + other for (px, py), other in zip(points, radii, strict=False)
                ):
                    points.append((x, y))
                    break
            else:
                break
        if len(points) == len(radii):
            return points
    raise RuntimeError(f"found no room for discs of radii {list(radii)} m in x {x_range}, y {y_range}")


def _padded(size: Sequence[float]) -> list[float]:
    return [*size, 0.0, 0.0, 0.0][:3]
