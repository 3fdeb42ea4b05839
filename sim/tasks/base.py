"""The task contract: a task builds its objects into a scene and names the goal in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import mujoco
import numpy as np

from sim.objects.base import Thing
from sim.tasks.goals import Goal


class PhrasingSet(Enum):
    """Which wordings to draw an instruction from."""

    SEEN = "seen"  # used while recording demonstrations
    UNSEEN = "unseen"  # held out, for evaluation


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Wordings of one task, with named slots such as ``{color}``.

    Attributes:
        seen: Wordings used for training.
        unseen: Wordings held out.
    """

    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    def of(self, phrasing_set: PhrasingSet) -> tuple[str, ...]:
        """The wordings of one set."""
        return self.seen if phrasing_set is PhrasingSet.SEEN else self.unseen


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What a task put into a scene.

    Attributes:
        goal: What is asked for.
        slots: Words for the slots of the phrasings.
        things: Every object, targets and distractors alike.
        targets: Names of the objects that the instruction is about.
        joints: Joint name -> value at the start, m or rad, where it is not the model's default.
        others: What else could be asked for in the same scene: goals, each with words for the slots.
    """

    goal: Goal
    slots: Mapping[str, str]
    things: tuple[Thing, ...]
    targets: tuple[str, ...]
    joints: Mapping[str, float] = field(default_factory=dict)
    others: tuple[tuple[Goal, Mapping[str, str]], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskInstance:
    """One episode's worth of a task: a fixed arrangement, an instruction and a goal.

    Attributes:
        task_name: Name in the catalog.
        instruction: What the policy is told.
        arrangement: Objects, goal and slots.
        phrasings: All wordings of the task.
        time_limit_s: Time to succeed in, s.
    """

    task_name: str
    instruction: str
    arrangement: Arrangement
    phrasings: Phrasings
    time_limit_s: float

    @property
    def goal(self) -> Goal:
        """What is asked for."""
        return self.arrangement.goal

    @property
    def distractors(self) -> tuple[Thing, ...]:
        """Objects that the instruction is not about."""
        targets = self.arrangement.targets
        return tuple(thing for thing in self.arrangement.things if thing.name not in targets)

    def asking_otherwise(self, rng: np.random.Generator) -> tuple[TaskInstance, ...]:
        """The same scene with everything else that could be asked for in it, in seen wordings."""
        asked = []
        for goal, slots in self.arrangement.others:
            wordings = self.phrasings.seen
            words = wordings[int(rng.integers(len(wordings)))].format(**slots)
            arrangement = replace(self.arrangement, goal=goal, slots=slots)
            asked.append(replace(self, instruction=words, arrangement=arrangement))
        return tuple(asked)

    def instruct(self, phrasing_set: PhrasingSet, rng: np.random.Generator) -> str:
        """Word the same goal anew."""
        wordings = self.phrasings.of(phrasing_set)
        return wordings[int(rng.integers(len(wordings)))].format(**self.arrangement.slots)

    def initialize(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Set the objects' joints; ``data`` is at the model's defaults, where loose objects already stand."""
        for joint, value in self.arrangement.joints.items():
            data.qpos[model.joint(joint).qposadr[0]] = value

    def success(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Whether the goal holds in the true state of ``data``."""
        return self.goal.achieved(model, data)


@dataclass(frozen=True, slots=True)
class Task:
    """A family of episodes that ask for the same skill.

    Attributes:
        name: Name in the catalog.
        time_limit_s: Time to succeed in, s.
        phrasings: Wordings.
        arrange: Adds the objects to a scene and says what it added.
    """

    name: str
    time_limit_s: float
    phrasings: Phrasings
    arrange: Callable[[mujoco.MjSpec, np.random.Generator], Arrangement]

    def build(self, spec: mujoco.MjSpec, rng: np.random.Generator) -> TaskInstance:
        """Add a random arrangement to ``spec`` and word its instruction.

        Args:
            spec: The bare scene of :func:`sim.scene.base_scene`; it is extended in place, not compiled.
            rng: The only source of chance: equal generators build equal instances.
        """
        arrangement = self.arrange(spec, rng)
        wordings = self.phrasings.seen
        instruction = wordings[int(rng.integers(len(wordings)))].format(**arrangement.slots)
        return TaskInstance(self.name, instruction, arrangement, self.phrasings, self.time_limit_s)
