"""Policies by name for rollouts: the scripted expert in this process, models in a process of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from controllers.names import nearest_name_hint
from controllers.protocols import PolicyClient
from episodes.manifest import PolicyIdentity
from sim.assembly import SimCell
from sim.rollout import ExpertSource, PolicySource
from sim.stack import StackConfig
from vla.catalog import DEFAULT_COMPACT_WEIGHTS, policy_factory
from vla.process import PolicyProcess, ProcessMode

EXPERT = "expert"
COMPACT = "compact"
WEIGHTS_FILE = "model.safetensors"


def policy_names() -> tuple[str, ...]:
    """Names that :class:`PolicyChoice` knows; a path to a policy folder works too."""
    return (EXPERT, COMPACT)


@dataclass(frozen=True)
class PolicyChoice:
    """Which policy acts; a picklable factory of :class:`~sim.rollout.PolicySource`.

    Attributes:
        name: ``expert``, ``compact``, or the path of a policy folder.
        device: Device of a model, ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        threads: Torch threads of the model's process.
        mode: When the model's client answers: at the request (lock-step) or later (real time).
    """

    name: str = COMPACT
    device: str = "cpu"
    dtype: str = "bf16"
    threads: int = 1
    mode: ProcessMode = ProcessMode.LOCK_STEP

    def __post_init__(self) -> None:
        """Refuse a policy that does not exist before anything starts.

        Raises:
            ValueError: Neither a name nor a policy folder.
        """
        if self.name != EXPERT and not (self.folder / WEIGHTS_FILE).is_file():
            if self.name in policy_names():
                raise ValueError(f"the weights of {self.name!r} are missing: expected {self.folder / WEIGHTS_FILE}")
            names = policy_names()
            raise ValueError(
                f"unknown policy {self.name!r}: expected one of {', '.join(names)}, or a folder that holds "
                f"{WEIGHTS_FILE}{nearest_name_hint(self.name, names)}"
            )

    @property
    def folder(self) -> Path:
        """Folder of a model's weights."""
        return DEFAULT_COMPACT_WEIGHTS if self.name == COMPACT else Path(self.name)

    def __call__(self) -> PolicySource:
        """Build the source; a model's process starts here."""
        return ExpertSource() if self.name == EXPERT else CompactSource(self)


class CompactSource:
    """The compact VLA in a process of its own, kept between episodes."""

    def __init__(self, choice: PolicyChoice) -> None:
        """Start the process and wait until it is warm."""
        weights = (choice.folder / WEIGHTS_FILE).read_bytes()
        self.identity = PolicyIdentity(choice.name, hashlib.sha256(weights).hexdigest())
        factory = policy_factory(
            COMPACT, weights=str(choice.folder), device=choice.device, dtype=choice.dtype, threads=choice.threads
        )
        self._process = PolicyProcess(factory, choice.mode, threads=choice.threads).start()

    def check(self, config: StackConfig) -> None:
        """Refuse a stack that decodes other tokens than the policy emits.

        Raises:
            ValueError: Another action spec or tokenizer, or no cameras.
        """
        if self._process.spec.hash != config.action_spec.hash:
            raise ValueError(
                f"the policy was trained for action spec {self._process.spec.hash}, the stack executes "
                f"{config.action_spec.hash}; use the stack that it was trained on, or train it again"
            )
        if self._process.tokenizer_id != config.tokenizer_id:
            raise ValueError(
                f"the policy emits tokens of {self._process.tokenizer_id!r}, the stack decodes "
                f"{config.tokenizer_id!r}; they must be the same"
            )
        if not config.cameras:
            raise ValueError("the policy needs pictures, but the stack has no cameras")

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The process itself, with the past episode forgotten."""
        self._process.reset()
        return self._process

    def close(self) -> None:
        """End the process."""
        self._process.close()
