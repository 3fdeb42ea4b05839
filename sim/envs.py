"""Gymnasium environments ``vla_tabletop/<Task>-v0``: one step is one action row, through the whole stack.

An action is written as tokens, played by the chunk executor, turned into joint commands by the controller and bounded by
the safety filter, exactly as in an episode; only the chunk is one row long.
"""

from __future__ import annotations

import string
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from controllers.executor import ExecutorOptions
from controllers.loop import LoopState
from controllers.types import ActionChunk, ChunkArrival, RobotState, TickInputs, TickOutputs
from sim.assembly import SimCell, assemble_loop, assemble_sim, default_config
from sim.rollout import SUCCESS_HOLD_S
from sim.stack import StackConfig
from sim.tasks.catalog import get_task, task_names
from vla.tokenizers import tokenizer_from_id

NAMESPACE = "vla_tabletop"
_MAX_INSTRUCTION = 160
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "

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
        self._tokenizer = tokenizer_from_id(self.config.tokenizer_id)
        self._loop = assemble_loop(self.config)
        self._ticks_per_step = self.config.control_rate_hz // self.config.action_spec.rate_hz
        self._success_steps = max(1, round(SUCCESS_HOLD_S * self.config.action_spec.rate_hz))
        self._cell: SimCell | None = None
        dims = self.config.action_spec.dims
        self.action_space = spaces.Box(-1.0, 1.0, (dims,), np.float32)
        self.observation_space = self._observation_space()

    def _observation_space(self) -> spaces.Dict:
        images = {
            name: spaces.Box(0, 255, (*size, 3), np.uint8) for name, size in self.config.cameras.items()
        }
        joints = self._loop.controller.hold(_still(self.config)).values.size
        return spaces.Dict(
            {
                **images,
                "proprioception": spaces.Box(-np.inf, np.inf, (2 * joints + 8,), np.float32),
                "instruction": spaces.Text(_MAX_INSTRUCTION, charset=_CHARACTERS),
            }
        )
