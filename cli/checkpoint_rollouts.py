"""Rollouts in simulation at checkpoints, composed here, since training knows no simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.stack import StackOptions, build_config, fresh_folder
from sim.evaluation import EvalOptions, evaluate
from sim.foreign import ForeignAccess
from sim.policies import PolicyChoice
from sim.preflight import require_preflight
from sim.tasks.base import PhrasingSet
from sim.tasks.catalog import get_task, task_names

if TYPE_CHECKING:
    from vla.training.checkpoints import Rollouts

_FIRST_SEED = 1_000_000  # where evaluation begins; training data has lower ones


@dataclass(frozen=True)
class SimulatedRollouts:
    """Runs a checkpoint's policy through tokens, controller and safety, as `vla eval` does.

    Attributes:
        out: Folder for the results of each checkpoint.
        episodes: For each task.
        tasks: Names; empty for those of the training data that the suite knows.
        kind: What stands before the policy's path, e.g. ``openvla:``; empty for policies of our own.
        device: Of the policy.
        dtype: Of the policy.
        foreign: How a foreign policy is run.
        stack: How tokens become motion.
    """

    out: Path
    episodes: int
    tasks: tuple[str, ...] = ()
    kind: str = ""
    device: str = "cpu"
    dtype: str = "bf16"
    foreign: ForeignAccess = field(default_factory=ForeignAccess)
    stack: StackOptions = field(default_factory=StackOptions)

    def __post_init__(self) -> None:
        """Refuse tasks that do not exist, before anything is trained.

        Raises:
            ValueError: Names the nearest task.
        """
        for task in self.tasks:
            get_task(task)
        if self.episodes < 1:
            raise ValueError(f"--eval-episodes: expected at least one, found {self.episodes}")

    def __call__(self, policy: Path, step: int, tasks: tuple[str, ...]) -> Rollouts:
        """Run the episodes; the results are in ``OUT/step-STEP``.

        Raises:
            ValueError: The suite knows none of the data's tasks.
            KeyboardInterrupt: They were interrupted.
        """
        from vla.training.checkpoints import Rollouts

        names = self.tasks or tuple(task for task in tasks if task in task_names())
        if not names:
            raise ValueError(
                f"--eval-tasks: expected a task of the suite, found none among those of the data ({', '.join(tasks)}); "
                "name some"
            )
        choice = PolicyChoice(f"{self.kind}{policy}", device=self.device, dtype=self.dtype, foreign=self.foreign)
        config = choice.configure(build_config(self.stack))
        require_preflight(choice, config)
        summary = evaluate(
            EvalOptions(
                policy=choice,
                config=config,
                tasks=names,
                episodes=self.episodes,
                first_seed=_FIRST_SEED,
                phrasing=PhrasingSet.SEEN,
                workers=0,
                out_dir=fresh_folder(self.out / f"step-{step:07d}"),
            ),
            show_progress=False,
        )
        if not summary.complete:
            raise KeyboardInterrupt
        total = summary.total
        return Rollouts(total.trials, total.successes, total.low, total.high)
