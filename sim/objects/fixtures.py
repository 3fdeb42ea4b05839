"""Fixtures with a joint: balls on posts, buttons, drawers and levers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco

from sim.objects.base import (
    BOX,
    CAPSULE,
    CYLINDER,
    DARK,
    GREY,
    HINGE,
    PALETTE,
    SLIDE,
    SPHERE,
    WHITE,
    Thing,
    add_mark,
    add_solid,
)


@dataclass(frozen=True, slots=True)
class Plunger:
    """Something that gives way downward on a spring: a ball on a post, or a button.

    Attributes:
        thing: What it is; its body is the moving part.
        joint: Slide joint, 0 at rest, negative when pressed, m.
        xy: Place on the table, m, base frame.
        top: Height of its highest point at rest, m.
        travel: How far it gives, m.
    """

    thing: Thing
    joint: str
    xy: tuple[float, float]
    top: float
    travel: float


@dataclass(frozen=True, slots=True)
class Drawer:
    """A drawer that opens toward the robot (base frame -x).

    Attributes:
        thing: What it is; its body is the moving part.
        joint: Slide joint, 0 closed, growing as it opens, m.
        knob: Centre of the knob when closed, m, base frame.
        knob_half: Half sizes of the knob, m.
        travel: Range of the joint, m.
    """

    thing: Thing
    joint: str
    knob: tuple[float, float, float]
    knob_half: tuple[float, float, float]
    travel: float


@dataclass(frozen=True, slots=True)
class Lever:
    """An upright lever that tips to the robot's left (base frame +y) or right.

    Attributes:
        thing: What it is; its body is the moving part.
        joint: Hinge joint, 0 upright, positive to the left, rad.
        hinge: Point on the axis, m, base frame.
        length: From the axis to the tip, m.
        travel: The joint's range is plus or minus this, rad.
    """

    thing: Thing
    joint: str
    hinge: tuple[float, float, float]
    length: float
    travel: float


def _sprung_slide(body: mujoco.MjsBody, name: str, travel: float, stiffness: float, preload: float) -> None:
    """Give ``body`` a downward slide with a spring (N/m) that holds it up with ``preload`` N at rest."""
    joint = body.add_joint(name=name, type=SLIDE, axis=[0, 0, 1])
    joint.range[:] = [-travel, 0.0]
    joint.limited = True
    joint.stiffness = stiffness
    joint.springref = preload / stiffness
    joint.damping = 4.0
    joint.armature = 0.05


def add_ball_on_post(spec: mujoco.MjSpec, color: str, xy: tuple[float, float], height: float) -> Plunger:
    """Add a ball of 4.8 cm whose top is at ``height`` m, on a thin post; it gives 2 cm on a soft spring."""
    name, radius = f"{color}_ball", 0.024
    centre = height - radius
    post = spec.worldbody.add_body(name=f"{name}_post", pos=[xy[0], xy[1], 0.0])
    add_solid(post, CYLINDER, [0.030, 0.004], GREY, pos=[0.0, 0.0, 0.004])
    add_mark(post, CYLINDER, [0.007, 0.5 * centre], GREY, pos=[0.0, 0.0, 0.5 * centre])
    ball = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], centre])
    joint = f"{name}_slide"
    _sprung_slide(ball, joint, 0.02, 150.0, 1.5)
    add_solid(ball, SPHERE, [radius], PALETTE[color], mass=0.05)
    return Plunger(Thing(name, "ball", color), joint, xy, height, 0.02)


def add_button(spec: mujoco.MjSpec, color: str, xy: tuple[float, float]) -> Plunger:
    """Add a push button: a dark housing and a coloured cap that gives 9 mm against 2 to 5 N."""
    name, travel = f"{color}_button", 0.009
    housing = spec.worldbody.add_body(name=f"{name}_housing", pos=[xy[0], xy[1], 0.0])
    add_solid(housing, BOX, [0.036, 0.036, 0.008], DARK, pos=[0.0, 0.0, 0.008])
    cap = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], 0.027])
    joint = f"{name}_slide"
    _sprung_slide(cap, joint, travel, 300.0, 2.0)
    add_solid(cap, CYLINDER, [0.026, 0.008], PALETTE[color], mass=0.03)
    return Plunger(Thing(name, "button", color), joint, xy, 0.035, travel)


def add_cabinet(spec: mujoco.MjSpec, colors: tuple[str, str], face_x: float, centre_y: float) -> tuple[Drawer, Drawer]:
    """Add a cabinet without a top that holds two drawers side by side, fronts at ``face_x`` m facing the robot.

    Args:
        spec: Scene to add to.
        colors: Colour of the left (+y) and of the right drawer.
        face_x: Where the closed fronts are, m, base frame.
        centre_y: Middle of the cabinet, m, base frame.
    """
    depth, pitch, wall = 0.15, 0.125, 0.005
    cabinet = spec.worldbody.add_body(name="cabinet", pos=[face_x, centre_y, 0.0])
    for y in (-pitch, 0.0, pitch):
        add_solid(cabinet, BOX, [0.5 * depth, wall, 0.03], WHITE, pos=[0.5 * depth, y, 0.03])
    back = [depth + wall, 0.0, 0.03]
    add_solid(cabinet, BOX, [wall, pitch + wall, 0.03], WHITE, pos=back)
    left = _add_drawer(spec, colors[0], face_x, centre_y + 0.5 * pitch)
    right = _add_drawer(spec, colors[1], face_x, centre_y - 0.5 * pitch)
    return left, right


def _add_drawer(spec: mujoco.MjSpec, color: str, face_x: float, y: float) -> Drawer:
    name, travel, half_width, half_depth = f"{color}_drawer", 0.14, 0.052, 0.068
    body = spec.worldbody.add_body(name=name, pos=[face_x, y, 0.0])
    joint = body.add_joint(name=f"{name}_slide", type=SLIDE, axis=[-1, 0, 0])
    joint.range[:] = [0.0, travel]
    joint.limited = True
    joint.damping = 4.0
    joint.frictionloss = 1.0
    joint.armature = 0.1
    rgba = PALETTE[color]
    add_solid(body, BOX, [half_depth, half_width, 0.002], rgba, pos=[half_depth, 0.0, 0.008], mass=0.1)
    add_solid(body, BOX, [0.004, half_width, 0.022], rgba, pos=[-0.004, 0.0, 0.028], mass=0.1)
    for sign in (-1.0, 1.0):
        side = [half_depth, sign * (half_width - 0.002), 0.022]
        add_solid(body, BOX, [half_depth, 0.002, 0.014], rgba, pos=side, mass=0.03)
    add_solid(body, BOX, [0.002, half_width, 0.014], rgba, pos=[2 * half_depth - 0.002, 0, 0.022], mass=0.03)
    knob_half = (0.012, 0.011, 0.018)
    knob = (-0.036, 0.0, 0.034)
    add_solid(body, BOX, knob_half, rgba, pos=knob, mass=0.03, name=f"{name}_knob")
    add_mark(body, BOX, [0.008, 0.005, 0.005], DARK, pos=[-0.016, 0.0, 0.034])
    # The cabinet guides the drawer by its joint alone; contact between them would only cost time.
    spec.add_exclude(name=f"{name}_guide", bodyname1="cabinet", bodyname2=name)
    return Drawer(
        Thing(name, "drawer", color),
        f"{name}_slide",
        (face_x + knob[0], y + knob[1], knob[2]),
        knob_half,
        travel,
    )


def add_lever(spec: mujoco.MjSpec, color: str, xy: tuple[float, float]) -> Lever:
    """Add a lever 8 cm long on a dark base; friction keeps it where it is put."""
    name, length, travel, axis_z = f"{color}_lever", 0.075, math.radians(52.0), 0.022
    base = spec.worldbody.add_body(name=f"{name}_base", pos=[xy[0], xy[1], 0.0])
    add_solid(base, BOX, [0.035, 0.022, 0.009], DARK, pos=[0.0, 0.0, 0.009])
    arm = spec.worldbody.add_body(name=name, pos=[xy[0], xy[1], axis_z])
    joint = arm.add_joint(name=f"{name}_hinge", type=HINGE, axis=[-1, 0, 0])
    joint.range[:] = [math.degrees(-travel), math.degrees(travel)] if spec.compiler.degree else [-travel, travel]
    joint.limited = True
    joint.damping = 0.02
    joint.frictionloss = 0.04
    joint.armature = 0.0005
    rgba = PALETTE[color]
    add_solid(arm, BOX, [0.015, 0.007, 0.5 * length], rgba, pos=[0.0, 0.0, 0.5 * length], mass=0.03, friction=0.4)
    add_solid(arm, CAPSULE, [0.011, 0.015], rgba, pos=[0, 0, length - 0.009], mass=0.01,
              quat=[math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0], friction=0.4)  # fmt: skip
    spec.add_exclude(name=f"{name}_pivot", bodyname1=f"{name}_base", bodyname2=name)
    return Lever(Thing(name, "lever", color), f"{name}_hinge", (xy[0], xy[1], axis_z), length, travel)
