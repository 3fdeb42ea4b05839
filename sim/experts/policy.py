"""The expert as a policy: true state in, action tokens out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from controllers.spatial import (
    quaternion_multiply,
    rotate_by_vector,
    rotation_difference,
    rotation_matrix,
)
from controllers.types import ActionChunk, ActionSpec, FloatArray, Observation, Pose, frozen_array
from safety.profile.zones import KeepOut
from sim.experts.detour import Detour
from sim.experts.motion import OPEN_M, Aim, Hand, Item, between_fingers
from sim.experts.skills import skill_for
from sim.obstacles.geometry import hulls_of
from sim.robot import SimRobot
from sim.tasks.base import TaskInstance
from vla.tokenizers import COMPACT_TOKENIZER, ActionTokenizer

DECELERATION_M_S2 = 0.9
_TURN_RAD_S = 0.8
_TURN_RAD_S2 = 3.0
_FINGER_M_S = 0.24  # rate of the opening that rows are predicted with
_LAG_DECAY = 0.5  # the arm's lag behind its reference shrinks by this from row to row
_DOWN = frozen_array([0.0, 1.0, 0.0, 0.0])


class ExpertPolicy:
    """Implements :class:`controllers.protocols.Policy` from the simulation's true state.

    It is reactive: the chunk depends on the current state only, so it can label any state, whoever brought it about.
    """

    def __init__(
        self,
        instance: TaskInstance,
        robot: SimRobot,
        spec: ActionSpec,
        tokenizer: ActionTokenizer = COMPACT_TOKENIZER,
        keep_outs: tuple[KeepOut, ...] = (),
    ) -> None:
        """Bind to one episode.

        Args:
            instance: The episode's task.
            robot: Its simulation; read, never written.
            spec: Action contract (end-effector deltas).
            tokenizer: Writes the tokens.
            keep_outs: Zones to plan around, base frame; without any, the hand goes where the skill aims.
        """
        self._robot = robot
        self._spec = spec
        self._tokenizer = tokenizer
        self._skill = skill_for(instance.goal)
        self._detour = Detour(hulls_of(robot.description)[1], keep_outs) if keep_outs else None

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions."""
        return self._spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer."""
        return self._tokenizer.tokenizer_id

    def reset(self) -> None:
        """Nothing to forget."""

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for the state in which the simulation is now."""
        tokens = self._tokenizer.encode(self.actions(observation), self._spec)
        prefix = observation.prefix
        if prefix is not None:
            tokens[: prefix.rows] = prefix.tokens
        tokens.flags.writeable = False
        forced = 0 if prefix is None else prefix.rows
        return ActionChunk(tokens, self.tokenizer_id, self._spec.hash, observation.stamp_ns, 0, forced)

    def actions(self, observation: Observation) -> FloatArray:
        """The chunk before it is written as tokens: (horizon, 7), in the units of the spec.

        Committed rows are kept, and the expert goes on from where they lead.
        """
        commanded = observation.commanded_pose
        hand = _hand(observation.state.ee_pose, observation.state.gripper_opening)
        lag = observation.state.ee_pose.position - commanded.position
        items = self._skill.watch(self._robot.model, self._robot.data)
        dt = 1.0 / self._spec.rate_hz
        rows = np.empty((self._spec.horizon, self._spec.dims))
        committed = 0 if observation.prefix is None else observation.prefix.rows
        if observation.prefix is not None:
            rows[:committed] = self._tokenizer.decode(observation.prefix.tokens, self._spec)
        for index, row in enumerate(rows):
            if index >= committed:
                self._act(row, hand, commanded, items, dt)
            commanded = Pose(commanded.position + row[:3], rotate_by_vector(commanded.quaternion, row[3:6]))
            lag = lag * _LAG_DECAY
            opening = _opening(hand, float(row[6]), items, dt)
            moved = _hand(Pose(commanded.position + lag, commanded.quaternion), opening)
            items = self._skill.follow(hand, replace(moved, opening=hand.opening), items)
            hand = moved
        return rows

    def _act(self, row: FloatArray, hand: Hand, commanded: Pose, items: tuple[Item, ...], dt: float) -> None:
        """Write the action (7,) that the skill takes in one state."""
        aim = self._skill.aim(hand, items)
        if self._detour is not None:
            aim = self._detour.aim(hand, aim, items)
        row[:3] = _step(aim, commanded.position, dt)
        row[3:6] = _turn(aim, commanded.quaternion, dt)
        row[6] = aim.opening


def _hand(pose: Pose, opening: float) -> Hand:
    matrix = rotation_matrix(pose.quaternion)
    x, y, z = pose.position.tolist()
    return Hand(x, y, z, math.atan2(matrix[1, 0], matrix[0, 0]), opening)


def _step(aim: Aim, position: FloatArray, dt: float) -> FloatArray:
    """Displacement (3,) for one row: toward the aim, slowing down so as to arrive at rest."""
    error = np.array([aim.x, aim.y, aim.z]) - position
    length = float(np.linalg.norm(error))
    if aim.speed <= 0.0 or length < 1e-9:
        return np.zeros(3)
    return error * min(1.0, _profile(length, aim.speed, DECELERATION_M_S2, dt) * dt / length)


def _profile(remaining: float, cruise: float, deceleration: float, dt: float) -> float:
    """Speed from which a stop after ``remaining`` is possible in steps of ``dt``, at most ``cruise``."""
    half = 0.5 * deceleration * dt
    return min(cruise, math.sqrt(2.0 * deceleration * remaining + half * half) - half)


def _turn(aim: Aim, quaternion: FloatArray, dt: float) -> FloatArray:
    """Rotation vector (3,) for one row: toward pointing straight down at the aim's yaw."""
    yaw = aim.yaw
    upright = frozen_array([math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)])
    error = rotation_difference(quaternion_multiply(upright, _DOWN), quaternion)
    angle = float(np.linalg.norm(error))
    return (
        error * min(1.0, _profile(angle, _TURN_RAD_S, _TURN_RAD_S2, dt) * dt / angle) if angle > 1e-9 else np.zeros(3)
    )


def _opening(hand: Hand, action: float, items: tuple[Item, ...], dt: float) -> float:
    """Guess of the opening after one row; closing fingers stop at an item between them."""
    goal = action * OPEN_M
    step = _FINGER_M_S * dt
    if goal >= hand.opening:
        return min(goal, hand.opening + step)
    stops = [item.width for item in items if between_fingers(hand, item) and item.width <= hand.opening]
    return max(goal, hand.opening - step, *stops)
