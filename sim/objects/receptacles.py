"""Places to put things: a bowl, plates, trays, and painted zones. All are fixed to the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco

from sim.objects.base import BOX, CYLINDER, PALETTE, WHITE, Thing, add_mark, add_solid

_BOWL_SIDES = 10


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place to put things.

    Attributes:
        thing: What it is.
        xy: Centre on the table, m, base frame.
        radius: A block whose centre is this close to ``xy`` (m) counts as in or on it.
        floor: Height of the surface that carries a block, m.
        rim: Height of its highest part, m.
    """

    thing: Thing
    xy: tuple[float, float]
    radius: float
    floor: float
    rim: float


def add_bowl(spec: mujoco.MjSpec, xy: tuple[float, float]) -> Receptacle:
    """Add a white bowl, 14 cm wide at the rim and 4.5 cm high: a disc and a ring of leaning boxes."""
    body = spec.worldbody.add_body(name="bowl", pos=[xy[0], xy[1], 0.0])
    add_solid(body, CYLINDER, [0.056, 0.003], WHITE, pos=[0.0, 0.0, 0.003])
    lean, radius, height = math.radians(20.0), 0.062, 0.045
    half_length = (radius + 0.008) * math.tan(math.pi / _BOWL_SIDES)
    for side in range(_BOWL_SIDES):
        angle = 2.0 * math.pi * side / _BOWL_SIDES
        # The wall's x axis points outward, turned about z by `angle` and then leaned outward about its own y.
        quat = _product(
            (math.cos(0.5 * angle), 0.0, 0.0, math.sin(0.5 * angle)),
            (math.cos(0.5 * lean), 0.0, math.sin(0.5 * lean), 0.0),
        )
        add_solid(
            body,
            BOX,
            [0.003, half_length, 0.5 * height],
            WHITE,
            pos=[radius * math.cos(angle), radius * math.sin(angle), 0.5 * height],
            quat=quat,
            friction=0.5,
        )
    return Receptacle(Thing("bowl", "bowl"), xy, 0.05, 0.006, height)


def add_plate(spec: mujoco.MjSpec, color: str, xy: tuple[float, float]) -> Receptacle:
    """Add a flat round plate, 11 cm wide."""
    name = f"{color}_plate"
    body = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], 0.0])
    add_solid(body, CYLINDER, [0.055, 0.003], PALETTE[color], pos=[0.0, 0.0, 0.003])
    add_mark(body, CYLINDER, [0.024, 0.0005], WHITE, pos=[0.0, 0.0, 0.006])
    return Receptacle(Thing(name, "plate", color), xy, 0.04, 0.006, 0.006)


def add_tray(spec: mujoco.MjSpec, color: str, xy: tuple[float, float]) -> Receptacle:
    """Add a square tray, 11 cm wide, with a low rim."""
    name = f"{color}_tray"
    half, rim = 0.055, 0.011
    body = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], 0.0])
    add_solid(body, BOX, [half, half, 0.002], PALETTE[color], pos=[0.0, 0.0, 0.002])
    for sign in (-1.0, 1.0):
        offset = sign * (half - 0.003)
        add_solid(body, BOX, [0.003, half, 0.5 * rim], PALETTE[color], pos=[offset, 0.0, 0.5 * rim])
        add_solid(body, BOX, [half, 0.003, 0.5 * rim], PALETTE[color], pos=[0.0, offset, 0.5 * rim])
    return Receptacle(Thing(name, "tray", color), xy, 0.04, 0.004, rim)


def add_zone(spec: mujoco.MjSpec, color: str, xy: tuple[float, float]) -> Receptacle:
    """Paint a disc, 13 cm wide, on the table."""
    name = f"{color}_zone"
    body = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], 0.0])
    add_mark(body, CYLINDER, [0.065, 0.0005], PALETTE[color], pos=[0.0, 0.0, 0.0008])
    return Receptacle(Thing(name, "zone", color), xy, 0.035, 0.0, 0.0)


def _product(a: tuple[float, ...], b: tuple[float, ...]) -> list[float]:
    """Hamilton product of two quaternions wxyz."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
