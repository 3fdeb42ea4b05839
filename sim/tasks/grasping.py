"""Tasks with a grasp: pick up, place in a bowl, place on a plate, stack, sort."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from sim.objects.base import sample_colors, scatter
from sim.objects.blocks import Block, add_block
from sim.objects.receptacles import add_bowl, add_plate, add_tray
from sim.tasks.base import Arrangement, Phrasings, Task
from sim.tasks.goals import LiftGoal, PlaceGoal, SortGoal, StackGoal

# Room around a block for the open hand, and around a receptacle that the open hand must not hit beside it.
_BLOCK_ROOM = 0.056
_BOWL_ROOM = 0.098
_PLATE_ROOM = 0.060


def _block(spec: mujoco.MjSpec, rng: np.random.Generator, color: str, xy: tuple[float, float]) -> Block:
    yaw = math.radians(float(rng.uniform(-25.0, 25.0)))
    return add_block(spec, color, xy, yaw, float(rng.uniform(0.019, 0.021)))


def _arrange_pick(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    places = scatter(rng, [_BLOCK_ROOM] * 3)
    blocks = [_block(spec, rng, color, xy) for color, xy in zip(colors, places, strict=True)]
    things = tuple(block.thing for block in blocks)
    others = tuple((LiftGoal(block), {"color": color}) for block, color in zip(blocks[1:], colors[1:], strict=True))
    return Arrangement(LiftGoal(blocks[0]), {"color": colors[0]}, things, (things[0].name,), others=others)


def _arrange_bowl(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    bowl_xy, *places = scatter(rng, [_BOWL_ROOM, *[_BLOCK_ROOM] * 3], (0.36, 0.57), (-0.21, 0.21))
    bowl = add_bowl(spec, bowl_xy)
    blocks = [_block(spec, rng, color, xy) for color, xy in zip(colors, places, strict=True)]
    things = (*(block.thing for block in blocks), bowl.thing)
    targets = (blocks[0].thing.name, bowl.thing.name)
    others = tuple(
        (PlaceGoal(block, bowl), {"color": color}) for block, color in zip(blocks[1:], colors[1:], strict=True)
    )
    return Arrangement(PlaceGoal(blocks[0], bowl), {"color": colors[0]}, things, targets, others=others)


def _arrange_plate(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    color, *plate_colors = sample_colors(rng, 4)
    block_xy, *places = scatter(rng, [0.045, *[_PLATE_ROOM] * 3], (0.36, 0.57), (-0.20, 0.20))
    plates = [add_plate(spec, name, xy) for name, xy in zip(plate_colors, places, strict=True)]
    block = _block(spec, rng, color, block_xy)
    things = (block.thing, *(plate.thing for plate in plates))
    return Arrangement(
        PlaceGoal(block, plates[0]),
        {"color": color, "plate": plate_colors[0]},
        things,
        (block.thing.name, plates[0].thing.name),
        others=tuple(
            (PlaceGoal(block, plate), {"color": color, "plate": name})
            for plate, name in zip(plates[1:], plate_colors[1:], strict=True)
        ),
    )


def _arrange_stack(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    places = scatter(rng, [_BLOCK_ROOM] * 3)
    blocks = [_block(spec, rng, color, xy) for color, xy in zip(colors, places, strict=True)]
    return Arrangement(
        StackGoal(blocks[0], blocks[1]),
        {"color": colors[0], "base": colors[1]},
        tuple(block.thing for block in blocks),
        (blocks[0].thing.name, blocks[1].thing.name),
        others=tuple(
            (StackGoal(blocks[i], blocks[j]), {"color": colors[i], "base": colors[j]})
            for i, j in ((1, 0), (0, 2), (2, 0), (1, 2), (2, 1))
        ),
    )


def _arrange_sort(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    colors = sample_colors(rng, 3)
    lanes = rng.permutation([-0.15, 0.0, 0.15])
    blocks = [
        _block(spec, rng, color, (float(rng.uniform(0.35, 0.41)), float(lane + rng.uniform(-0.015, 0.015))))
        for color, lane in zip(colors, lanes, strict=True)
    ]
    side = 1.0 if rng.random() < 0.5 else -1.0
    trays = [
        add_tray(spec, color, (float(rng.uniform(0.53, 0.57)), y + float(rng.uniform(-0.015, 0.015))))
        for color, y in zip(colors[:2], (0.10 * side, -0.10 * side), strict=True)
    ]
    places = tuple(PlaceGoal(block, tray) for block, tray in zip(blocks[:2], trays, strict=True))
    return Arrangement(
        SortGoal(places),
        {"first": colors[0], "second": colors[1]},
        (*(block.thing for block in blocks), *(tray.thing for tray in trays)),
        tuple(name for place in places for name in (place.block.thing.name, place.target.thing.name)),
    )


PICK_UP = Task(
    "pick_up",
    8.0,
    Phrasings(
        (
            "pick up the {color} block",
            "pick the {color} block up",
            "lift the {color} block",
            "grab the {color} block and lift it",
            "grasp the {color} block",
            "take the {color} block",
            "pick up the {color} cube",
            "raise the {color} block off the table",
        ),
        (
            "hold the {color} block up in the air",
            "please lift up the block that is {color}",
            "get the {color} cube off the table",
            "fetch the {color} block",
        ),
    ),
    _arrange_pick,
)

PLACE_IN_BOWL = Task(
    "place_in_bowl",
    11.0,
    Phrasings(
        (
            "put the {color} block in the bowl",
            "place the {color} block in the bowl",
            "drop the {color} block into the bowl",
            "put the {color} cube into the bowl",
            "move the {color} block into the bowl",
            "pick up the {color} block and put it in the bowl",
            "place the {color} cube inside the bowl",
            "the {color} block goes in the bowl",
        ),
        (
            "transfer the {color} block to the white bowl",
            "let the bowl hold the {color} block",
            "toss the {color} cube in the bowl",
            "please put the block that is {color} inside the bowl",
        ),
    ),
    _arrange_bowl,
)

PLACE_ON_PLATE = Task(
    "place_on_plate",
    11.0,
    Phrasings(
        (
            "put the block on the {plate} plate",
            "place the block on the {plate} plate",
            "put the {color} block on the {plate} plate",
            "place the {color} block on the {plate} plate",
            "set the {color} block down on the {plate} plate",
            "move the block onto the {plate} plate",
            "pick up the block and put it on the {plate} plate",
            "the {color} block goes on the {plate} plate",
            "serve the {color} cube on the {plate} plate",
        ),
        (
            "transfer the {color} block to the {plate} plate",
            "lay the block onto the plate that is {plate}",
            "the {plate} plate should hold the {color} cube",
            "deliver the block to the {plate} dish",
        ),
    ),
    _arrange_plate,
)

STACK = Task(
    "stack",
    11.0,
    Phrasings(
        (
            "stack the {color} block on the {base} block",
            "put the {color} block on top of the {base} block",
            "place the {color} block on the {base} block",
            "stack the {color} cube on top of the {base} cube",
            "set the {color} block onto the {base} block",
            "build a tower with the {color} block on the {base} block",
            "move the {color} block onto the {base} block",
            "pick up the {color} block and stack it on the {base} one",
        ),
        (
            "balance the {color} block on the {base} block",
            "the {color} cube goes on top of the {base} cube",
            "pile the {color} block onto the {base} block",
            "make the {color} block sit on the {base} block",
        ),
    ),
    _arrange_stack,
)

SORT_BY_COLOR = Task(
    "sort_by_color",
    16.0,
    Phrasings(
        (
            "sort the {first} and {second} blocks into the trays of the same color",
            "sort the {first} block and the {second} block by color",
            "put the {first} and {second} blocks in the matching trays",
            "put the {first} block in the {first} tray and the {second} block in the {second} tray",
            "place each block in the tray of its color, {first} and {second}",
            "match the {first} and {second} blocks to their trays",
            "sort the blocks into the {first} and {second} trays",
            "sort the blocks by color",
        ),
        (
            "tidy up: the {first} and {second} blocks belong in trays of their color",
            "distribute the {first} and {second} cubes to the trays that match",
            "every tray should get the block of its own color",
            "organize the blocks into the matching {first} and {second} trays",
        ),
    ),
    _arrange_sort,
)
