"""Loose blocks and tall pins."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from sim.objects.base import BOX, PALETTE, Thing, add_solid, yaw_quaternion


@dataclass(frozen=True, slots=True)
class Block:
    """A loose cube of half edge ``half`` m."""

    thing: Thing
    half: float


@dataclass(frozen=True, slots=True)
class Pin:
    """A loose upright column: half width and half height in m."""

    thing: Thing
    half_width: float
    half_height: float


def add_block(spec: mujoco.MjSpec, color: str, xy: tuple[float, float], yaw: float, half: float = 0.02) -> Block:
    """Add a 50 g cube that rests on the table, turned by ``yaw`` rad."""
    name = f"{color}_block"
    body = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], half], quat=yaw_quaternion(yaw))
    body.add_freejoint()
    _slippery(add_solid(body, BOX, [half, half, half], PALETTE[color], mass=0.05))
    return Block(Thing(name, "block", color), half)


def add_pin(spec: mujoco.MjSpec, color: str, xy: tuple[float, float], yaw: float) -> Pin:
    """Add a 60 g column of 3.6 x 3.6 x 13 cm that stands on the table and topples when pushed high."""
    half_width, half_height = 0.018, 0.065
    name = f"{color}_pin"
    body = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], half_height], quat=yaw_quaternion(yaw))
    body.add_freejoint()
    add_solid(body, BOX, [half_width, half_width, half_height], PALETTE[color], mass=0.06)
    return Pin(Thing(name, "pin", color), half_width, half_height)


def _slippery(geom: mujoco.MjsGeom) -> None:
    """Let the block slide on the table as smooth wood does, yet not out of the fingers' rubber pads.

    The table's friction would win over the block's otherwise; the pads have the same priority and more friction. The
    product of both coefficients stays below 1, else a pushed block is wedged between finger and table.
    """
    geom.priority = 1
    geom.friction[0] = 0.4
    # Hard, or the fingers' 70 N sink into 50 g; overdamped, or they bounce off it.
    geom.solref[:] = [0.01, 2.0]
    geom.solimp[:3] = [0.95, 0.99, 0.001]
