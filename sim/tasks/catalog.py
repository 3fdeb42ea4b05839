"""All tasks by name."""

from __future__ import annotations

from controllers.names import unknown_name
from sim.tasks.base import Task
from sim.tasks.drawers import CLOSE_DRAWER, OPEN_DRAWER
from sim.tasks.grasping import PICK_UP, PLACE_IN_BOWL, PLACE_ON_PLATE, SORT_BY_COLOR, STACK
from sim.tasks.touching import KNOCK_OVER, PRESS_BUTTON, PUSH_TO_ZONE, REACH, TURN_LEVER

_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        REACH,
        PRESS_BUTTON,
        KNOCK_OVER,
        TURN_LEVER,
        PUSH_TO_ZONE,
        CLOSE_DRAWER,
        OPEN_DRAWER,
        PICK_UP,
        PLACE_IN_BOWL,
        PLACE_ON_PLATE,
        STACK,
        SORT_BY_COLOR,
    )
}


class UnknownTaskError(ValueError):
    """No task of that name."""


def task_names() -> tuple[str, ...]:
    """Names of all tasks, from the simplest skill to the longest."""
    return tuple(_TASKS)


def get_task(name: str) -> Task:
    """The task called ``name``.

    Raises:
        UnknownTaskError: There is none; the message lists the names and the nearest one.
    """
    if name not in _TASKS:
        raise UnknownTaskError(unknown_name("task", name, _TASKS))
    return _TASKS[name]
