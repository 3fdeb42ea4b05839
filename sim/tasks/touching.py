"""Tasks without a grasp: reach, press a button, tip a lever, knock over a pin, push into a zone."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from sim.objects.base import sample_colors, scatter
from sim.objects.blocks import add_block, add_pin
from sim.objects.fixtures import add_ball_on_post, add_button, add_lever
from sim.objects.receptacles import add_zone
from sim.tasks.base import Arrangement, Phrasings, Task
from sim.tasks.goals import LeverGoal, PressGoal, PushGoal, ToppleGoal, TouchGoal


def _arrange_reach(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    places = scatter(rng, [0.075] * 3, (0.36, 0.58), (-0.20, 0.20))
    balls = [
        add_ball_on_post(spec, color, xy, float(rng.uniform(0.07, 0.11)))
        for color, xy in zip(colors, places, strict=True)
    ]
    things = tuple(ball.thing for ball in balls)
    others = tuple((TouchGoal(ball), {"color": color}) for ball, color in zip(balls[1:], colors[1:], strict=True))
    return Arrangement(TouchGoal(balls[0]), {"color": colors[0]}, things, (things[0].name,), others=others)


def _arrange_press(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    places = scatter(rng, [0.065] * 3, (0.36, 0.58), (-0.20, 0.20))
    buttons = [add_button(spec, color, xy) for color, xy in zip(colors, places, strict=True)]
    things = tuple(button.thing for button in buttons)
    others = tuple((PressGoal(button), {"color": color}) for button, color in zip(buttons[1:], colors[1:], strict=True))
    return Arrangement(PressGoal(buttons[0]), {"color": colors[0]}, things, (things[0].name,), others=others)


def _arrange_lever(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 2)
    ys = [0.12, -0.12] if rng.random() < 0.5 else [-0.12, 0.12]
    levers = [
        add_lever(spec, color, (float(rng.uniform(0.40, 0.54)), y + float(rng.uniform(-0.03, 0.03))))
        for color, y in zip(colors, ys, strict=True)
    ]
    left = bool(rng.random() < 0.5)
    things = tuple(lever.thing for lever in levers)
    return Arrangement(
        LeverGoal(levers[0], left),
        {"color": colors[0], "side": "left" if left else "right"},
        things,
        (things[0].name,),
        {lever.joint: float(rng.uniform(-0.07, 0.07)) for lever in levers},
    )


def _arrange_topple(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    lanes = rng.permutation([-0.15, 0.0, 0.15])
    pins = [
        add_pin(
            spec,
            color,
            (float(rng.uniform(0.44, 0.52)), float(lane + rng.uniform(-0.02, 0.02))),
            math.radians(float(rng.uniform(-8.0, 8.0))),
        )
        for color, lane in zip(colors, lanes, strict=True)
    ]
    things = tuple(pin.thing for pin in pins)
    others = tuple((ToppleGoal(pin), {"color": color}) for pin, color in zip(pins[1:], colors[1:], strict=True))
    return Arrangement(ToppleGoal(pins[0]), {"color": colors[0]}, things, (things[0].name,), others=others)


def _arrange_push(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 4)
    block_side, zone_side = (1.0 if rng.random() < 0.5 else -1.0 for _ in range(2))

    def near(x: float, y: float, spread: float) -> tuple[float, float]:
        return (x + float(rng.uniform(-spread, spread)), y + float(rng.uniform(-spread, spread)))

    blocks = [
        add_block(
            spec,
            color,
            near(0.415, 0.085 * side, 0.02),
            math.radians(float(rng.uniform(-10.0, 10.0))),
            float(rng.uniform(0.019, 0.021)),
        )
        for color, side in zip(colors[:2], (block_side, -block_side), strict=True)
    ]
    zones = [
        add_zone(spec, color, near(0.57, 0.085 * side, 0.015))
        for color, side in zip(colors[2:], (zone_side, -zone_side), strict=True)
    ]
    things = (*(block.thing for block in blocks), *(zone.thing for zone in zones))
    return Arrangement(
        PushGoal(blocks[0], zones[0]),
        {"color": colors[0], "zone": colors[2]},
        things,
        (blocks[0].thing.name, zones[0].thing.name),
        others=tuple(
            (PushGoal(blocks[i], zones[j]), {"color": colors[i], "zone": colors[2 + j]})
            for i, j in ((1, 1), (0, 1), (1, 0))
        ),
    )


REACH = Task(
    "reach",
    6.0,
    Phrasings(
        (
            "touch the {color} ball",
            "reach for the {color} ball",
            "reach the {color} ball",
            "move the hand to the {color} ball",
            "put your fingertip on the {color} ball",
            "go to the {color} ball and touch it",
            "tap the {color} ball",
            "make contact with the {color} ball",
        ),
        (
            "bring the gripper to the {color} ball",
            "please touch the ball that is {color}",
            "feel the {color} ball with your fingers",
            "point at the {color} ball until you touch it",
        ),
    ),
    _arrange_reach,
)

PRESS_BUTTON = Task(
    "press_button",
    6.0,
    Phrasings(
        (
            "press the {color} button",
            "push the {color} button",
            "push down the {color} button",
            "hit the {color} button",
            "press down on the {color} button",
            "click the {color} button",
            "activate the {color} button",
            "use the {color} button",
        ),
        (
            "push the button that is {color}",
            "please press the {color} button down",
            "trigger the {color} switch button",
            "depress the {color} button",
        ),
    ),
    _arrange_press,
)

TURN_LEVER = Task(
    "turn_lever",
    8.0,
    Phrasings(
        (
            "turn the {color} lever to the {side}",
            "flip the {color} lever to the {side}",
            "tip the {color} lever to the {side}",
            "push the {color} lever to the {side}",
            "move the {color} lever {side}",
            "switch the {color} lever to the {side}",
            "set the {color} lever to the {side} position",
            "throw the {color} lever {side}",
        ),
        (
            "flip the lever that is {color} to your {side}",
            "bring the {color} lever over to the {side} side",
            "lean the {color} lever {side}",
            "please turn the {color} lever toward the {side}",
        ),
    ),
    _arrange_lever,
)

KNOCK_OVER = Task(
    "knock_over",
    7.0,
    Phrasings(
        (
            "knock over the {color} pin",
            "knock down the {color} pin",
            "topple the {color} pin",
            "tip over the {color} pin",
            "make the {color} pin fall",
            "push over the {color} pin",
            "knock the {color} pin down",
            "overturn the {color} pin",
        ),
        (
            "bowl over the {color} pin",
            "let the {color} pin fall over",
            "please knock the pin that is {color} over",
            "tip the {color} pin onto its side",
        ),
    ),
    _arrange_topple,
)

PUSH_TO_ZONE = Task(
    "push_to_zone",
    10.0,
    Phrasings(
        (
            "push the {color} block to the {zone} zone",
            "push the {color} block onto the {zone} circle",
            "slide the {color} block to the {zone} zone",
            "slide the {color} block onto the {zone} circle",
            "shove the {color} block into the {zone} zone",
            "push the {color} cube into the {zone} circle",
            "move the {color} block to the {zone} circle by pushing",
            "get the {color} block into the {zone} zone by pushing it",
        ),
        (
            "nudge the {color} block over to the {zone} zone",
            "without lifting it, bring the {color} block to the {zone} circle",
            "push the block that is {color} onto the {zone} disc",
            "slide the {color} cube until it is on the {zone} zone",
        ),
    ),
    _arrange_push,
)
