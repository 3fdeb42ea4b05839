"""Gymnasium environments ``vla_tabletop/<Task>-v0``: one step is one action row, through the whole stack.

An action is written as tokens, played by the chunk executor, turned into joint commands by the controller and bounded
by the safety filter, exactly as in an episode; only the chunk is one row long.

Vectorize with ``vectorization_mode="async"`` and ``vector_kwargs={"context": "spawn", "shared_memory": False}``:
software OpenGL does not survive a fork, and gymnasium's shared memory does not pass on text that changes.
"""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from controllers.loop import LoopState
from controllers.robot import load_robot
from controllers.types import ActionChunk, ChunkArrival, RobotState, SafetyStatus, TickInputs, TickOutputs
from sim.assembly import SimCell, assemble_loop, assemble_sim, default_config, episode_config
from sim.rollout import SUCCESS_HOLD_S
from sim.stack import StackConfig
from sim.tabletop import TABLETOP_ACTION_SPEC
from sim.tasks.catalog import get_task, task_names
from vla.tokenizers import tokenizer_from_id

NAMESPACE = "vla_tabletop"
_MAX_INSTRUCTION = 160
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
_SEVERITY = tuple(SafetyStatus)  # declared in order of severity

Observations = dict[str, Any]


class TabletopEnv(gymnasium.Env[Observations, np.ndarray]):
    """One tabletop task.

    Actions: (7,) in [-1, 1]: displacement and rotation as fractions of the largest in one row, and the gripper from -1
    (closed) to 1 (open). Observations: the pictures, ``proprioception`` (joint positions, joint velocities,
    end-effector position, quaternion, gripper opening in m) and ``instruction``. The reward is 1 on the step that
    completes the task, else 0. Information: ``safety`` (worst status in the step), ``rejections`` and ``is_success``.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, task: str, config: StackConfig | None = None, render_mode: str | None = None) -> None:
        """Build the loop; the scene follows with :meth:`reset`.

        Args:
            task: Task name.
            config: The stack, by default the suite's; chunks are cut to one row.
            render_mode: None or ``rgb_array``.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"expected render_mode None or 'rgb_array', found {render_mode!r}")
        self._task = get_task(task)
        self.render_mode = render_mode
        config = config or default_config()
        self.config = replace(
            config,
            action_spec=replace(config.action_spec, horizon=1),
            executor=replace(config.executor, execution_horizon=1),
        )
        self._tokenizer = tokenizer_from_id(self.config.tokenizer_id, self.config.tokenizer_definition)
        self._loop = assemble_loop(self.config)
        self._ticks_per_step = self.config.control_rate_hz // self.config.action_spec.rate_hz
        self._success_steps = max(1, round(SUCCESS_HOLD_S * self.config.action_spec.rate_hz))
        self._cell: SimCell | None = None
        self._state: RobotState
        self._loop_state: LoopState[Any]
        self._tick = self._held = 0
        dims = self.config.action_spec.dims
        self.action_space = spaces.Box(-1.0, 1.0, (dims,), np.float32)
        self.observation_space = self._observation_space()

    def _observation_space(self) -> spaces.Dict:
        images = {name: spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in self.config.cameras.items()}
        proprioception = 2 * load_robot(self.config.robot).n + 8
        return spaces.Dict(
            {
                **images,
                "proprioception": spaces.Box(-np.inf, np.inf, (proprioception,), np.float32),
                "instruction": spaces.Text(_MAX_INSTRUCTION, charset=_CHARACTERS),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Build the episode of ``seed``, the same as in an evaluation; without a seed, one drawn by the environment.

        Args:
            seed: Seed of scene, arrangement and wording.
            options: ``{"instruction": text}`` replaces the wording.

        Raises:
            ValueError: Unknown options.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - {"instruction"}):
            raise ValueError(f"unknown options {unknown}; valid: instruction")
        episode_seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        self._close_cell()
        self._cell = assemble_sim(self.config, self._task.name, episode_seed, instruction=options.get("instruction"))
        if (own := episode_config(self.config, self._cell)) is not self.config:
            self._loop = assemble_loop(own)
        self._tick = self._held = 0
        self._state = self._cell.robot.read()
        self._loop_state = self._loop.initial(self._state)
        return self._observe(self._cell), {"seed": episode_seed, "is_success": False}

    def step(self, action: np.ndarray) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Play one action row: ten control ticks at the suite's rates.

        Raises:
            ValueError: A wrong shape or a value that is not finite.
            ResetNeeded: There was no reset.
        """
        cell = self._cell
        if cell is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        arrivals: tuple[ChunkArrival, ...] = (ChunkArrival(self._chunk(action)),)
        worst, rejections = SafetyStatus.RUN, []
        for _ in range(self._ticks_per_step):
            outputs = self._advance(cell, arrivals)
            arrivals = ()
            worst = max(worst, outputs.safety.status, key=_SEVERITY.index)
            rejections += [rejection.reason.value for rejection in outputs.executor.rejections]
        achieved = cell.instance.success(cell.robot.model, cell.robot.data)
        self._held = self._held + 1 if achieved else 0
        success = self._held >= self._success_steps
        info = {"safety": worst.value, "rejections": tuple(rejections), "is_success": success}
        return self._observe(cell), float(success), success, False, info

    def _chunk(self, action: np.ndarray) -> ActionChunk:
        spec = self.config.action_spec
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (spec.dims,) or not np.isfinite(values).all():
            raise ValueError(f"expected a finite action of shape ({spec.dims},), found {action!r}")
        physical = spec.lower + 0.5 * (values + 1.0) * (spec.upper - spec.lower)
        tokens = self._tokenizer.encode(physical[None], spec)
        return ActionChunk(tokens, self._tokenizer.tokenizer_id, spec.hash, self._state.stamp_ns, self._tick)

    def _advance(self, cell: SimCell, arrivals: tuple[ChunkArrival, ...]) -> TickOutputs:
        inputs = TickInputs(self._tick, self._state.stamp_ns, self._state, arrivals)
        self._loop_state, outputs = self._loop.tick(self._loop_state, inputs)
        cell.robot.write(outputs.safety.command)
        self._state = cell.robot.read()
        self._tick += 1
        return outputs

    def _observe(self, cell: SimCell) -> Observations:
        state = self._state
        observation = cell.source.observe(state, self._loop.commanded_pose(self._loop_state, state))
        parts = (
            state.joint_position,
            state.joint_velocity,
            state.ee_pose.position,
            state.ee_pose.quaternion,
            [state.gripper_opening],
        )
        return {
            **observation.images,
            "proprioception": np.concatenate(parts).astype(np.float32),
            "instruction": observation.instruction,
        }

    def render(self) -> np.ndarray | None:
        """The first camera's picture now, in ``rgb_array`` mode."""
        if self.render_mode is None or self._cell is None:
            return None
        images = self._cell.source.observe(self._state, self._state.ee_pose).images
        return next(iter(images.values()), None)

    def close(self) -> None:
        """Free the renderer."""
        self._close_cell()

    def _close_cell(self) -> None:
        if self._cell is not None:
            self._cell.close()
            self._cell = None


def environment_id(task: str) -> str:
    """The environment's name, e.g. ``vla_tabletop/PickUp-v0`` for ``pick_up``."""
    return f"{NAMESPACE}/{''.join(word.capitalize() for word in task.split('_'))}-v0"


def register_environments() -> tuple[str, ...]:
    """Register all tasks with gymnasium; importing this module does it."""
    identifiers = []
    for task in task_names():
        identifier = environment_id(task)
        identifiers.append(identifier)
        if identifier not in gymnasium.registry:
            gymnasium.register(
                identifier,
                entry_point="sim.envs:TabletopEnv",
                kwargs={"task": task},
                max_episode_steps=round(get_task(task).time_limit_s * TABLETOP_ACTION_SPEC.rate_hz),
            )
    return tuple(identifiers)


ENVIRONMENT_IDS = register_environments()
