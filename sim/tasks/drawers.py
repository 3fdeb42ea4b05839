"""Open or close one of two drawers."""

from __future__ import annotations

import mujoco
import numpy as np

from sim.objects.base import sample_colors
from sim.objects.fixtures import Drawer, add_cabinet
from sim.tasks.base import Arrangement, Phrasings, Task
from sim.tasks.goals import DrawerGoal


def _cabinet(spec: mujoco.MjSpec, rng: np.random.Generator) -> tuple[Drawer, Drawer]:
    colors = sample_colors(rng, 2)
    return add_cabinet(spec, (colors[0], colors[1]), float(rng.uniform(0.54, 0.57)), float(rng.uniform(-0.07, 0.07)))


def _arrange(goal: DrawerGoal, drawers: tuple[Drawer, Drawer], joints: dict[str, float]) -> Arrangement:
    thing = goal.drawer.thing
    return Arrangement(goal, {"color": thing.color}, tuple(drawer.thing for drawer in drawers), (thing.name,), joints)


def _arrange_open(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    drawers = _cabinet(spec, rng)
    return _arrange(DrawerGoal(drawers[int(rng.integers(2))], opened=True), drawers, {})


def _arrange_close(spec: mujoco.MjSpec, rng: np.random.Generator) -> Arrangement:
    drawers = _cabinet(spec, rng)
    joints = {drawer.joint: float(rng.uniform(0.07, 0.11)) for drawer in drawers}
    return _arrange(DrawerGoal(drawers[int(rng.integers(2))], opened=False), drawers, joints)


OPEN_DRAWER = Task(
    "open_drawer",
    9.0,
    Phrasings(
        (
            "open the {color} drawer",
            "pull open the {color} drawer",
            "pull the {color} drawer open",
            "pull out the {color} drawer",
            "slide the {color} drawer open",
            "open up the {color} drawer",
            "grab the {color} handle and open the drawer",
            "pull the {color} drawer out",
        ),
        (
            "please open the drawer that is {color}",
            "get the {color} drawer open",
            "draw out the {color} drawer",
            "tug the {color} drawer open by its knob",
        ),
    ),
    _arrange_open,
)

CLOSE_DRAWER = Task(
    "close_drawer",
    8.0,
    Phrasings(
        (
            "close the {color} drawer",
            "shut the {color} drawer",
            "push the {color} drawer closed",
            "push the {color} drawer in",
            "push the {color} drawer shut",
            "slide the {color} drawer closed",
            "slide the {color} drawer back in",
            "close up the {color} drawer",
        ),
        (
            "please shut the drawer that is {color}",
            "get the {color} drawer closed",
            "return the {color} drawer to its closed position",
            "press the {color} drawer all the way in",
        ),
    ),
    _arrange_close,
)
