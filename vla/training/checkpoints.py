"""What happens at checkpoints besides writing them: rollouts in simulation, which the composition root hands in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Rollouts:
    """What episodes of a checkpoint's policy came to.

    Attributes:
        episodes: Number of episodes.
        successes: Those that succeeded.
        low: Lower end of the Wilson 95% interval of the success rate.
        high: Upper end.
    """

    episodes: int
    successes: int
    low: float
    high: float

    def describe(self) -> str:
        """One line."""
        return f"{self.successes}/{self.episodes} episodes succeeded ({100 * self.low:.0f} to {100 * self.high:.0f}%)"


class CheckpointEvaluation(Protocol):
    """Runs the policy of a checkpoint. It must pickle where several processes train."""

    def __call__(self, policy: Path, step: int, tasks: tuple[str, ...]) -> Rollouts:
        """Run episodes.

        Args:
            policy: Folder of the exported policy.
            step: Steps that it was trained for.
            tasks: Names of the tasks in the training data.
        """
        ...


@dataclass(frozen=True)
class EvaluationPlan:
    """When checkpoints are evaluated.

    Attributes:
        every: Steps between evaluations.
        evaluate: How.
    """

    every: int
    evaluate: CheckpointEvaluation

    def __post_init__(self) -> None:
        """Refuse a plan that never comes due.

        Raises:
            ValueError: Says what was expected.
        """
        if self.every < 1:
            raise ValueError(f"expected one step or more between evaluations, found {self.every}")

    def due(self, step: int) -> bool:
        """Whether it is time after so many steps."""
        return step > 0 and step % self.every == 0
